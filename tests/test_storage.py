import pytest

from landmarking.storage import atomic_path, write_text


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
