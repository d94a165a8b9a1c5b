"""The training shell: experiments compose, survive a batch, sweep by themselves, refuse typos."""

from __future__ import annotations

import math
import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationResolutionError

from landmarking.config import settings
from landmarking.data import datamodule
from landmarking.errors import ConfigError
from landmarking.evaluation.predictions import read_predictions
from landmarking.shells import register
from landmarking.training.settings import TrainingConfig
from landmarking.training.train import run_training

PROJECT = Path(__file__).parents[2]
SHELL = PROJECT / "experiments" / "train.py"
EXPERIMENTS = [f"{family}_{kind}" for family in ("demo", "paper", "code") for kind in ("sl", "ml")]
EXPERIMENTS += ["fast_ml", "fast_paper_ml"]


def composed(*overrides: str) -> Any:
    register("train")
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        return compose("train", list(overrides), return_hydra_config=True)


def values_of(config: Any) -> dict[str, Any]:
    plain = OmegaConf.to_container(
        OmegaConf.masked_copy(config, [key for key in config if key != "hydra"]), resolve=True
    )
    assert isinstance(plain, dict)
    return plain


@pytest.fixture
def shell(monkeypatch, capsys, make_cohort):
    """Run the shell in this process on a synthetic cohort; gives (exit status, stdout, stderr)."""
    cohort = make_cohort(size=48)
    monkeypatch.setattr(datamodule, "ensure_prepared", lambda *_a, **_k: cohort)

    def run(*arguments: str) -> tuple[int, str, str]:
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", [str(SHELL), *arguments])
        status = 0
        try:
            runpy.run_path(str(SHELL), run_name="__main__")
        except SystemExit as stop:
            status = int(stop.code or 0)
        out, err = capsys.readouterr()
        return status, out, err

    return run


SMALL = ("trainer.max_epochs=1", "trainer.accelerator=cpu", "launcher=sequential", "threads=1")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_survives_one_batch(name, make_cohort, tmp_path):
    sweeps = name.endswith("_sl")
    more = ["landmark=PMJ"] if sweeps else []
    config = composed(f"experiment={name}", f"outputs={tmp_path}", "model=slim", *SMALL, *more)
    values = values_of(config)
    values["trainer"] |= {"limit_train_batches": 1, "enable_progress_bar": False}
    if sweeps:
        assert config.hydra.mode.name == "MULTIRUN"
        names = config.hydra.sweeper.params.landmark
        assert names == "AC,PC,ICS,PMJ,CUL,IMS,GENU,SPLE"
    result = run_training(settings(TrainingConfig, values), make_cohort(size=48))
    frame = read_predictions(result.folder / "predictions.csv")
    assert set(frame["experiment"]) == {name}
    assert set(frame["model"]) == {config.label or name[-2:].upper()}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_is_a_short_diff_with_its_purpose_and_command(name):
    lines = (PROJECT / "conf" / "experiment" / f"{name}.yaml").read_text().splitlines()
    assert len(lines) <= 25
    assert lines[0] == "# @package _global_"
    assert lines[1].startswith("# ")
    assert lines[2] == f"# python experiments/train.py experiment={name}"


@pytest.mark.parametrize(
    ("name", "epochs", "pools", "kind", "normalisation", "split_by", "shuffle"),
    [
        ("paper_sl", 5_000, 4, "exponential", "image", "person", True),
        ("paper_ml", 10_000, 4, "exponential", "image", "person", True),
        ("code_sl", 5_000, 3, "constant", "batch", "image", False),
        ("code_ml", 10_000, 3, "constant", "batch", "image", False),
    ],
)
def test_who_wins_in_the_faithful_variants(
    name, epochs, pools, kind, normalisation, split_by, shuffle
):
    config = settings(TrainingConfig, values_of(composed(f"experiment={name}", "landmark=AC")))
    assert config.trainer.max_epochs == epochs
    assert config.model["pools"] == pools
    assert config.model["initialisation"] == "normal"
    assert config.model["initial_sd"] == 0.1
    assert config.schedule["kind"] == kind
    assert config.optimizer["lr"] == 0.005
    assert config.preprocess.normalisation == normalisation
    assert (config.data.batch_size, config.data.validation_fraction) == (256, 0.3)
    assert (config.data.split_by, config.data.shuffle) == (split_by, shuffle)
    assert config.trainer.precision == "32-true"


def test_the_demo_sweep_shares_two_cores_between_two_runs():
    config = composed("experiment=demo_sl")
    assert config.hydra.launcher._target_.endswith("JoblibLauncher")
    assert (config.hydra.launcher.n_jobs, config.threads) == (2, None), "joblib divides the cores"


