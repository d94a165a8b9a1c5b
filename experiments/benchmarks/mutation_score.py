"""Would the tests notice? Small faults put into the code one by one, and the tests run on each.

A fault swaps a comparison or an operator, moves a number by one, flips a truth value or turns a
condition round. The project is copied first; nothing here touches the checkout.
"""

from __future__ import annotations

import ast
import copy
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import Any, cast

from rich.progress import track

from arguments import main, read_arguments
from landmarking.config import PROJECT

TESTS = {
    "landmarking/geometry.py": ("tests/test_geometry.py",),
    "landmarking/evaluation/statistics.py": (
        "tests/evaluation/test_statistics.py", "tests/evaluation/test_comparisons.py",
    ),
    "landmarking/evaluation/comparisons.py": (
        "tests/evaluation/test_comparisons.py", "tests/evaluation/test_adaptation.py",
    ),
    "landmarking/evaluation/predictions.py": (
        "tests/evaluation/test_predictions.py", "tests/evaluation/test_tables.py",
        "tests/evaluation/test_study.py",
    ),
    "landmarking/data/batches.py": ("tests/data", "tests/models/test_module.py"),
    "landmarking/data/datamodule.py": ("tests/data", "tests/training/test_lightning.py"),
    "landmarking/data/splits.py": ("tests/data", "tests/training/test_lightning.py"),
}  # fmt: skip
"""Files that get faults, and the tests that should notice."""

SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.And: ast.Or, ast.Or: ast.And, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip

KEPT = ("landmarking", "tests", "conf", "experiments", "docs", "pyproject.toml", "README.md",
        "CHANGELOG.md", "Makefile", "constraints.txt")  # fmt: skip


@dataclass
class MutationsBenchmark:
    """What to break.

    Attributes:
        count: Faults, drawn from all that are possible.
        seed: Seed of the draw.
        workers: Copies of the project that are tested side by side.
        only: Part of a file's name; empty for all files.
    """

    count: int = 80
    seed: int = 0
    workers: int = 2
    only: str = ""


@dataclass(frozen=True)
class Fault:
    """One small fault.

    Attributes:
        file: Where, relative to the project.
        line: Line of the fault.
        what: The line before, and after.
        text: The whole file with the fault.
    """

    file: str
    line: int
    what: str
    text: str


def run(arguments: list[str]) -> str:
    """Break the code, run the tests, count.

    Args:
        arguments: `key=value` for the fields of `MutationsBenchmark`.

    Returns:
        Counts by file and the faults that no test noticed, in Markdown.

    Raises:
        ConfigError: If a key is unknown or a value has the wrong type.
    """
    chosen = read_arguments(MutationsBenchmark, arguments)
    files = [file for file in TESTS if chosen.only in file]
    possible = [fault for file in files for fault in faults(file, (PROJECT / file).read_text())]
    drawn = random.Random(chosen.seed).sample(  # noqa: S311
        possible, min(chosen.count, len(possible))
    )
    with tempfile.TemporaryDirectory(prefix="landmarking-") as folder:
        copies: Queue[Path] = Queue()
        for number in range(chosen.workers):
            copies.put(_copy(Path(folder) / str(number)))
        with ThreadPoolExecutor(chosen.workers) as pool:
            found = pool.map(lambda fault: _noticed(fault, copies), drawn)
            noticed = list(track(found, "faults", total=len(drawn), transient=True))
    return _table(drawn, noticed)


def faults(file: str, source: str) -> Iterator[Fault]:
    """Every small fault that the file can have."""
    tree = ast.parse(source)
    equal = _without_effect(tree)
    lines = source.splitlines()
    for number, _ in enumerate(ast.walk(tree)):
        if number in equal:
            continue
        changed = copy.deepcopy(tree)
        node = list(ast.walk(changed))[number]
        if not _break(node):
            continue
        line = getattr(node, "lineno", 0)
        text = ast.unparse(changed)
        after = ast.unparse(node).splitlines()[0]
        yield Fault(file, line, f"{lines[line - 1].strip()} -> {after}", text)


def _without_effect(tree: ast.AST) -> set[int]:
    """Numbers of nodes in decorators, in defaults that every caller overrules, and in layout.

    A dataclass that is frozen, a number of permutations, a field that conf/ sets, the indent of a
    JSON file and `strict=` of equally long lists are no part of what is computed.
    """
    left_out: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            parts = [*node.decorator_list]
            if isinstance(node, ast.FunctionDef):
                parts += [each for each in node.args.kw_defaults if each is not None]
            elif isinstance(node, ast.ClassDef):
                fields = (each for each in node.body if isinstance(each, ast.AnnAssign))
                parts += [each.value for each in fields if each.value is not None]
            left_out |= {each for part in parts for each in ast.walk(part)}
        elif isinstance(node, ast.keyword) and node.arg in ("indent", "strict"):
            left_out |= set(ast.walk(node.value))
    return {number for number, node in enumerate(ast.walk(tree)) if node in left_out}


def _break(node: ast.AST) -> bool:
    """Put a fault into a node; False where it takes none."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        node.ops = [cast("ast.cmpop", SWAPS[type(node.ops[0])]()), *node.ops[1:]]
    elif isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in SWAPS:
        node.op = cast("Any", SWAPS[type(node.op)]())
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        node.value = not node.value
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        node.value = node.value + 1
    elif isinstance(node, ast.If | ast.IfExp):
        node.test = ast.UnaryOp(ast.Not(), node.test)
        ast.fix_missing_locations(node)
    else:
        return False
    return True


def _copy(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in KEPT:
        source = PROJECT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.is_file():
            shutil.copy(source, folder / name)
    return folder


def _noticed(fault: Fault, copies: Queue[Path]) -> bool:
    tree = copies.get()
    path = tree / fault.file
    before = path.read_text()
    try:
        path.write_text(fault.text)
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider",
             *TESTS[fault.file]],
            cwd=tree,
            env=os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            timeout=300,
        )  # fmt: skip
        return done.returncode != 0
    except subprocess.TimeoutExpired:
        return True
    finally:
        path.write_text(before)
        copies.put(tree)


def _table(drawn: list[Fault], noticed: list[bool]) -> str:
    lines = ["| file | faults | noticed |", "|---|---|---|"]
    for file in dict.fromkeys(fault.file for fault in drawn):
        of_file = [seen for fault, seen in zip(drawn, noticed, strict=True) if fault.file == file]
        lines.append(f"| {file} | {len(of_file)} | {sum(of_file)} |")
    share = 100 * sum(noticed) / max(1, len(noticed))
    lines.append(f"| all | {len(noticed)} | {sum(noticed)} ({share:.0f} %) |")
    lines += [
        f"- not noticed: {fault.file}:{fault.line}: {fault.what}"
        for fault, seen in zip(drawn, noticed, strict=True)
        if not seen
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main(run)
