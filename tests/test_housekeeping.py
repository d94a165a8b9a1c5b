"""What the doctor finds, and what it calls wrong."""

from __future__ import annotations

import csv
import io
import json
from collections import namedtuple

import pytest
import yaml

from landmarking import housekeeping
from landmarking.cli import main
from landmarking.errors import ConfigError


def test_a_sound_installation_has_nothing_wrong(capsys):
    assert main(["doctor"]) == 0
    told = capsys.readouterr().out
    for word in ("landmarking", "torch", "cores", "configuration", "8 landmarks"):
        assert word in told
    assert told.endswith("nothing is wrong\n")


def test_a_package_too_old_or_missing_is_named_with_the_way_out(monkeypatch, capsys):
    monkeypatch.setattr(
        housekeeping, "requires", lambda _: ["numpy>=99", "no_such_thing>=1", "x; extra=='y'"]
    )
    assert main(["doctor"]) == 1
    told = capsys.readouterr().out
    assert "wrong: numpy: needs >=99: pip install 'numpy>=99'" in told
    assert "wrong: no_such_thing: install it: pip install 'no_such_thing>=1'" in told
    assert "\nx " not in told


def test_a_full_disk_and_a_lost_model_are_said(monkeypatch, capsys):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(housekeeping.shutil, "disk_usage", lambda _: usage(1, 1, 2**29))

    def lost(_):
        raise ConfigError("the model is gone; install the package again")

    monkeypatch.setattr("landmarking.prediction.package.open_model", lost)
    assert main(["doctor"]) == 1
    told = capsys.readouterr().out
    assert "wrong: results: little room is left" in told
    assert "wrong: model: the model is gone; install the package again" in told


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_every_command(shell, capsys):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in ("predict", "train", "doctor", "--acpc"):
        assert word in script


# The runs below a folder.

HEAD = "model,group,error_mm,landmark\n"


def make_run(folder, *, errors=(), last=False, fold=0, lr=0.005, epochs=2):
    """A run's files as training leaves them, as far as a list reads them."""
    (folder / "checkpoints").mkdir(parents=True)
    config = {
        "study": folder.parent.name,
        "experiment": "demo_ml",
        "landmark": None,
        "seed": 3,
        "fold": fold,
        "optimizer": {"lr": lr},
        "run_dir": str(folder),
        "logger": {"csv": {"save_dir": f"{folder}/csv"}},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "provenance.json").write_text('{"commit": "abc", "packages": {"torch": "2"}}')
    rows = "".join(f"{epoch},{0.5 / (epoch + 1)}\n" for epoch in range(epochs))
    (folder / "history.csv").write_text("epoch,validation_error_mm\n" + rows + f"{epochs},\n")
    if errors:
        table = "".join(f"ML,{group},{error},AC\n" for group, error in errors)
        (folder / "predictions.csv").write_text(HEAD + table)
    if last:
        (folder / "checkpoints" / "last.ckpt").write_bytes(b"x" * 2000)
    return folder


@pytest.fixture
def runs(tmp_path):
    root = tmp_path / "outputs"
    errors = [("HS", "1.0"), ("HS", "3.0"), ("DS", ""), ("DS", "4.0")]
    make_run(root / "a" / "one", errors=errors)
    make_run(root / "a" / "two", last=True, fold=1, lr=0.01)
    make_run(root / "deep" / "er" / "three")
    (root / "prepared" / "x").mkdir(parents=True)
    (root / "a" / "report").mkdir()
    return root


def test_a_list_says_states_errors_and_room(runs, capsys):
    assert main(["runs", "list", str(runs), "--json"]) == 0
    one, two, three = json.loads(capsys.readouterr().out)["runs"]
    assert [run["state"] for run in (one, two, three)] == ["finished", "stopped", "begun"]
    assert one["test_error_mm"] == {"HS": 2.0, "DS": 4.0}
    assert (one["model"], one["seed"], one["fold"], one["landmark"]) == ("ML", "3", "0", "")
    assert (one["epochs"], one["val_error_mm"]) == (3, 0.25)
    assert two["test_error_mm"] == {}
    held = sum(f.stat().st_size for f in (runs / "a/two").rglob("*") if f.is_file())
    assert two["size_mb"] == round(held / 1e6, 3)
    assert main(["runs", "list", str(runs), "--state", "finished"]) == 0
    told = capsys.readouterr().out
    assert "a/one" in told
    assert "1 runs: 1 finished" in told
    assert main(["runs", "list", str(runs), "--sort", "val_error_mm", "--json"]) == 0
    assert main(["runs", "list", str(runs), "--sort", "colour"]) == 2
    assert main(["runs", "list", str(runs / "a" / "report")]) == 2


def test_diff_names_the_settings_that_differ_and_no_places(runs, capsys):
    both = [str(runs / "a" / name) for name in ("one", "two")]
    assert main(["runs", "diff", *both, "--json"]) == 0
    settings = json.loads(capsys.readouterr().out)["settings"]
    assert settings == {"fold": [0, 1], "optimizer.lr": [0.005, 0.01]}
    assert main(["runs", "diff", both[0]]) == 2
    assert main(["runs", "diff", both[0], str(runs)]) == 2
    assert "is no run" in capsys.readouterr().err


def test_show_prints_settings_and_what_it_was_made_with(runs, capsys):
    assert main(["runs", "show", str(runs / "a" / "one"), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["settings"]["optimizer.lr"] == 0.005
    assert shown["made_with"] == {"commit": "abc"}
    assert shown["packages"] == {"torch": "2"}


def test_export_writes_one_table_and_keeps_what_is_there(runs, tmp_path, capsys):
    table = tmp_path / "runs.csv"
    assert main(["runs", "export", str(runs), "-o", str(table)]) == 0
    rows = list(csv.DictReader(io.StringIO(table.read_text())))
    assert [row["optimizer.lr"] for row in rows] == ["0.005", "0.01", "0.005"]
    assert rows[0]["HS_error_mm"] == "2.0"
    assert main(["runs", "export", str(runs), "-o", str(table)]) == 2
    assert "is there already, and kept" in capsys.readouterr().err
    assert main(["runs", "export", str(runs), "-o", str(tmp_path / "runs.xlsx")]) == 2


def test_rm_asks_removes_runs_alone_and_nothing_else(runs, monkeypatch, capsys):
    two = runs / "a" / "two"
    assert main(["runs", "rm", str(two)]) == 2
    assert "nobody can be asked; add --yes" in capsys.readouterr().err
    assert main(["runs", "rm", str(two), str(runs / "a"), "--yes"]) == 2
    assert two.is_dir()
    answers = iter(["n\n", "y\n"])
    person = type("Person", (), {"isatty": lambda _: True, "readline": lambda _: next(answers)})
    monkeypatch.setattr("sys.stdin", person())
    assert main(["runs", "rm", str(two)]) == 1
    assert two.is_dir()
    assert main(["runs", "rm", str(two)]) == 0
    assert not two.exists()
    assert (runs / "a" / "one").is_dir()
