"""Lightning's own features: each works in a run, or is refused in words."""

from __future__ import annotations

import math
import os
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint

from landmarking.config import PROJECT, settings
from landmarking.data.datamodule import LandmarkDataModule
from landmarking.errors import ConfigError
from landmarking.evaluation.predictions import radial_error_mm, read_predictions, sdr
from landmarking.models.coordinate_cnn import CoordinateCNN
from landmarking.models.losses import RadialErrors, multi_landmark_loss
from landmarking.models.module import LandmarkModule, Schedule, predict_points
from landmarking.runs import RunFolder, State
from landmarking.training.callbacks import ProgressBar
from landmarking.training.evaluate import cohort_images
from landmarking.training.settings import TrainerConfig, TrainingConfig
from landmarking.training.train import launched_rank, quiet, run_training

NETWORK = partial(CoordinateCNN, channels=[4, 8], hidden=[16], initialisation="kaiming", pools=2)


def trainer(folder: Path, **changes) -> pl.Trainer:
    plain = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "default_root_dir": folder,
    }
    return pl.Trainer(**(plain | changes))


def run(values, cohort, *, limits=None, **changes):
    values = values | {"trainer": values["trainer"] | (limits or {})} | changes
    return run_training(settings(TrainingConfig, values), cohort)


@pytest.fixture(autouse=True)
def silent():
    with quiet():
        yield


# Data module


def test_a_data_module_prepares_splits_and_names_its_test_loaders(make_cohort):
    data = LandmarkDataModule(make_cohort(train=13, test=3), batch_size=4)
    data.prepare_data()
    data.setup("fit")
    assert list(data.test_dataloader()) == ["HS", "DS"]
    assert [len(next(iter(loader)).images) for loader in data.test_dataloader().values()] == [3, 3]
    rows = torch.cat([batch.rows for batch in data.predict_dataloader()])
    assert rows.tolist() == list(range(19))
    scored = next(iter(data.val_dataloader()))
    chosen = data.validation_indices[: len(scored.rows)]
    np.testing.assert_array_equal(scored.rows, chosen)
    expected = [data.cohort.geometry(int(i)).px_to_mm for i in chosen]
    np.testing.assert_allclose(scored.px_to_mm, np.array(expected), rtol=1e-6)


def test_loaders_open_the_slices_where_nobody_has_called_setup(make_cohort):
    assert len(LandmarkDataModule(make_cohort(), batch_size=4).train_dataloader()) > 0
    with pytest.raises(ConfigError, match=r"setup\(\), or let a Trainer do so"):
        _ = LandmarkDataModule(make_cohort()).cohort


def test_seeds_of_weights_leave_the_split_alone(make_cohort):
    cohort = make_cohort(train=20)
    sides = []
    for seeds in ({"seed": 0}, {"seed": 1}, {"seed": 1, "split_seed": 1}):
        data = LandmarkDataModule(cohort, **seeds)
        data.setup()
        sides.append(data.split.digest)
    assert sides[0] == sides[1] != sides[2]


# Module


def test_a_checkpoint_needs_no_argument_whatever_was_handed_in(make_cohort, tmp_path):
    data = LandmarkDataModule(make_cohort(), batch_size=4)
    module = LandmarkModule(
        network=NETWORK,
        optimizer=partial(torch.optim.SGD, lr=0.01, momentum=0.9),
        schedule=Schedule(kind="constant"),
        loss=multi_landmark_loss,
    )
    best = ModelCheckpoint(dirpath=tmp_path, monitor="val/error_mm")
    trainer(tmp_path, callbacks=[best], enable_checkpointing=True).fit(module, data)
    again = LandmarkModule.load_from_checkpoint(best.best_model_path)
    assert again.landmarks == module.landmarks
    assert again.hparams["optimizer"]["_target_"].endswith("SGD")
    images = cohort_images(data.cohort, data.cohort.indices(["HS"]))
    assert predict_points(again, images).shape == (2, 8, 2)
    assert again.loss is not None
    weights = torch.load(best.best_model_path, weights_only=True)["state_dict"]
    assert all(torch.equal(again.state_dict()[k], v) for k, v in weights.items())


