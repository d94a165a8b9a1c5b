import os
import socket
import subprocess
import threading
import time

import pytest

from landmarking.errors import RunError
from landmarking.files import (
    CHECKSUMS,
    atomic_folder,
    atomic_path,
    check_sealed,
    file_lock,
    file_sha256,
    parse_json,
    remove_leftovers,
    seal,
    write_text,
)


@pytest.fixture
def sealed(tmp_path):
    (tmp_path / "a.csv").write_text("1\n")
    (tmp_path / "b.json").write_text("2\n")
    seal(tmp_path, {"a.csv": tmp_path / "a.csv", "b.json": tmp_path / "b.json"})
    return tmp_path


def test_files_as_they_were_written_pass(sealed):
    check_sealed(sealed, "a.csv", "b.json", "never sealed")


def test_the_list_is_what_sha256sum_reads(sealed):
    done = subprocess.run(
        ["sha256sum", "--strict", "-c", CHECKSUMS], cwd=sealed, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "a.csv: OK\nb.json: OK\n")


def test_a_file_that_was_changed_is_refused_and_the_others_are_not(sealed):
    (sealed / "a.csv").write_text("2\n")
    with pytest.raises(RunError, match=r"a\.csv: is not what its run has written.*overwrite=true"):
        check_sealed(sealed, "a.csv")
    check_sealed(sealed, "b.json")


def test_a_file_that_is_gone_is_said(sealed):
    (sealed / "a.csv").unlink()
    with pytest.raises(RunError, match=r"a\.csv: cannot be read.*restore it"):
        check_sealed(sealed, "a.csv")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"a.csv\n", b"0" * 64 + b" a.csv\n"])
def test_a_damaged_list_is_said(sealed, content):
    (sealed / CHECKSUMS).write_bytes(content)
    with pytest.raises(RunError, match=rf"{CHECKSUMS}.*remove it if you trust"):
        check_sealed(sealed, "a.csv")


def test_a_run_without_a_list_is_taken_as_it_is(tmp_path):
    check_sealed(tmp_path, "a.csv")


def test_a_file_appears_whole_in_folders_made_on_the_way(tmp_path):
    write_text(tmp_path / "a" / "b.txt", "mm")
    assert (tmp_path / "a" / "b.txt").read_text() == "mm"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.txt"]


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "b.txt"
    write_text(path, "old")

    def fail_half_way():
        with atomic_path(path) as temporary:
            temporary.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_half_way()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_temporary_file_keeps_the_suffix_that_writers_look_at(tmp_path):
    with atomic_path(tmp_path / "x.nii.gz") as temporary:
        assert temporary.name.endswith(".nii.gz")
        assert temporary.parent == tmp_path
        temporary.write_bytes(b"")


def test_a_folder_appears_whole_and_replaces_an_older_one(tmp_path):
    folder = tmp_path / "prepared" / "demo"
    for text in ("old", "new"):
        with atomic_folder(folder) as temporary:
            (temporary / f"{text}.txt").write_text(text)
            assert not (folder / f"{text}.txt").exists()
    assert [path.name for path in folder.iterdir()] == ["new.txt"]
    assert [path.name for path in folder.parent.iterdir()] == ["demo"]


def test_an_interrupted_folder_leaves_the_old_one(tmp_path):
    folder = tmp_path / "demo"
    with atomic_folder(folder) as temporary:
        (temporary / "a.txt").write_text("old")

    def fail_half_way():
        with atomic_folder(folder) as temporary:
            (temporary / "a.txt").write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_half_way()
    assert (folder / "a.txt").read_text() == "old"
    assert list(tmp_path.iterdir()) == [folder]


def test_leftovers_of_killed_processes_are_removed_and_those_of_running_ones_kept(tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    host = socket.gethostname()
    left = [
        tmp_path / "a" / f".tmp-{host}-{dead.pid}-00aa-index.json",
        tmp_path / f".tmp-{host}-{dead.pid}-00bb-demo" / "images.npy",
    ]
    kept = [
        tmp_path / "a" / f".tmp-{host}-{os.getpid()}-00aa-index.json",
        tmp_path / "a" / f".tmp-elsewhere.{host}-{dead.pid}-00aa-index.json",
        tmp_path / "a" / "index.json",
    ]
    for path in (*left, *kept):
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
    assert remove_leftovers(tmp_path) == 2
    assert not left[0].exists()
    assert not left[1].parent.exists()
    assert all(path.exists() for path in kept)


def test_a_lock_lets_one_in_at_a_time(tmp_path, caplog):
    order = []

    def second():
        with file_lock(tmp_path / "locks" / "a.lock"):
            order.append("second")

    waiting = threading.Thread(target=second)
    with file_lock(tmp_path / "locks" / "a.lock"):
        waiting.start()
        while "waiting for another process" not in caplog.text:
            time.sleep(0.005)
        order.append("first")
    waiting.join()
    assert order == ["first", "second"]


def test_file_sha256_is_the_digest_of_the_bytes(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2
    assert file_sha256(path) == expected


@pytest.mark.parametrize(("text", "says"), [("[" * 100_000, "too deeply"), ('{"a": ', "value")])
def test_json_that_cannot_be_read_is_a_value_error(text, says):
    with pytest.raises(ValueError, match=says):
        parse_json(text)
    assert parse_json(b'{"a": [1]}') == {"a": [1]}
