"""What a training run takes, checked before anything is computed."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from landmarking.config import folder_name, refuse_outside, with_current_paths
from landmarking.data.augment import AugmentConfig
from landmarking.data.datamodule import DataConfig, LandmarkDataModule
from landmarking.data.splits import SUFFIX, AdaptConfig
from landmarking.errors import ConfigError
from landmarking.imaging.pipeline import PreprocessSettings
from landmarking.models.build import build, network_class
from landmarking.preparation.prepare import LandmarksConfig
from landmarking.preparation.sources import CohortConfig
from landmarking.processes import available_cores
from landmarking.runs import RunFolder

PAPER_OPTIMIZER = {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 0.005}
PAPER_SCHEDULE = {"_target_": "landmarking.models.module.Schedule"}


@dataclass
class SpeedConfig:
    """What makes a step faster without changing what it computes.

    Attributes:
        channels_last: Memory layout of images and convolutions.
        compile: Compile the network in place.
        compile_mode: Mode of `torch.compile`; `reduce-overhead` captures CUDA graphs.
        keep_memory: Keep the memory that a step frees for the next one; matters on a CPU.
    """

    channels_last: bool = False
    compile: bool = False
    compile_mode: str = "default"
    keep_memory: bool = True


@dataclass
class TrainerConfig:
    """Arguments of Lightning's Trainer, by its own names; None leaves Lightning's default.

    `logger`, `callbacks` and `default_root_dir` have groups and keys of their own; see Lightning's
    documentation for the rest.
    """

    max_epochs: int = 5000
    min_epochs: int | None = None
    max_steps: int = -1
    min_steps: int | None = None
    max_time: Any = None
    accelerator: str = "auto"
    strategy: Any = "auto"
    devices: Any = 1
    num_nodes: int = 1
    precision: Any = "32-true"
    sync_batchnorm: bool | None = None
    fast_dev_run: Any = False
    limit_train_batches: Any = None
    limit_val_batches: Any = None
    limit_test_batches: Any = None
    limit_predict_batches: Any = None
    overfit_batches: Any = 0.0
    val_check_interval: Any = None
    check_val_every_n_epoch: int | None = 1
    num_sanity_val_steps: int = 0
    log_every_n_steps: int | None = None
    enable_progress_bar: bool = True
    enable_model_summary: bool = False
    enable_checkpointing: bool | None = None
    accumulate_grad_batches: int = 1
    gradient_clip_val: Any = None
    gradient_clip_algorithm: str | None = None
    deterministic: Any = None
    benchmark: bool | None = None
    inference_mode: bool = True
    use_distributed_sampler: bool = True
    profiler: str | None = None
    detect_anomaly: bool = False
    barebones: bool = False
    reload_dataloaders_every_n_epochs: int = 0

    def __post_init__(self) -> None:
        """Check what Lightning would find late, or accept and not do.

        Raises:
            ConfigError: If a number is out of range.
        """
        if self.max_epochs < 1:
            raise ConfigError(
                f"trainer.max_epochs is a number of epochs, at least 1, found {self.max_epochs}; "
                "correct it (trainer.max_steps and trainer.max_time stop a run before its last)"
            )
        if self.barebones or self.reload_dataloaders_every_n_epochs:
            raise ConfigError(
                "trainer.barebones and trainer.reload_dataloaders_every_n_epochs do not go with a "
                "run that logs, can go on and keeps its slices on the device; leave them out"
            )
        most = max(2, available_cores())
        if isinstance(self.devices, int) and self.devices > most and self.takes_the_cpu:
            raise ConfigError(
                "trainer.devices: on a CPU each is a process of its own, at most one a core "
                f"({most}), found {self.devices}; take fewer, or trainer=gpu"
            )

    @property
    def takes_the_cpu(self) -> bool:
        """Whether training will run on the CPU."""
        accelerators = (pl.accelerators.CUDAAccelerator, pl.accelerators.MPSAccelerator)
        return self.accelerator == "cpu" or (
            self.accelerator == "auto" and not any(kind.is_available() for kind in accelerators)
        )

    def arguments(self) -> dict[str, Any]:
        """What Lightning's Trainer is called with."""
        chosen = {item.name: getattr(self, item.name) for item in fields(self)}
        if self.takes_the_cpu:
            # Lightning leaves with a traceback: batch normalisation has no CPU form of it.
            chosen["sync_batchnorm"] = None
        if self.check_val_every_n_epoch:
            # A short run is validated at least once, after its last epoch.
            chosen["check_val_every_n_epoch"] = min(self.check_val_every_n_epoch, self.max_epochs)
        return {name: value for name, value in chosen.items() if value is not None}