def test_a_built_network_is_trained_as_it_is(make_cohort, tmp_path):
    data = LandmarkDataModule(make_cohort(), batch_size=4)
    network = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(24 * 24, 16), torch.nn.Unflatten(1, (8, 2))
    )
    module = LandmarkModule(network=network, optimizer=partial(torch.optim.Adam, lr=0.01))
    best = ModelCheckpoint(dirpath=tmp_path, monitor="val/loss")
    trainer(tmp_path, callbacks=[best], enable_checkpointing=True).fit(module, data)
    assert module.network is network
    untrained = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(24 * 24, 16), torch.nn.Unflatten(1, (8, 2))
    )
    again = LandmarkModule.load_from_checkpoint(best.best_model_path, network=untrained)
    assert again.is_built


def test_a_module_without_data_says_what_it_lacks(tmp_path):
    loader = torch.utils.data.DataLoader(torch.zeros(4, 1, 24, 24))
    with pytest.raises(ConfigError, match="pass a LandmarkDataModule as datamodule"):
        trainer(tmp_path).fit(LandmarkModule(network=NETWORK), loader)


def test_a_scheduler_of_torch_s_own_sets_the_rate(make_cohort, tmp_path):
    halves = partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)
    module = LandmarkModule(
        network=NETWORK, optimizer=partial(torch.optim.Adam, lr=0.008), schedule=halves
    )
    fit = trainer(tmp_path)
    fit.fit(module, LandmarkDataModule(make_cohort(), batch_size=4))
    assert fit.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.002)


def test_checkpoints_of_earlier_versions_load(make_cohort):
    old = {
        "network": {
            "_target_": "landmarking.models.coordinate_cnn.CoordinateCNN",
            "channels": [4],
            "hidden": [8],
        },
        "landmarks": ["AC"],
        "image_size": [24, 24],
        "mean_px": [[10.0, 12.0]],
        "normalisation": "image",
        "optimizer": {"learning_rate": 0.004, "betas": [0.9, 0.99], "weight_decay": 0.0},
        "schedule": {"kind": "cosine", "final_rate": 1e-4, "factor": 0.9, "warmup_epochs": 1},
        "channels_last": False,
    }
    module = LandmarkModule(**old)
    assert module.is_built
    assert module.hparams["optimizer"]["lr"] == 0.004
    assert module.hparams["optimizer"]["_target_"] == "torch.optim.Adam"
    assert module.hparams["schedule"]["kind"] == "cosine"


# Metrics


def test_metrics_are_weighted_by_known_landmarks_not_by_batches(make_cohort, tmp_path):
    # 13 people, 4 held out: batches of 3 leave a last one of one slice with most points missing.
    missing = tuple((scan, mark) for scan in range(13) for mark in range(scan % 7))
    data = LandmarkDataModule(make_cohort(train=13, test=4, missing=missing), batch_size=3)
    module = LandmarkModule(network=NETWORK)
    fit = trainer(tmp_path, max_epochs=1)
    fit.fit(module, data)
    cohort, held = data.cohort, data.validation_indices
    predicted = predict_points(module, cohort_images(cohort, held)).numpy().astype(np.float64)
    metric = np.array([cohort.geometry(int(i)).px_to_mm for i in held])
    errors = radial_error_mm(predicted, cohort.points_px[held], metric)
    found = fit.callback_metrics
    assert found["val/error_mm"].item() == pytest.approx(np.nanmean(errors), rel=1e-5)
    np.testing.assert_allclose(
        [found[f"val/sdr_{radius}mm"].item() for radius in range(1, 6)], sdr(errors), rtol=1e-5
    )
    for column, name in enumerate(data.landmarks):
        expected = np.nanmean(errors[:, column])
        assert found[f"val/{name}/error_mm"].item() == pytest.approx(expected, rel=1e-5)
    distance = np.linalg.norm(predicted - cohort.points_px[held], axis=-1)
    assert found["val/loss"].item() == pytest.approx(np.nanmean(distance), rel=1e-5)


def test_a_stand_in_batch_of_another_process_counts_nowhere():
    errors = RadialErrors(["AC"])
    metric = torch.eye(2)[None]
    errors.update(torch.zeros(1, 1, 2), torch.full((1, 1, 2), 3.0), metric, 1.0)
    before = errors.compute()
    errors.update(torch.zeros(1, 1, 2), torch.full((1, 1, 2), 900.0), metric, 0.0)
    assert errors.compute() == before
    unknown = RadialErrors(["AC"])
    unknown.update(torch.zeros(1, 1, 2), torch.full((1, 1, 2), torch.nan), metric)
    assert unknown.compute() == {}


# Trainer's arguments