def test_the_command_line_wins_over_the_experiment():
    config = composed("experiment=paper_ml", "cohort/preset=demo", "trainer.max_epochs=2")
    assert (config.cohort.preset.label, config.trainer.max_epochs) == ("demo", 2)


def runs_of(study: Path) -> list[str]:
    return sorted(path.parent.name for path in study.glob("*/predictions.csv"))


def test_single_landmark_experiments_sweep_by_themselves_and_skip_what_is_done(shell, tmp_path):
    arguments = ("experiment=demo_sl", f"outputs={tmp_path}", "run=sl-${landmark}", *SMALL)
    status, out, err = shell(*arguments, "landmark=AC,PMJ")
    assert (status, err) == (0, "")
    assert runs_of(tmp_path / "demo") == ["sl-AC", "sl-PMJ"]
    assert out.count("trained") == 2
    assert (tmp_path / "demo" / "sl-AC" / ".hydra" / "overrides.yaml").exists()
    status, out, _ = shell("-m", *arguments, "landmark=choice(AC,PMJ)")
    assert (status, out.count("already finished")) == (0, 2)
    status, out, err = shell(*arguments, "landmark=AC")
    assert (status, err, out.count("sl-AC: already finished")) == (0, "", 1)


def test_a_sweep_over_settings_makes_a_folder_for_each_of_them(shell, tmp_path):
    status, _, err = shell(
        "-m", "experiment=demo_ml", f"outputs={tmp_path}", *SMALL,
        "optimizer.lr=0.005,0.002", "augment=none,light",
    )  # fmt: skip
    assert (status, err) == (0, "")
    names = runs_of(tmp_path / "demo")
    assert len(names) == 4
    assert names[0] == "ml-seed0_augment-light_optimizer.lr-0.002_trainer.max_epochs-1"
    labels = {
        read_predictions(tmp_path / "demo" / name / "predictions.csv")["model"][0] for name in names
    }
    assert len(labels) == 4, "they are told apart in tables"


@pytest.mark.parametrize(
    "override", ["loss={_target_: torch.nn.SmoothL1Loss}", "loss._target_=torch.nn.SmoothL1Loss"]
)
def test_another_loss_is_named_on_the_command_line(shell, tmp_path, override):
    status, _, err = shell("experiment=demo_ml", f"outputs={tmp_path}", *SMALL, override, "run=r")
    assert (status, err, runs_of(tmp_path / "demo")) == (0, "", ["r"])


def test_an_experiment_of_ones_own_lies_in_a_folder_of_ones_own(shell, tmp_path):
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    text = "# @package _global_\ndefaults: [demo_ml, _self_]\nstudy: mine\n"
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(text)
    where = ("--config-dir", str(tmp_path / "conf"), f"outputs={tmp_path}")
    status, _, err = shell(*where, "experiment=mine", "run=r", *SMALL)
    assert (status, err, runs_of(tmp_path / "mine")) == (0, "", ["r"])
    status, _, err = shell(*where, "experiment=min", *SMALL)
    assert (status, "did you mean mine?" in err) == (2, True)


def test_a_run_that_fails_lets_the_rest_of_its_sweep_go_on(shell, tmp_path):
    status, out, err = shell(
        "experiment=demo_sl", f"outputs={tmp_path}", "landmark=AC,XY,PMJ", *SMALL
    )
    assert status == 1
    assert out.count("trained") == 2
    assert "landmark 'XY' is not in the set" in err
    assert "the others went on" in err
    assert "Traceback" not in err
    assert not list(tmp_path.glob("demo/*XY*")), "nothing is left of what was refused"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.dropot=0.3", "did you mean model.dropout?"),
        ("sed=1", "did you mean seed?"),
        ("trainer.max_epoch=1", "did you mean trainer.max_epochs?"),
        ("seed=abc", "seed: Value 'abc' of type 'str' could not be converted to Integer"),
        ("study=\N{GREEK SMALL LETTER ALPHA}", "quote a value"),
        ("landmark=XY", "XY"),
        ("cohort=bids", "cohort.root=DIR"),
        ("logger=wand", "did you mean wandb?"),
        ("cohort.test_groups=HS", "write 'cohort.test_groups=[HS]'"),
        ("cohort.test_groups=[]", "at least one test group"),
        ("cohort.test_groups=[HS,train]", "train is in both cohort.train_groups and"),
        ("trainer.max_epochs={a:1}", "trainer.max_epochs: Value "),
        ("cohort=5", "a word and no number"),
    ],
)
def test_mistakes_are_one_message_and_status_2(shell, tmp_path, override, words):
    status, out, err = shell("experiment=demo_ml", f"outputs={tmp_path / 'o'}", *SMALL, override)
    assert (status, out) == (2, "")
    assert words in err
    assert len(err.splitlines()) == 1
    assert not list(tmp_path.glob("o/demo/*"))


