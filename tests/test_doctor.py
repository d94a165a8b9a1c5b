"""What the doctor finds, and what it calls wrong."""

from __future__ import annotations

from collections import namedtuple

import pytest

from landmarking import doctor
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
        doctor, "requires", lambda _: ["numpy>=99", "no_such_thing>=1", "x; extra=='y'"]
    )
    assert main(["doctor"]) == 1
    told = capsys.readouterr().out
    assert "wrong: numpy: needs >=99: pip install 'numpy>=99'" in told
    assert "wrong: no_such_thing: install it: pip install 'no_such_thing>=1'" in told
    assert "\nx " not in told


def test_a_full_disk_and_a_lost_model_are_said(monkeypatch, capsys):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage(1, 1, 2**29))

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
