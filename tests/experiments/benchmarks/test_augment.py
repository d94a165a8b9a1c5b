"""The augmentation benchmark: its table, its picture, and what it refuses."""

import pytest

from augment import AugmentBenchmark, blob_misses, run, shipped
from landmarking.data.augment import AugmentConfig
from landmarking.errors import ConfigError


def test_it_writes_a_table_and_a_picture(tmp_path) -> None:
    text = run(["batch=2", "rounds=1", "blobs=8", "pictures=2", f"outputs={tmp_path}"])
    written = (tmp_path / "augment.md").read_text()
    assert written.strip() in text
    assert [line.split("|")[1].strip() for line in written.splitlines()[4:]] == [
        "light",
        "strong",
        "synth",
    ]
    assert (tmp_path / "augment.png").read_bytes().startswith(b"\x89PNG")


def test_a_blob_that_is_not_moved_is_found_where_it_was() -> None:
    misses = blob_misses(AugmentConfig(kind="random"), AugmentBenchmark(blobs=20))
    assert float(misses.max()) < 0.01


@pytest.mark.parametrize("kind", ["light", "strong"])
def test_points_follow_their_blobs_within_a_tenth_of_a_pixel(kind: str) -> None:
    misses = blob_misses(shipped(kind), AugmentBenchmark(blobs=24))
    assert len(misses) > 20
    assert float(misses.max()) < 0.1


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"did you mean benchmark\.batch"):
        run(["bach=2"])
