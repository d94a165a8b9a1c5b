"""`python -m landmarking` is the command `landmarking`."""

import sys

from landmarking.cli import main

if __name__ == "__main__":
    sys.exit(main())
