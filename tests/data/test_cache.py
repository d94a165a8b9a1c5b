import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from landmarking.data.cache import Entry, FileDigests, StageCache, canonical_json, stage_key
from landmarking.errors import CacheError

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
from landmarking.data.cache import Entry, StageCache, stage_key

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
        "landmarking.data.cache.file_sha256", lambda path: read.append(path) or "new"
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
