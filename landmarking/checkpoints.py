"""Checkpoints as data: whole, ours, and read without running anything that is in them.

Torch does not compare the checksums inside its own archives, so a bit that a disk has lost would
pass as a weight. They are compared here before anything is read. Loading takes weights and plain
values only; anything else in a pickle is refused (docs.pytorch.org, "Serialization semantics").
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from pickle import UnpicklingError  # the error alone: nothing is unpickled here
from typing import TYPE_CHECKING, Any

import torch

from landmarking.errors import ConfigError
from landmarking.storage import DAMAGED_ARCHIVE, atomic_path

if TYPE_CHECKING:
    import pytorch_lightning as pl

_DAMAGED: tuple[type[Exception], ...] = (
    *DAMAGED_ARCHIVE,
    TypeError,
    AttributeError,
    IndexError,
    UnpicklingError,
)

TO_GO_ON = frozenset({"state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks"})
"""What a checkpoint holds that a training run goes on from."""


def write_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint as a whole.

    Args:
        path: The file.
        content: Tensors and plain values.

    Raises:
        OSError: If it cannot be written; torch alone would raise another error then.
    """
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def save_model(module: pl.LightningModule, path: Path) -> None:
    """Write weights and plain settings, for `LandmarkModule.load_from_checkpoint`."""
    content = {
        "state_dict": module.state_dict(),
        "hyper_parameters": dict(module.hparams),
        "pytorch-lightning_version": version("pytorch-lightning"),
    }
    write_checkpoint(path, content)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of ours on the CPU.

    Raises:
        ConfigError: If it is missing, damaged, holds more than weights and plain values, or is no
            checkpoint of ours.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        if broken is not None:
            raise ValueError(f"{broken} does not have its checksum")
        content = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(content["state_dict"], Mapping):
            raise ValueError("it has no weights")
        if not isinstance(content["hyper_parameters"], Mapping):
            raise ValueError("it has no settings")
    except _DAMAGED as error:
        # Torch's own text advises to load without safety; the kind of error is enough.
        raise ConfigError(
            f"{path}: not a model of ours, or a damaged one ({type(error).__name__}); restore it "
            "from a copy, or train the run again"
        ) from error
    return dict(content)


def can_go_on(path: Path, settings: Mapping[str, Any]) -> bool:
    """Whether a training run can go on from a checkpoint.

    Args:
        path: The checkpoint.
        settings: Hyperparameters of the module that is going to be trained.

    Raises:
        ConfigError: If the checkpoint cannot be read.
    """
    content = read_checkpoint(path)
    return content.keys() >= TO_GO_ON and dict(content["hyper_parameters"]) == dict(settings)
