"""Experiments beyond the paper: they compose, are short, and survive a batch."""

from dataclasses import replace
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from augment import shipped
from landmarking.config import PROJECT, settings
from landmarking.errors import ConfigError
from landmarking.evaluation.predictions import read_predictions
from landmarking.shells import register
from landmarking.training.settings import TrainingConfig
from landmarking.training.train import run_training

NAMES = ("heatmap", "heatmap_sl", "adapt_ds", "study", "study_single", "study_compute")


def training_config(*overrides: str) -> tuple[TrainingConfig, Any]:
    register("train")
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        config = compose("train", list(overrides), return_hydra_config=True)
    # Of Hydra's own, only the names of the chosen groups may be used.
    choices = OmegaConf.to_container(config.hydra.runtime.choices)
    OmegaConf.register_new_resolver(
        "hydra", lambda path: choices[path.split(".")[-1]], replace=True
    )
    keys = [key for key in config if key != "hydra"]
    values = OmegaConf.to_container(OmegaConf.masked_copy(config, keys), resolve=True)
    assert isinstance(values, dict)
    return settings(TrainingConfig, {str(k): v for k, v in values.items()}), config.hydra


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_is_a_short_diff_with_its_purpose_and_command(name: str) -> None:
    lines = (PROJECT / "conf" / "experiment" / f"{name}.yaml").read_text().splitlines()
    assert len(lines) < 25
    assert lines[0] == "# @package _global_"
    assert lines[2] == f"# python experiments/train.py experiment={name}"


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_composes_to_settings_of_its_own_study(name: str) -> None:
    sweeps = ["landmark=AC"] if name in ("heatmap_sl", "study_single") else []
    config, hydra = training_config(f"experiment={name}", *sweeps)
    assert config.experiment == name
    assert config.cohort.preset.label == "small"
    if name != "heatmap":
        assert hydra.mode.name == "MULTIRUN"
    if name in ("heatmap_sl", "study_single"):
        assert hydra.sweeper.params.landmark.split(",") == list(config.landmarks.build().names)


@pytest.mark.parametrize("name", ["people_heatmap", "people_ml", "people_sl", "people_final"])
def test_an_experiment_on_people_learns_from_nobody_whom_it_tests(name: str) -> None:
    single = ["landmark=AC"] if name == "people_sl" else []
    config, hydra = training_config(f"experiment={name}", "cohort.root=DIR", *single)
    assert config.experiment == name
    assert config.preprocess.intensity == "scaled"
    if name == "people_final":
        assert (config.cohort.train_groups, config.cohort.test_groups) == (["people"], ["ten"])
        assert hydra.mode.name == "RUN"
        return
    assert hydra.mode.name == "MULTIRUN"
    assert config.cohort.train_groups == ["people-adapt"]
    assert config.cohort.test_groups == ["people", "ten"]
    assert (config.adapt.group, config.adapt.people) == ("people", None)
    assert hydra.sweeper.params["adapt.fold"] == "0,1,2,3,4"
    assert config.run == "-".join(
        [config.label, *(["AC"] if single else []), f"fold{config.adapt.fold}", "seed0"]
    )


def test_equal_compute_is_one_epoch_for_each_network_of_an_ensemble() -> None:
    single, _ = training_config("experiment=study_single", "landmark=AC")
    equal, _ = training_config("experiment=study_compute")
    epochs = [config.trainer.max_epochs for config in (single, equal)]
    assert epochs[1] == len(single.landmarks.build().names) * epochs[0]
    assert (equal.data, equal.optimizer) == (single.data, single.optimizer)


@pytest.mark.parametrize("kind", ["light", "strong", "synth", "none"])
def test_every_augment_file_is_a_configuration(kind: str) -> None:
    assert (shipped(kind).kind == "none") == (kind == "none")


TINY = ("trainer.max_epochs=1", "trainer.accelerator=cpu", "threads=1", "data.batch_size=4")
SMALL_NET = "model.channels=[4,4,6]"


def test_a_heatmap_network_trains_on_painted_people_and_then_adapts(make_cohort, tmp_path) -> None:
    cohort = make_cohort(size=150, test=6)
    common = (f"outputs={tmp_path}", *TINY, SMALL_NET)
    first, _ = training_config("experiment=heatmap", *common)
    first.trainer = replace(first.trainer, limit_train_batches=1, enable_progress_bar=False)
    base = run_training(first, cohort)
    frame = read_predictions(base.folder / "predictions.csv")
    assert set(frame["model"]) == {"heatmap"}

    group = sorted(set(frame["group"]))[0]
    adapting = (
        "adapt.people=2",
        "adapt.folds=2",
        f"adapt.group={group}",
        f"adapt.start={base.folder}",
    )
    groups = (f"cohort.train_groups=[{group}-adapt]", f"cohort.test_groups=[{group}]")
    second, _ = training_config("experiment=adapt_ds", *common, *adapting, *groups)
    second.trainer = replace(second.trainer, limit_train_batches=1, enable_progress_bar=False)
    after = read_predictions(run_training(second, cohort).folder / "predictions.csv")
    assert set(after["model"]) == {"tuned-2"}
    everybody = set(frame.loc[frame["group"] == group, "participant_id"])
    assert 0 < len(set(after["participant_id"])) < len(everybody)
    assert set(after["participant_id"]) < everybody


def test_painted_slices_of_another_size_than_the_cohort_s_are_refused(
    make_cohort, tmp_path
) -> None:
    config, _ = training_config("experiment=heatmap", f"outputs={tmp_path}", *TINY, SMALL_NET)
    with pytest.raises(ConfigError, match="150 x 150"):
        run_training(config, make_cohort(size=48))