def test_early_stopping_stops_says_so_and_is_gone_on_with(training_values, make_cohort):
    stopping = {
        "_target_": "pytorch_lightning.callbacks.EarlyStopping",
        "monitor": "val/error_mm",
        "patience": 1,
        "min_delta": 1e6,
    }
    limits = {"max_epochs": 9}
    first = run(training_values, make_cohort(), limits=limits, callbacks={"stop": stopping})
    assert first.state is State.NEW
    assert "stopped by early stopping after 2 of 9 epochs" in first.summary()
    same = run(training_values, make_cohort(), limits=limits, callbacks={"stop": stopping})
    assert same.state is State.FINISHED
    assert "stopped by early stopping" in same.summary()
    longer = run(training_values, make_cohort(), limits=limits)
    assert (longer.state, longer.stopped) == (State.STARTED, "")
    whole = run(training_values, make_cohort(), limits=limits, run="whole")
    frames = [read_predictions(r.folder / "predictions.csv") for r in (longer, whole)]
    columns = ["pred_x_px", "pred_y_px"]
    assert frames[0][columns].equals(frames[1][columns]), "as if it had never been stopped"


def history_of(folder, errors):
    folder.mkdir(parents=True)
    rows = "".join(f"{epoch},{error}\n" for epoch, error in enumerate(errors))
    (folder / "history.csv").write_text("epoch,validation_error_mm\n" + rows)


@pytest.mark.parametrize(
    ("others", "epochs"),
    [
        ([[0.0] * 9] * 3, 3),  # everybody else is better: stopped once the warm-up is over
        ([[0.0] * 9, [99.0] * 9, [99.0] * 9], 6),  # better than the median
        ([[0.0] * 9] * 2, 6),  # too few to compare with
        ([[0.0] * 2] * 3, 6),  # nobody has come as far
    ],
)
def test_a_run_above_the_median_of_its_sweep_is_pruned(
    training_values, make_cohort, others, epochs
):
    study = Path(training_values["outputs"]) / "study"
    for number, errors in enumerate(others):
        history_of(study / f"other-{number}", errors)
    pruning = {
        "_target_": "landmarking.training.callbacks.MedianPruning",
        "folder": str(study),
        "run": "ml-seed0",
        "least_runs": 3,
        "warmup_epochs": 2,
    }
    result = run(
        training_values, make_cohort(), limits={"max_epochs": 6}, callbacks={"pruning": pruning}
    )
    ended = result.stopped
    assert ("stopped by pruning after 3 of 6 epochs" in ended) == (epochs == 3), ended
    assert bool(ended) == (epochs == 3)


@pytest.mark.parametrize("limit", [{"max_steps": 3}, {"max_time": {"milliseconds": 1}}])
def test_a_limit_that_ends_a_run_early_is_said_and_can_be_raised(
    training_values, make_cohort, limit
):
    first = run(training_values, make_cohort(), limits=limit)
    assert "stopped by trainer.max_" in first.summary()
    assert "of 3 epochs" in first.summary()
    more = run(training_values, make_cohort())
    assert more.state in (State.STARTED, State.NEW)
    assert more.stopped == ""
    whole = run(training_values, make_cohort(), run="whole")
    frames = [read_predictions(r.folder / "predictions.csv") for r in (more, whole)]
    assert frames[0]["pred_x_px"].equals(frames[1]["pred_x_px"])


@pytest.mark.parametrize(
    "limits", [{"check_val_every_n_epoch": 10}, {"check_val_every_n_epoch": 2, "max_steps": 1}]
)
def test_a_run_too_short_to_be_validated_has_its_objective_all_the_same(
    training_values, make_cohort, limits
):
    found = run(training_values, make_cohort(), limits=limits)
    assert math.isfinite(found.objective)
    assert found.objective == found.metrics["val/error_mm"]
    unwatched = run(
        training_values, make_cohort(), limits=limits | {"limit_val_batches": 0}, run="unwatched"
    )
    assert math.isnan(unwatched.objective)


def test_a_debug_run_leaves_nothing_behind(training_values, make_cohort, tmp_path):
    result = run(training_values, make_cohort(), limits={"fast_dev_run": True})
    assert result.state is State.DEBUG
    assert "nothing is kept" in result.summary()
    assert not Path(training_values["outputs"]).exists()


