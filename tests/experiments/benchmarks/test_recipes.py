"""Curves of two recipes from their histories."""

import pytest

import recipes
from landmarking.errors import ConfigError


def test_the_table_and_the_picture_come_from_the_histories(tmp_path):
    for name, losses in (("fast", (2.0, 1.5)), ("paper", (70.0, 1.0, 3.0))):
        (tmp_path / name).mkdir()
        rows = [f"{epoch},{loss}" for epoch, loss in enumerate(losses)]
        text = "\n".join(["epoch,validation_loss_px", *rows, f"{len(losses)},"])
        (tmp_path / name / "history.csv").write_text(text)
    picture = tmp_path / "curves.png"
    folders = [f"fast={tmp_path / 'fast'}", f"paper={tmp_path / 'paper'}"]
    text = recipes.run([*folders, f"picture={picture}"])
    assert "| paper's recipe | 3 | 70.00 | 3.00 | 1.00 |" in text
    assert "| fast recipe | 2 | 2.00 | 1.50 | 1.50 |" in text
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_run_without_a_history_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(ConfigError, match=r"history\.csv.*experiment=fast_ml"):
        recipes.run([f"fast={tmp_path}", f"paper={tmp_path}"])
