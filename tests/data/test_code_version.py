import ast
import shutil

import pytest

from landmarking.data import code_version


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of the package whose code may be changed."""
    copy = tmp_path / "landmarking"
    shutil.copytree(code_version.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code_version, "PACKAGE", copy)
    forget()
    yield copy
    forget()


def forget():
    code_version.stage_version.cache_clear()
    code_version._tree.cache_clear()


def versions():
    forget()
    return {stage: code_version.stage_version(stage) for stage in code_version._MODULES}


def append(path, text):
    path.write_text(path.read_text() + text)


STAGES = ["registration", "plane", "slice", "intensity"]


@pytest.mark.parametrize(
    ("file", "moved"),
    [
        ("imaging/registration.py", ["registration", "plane"]),
        ("imaging/midsagittal.py", ["plane"]),
        ("imaging/symmetry.py", ["plane"]),
        ("imaging/resample.py", ["slice"]),
        ("imaging/intensity.py", ["intensity"]),
        ("imaging/pipeline.py", ["slice"]),
        ("geometry.py", STAGES),
        ("training.py", []),
    ],
)
def test_code_that_changes_moves_the_stages_that_run_it(package, file, moved):
    before = versions()
    append(package / file, "\nANOTHER = 1\n")
    after = versions()
    assert [stage for stage in STAGES if before[stage] != after[stage]] == moved


@pytest.mark.parametrize(
    ("function", "moved"),
    [
        ("register_stage", ["registration"]),
        ("plane_stage", ["plane"]),
        ("slice_stage", ["slice"]),
        ("finish_slice", ["intensity"]),
        ("histogram_reference", ["intensity"]),
    ],
)
def test_the_composition_is_shared_out_function_by_function(package, function, moved):
    path = package / "imaging" / "pipeline.py"
    tree = ast.parse(path.read_text())
    (found,) = [node for node in tree.body if getattr(node, "name", "") == function]
    before = versions()
    found.body.insert(1, ast.parse("another = 1").body[0])
    path.write_text(ast.unparse(ast.fix_missing_locations(tree)))
    after = versions()
    assert [stage for stage in STAGES if before[stage] != after[stage]] == moved


def test_comments_docstrings_and_layout_move_nothing(package):
    before = versions()
    path = package / "geometry.py"
    path.write_text(path.read_text().replace('"""Frames and', '"""The frames and'))
    append(path, "\n\n# a comment\n")
    assert versions() == before
