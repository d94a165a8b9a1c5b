"""Versions of the imaging stages, taken from their code.

A version that a person has to raise is one that will be forgotten. The version of a stage is a
digest of the syntax trees of its modules and of all modules of this package that they import,
without comments, docstrings and layout: it changes when the code does, and only then.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]

_COMPOSITION = "imaging/pipeline.py"

_MODULES: dict[str, tuple[str, ...]] = {
    "registration": ("imaging/scan.py", "imaging/orientation.py", "imaging/registration.py"),
    "plane": ("imaging/midsagittal.py",),
    "slice": ("imaging/resample.py", "data/slice_figures.py", "cohort/slices.py"),
    "intensity": ("imaging/intensity.py", "data/slice_figures.py"),
    "tissues": ("imaging/tissues.py",),
}

_STAGE_FUNCTIONS = {
    "register_stage": "registration",
    "plane_stage": "plane",
    "finish_slice": "intensity",
    "reference_slice": "intensity",
    "_reference": "intensity",
    "histogram_reference": "intensity",
}
"""Functions of the composition by stage; the rest of it belongs to the stage `slice`."""

_NO_RESULT = frozenset({"errors.py", "storage.py", "landmarks.py", "cohort/bids.py", _COMPOSITION})
"""Modules that decide no pixel, and the composition, which is shared out function by function."""


@cache
def stage_version(stage: str) -> str:
    """Version of a stage's code, 12 hexadecimal digits.

    Args:
        stage: `registration`, `plane`, `slice`, `intensity` or `tissues`.
    """
    digest = hashlib.sha256()
    for name in sorted(_closure(_MODULES[stage])):
        digest.update(f"{name}\n{ast.dump(_tree(name))}\n".encode())
    for node in _tree(_COMPOSITION).body:
        owner = _STAGE_FUNCTIONS.get(getattr(node, "name", ""), "slice")
        if owner == stage and not isinstance(node, ast.Import | ast.ImportFrom):
            digest.update(f"{ast.dump(node)}\n".encode())
    return digest.hexdigest()[:12]


def _closure(names: tuple[str, ...]) -> set[str]:
    found: set[str] = set()
    waiting = [*names]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += [other for other in _imports(_tree(name)) if other not in _NO_RESULT]
    return found


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("landmarking."):
            module = "/".join(str(node.module).split(".")[1:])
            if (PACKAGE / f"{module}.py").exists():
                yield f"{module}.py"
            else:
                yield from (f"{module}/{alias.name}.py" for alias in node.names)


@cache
def _tree(name: str) -> ast.Module:
    tree = ast.parse((PACKAGE / name).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            # Docstrings and the strings under constants explain; they decide nothing.
            node.body = [part for part in body if not _is_text(part)]  # type: ignore[attr-defined]
    return tree


def _is_text(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
