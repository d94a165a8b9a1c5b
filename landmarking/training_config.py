"""What a training run takes, checked before anything is computed."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from landmarking.callbacks import CallbacksConfig
from landmarking.cohort.sources import CohortConfig
from landmarking.config import refuse_outside
from landmarking.data.adaptation import AdaptConfig
from landmarking.data.augment_config import AugmentConfig
from landmarking.data.datamodule import BatchConfig
from landmarking.errors import ConfigError
from landmarking.imaging.pipeline import PreprocessSettings
from landmarking.models.build import network_class
from landmarking.models.module import OptimizerConfig
from landmarking.models.schedule import ScheduleConfig
from landmarking.preparation import LandmarksConfig
from landmarking.processes import available_cores
from landmarking.run_folder import RunFolder

OURS = ("logger", "callbacks", "default_root_dir", "enable_checkpointing", "num_sanity_val_steps")
"""Trainer arguments that a run sets itself."""


@dataclass
class LoggerConfig:
    """Where curves go besides history.csv."""

    tensorboard: bool = True


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
class TrainingConfig:
    """Everything that `experiments/train.py` takes; the keys of conf/train.yaml.

    Attributes:
        outputs: Folder of all results.
        study: Folder of runs that are reported together.
        cohort: Where the scans come from.
        model: `_target_` and arguments of the network.
        preprocess: Scan to slice.
        landmarks: Which landmarks.
        optimizer: Adam.
        schedule: Learning rate by epoch.
        augment: Changes to training slices.
        adapt: Learning from a few people of another group.
        batches: Batches and split.
        speed: Layout and compilation.
        trainer: Arguments of Lightning's Trainer.
        logger: TensorBoard.
        callbacks: How often what is looked at.
        landmark: One landmark (SL), or None for all (ML).
        run: Name of the run's folder; made from model, landmark and seed if None.
        label: Name in tables; SL or ML if None.
        experiment: Name of the experiment file.
        seed: Seed of split, order, initial weights and dropout.
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
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    adapt: AdaptConfig = field(default_factory=AdaptConfig)
    batches: BatchConfig = field(default_factory=BatchConfig)
    speed: SpeedConfig = field(default_factory=SpeedConfig)
    trainer: dict[str, Any] = field(default_factory=dict)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    callbacks: CallbacksConfig = field(default_factory=CallbacksConfig)
    landmark: str | None = None
    run: str | None = None
    label: str | None = None
    experiment: str = "none"
    seed: int = 0
    threads: int | None = None
    workers: int | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Check what types cannot: names, and the network's and the trainer's own arguments.

        Raises:
            ConfigError: If a name leads out of the outputs or an argument is unknown.
        """
        refuse_outside("study", self.study)
        refuse_outside("run", self.run_name)
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed is a whole number from 0 to 4294967295, found {self.seed}")
        network_class(self.model)
        check_trainer(self.trainer)

    @property
    def model_label(self) -> str:
        """Name in tables."""
        return self.label or ("SL" if self.stacked or self.landmark is not None else "ML")

    @property
    def stacked(self) -> bool:
        """Whether the model holds a network of its own for every landmark."""
        return bool(getattr(network_class(self.model), "one_per_landmark", False))

    @property
    def run_name(self) -> str:
        """Name of the run's folder."""
        middle = "-stacked" if self.stacked else ""
        middle += "" if self.landmark is None else f"-{self.landmark}"
        return self.run or f"{self.model_label.lower()}{middle}-seed{self.seed}"

    @property
    def folder(self) -> RunFolder:
        """The run's folder."""
        return RunFolder(Path(self.outputs) / self.study / self.run_name)

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


def check_trainer(arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that Lightning's Trainer does not take or that a run sets itself.

    Raises:
        ConfigError: With the nearest right name.
    """
    known = set(inspect.signature(pl.Trainer).parameters) - set(OURS)
    for key in arguments:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean trainer.{near[0]}?" if near else "see Lightning's Trainer"
            raise ConfigError(f"trainer.{key}: there is no such setting; {hint}")
    if not isinstance(arguments.get("max_epochs"), int) or arguments["max_epochs"] < 1:
        raise ConfigError(
            f"trainer.max_epochs is a number of epochs, found {arguments.get('max_epochs')!r}; "
            "correct it"
        )
    most = max(2, available_cores())
    devices = arguments.get("devices")
    if isinstance(devices, int) and devices > most and _takes_the_cpu(arguments):
        raise ConfigError(
            f"trainer.devices: on a CPU each is a process of its own, at most one a core ({most}), "
            f"found {devices}; take fewer, or trainer=gpu"
        )


def _takes_the_cpu(arguments: Mapping[str, Any]) -> bool:
    chosen = arguments.get("accelerator", "auto")
    accelerators = (pl.accelerators.CUDAAccelerator, pl.accelerators.MPSAccelerator)
    return chosen == "cpu" or (
        chosen == "auto" and not any(kind.is_available() for kind in accelerators)
    )
