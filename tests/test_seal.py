import subprocess

import pytest

from landmarking.errors import RunError
from landmarking.seal import CHECKSUMS, check_sealed, seal


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
