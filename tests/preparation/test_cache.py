import ast
import json
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import numpy as np
import pytest

import landmarking
from landmarking.cohort.records import Cohort, ScanRecord
from landmarking.errors import CacheError
from landmarking.imaging.midsagittal import MidsagittalSettings
from landmarking.imaging.pipeline import PreprocessSettings
from landmarking.landmarks import landmark_set
from landmarking.preparation.assembly import cohort_digest
from landmarking.preparation.cache import (
    BASELINE,
    STAGE_SETTINGS,
    STAGE_VERSIONS,
    Entry,
    FileDigests,
    StageCache,
    canonical_json,
    decisive_settings,
    stage_key,
    stage_keys,
)

KEY = stage_key("slice", 1, "abc")
ENTRY = Entry({"plane": [0.1, -1e-17], "ok": True}, np.arange(6, dtype=np.float32).reshape(2, 3))


@dataclass
class Setting:
    size: int
    crop: tuple[int, int]


def test_a_key_tells_stage_version_and_inputs_apart_and_nothing_else():
    same = stage_key("slice", 1, Setting(256, (50, 200)), {"a": 1, "b": 2})
    assert same == stage_key("slice", 1, Setting(256, (50, 200)), {"b": 2, "a": 1})
    others = {
        stage_key("plane", 1, Setting(256, (50, 200)), {"a": 1, "b": 2}),
        stage_key("slice", 2, Setting(256, (50, 200)), {"a": 1, "b": 2}),
        stage_key("slice", 1, Setting(256, (50, 201)), {"a": 1, "b": 2}),
        stage_key("slice", 1, Setting(256, (50, 200)), {"a": 1, "b": 3}),
    }
    assert len({same, *others}) == 5


def test_canonical_json_refuses_what_it_cannot_write_exactly():
    assert canonical_json({"b": Path("x"), "a": np.float64(0.1)}) == '{"a":0.1,"b":"x"}'
    with pytest.raises(TypeError, match="object has no canonical form"):
        canonical_json([object()])


def test_an_entry_comes_back_exactly(tmp_path):
    cache = StageCache(tmp_path)
    assert cache.get("slice", KEY) is None
    assert not cache.has("slice", KEY)
    cache.put("slice", KEY, ENTRY)
    found = cache.get("slice", KEY)
    assert cache.has("slice", KEY)
    assert found.values == ENTRY.values
    assert found.image.dtype == np.float32
    np.testing.assert_array_equal(found.image, ENTRY.image)
    cache.put("plane", KEY, Entry({"score": 0.5}))
    assert cache.get("plane", KEY).image is None


def flip_a_byte(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-1])


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("suffix", [".json", ".npy"])
@pytest.mark.parametrize("harm", [flip_a_byte, cut_short, empty, Path.unlink])
def test_a_damaged_entry_is_not_found_and_can_be_made_again(tmp_path, caplog, suffix, harm):
    cache = StageCache(tmp_path)
    cache.put("slice", KEY, ENTRY)
    (path,) = tmp_path.rglob(f"*{suffix}")
    if (harm, suffix) == (cut_short, ".json"):
        harm(path)  # its last newline, which carries nothing
    harm(path)
    assert cache.get("slice", KEY) is None
    if harm is not Path.unlink or suffix == ".npy":
        assert "it is made again" in caplog.text
    cache.put("slice", KEY, ENTRY)
    np.testing.assert_array_equal(cache.get("slice", KEY).image, ENTRY.image)


def test_every_single_altered_byte_is_found(tmp_path):
    cache = StageCache(tmp_path)
    cache.put("slice", KEY, ENTRY)
    for path in [*tmp_path.rglob("*.json"), *tmp_path.rglob("*.npy")]:
        whole = path.read_bytes()
        for position in range(0, len(whole) - 1, 3):
            path.write_bytes(
                whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :]
            )
            assert cache.get("slice", KEY) is None, (path.suffix, position)
        path.write_bytes(whole)
    assert cache.get("slice", KEY) is not None


def test_a_cache_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "slice").write_text("a file where a folder should be")
    with pytest.raises(CacheError, match=r"cannot be written.*finished scans are kept"):
        StageCache(tmp_path).put("slice", KEY, ENTRY)


EIGHT_WRITERS = """
import os, sys, traceback
from pathlib import Path
import numpy as np
from landmarking.preparation.cache import Entry, StageCache, stage_key

def write():
    cache = StageCache(Path(sys.argv[1]))
    for number in [*range(12)] * 3:
        key = stage_key("slice", 1, number)
        found = cache.get("slice", key)
        assert found is None or (found.image == number).all(), "half an entry"
        cache.put("slice", key, Entry({"number": number}, np.full((150, 150), number, np.float32)))

children = []
for _ in range(8):
    child = os.fork()
    if child == 0:
        try:
            write()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    children.append(child)
sys.exit(sum(os.waitpid(child, 0)[1] for child in children) != 0)
"""


def test_eight_processes_write_the_same_entries_and_never_see_half_of_one(tmp_path):
    command = [sys.executable, "-c", EIGHT_WRITERS, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 24, "an entry each, and nothing temporary left"
    for number in range(12):
        found = StageCache(tmp_path).get("slice", stage_key("slice", 1, number))
        assert found.values == {"number": number}


def test_digests_are_remembered_until_a_file_changes(tmp_path, monkeypatch):
    files = [tmp_path / name for name in ("a", "b")]
    for file in files:
        file.write_text(file.name)
    memory = tmp_path / "cache" / "files.json"
    first = FileDigests(memory).digests([*files, files[0]])
    assert first[files[0]].startswith("ca978112ca1bbdca"), "SHA-256 of 'a' (FIPS 180-2)"
    read = []
    monkeypatch.setattr(
        "landmarking.preparation.cache.file_sha256", lambda path: read.append(path) or "new"
    )
    assert FileDigests(memory).digests(files) == first
    assert read == []
    files[1].write_text("c")
    assert FileDigests(memory).digests(files) == {files[0]: first[files[0]], files[1]: "new"}
    assert read == [files[1]]


def test_an_unreadable_memory_of_digests_is_an_empty_one(tmp_path, caplog):
    (tmp_path / "files.json").write_text("{")
    (tmp_path / "a").write_text("a")
    digests = FileDigests(tmp_path / "files.json").digests([tmp_path / "a"])
    assert len(digests) == 1
    assert "hashed again" in caplog.text
    memory = json.loads((tmp_path / "files.json").read_text())
    assert list(memory["files"]) == [str(tmp_path / "a")]


def test_a_digest_that_was_altered_in_the_memory_is_not_believed(tmp_path, caplog):
    memory, file = tmp_path / "files.json", tmp_path / "a"
    file.write_text("a")
    expected = FileDigests(memory).digests([file])
    memory.write_text(memory.read_text().replace(expected[file], "0" * 64))
    assert FileDigests(memory).digests([file]) == expected
    assert "does not have its checksum" in caplog.text


def test_an_entry_under_another_entrys_name_is_not_taken(tmp_path, caplog):
    cache = StageCache(tmp_path)
    other = stage_key("slice", 1, "other")
    cache.put("slice", KEY, ENTRY)
    for path in list(tmp_path.rglob(f"{KEY}.*")):
        target = tmp_path / "slice" / other[:2] / path.name.replace(KEY, other)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes())
    assert cache.get("slice", other) is None
    assert "belongs to another entry" in caplog.text


# What is prepared stays usable: keys follow content and versions, not code, places or defaults.


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
    say = "write the new setting with its default into BASELINE of landmarking/preparation/cache.py"
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