@pytest.mark.parametrize(
    "limits",
    [
        {"limit_train_batches": 1, "limit_val_batches": 1},
        {"overfit_batches": 1},
        {"detect_anomaly": True},
        {"accumulate_grad_batches": 2},
        {"gradient_clip_val": 0.5},
        {"log_every_n_steps": 1},
        {"num_sanity_val_steps": 1},
        {"use_distributed_sampler": False},
        {"val_check_interval": 0.5},
        {"deterministic": True},
        {"precision": "bf16-mixed"},
        {"precision": "bf16-mixed", "gradient_clip_val": 0.5},
        {"profiler": "simple"},
    ],
    ids=lambda limits: "-".join(limits),
)
def test_an_argument_of_the_trainer_works(training_values, make_cohort, limits):
    training_values["optimizer"] |= {"fused": True}
    result = run(training_values, make_cohort(), limits={"max_epochs": 1, **limits})
    assert len(read_predictions(result.folder / "predictions.csv")) == 4 * 8
    assert np.isfinite(result.objective) or "overfit_batches" in limits


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"barebones": True}, "leave them out"),
        ({"reload_dataloaders_every_n_epochs": 1}, "leave them out"),
        ({"precision": "12"}, "Lightning refuses"),
        ({"strategy": "telepathy"}, "Lightning refuses"),
    ],
)
def test_an_argument_that_does_not_go_with_a_run_is_refused(
    training_values, make_cohort, limits, words
):
    with pytest.raises(ConfigError, match=words):
        run(training_values, make_cohort(), limits=limits)


def test_overfitting_sees_the_same_batch_every_epoch(make_cohort, tmp_path):
    seen = []

    class Seen(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            seen.append(batch.points_px.clone())

    data = LandmarkDataModule(make_cohort(), batch_size=4)
    fit = trainer(tmp_path, overfit_batches=1, callbacks=[Seen()], max_epochs=3)
    fit.fit(LandmarkModule(network=NETWORK), data)
    assert len(seen) == 3
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])


def test_batch_normalisation_over_processes_is_left_to_gpus():
    assert "sync_batchnorm" not in TrainerConfig(accelerator="cpu", sync_batchnorm=True).arguments()


def test_an_outer_job_s_rank_is_none_of_ours(training_values, make_cohort, monkeypatch):
    for variable, value in (("SLURM_PROCID", "3"), ("SLURM_JOB_ID", "1"), ("LOCAL_RANK", "2")):
        monkeypatch.setenv(variable, value)
    result = run(training_values, make_cohort())
    assert result.state is State.NEW
    assert (result.folder / "predictions.csv").exists()
    assert (result.folder / "history.csv").exists()


def test_processes_started_from_outside_are_asked_for_by_lightning_s_plugins(monkeypatch):
    for variable in ("SLURM_NTASKS", "SLURM_PROCID", "LOCAL_RANK"):
        monkeypatch.delenv(variable, raising=False)
    assert launched_rank(TrainerConfig(devices=2)) == 0
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert launched_rank(TrainerConfig(devices=2)) == 1
    assert launched_rank(TrainerConfig(devices=1)) == 0
    slurm = {"SLURM_NTASKS": "4", "SLURM_PROCID": "3", "SLURM_JOB_NAME": "train"}
    for variable, value in slurm.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match="ntasks-per-node"):
        launched_rank(TrainerConfig(devices=2, num_nodes=2))
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "2")
    assert launched_rank(TrainerConfig(devices=2, num_nodes=2)) == 3


# Loggers, callbacks, optimizers, by the files in conf/


def node(group: str, name: str, folder: Path) -> dict:
    values = OmegaConf.load(PROJECT / "conf" / group / f"{name}.yaml") or OmegaConf.create()
    OmegaConf.register_new_resolver("run_name", lambda: "run", replace=True)
    known = OmegaConf.create({"run_dir": str(folder), "outputs": str(folder), "study": "study"})
    merged = OmegaConf.to_container(OmegaConf.merge(known, values), resolve=True)
    return {key: value for key, value in merged.items() if key not in known}


@pytest.mark.parametrize("names", [("csv",), ("tensorboard", "csv"), ("mlflow",), ("wandb",), ()])
def test_every_logger_file_logs(training_values, make_cohort, names, monkeypatch):
    for name in names:
        if name in ("mlflow", "wandb") and find_spec(name) is None:
            pytest.skip(f'needs pip install "landmarking[{name}]"')
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = Path(training_values["outputs"]) / "study" / "ml-seed0"
    nodes: dict = {}
    for name in names:
        nodes |= node("logger", name, folder)
    result = run(training_values, make_cohort(), logger=nodes)
    assert np.isfinite(result.objective)
    made = {path.name for path in result.folder.iterdir()}
    assert set(names) & {"csv", "tensorboard", "wandb"} <= made
    if "csv" in names:
        text = (result.folder / "csv" / "version_0" / "metrics.csv").read_text()
        assert "val/error_mm" in text


