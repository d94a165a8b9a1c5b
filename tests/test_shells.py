"""The shells' shared part: help from the YAML, near keys, one message on bad input."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest
import yaml
from hydra.errors import HydraException

from landmarking.config import PROJECT
from landmarking.errors import ConfigError
from landmarking.shells import CONF, OTHERS_WENT_ON, help_text, one_message

SHELLS = ["evaluate", "prepare", "report", "train"]


@pytest.mark.parametrize("name", SHELLS)
def test_help_names_every_key_and_every_option(name):
    text = help_text(name)
    keys = yaml.safe_load((CONF / f"{name}.yaml").read_text(encoding="utf-8"))
    for key in set(keys) - {"defaults", "hydra"}:
        assert f"\n  {key}:" in text
    for entry in keys["defaults"]:
        for group in set(entry) - {"launcher"} if isinstance(entry, dict) else ():
            for path in (CONF / group).glob("*.yaml"):
                assert path.stem in text
    assert "hydra:" not in text


@pytest.mark.parametrize("name", SHELLS)
def test_a_shell_answers_help_by_itself_and_a_typing_error_with_one_message(name):
    shell = [sys.executable, str(PROJECT / "experiments" / f"{name}.py")]
    told = subprocess.run([*shell, "--help"], capture_output=True, text=True, check=True)
    assert told.stdout == help_text(name)
    assert told.stderr == ""
    refused = subprocess.run([*shell, "cohort/preste=x"], capture_output=True, text=True)
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert refused.stderr.count("\n") == 1
    assert "did you mean cohort/preset?" in refused.stderr


@pytest.mark.parametrize("name", SHELLS)
def test_the_installed_command_is_the_twin_of_the_script(name, tmp_path):
    command = [sys.executable, "-m", "landmarking.cli", name]
    told = subprocess.run([*command, "--help"], capture_output=True, text=True, cwd=tmp_path)
    assert (told.returncode, told.stdout) == (0, help_text(name))
    refused = subprocess.run([*command, "sed=1"], capture_output=True, text=True, cwd=tmp_path)
    assert refused.returncode == 2
    assert refused.stderr.startswith("sed: there is no such setting")
    assert list(tmp_path.iterdir()) == []


def test_ones_own_configuration_is_copied_once_and_composed(tmp_path):
    command = [sys.executable, "-m", "landmarking.cli"]

    def run(*words):
        return subprocess.run([*command, *words], capture_output=True, text=True, cwd=tmp_path)

    assert run("conf", "copy", "own").returncode == 0
    file = tmp_path / "own" / "optimizer" / "adam.yaml"
    file.write_text(file.read_text().replace("lr: 0.005", "lr: 0.0042"))
    again = run("conf", "copy", "own")
    assert again.returncode == 2
    assert "is there already, and kept" in again.stderr
    for words in (["--config-path", "own"], ["--config-path=own"]):
        composed = run("train", "--cfg", "job", *words)
        assert yaml.safe_load(composed.stdout)["optimizer"]["lr"] == 0.0042, composed.stderr


def left_with(raised, capsys):
    with pytest.raises(SystemExit) as stop, one_message():
        raise raised
    return stop.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("raised", "status", "words"),
    [
        (ConfigError("seed: no; set another"), 2, "seed: no; set another"),
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), 2, "/x/y: No space left on dev"),
        (PermissionError(errno.EACCES, "Permission denied"), 2, "mend its permissions"),
        (KeyboardInterrupt(), 130, "the same command goes on where it was left"),
        (HydraException(OTHERS_WENT_ON), 1, "the others went on"),
        (HydraException("Could not find 'x'"), 2, "Could not find 'x'"),
    ],
)
def test_a_fault_is_one_line_and_a_status(capsys, raised, status, words):
    code, err = left_with(raised, capsys)
    assert code == status
    assert words in err
    assert len(err.splitlines()) == 1


def test_a_silent_end_by_ctrl_c_is_given_words(capsys):
    def lightnings_way():
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)

    with pytest.raises(SystemExit) as stop, one_message():
        lightnings_way()
    assert stop.value.code == 130
    assert "goes on where it was left" in capsys.readouterr().err


def test_a_defect_of_ours_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError), one_message():
        raise ZeroDivisionError


def test_a_folder_that_cannot_be_made_is_said_before_hydra_shows_a_traceback(tmp_path):
    (tmp_path / "file").write_text("in the way")
    done = subprocess.run(
        [
            sys.executable,
            str(PROJECT / "experiments" / "report.py"),
            f"runs={tmp_path}",
            f"hydra.run.dir={tmp_path / 'file' / 'folder'}",
        ],
        capture_output=True,
        text=True,
        env={key: value for key, value in os.environ.items() if key != "HYDRA_FULL_ERROR"},
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "Not a directory" in done.stderr
