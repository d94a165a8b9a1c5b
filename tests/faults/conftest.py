"""The modules beside the tests are found by name, as `python tests/faults/run.py` finds them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
