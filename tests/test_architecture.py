"""The order of the rooms: lower ones know nothing of higher ones, and no module needs itself."""

import ast
from collections import Counter

import pytest

from landmarking.config import PROJECT

BASE = "base"
TOP = {"bids_app", "cli", "commands", "housekeeping", "shells"}
BELOW = {
    BASE: (),
    "imaging": (BASE,),
    "cohort": (BASE, "imaging"),
    "phantom": (BASE, "imaging", "cohort"),
    "preparation": (BASE, "imaging", "cohort", "phantom"),
    "data": (BASE, "imaging", "cohort", "phantom", "preparation"),
    "evaluation": (BASE, "imaging"),
    "models": (BASE, "imaging", "preparation", "data", "evaluation"),
    "prediction": (BASE, "imaging", "cohort", "preparation", "data", "evaluation", "models"),
    "shape": (
        *(BASE, "imaging", "cohort", "phantom", "preparation", "evaluation", "models"),
        "prediction",
    ),
    "training": (BASE, "imaging", "preparation", "data", "evaluation", "models", "prediction"),
}
"""What each room may import besides itself."""

EVERY = sorted((PROJECT / "landmarking").rglob("*.py"))
FILES = [path for path in EVERY if not path.name.startswith("__")]
LATER = {"shape", "volume"}
"""Rooms that the limit of the house does not count."""

NAMES = {".".join(path.relative_to(PROJECT).with_suffix("").parts): path for path in FILES}


def room(name: str) -> str:
    _, first, *rest = name.split(".")
    return first if rest else "top" if first in TOP else BASE


def imported(node: ast.AST, *, when_loaded: bool = False) -> set[str]:
    """Modules of ours below a node; of those needed when it is loaded only, on request."""
    found = set()
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ImportFrom) and child.module:
            ways = {f"{child.module}.{alias.name}" for alias in child.names} | {child.module}
            found |= ways & NAMES.keys()
        elif isinstance(child, ast.Import):
            found |= {alias.name for alias in child.names} & NAMES.keys()
        later = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        later |= isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
        if not (when_loaded and later):
            found |= imported(child, when_loaded=when_loaded)
    return found


TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in NAMES.items()}


@pytest.mark.parametrize("name", NAMES)
def test_no_module_knows_a_higher_room(name):
    here = room(name)
    allowed = {here, *BELOW.get(here, BELOW)}
    assert {other for other in imported(TREES[name]) if room(other) not in allowed} == set()


def test_no_module_needs_itself():
    left = {name: imported(tree, when_loaded=True) for name, tree in TREES.items()}
    while free := [name for name, needs in left.items() if not needs & left.keys()]:
        left = {name: needs for name, needs in left.items() if name not in free}
    assert left == {}


def test_the_house_is_small_and_every_name_is_there_once():
    assert len([path for path in EVERY if path.parent.name not in LATER]) <= 90
    assert [str(path) for path in FILES if path.read_text(encoding="utf-8").count("\n") < 30] == []
    assert max(Counter(path.parent for path in FILES).values()) <= 12
    stems = Counter(path.stem for path in FILES)
    assert [stem for stem, count in stems.items() if count > 1] == []