@dataclass
class TrainingConfig:
    """Everything that `experiments/train.py` takes; the keys of conf/train.yaml.

    Attributes:
        outputs: Folder of all results.
        study: Folder of runs that are reported together.
        cohort: Where the scans come from.
        model: `_target_` and arguments of the network.
        preprocess: Scan to slice.
        landmarks: Which landmarks.
        optimizer: `_target_` and arguments of one of torch's optimizers.
        schedule: Learning rate by epoch, `Schedule` or one of torch's schedulers.
        loss: `_target_` of another loss than the paper's; empty for that.
        augment: Changes to training slices.
        adapt: Learning from a few people of another group.
        data: Batches and split.
        speed: Layout and compilation.
        trainer: Arguments of Lightning's Trainer.
        logger: Loggers by name, each with its `_target_`.
        callbacks: Callbacks by name, likewise.
        landmark: One landmark (SL), or None for all (ML).
        run: Name of the run's folder; made of label, landmark, seed and variant if None.
        run_dir: The run's folder; made of outputs, study and run's name if empty.
        variant: What was changed on the command line, as Hydra writes it; part of the names.
        label: Name in tables; SL or ML if None.
        experiment: Name of the experiment file.
        seed: Seed of order, initial weights and dropout.
        split_seed: Seed of the split into training and validation people, and of the folds.
        folds: Cross-validation by person over this many folds of the training group; None for none.
        fold: The fold that this run leaves out and is tested on, from zero.
        objective: Metric that `main` returns, for sweepers that optimise.
        threads: Threads of this process; None takes all cores.
        workers: Processes that prepare a cohort that is not there yet; None takes all cores.
        overwrite: Replace what the run's folder holds.
    """

    outputs: str
    study: str
    cohort: CohortConfig
    model: dict[str, Any]
    preprocess: PreprocessSettings = field(default_factory=PreprocessSettings)
    landmarks: LandmarksConfig = field(default_factory=LandmarksConfig)
    optimizer: dict[str, Any] = field(default_factory=lambda: dict(PAPER_OPTIMIZER))
    schedule: dict[str, Any] = field(default_factory=lambda: dict(PAPER_SCHEDULE))
    loss: dict[str, Any] = field(default_factory=dict)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    adapt: AdaptConfig = field(default_factory=AdaptConfig)
    data: DataConfig = field(default_factory=DataConfig)
    speed: SpeedConfig = field(default_factory=SpeedConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    logger: dict[str, Any] = field(default_factory=dict)
    callbacks: dict[str, Any] = field(default_factory=dict)
    landmark: str | None = None
    run: str | None = None
    run_dir: str = ""
    variant: str = ""
    label: str | None = None
    experiment: str = "none"
    seed: int = 0
    split_seed: int = 0
    folds: int | None = None
    fold: int | None = None
    objective: str = "val/error_mm"
    threads: int | None = None
    workers: int | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Check what types cannot: names, and the arguments of what is named by `_target_`.

        Raises:
            ConfigError: If a name leads out of the outputs or an argument is unknown.
        """
        refuse_outside("study", self.study)
        refuse_outside("run", self.run_name)
        for name in ("seed", "split_seed"):
            if not 0 <= getattr(self, name) < 2**32:
                raise ConfigError(
                    f"{name} is a whole number from 0 to 4294967295, found {getattr(self, name)}"
                )
        self._cross_validate()
        network_class(self.model)
        # Without a name it is the paper's, however the file writes that.
        self.loss = self.loss if self.loss.get("_target_") else {}
        if self.loss:
            check_arguments("loss", self.loss)
        check_optimizer(self.optimizer)
        check_arguments("schedule", self.schedule)
        if self.schedule.get("_target_") == PAPER_SCHEDULE["_target_"]:
            build(self.schedule, "schedule")
        for group, nodes in (("logger", self.logger), ("callbacks", self.callbacks)):
            for name, node in nodes.items():
                check_arguments(f"{group}.{name}", node)

    def _cross_validate(self) -> None:
        """Learn from all people of the training group but the fold's, and test on these."""
        if self.folds is None:
            return
        if self.folds < 2 or not 0 <= (self.fold or 0) < self.folds:
            raise ConfigError(
                "folds is 2 or more and fold from 0 to folds - 1, found "
                f"{self.folds} and {self.fold}; correct them"
            )
        if self.fold is None:
            raise ConfigError(
                f"folds={self.folds} is a sweep of {self.folds} runs; add -m, or name one of them, "
                "such as fold=0"
            )
        groups = self.cohort.train_groups
        group = groups[0].removesuffix(SUFFIX)
        chosen = AdaptConfig(group, None, self.fold, self.folds, self.split_seed, self.adapt.start)
        if self.adapt.group and self.adapt != chosen:
            raise ConfigError(
                "folds and adapt.group both say who is left out; take one of them (adapt.folds and "
                "adapt.fold belong to adapt.group)"
            )
        if len(groups) > 1:
            raise ConfigError(
                "folds takes one training group, found cohort.train_groups="
                f"[{','.join(groups)}]; give these people one group in participants.tsv"
            )
        self.adapt = chosen
        self.cohort = replace(self.cohort, train_groups=[group + SUFFIX], test_groups=[group])

    @property
    def model_label(self) -> str:
        """Name in tables, with what was changed on the command line."""
        plain = self.label or ("SL" if self.stacked or self.landmark is not None else "ML")
        return f"{plain} {self.variant}" if self.variant and self.run is None else plain

    @property
    def stacked(self) -> bool:
        """Whether the model holds a network of its own for every landmark."""
        return bool(getattr(network_class(self.model), "one_per_landmark", False))

    @property
    def run_name(self) -> str:
        """Name of the run's folder."""
        if self.run:
            return self.run + ("" if self.folds is None else f"-fold{self.fold}")
        single = self.stacked or self.landmark is not None
        return folder_name(
            self.label or ("SL" if single else "ML"),
            self.landmark,
            self.seed,
            self.variant,
            stacked=self.stacked,
            fold=self.fold if self.folds else None,
        )

    @property
    def folder(self) -> RunFolder:
        """The run's folder."""
        return RunFolder(Path(self.run_dir or Path(self.outputs) / self.study / self.run_name))

    def datamodule(self, *, progress: bool = False) -> LandmarkDataModule:
        """The data module that this configuration describes."""
        return LandmarkDataModule(
            self.cohort,
            landmark=self.landmark,
            landmarks=self.landmarks,
            preprocess=self.preprocess,
            outputs=self.outputs,
            seed=self.seed,
            split_seed=self.split_seed,
            augment=self.augment,
            adapt=self.adapt,
            workers=self.workers,
            progress=progress,
            **{item.name: getattr(self.data, item.name) for item in fields(self.data)},
        )

    def plain(self) -> dict[str, Any]:
        """The resolved configuration as plain values, as config.yaml keeps it.

        Raises:
            ConfigError: If a value does not fit its type.
        """
        try:
            values = OmegaConf.to_container(OmegaConf.structured(self), resolve=True)
        except OmegaConfBaseException as error:
            # A mapping in place of a list passes the schema, and is found here.
            key = getattr(error, "full_key", "")
            raise ConfigError(f"{key}: {str(error).splitlines()[0]}; correct the value") from error
        assert isinstance(values, dict)
        return {str(key): value for key, value in values.items()}


def check_arguments(where: str, node: Any) -> None:
    """Refuse a `_target_` that cannot be imported, or arguments that it does not take.

    Args:
        where: Dotted key of the node, for messages.
        node: Mapping with `_target_`.

    Raises:
        ConfigError: With the nearest right name.
    """
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise ConfigError(
            f"{where} names a class by _target_ with its arguments, found {node!r}; choose one of "
            f"the files in conf/{where.partition('.')[0]}"
        )
    target = str(node["_target_"])
    module, _, name = target.rpartition(".")
    try:
        known = inspect.signature(getattr(importlib.import_module(module), name)).parameters
    except (ImportError, AttributeError, ValueError) as error:
        package = target.partition(".")[0]
        absent = isinstance(error, ModuleNotFoundError) and error.name == package
        way_out = f"pip install {package}" if absent else "correct the name"
        raise ConfigError(f"{where}._target_: {target} cannot be imported; {way_out}") from error
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        return
    for key in node:
        if key not in known and not (key.startswith("_") and key.endswith("_")):
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {where}.{near[0]}?" if near else f"keys: {', '.join(known)}"
            raise ConfigError(f"{where}.{key}: there is no such setting of {name}; {hint}")


def check_optimizer(node: Mapping[str, Any]) -> None:
    """Refuse an optimizer that does not take its settings, by making one for a single weight.

    Raises:
        ConfigError: If there is none, or a setting is unknown or out of range.
    """
    check_arguments("optimizer", node)
    factory = build({**node, "_partial_": True}, "optimizer")
    try:
        made = factory([torch.zeros(1, requires_grad=True)])
    except (ValueError, TypeError, IndexError, RuntimeError) as error:
        found = str(error).splitlines()[0]
        raise ConfigError(
            f"optimizer: {node['_target_']} refuses its settings ({found}); correct optimizer.*"
        ) from error
    if not isinstance(made, torch.optim.Optimizer) or not isinstance(factory, partial):
        raise ConfigError(
            f"optimizer._target_: {node['_target_']} is no optimizer of torch; name one, such as "
            "torch.optim.AdamW"
        )


def upgrade(values: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration under today's keys, from one that an earlier version wrote.

    Args:
        values: The content of a run's config.yaml.
    """
    found: dict[str, Any] = with_current_paths(values)
    found["loss"] = found.get("loss") or {}  # null once
    if "batches" not in found:
        return found
    batches = dict(found.pop("batches") or {})
    size = batches.pop("size", 256)
    found["data"] = {"batch_size": size, **batches}
    found.setdefault("split_seed", found.get("seed", 0))
    optimizer = dict(found.get("optimizer") or {})
    kind = "AdamW" if optimizer.get("weight_decay") else "Adam"
    rate = optimizer.pop("learning_rate", 0.005)
    found["optimizer"] = {
        "_target_": f"torch.optim.{kind}", "_partial_": True, "lr": rate, **optimizer
    }  # fmt: skip
    found["schedule"] = {"_target_": PAPER_SCHEDULE["_target_"], **(found.get("schedule") or {})}
    # Neither decided a number.
    found["logger"], found["callbacks"] = {}, {}
    return found
