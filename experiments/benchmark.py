"""Measure a part of the project: `python experiments/benchmark.py NAME [ARGUMENT ...]`.

The same as `python experiments/benchmarks/NAME.py [ARGUMENT ...]`.
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent / "benchmarks"


def purposes() -> dict[str, str]:
    """The benchmarks by name, with the first line of what each says about itself."""
    texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.py"))}
    return {
        name: (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
        for name, text in texts.items()
        if "__main__" in text
    }


def main() -> None:
    """Run one benchmark with the interpreter of this process."""
    known = purposes()
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        epilog="\n".join(f"  {name:14} {purpose}" for name, purpose in known.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("name", choices=known, metavar="NAME", help="what to measure, see below")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="such as poses=30")
    chosen = parser.parse_args()
    command = [sys.executable, str(FOLDER / f"{chosen.name}.py"), *chosen.arguments]
    sys.exit(subprocess.run(command, check=False).returncode)  # noqa: S603


if __name__ == "__main__":
    main()
