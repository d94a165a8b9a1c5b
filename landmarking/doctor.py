"""What this installation is, and what is wrong with it; and a copy of its configuration.

`landmarking doctor` is the first thing to send with a question: versions, devices, folders with
their free space, and one line for each thing to mend.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement

from landmarking import __version__
from landmarking.config import CONF, INSTALLED, PROJECT
from landmarking.errors import ConfigError, LandmarkingError
from landmarking.files import not_written, temporary_neighbour

EXTRAS = {
    "formats": ("pydicom", "nrrd"),
    "monai": ("monai",),
    "timm": ("timm",),
    "mlflow": ("mlflow",),
    "wandb": ("wandb",),
    "optuna": ("hydra_plugins.hydra_optuna_sweeper",),
    "onnx": ("onnx", "onnxruntime"),
}
"""Modules that show that an extra is installed."""

LEAST_FREE_GIB = 2.0
"""Less room than this on the disk of the results is worth a word."""


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's.

    Attributes:
        what: What was looked at.
        found: What was found.
        wrong: What to do about it; empty where nothing is wrong.
    """

    what: str
    found: str
    wrong: str = ""


def run_doctor(_options: argparse.Namespace) -> int:
    """Print what was found.

    Returns:
        1 if something is wrong, else 0.
    """
    found = list(findings())
    width = max(len(each.what) for each in found)
    for each in found:
        sys.stdout.write(f"{each.what:<{width}}  {each.found}\n")
    wrong = [each for each in found if each.wrong]
    sys.stdout.write("\n")
    for each in wrong:
        sys.stdout.write(f"wrong: {each.what}: {each.wrong}\n")
    sys.stdout.write("" if wrong else "nothing is wrong\n")
    return int(bool(wrong))


def findings() -> Iterator[Finding]:
    """Look at the installation, from the interpreter to the model that ships."""
    where = "installed in" if INSTALLED else "checkout in"
    yield Finding("landmarking", f"{__version__}, {where} {PROJECT}")
    yield Finding("python", f"{platform.python_version()}, {sys.executable}")
    yield Finding("system", platform.platform())
    yield from _packages()
    yield Finding("extras", _extras())
    yield from _devices()
    yield _folder("results", (Path.cwd() if INSTALLED else PROJECT) / "outputs")
    yield _configuration()
    yield _model()


def _packages() -> Iterator[Finding]:
    """Every package that we need, by the bounds that we state."""
    for text in requires("landmarking") or ():
        needed = Requirement(text)
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(needed.name)
        except PackageNotFoundError:
            yield Finding(needed.name, "missing", f"install it: pip install '{needed}'")
            continue
        fits = needed.specifier.contains(found, prereleases=True)
        wrong = "" if fits else f"needs {needed.specifier}: pip install '{needed}'"
        yield Finding(needed.name, found, wrong)


def _extras() -> str:
    there = [name for name, modules in EXTRAS.items() if all(map(_importable, modules))]
    missing = [name for name in EXTRAS if name not in there]
    ways = f"not installed: {', '.join(missing)} (pip install 'landmarking[NAME]')"
    return "; ".join([", ".join(there) or "none", *([ways] if missing else [])])


def _importable(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _devices() -> Iterator[Finding]:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("cores", f"{cores}, {torch.get_num_threads()} threads of torch")
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        yield Finding("GPU", f"{', '.join(names)}, CUDA {torch.version.cuda}")
    elif torch.backends.mps.is_available():
        yield Finding("GPU", "Apple's (trainer.accelerator=mps)")
    elif shutil.which("nvidia-smi"):
        yield Finding(
            "GPU",
            "there is a driver, and this torch cannot use it",
            "install torch for your CUDA, as pytorch.org/get-started says",
        )
    else:
        yield Finding("GPU", "none; everything runs on the processor")


def _folder(what: str, folder: Path) -> Finding:
    """Whether a folder, or the one that it would be made in, can be written, and its free space."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free / 2**30
    wrong = ""
    if not os.access(there, os.W_OK):
        wrong = "cannot be written; mend its permissions, or give another outputs=DIR"
    elif free < LEAST_FREE_GIB:
        wrong = "little room is left; free space, or give another outputs=DIR"
    kept = f", {_size(folder):.1f} GiB kept in it" if folder.is_dir() else ", not there yet"
    return Finding(what, f"{folder}, {free:.0f} GiB free{kept}", wrong)


def _size(folder: Path) -> float:
    """GiB of the files below a folder; links count nothing."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place) / name
            try:
                total += 0 if path.is_symlink() else path.stat().st_size
            except OSError:  # gone since it was listed
                continue
    return total / 2**30


def _configuration() -> Finding:
    files = list(CONF.rglob("*.yaml"))
    wrong = "" if files else "is empty; install the package again"
    return Finding("configuration", f"{CONF}, {len(files)} files", wrong)


def _model() -> Finding:
    from landmarking.prediction.package import open_model

    try:
        model = open_model(())
    except LandmarkingError as error:
        return Finding("model", "cannot be opened", f"{error}")
    return Finding("model", f"{model.name}, {len(model.landmarks.names)} landmarks")


def copy_configuration(options: argparse.Namespace) -> int:
    """Copy conf/ to a folder of one's own, to be changed there.

    Args:
        options: `folder`.

    Raises:
        ConfigError: If the folder is there, or cannot be written.
    """
    folder = Path(options.folder)
    if folder.exists() or folder.is_symlink():
        raise ConfigError(f"{folder}: is there already, and kept; name a folder that is not")
    try:
        folder.absolute().parent.mkdir(parents=True, exist_ok=True)
        partial = temporary_neighbour(folder.absolute())
        shutil.copytree(CONF, partial)
        partial.rename(folder)
    except OSError as error:
        raise ConfigError(not_written(folder, error, "choose another DIR")) from error
    sys.stdout.write(
        f"{folder}: {len(list(folder.rglob('*.yaml')))} files; use them by\n"
        f"  landmarking train --config-path {folder} ...\n"
    )
    return 0