def test_a_single_landmark_experiment_without_a_landmark_shows_the_sweep(shell, tmp_path):
    status, out, err = shell("experiment=demo_sl", f"outputs={tmp_path}", "hydra.mode=RUN", *SMALL)
    assert (status, out) == (2, "")
    assert "-m landmark=AC,PC,ICS" in err


def test_a_mistake_in_an_experiment_file_is_refused_by_hydra_itself(shell, tmp_path):
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    text = "# @package _global_\ndefaults: [demo_ml, _self_]\ntrainer: {max_epoch: 3}\n"
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(text)
    status, _, err = shell("--config-dir", str(tmp_path / "conf"), "experiment=mine")
    assert status == 2
    assert "did you mean trainer.max_epochs?" in err
    assert "experiment/mine" in err


def test_a_debug_run_leaves_nothing_behind(shell, tmp_path):
    status, out, err = shell(
        "experiment=demo_ml", f"outputs={tmp_path}", *SMALL, "trainer.fast_dev_run=true"
    )
    assert (status, err) == (0, "")
    assert "nothing is kept" in out
    assert not list(tmp_path.rglob("*.csv"))
    assert not (tmp_path / "demo" / "ml-seed0").exists()


@pytest.mark.parametrize(
    ("group", "key", "value", "words"),
    [
        ("optimizer", "beta", 1, r"did you mean optimizer\.betas\?"),
        ("optimizer", "lr", math.nan, r"optimizer: torch.optim.Adam refuses its settings.*correct"),
        ("optimizer", "betas", [0.9], r"optimizer: torch.optim.Adam refuses its settings"),
        (
            "optimizer",
            "_target_",
            "torch.optim.Adm",
            r"optimizer\._target_: torch.optim.Adm cannot",
        ),
        ("optimizer", "_target_", "torch.nn.Linear", r"optimizer"),
        ("trainer", "max_epoch", 1, r"did you mean trainer\.max_epochs\?"),
        ("trainer", "max_epochs", 0, r"trainer\.max_epochs"),
        ("schedule", "kind", "linear", r"schedule\.kind"),
        ("callbacks", "mine", {"_target_": "nowhere.Callback"}, r"pip install nowhere"),
        ("logger", "mine", 3, r"logger\.mine names a class by _target_"),
    ],
)
def test_a_mistake_in_a_file_is_refused_by_name(group, key, value, words):
    values = values_of(composed("experiment=demo_ml"))
    with pytest.raises(ConfigError, match=words):
        settings(TrainingConfig, values | {group: values[group] | {key: value}})


@pytest.mark.parametrize("accelerator", ["cpu", "auto"])
def test_a_cpu_is_not_swamped_with_processes(accelerator, monkeypatch):
    for kind in ("CUDAAccelerator", "MPSAccelerator"):
        monkeypatch.setattr(f"pytorch_lightning.accelerators.{kind}.is_available", lambda: False)
    values = values_of(composed("experiment=demo_ml", f"trainer.accelerator={accelerator}"))
    trainer = values["trainer"] | {"devices": 9999}
    with pytest.raises(ConfigError, match=r"trainer\.devices: .*one a core .*take fewer"):
        settings(TrainingConfig, values | {"trainer": trainer})


def test_a_seed_that_no_generator_takes_is_refused():
    values = values_of(composed("experiment=demo_ml")) | {"seed": -1}
    with pytest.raises(ConfigError, match=r"seed is a whole number from 0 .*found -1; correct"):
        settings(TrainingConfig, values)


@pytest.mark.parametrize("key", ["study", "run", "cohort.name"])
def test_output_folders_stay_within_the_outputs(key):
    refused = (ConfigError, InterpolationResolutionError)
    with pytest.raises(refused, match=rf"{key} names a folder within outputs"):
        settings(TrainingConfig, values_of(composed(f"{key}=../outside", "cohort.root=x")))


def test_every_model_group_names_a_network():
    for path in sorted((PROJECT / "conf" / "model").glob("*.yaml")):
        values = values_of(composed(f"model={path.stem}"))
        package = values["model"].get("network", {}).get("_target_", "torch").partition(".")[0]
        if find_spec(package) is None:
            with pytest.raises(ConfigError, match=rf"{package} is not installed; pip install"):
                settings(TrainingConfig, values)
        else:
            settings(TrainingConfig, values)


def test_help_answers_without_loading_anything_heavy():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", str(SHELL), "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "trainer" in done.stdout
    assert not {"torch", "pytorch_lightning", "pandas", "nilearn"} & {
        line.rsplit("|")[-1].strip() for line in done.stderr.splitlines()
    }