@pytest.mark.parametrize(
    "name", ["default", "early_stopping", "best", "lr_monitor", "pruning", "tqdm"]
)
def test_every_callback_file_runs(training_values, make_cohort, name):
    folder = Path(training_values["outputs"]) / "study" / "ml-seed0"
    nodes = node("callbacks", name, folder)
    more = node("logger", "csv", folder) if name == "lr_monitor" else {}
    limits = {"enable_progress_bar": name == "tqdm"}
    result = run(training_values, make_cohort(), callbacks=nodes, logger=more, limits=limits)
    if name == "best":
        best = LandmarkModule.load_from_checkpoint(result.folder / "checkpoints" / "best.ckpt")
        assert best.is_built
    if name == "lr_monitor":
        assert "lr-Adam" in (result.folder / "csv" / "version_0" / "metrics.csv").read_text()


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_every_optimizer_file_learns(training_values, make_cohort, name):
    values = OmegaConf.to_container(OmegaConf.load(PROJECT / f"conf/optimizer/{name}.yaml"))
    run(training_values, make_cohort(), optimizer=values)


def test_the_progress_bar_shows_no_half_word_of_the_logger_s_version(tmp_path):
    sink = pl.loggers.CSVLogger(tmp_path, version="tensorboard")
    fit, module = trainer(tmp_path, logger=sink), LandmarkModule(network=NETWORK)
    assert pl.callbacks.RichProgressBar().get_metrics(fit, module)["v_num"] == "oard"
    assert "v_num" not in ProgressBar().get_metrics(fit, module)


# What a later version adds, moves or renames


def test_a_finished_run_stays_finished_under_new_keys_loggers_callbacks_and_roots(
    training_values, make_cohort, callback_nodes, tmp_path
):
    cohort = make_cohort()
    first = run(training_values, cohort)
    config = RunFolder(first.folder).config
    values = OmegaConf.to_container(OmegaConf.load(config))
    for key in ("split_seed", "objective", "loss"):
        values.pop(key)  # as if they had come later, each with a default
    values["trainer"].pop("inference_mode")
    config.write_text(OmegaConf.to_yaml(OmegaConf.create(values)))
    (first.folder / "checksums.txt").unlink()
    folder = first.folder
    more = {"callbacks": callback_nodes(folder, 2), "logger": node("logger", "csv", folder)}
    assert run(training_values, cohort, **more).state is State.FINISHED
    moved = tmp_path / "moved"
    os.rename(training_values["outputs"], moved)
    assert run(training_values, cohort, outputs=str(moved)).state is State.FINISHED


def test_a_run_folder_of_the_version_before_is_still_that_run(training_values, make_cohort):
    cohort = make_cohort()
    first = run(training_values, cohort)
    folder = RunFolder(first.folder)
    values = OmegaConf.to_container(OmegaConf.load(folder.config))
    for key in ("split_seed", "objective", "loss", "run_dir", "variant"):
        values.pop(key)
    data, optimizer = values.pop("data"), values["optimizer"]
    values["batches"] = {"size": data.pop("batch_size"), **data}
    values["optimizer"] = {"learning_rate": optimizer["lr"]}
    values["schedule"].pop("_target_")
    values["logger"] = {"tensorboard": True}
    values["callbacks"] = {"evaluate_every": 10, "history_every": 10}
    folder.config.write_text(OmegaConf.to_yaml(OmegaConf.create(values)))
    (first.folder / "checksums.txt").unlink()
    assert run(training_values, cohort).state is State.FINISHED


def test_early_stopping_and_best_checkpoint_work_in_anybody_s_trainer(make_cohort, tmp_path):
    data = LandmarkDataModule(make_cohort(), batch_size=4)
    stop = EarlyStopping("val/error_mm", patience=1, min_delta=1e6)
    fit = trainer(tmp_path, callbacks=[stop], max_epochs=9)
    fit.fit(LandmarkModule(network=NETWORK), data)
    assert fit.current_epoch == 2
    (found,) = fit.validate(LandmarkModule(network=NETWORK), data, verbose=False)
    assert "val/error_mm" in found
