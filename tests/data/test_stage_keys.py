"""What is prepared stays usable: keys follow content and versions, not code, places or defaults."""

import ast
import json
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import pytest

import landmarking
from landmarking.cohort.bids import Cohort, ScanRecord
from landmarking.data.assembly import cohort_digest
from landmarking.data.stage_keys import (
    BASELINE,
    STAGE_SETTINGS,
    STAGE_VERSIONS,
    decisive_settings,
    stage_keys,
)
from landmarking.imaging.midsagittal import MidsagittalSettings
from landmarking.imaging.pipeline import PreprocessSettings
from landmarking.landmarks import landmark_set

SCAN, SETTINGS, MSP8 = "ab" * 32, PreprocessSettings(), landmark_set("msp8")
OTHER = PreprocessSettings(
    "affine", 300, [40, 190], 1.5, "template", "batch", MidsagittalSettings("plain")
)

KEYS = {
    "default": {
        "registration": "d90300ff1a40a867",
        "plane": "81967fd0559308f3",
        "slice": "53023e5945fce6a0",
        "intensity": "f90418273cc5044a",
        "cohort": "58f2e7cfb6962316",
    },
    "other": {
        "registration": "6221d5ad70000054",
        "plane": "9f9d48e701efd01f",
        "slice": "6d73e7190a3ed52d",
        "intensity": "6b6f412fd85f970e",
        "cohort": "690894cfc0c60471",
    },
}
"""First 16 digits at version 1 of every stage; whoever must change them costs people days."""


@dataclass
class MorePlane(MidsagittalSettings):
    smoothing_mm: float = 0.0


@dataclass
class More(PreprocessSettings):
    """A later version's settings: one more key here, one more under `midsagittal`."""

    midsagittal: MorePlane = field(default_factory=MorePlane)
    sharpening: float = 0.0


def cohort_of(root):
    record = ScanRecord("s1", "p1", None, "HS", root / "s1.nii.gz", root / "s1.mrk.json", 40.0, "F")
    return Cohort("c", root, (record,))


def keys_of(settings, root=Path("/data")):
    """Keys of a scan by stage, and the digest of a cohort of it, which need no files."""
    cohort = cohort_of(root)
    digests = dict.fromkeys(cohort.scans[0].files, SCAN)
    digest = cohort_digest(cohort, MSP8, settings, digests)
    return {**stage_keys(SCAN, settings), "cohort": digest}


def short(keys):
    return {name: key[:16] for name, key in keys.items()}


@pytest.mark.parametrize(("name", "settings"), [("default", SETTINGS), ("other", OTHER)])
def test_keys_are_what_they_were(monkeypatch, name, settings):
    for stage in STAGE_VERSIONS:
        monkeypatch.setitem(STAGE_VERSIONS, stage, 1)
    assert short(keys_of(settings)) == KEYS[name]


def test_a_version_that_is_raised_moves_its_stage_and_those_after_it(monkeypatch):
    before = keys_of(SETTINGS)
    monkeypatch.setitem(STAGE_VERSIONS, "plane", STAGE_VERSIONS["plane"] + 1)
    after = keys_of(SETTINGS)
    moved = [name for name in before if before[name] != after[name]]
    assert moved == ["plane", "slice", "intensity", "cohort"]


def test_a_new_setting_moves_nothing_while_it_has_its_default():
    assert "sharpening" not in BASELINE
    assert keys_of(More()) == keys_of(SETTINGS)
    changed = replace(More(), midsagittal=MorePlane(smoothing_mm=1.0), sharpening=1.0)
    assert decisive_settings(changed) == {"midsagittal": {"smoothing_mm": 1.0}, "sharpening": 1.0}
    moved = keys_of(replace(More(), midsagittal=MorePlane(smoothing_mm=1.0)))
    assert moved["registration"] == keys_of(SETTINGS)["registration"]
    assert moved["plane"] != keys_of(SETTINGS)["plane"]
    assert keys_of(replace(More(), sharpening=1.0))["cohort"] != keys_of(SETTINGS)["cohort"]


def test_another_default_is_another_key():
    @dataclass
    class Another(PreprocessSettings):
        spacing_mm: float = 0.8

    assert keys_of(Another()) == keys_of(PreprocessSettings(spacing_mm=0.8))
    assert keys_of(Another(spacing_mm=1.0)) == keys_of(SETTINGS)
    assert keys_of(Another())["slice"] != keys_of(SETTINGS)["slice"]


def test_every_setting_is_written_in_the_baseline_and_read_by_one_stage():
    names = {item.name for item in fields(PreprocessSettings)} - {"normalisation"}
    say = "write the new setting with its default into BASELINE of landmarking/data/stage_keys.py"
    assert names <= set(BASELINE), say
    assert set(asdict(SETTINGS.midsagittal)) <= set(BASELINE["midsagittal"]), say
    read = [name for own in STAGE_SETTINGS.values() for name in own]
    assert sorted(read) == sorted(names), "write the new setting to its stage in STAGE_SETTINGS"


def test_another_root_folder_moves_nothing():
    assert keys_of(SETTINGS, Path("/data")) == keys_of(SETTINGS, Path("/elsewhere/deeper"))


def test_a_reference_elsewhere_moves_nothing(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.npy").write_bytes(b"reference")
    here, there = (
        PreprocessSettings(histogram_reference=str(tmp_path / name / f"{name}.npy"))
        for name in "ab"
    )
    assert keys_of(here) == keys_of(there) != keys_of(SETTINGS)


class Renamed(ast.NodeTransformer):
    """Other names for the private functions of a module."""

    def __init__(self, tree):
        self.names = {
            node.name: f"{node.name}_renamed"
            for node in tree.body
            if isinstance(node, ast.FunctionDef) and node.name.startswith("_")
        }

    def visit_FunctionDef(self, node):
        node.name = self.names.get(node.name, node.name)
        return self.generic_visit(node)

    def visit_Name(self, node):
        node.id = self.names.get(node.id, node.id)
        return node


def test_code_that_is_renamed_reformatted_and_moved_moves_nothing(tmp_path):
    package = tmp_path / "elsewhere" / "landmarking"
    source = Path(landmarking.__file__).parent
    shutil.copytree(source, package, ignore=shutil.ignore_patterns("__pycache__", "*.zip"))
    imaging = package / "imaging"
    for path in imaging.glob("*.py"):
        tree = ast.parse(path.read_text())
        path.write_text(ast.unparse(Renamed(tree).visit(tree)))
    (imaging / "registration.py").rename(imaging / "laying.py")
    for path in package.rglob("*.py"):
        text = path.read_text()
        path.write_text(
            text.replace("landmarking.imaging.registration", "landmarking.imaging.laying")
        )
    shutil.copy(__file__, tmp_path / "keys_here.py")
    code = (
        "import json, landmarking; from keys_here import OTHER, keys_of; "
        "print(json.dumps([landmarking.__file__, keys_of(OTHER)]))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=package.parent,
        env={"PYTHONPATH": f"{package.parent}:{tmp_path}"},
        capture_output=True,
        text=True,
        check=True,
    )
    file, keys = json.loads(found.stdout)
    assert Path(file).is_relative_to(tmp_path)
    assert keys == keys_of(OTHER)
