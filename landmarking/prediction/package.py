"""A model in one file, and the choice of a model: the one that ships, a packed one, or own runs.

A package is a zip archive with `card.json`, `reference.npy` (what histograms are matched to) and
`members/<number>/<tensor>.npy`. Nothing in it is code, and reading it runs none. Weight matrices
and kernels are kept with 16 bits, everything else with 32.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landmarking.config import current_path, settings
from landmarking.errors import ConfigError, LandmarkError
from landmarking.files import DAMAGED_ARCHIVE, atomic_path, not_written, parse_json
from landmarking.geometry import Array
from landmarking.imaging.intensity import Reference
from landmarking.imaging.pipeline import PreprocessSettings, template_slice
from landmarking.landmarks import landmark_set
from landmarking.prediction.calibration import (
    from_plain,
    shape_from_plain,
    shape_to_plain,
    to_plain,
)
from landmarking.prediction.model import LandmarkModel, Member, build_member, model_from_runs
from landmarking.preparation.cache import canonical_json

FORMAT = 1
SUFFIX = ".zip"

_CARD, _REFERENCE = "card.json", "reference.npy"
_EPOCH = (1980, 1, 1, 0, 0, 0)


def write_package(path: Path, model: LandmarkModel, card: Mapping[str, Any]) -> None:
    """Write a model as one file; the same model and card give the same bytes.

    Args:
        path: File to write, ending in `.zip`.
        model: What to write.
        card: What people should know: training, accuracy, limits, licence.

    Raises:
        ConfigError: If the name has another ending, a network is made by a function, or the file
            cannot be written.
    """
    if path.suffix != SUFFIX:
        raise ConfigError(f"{path}: a packed model ends in {SUFFIX}; name it so")
    for member in model.members:
        _refuse_functions(path, member.settings["network"])
    arrays = dict(_arrays(model))
    body = {
        **card,
        **_description(model),
        "format": FORMAT,
        "weights_sha256": _digest(arrays),
    }
    try:
        with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            _put(archive, _CARD, json.dumps(body, indent=1).encode() + b"\n")
            for name, values in arrays.items():
                buffer = io.BytesIO()
                np.save(buffer, values, allow_pickle=False)
                _put(archive, name, buffer.getvalue())
    except OSError as error:
        raise ConfigError(not_written(path, error, "choose another file")) from error


def _put(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    # A fixed date, so that the same content is the same file.
    info = zipfile.ZipInfo(name, _EPOCH)
    info.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(info, content)


def _arrays(model: LandmarkModel) -> Iterator[tuple[str, NDArray[Any]]]:
    yield _REFERENCE, np.asarray(model.reference.image, np.float32)
    for number, member in enumerate(model.members):
        for name, tensor in sorted(member.network.state_dict().items()):
            values = tensor.detach().cpu().numpy()
            # Statistics of normalisation layers have a range that 16 bits do not, and are few.
            half = values.dtype == np.float32 and values.ndim >= 2
            yield f"members/{number}/{name}.npy", values.astype(np.float16) if half else values


def _digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        values = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {values.dtype.str} {values.shape}\n".encode() + values.tobytes())
    return digest.hexdigest()


def _description(model: LandmarkModel) -> dict[str, Any]:
    calibration = model.calibration
    return {
        "name": model.name,
        "landmarks": {"set": model.landmarks.name, "names": list(model.landmarks.names)},
        "preprocess": asdict(model.preprocess),
        "reference": {"source": model.reference.source, "sha256": model.reference.digest},
        "members": [
            {**json.loads(canonical_json(dict(member.settings))), "facts": dict(member.facts)}
            for member in model.members
        ],
        "calibration": None if calibration is None else to_plain(calibration),
        **({"shifts": model.shifts} if model.shifts > 1 else {}),
        **({"shape": shape_to_plain(model.shape)} if model.shape else {}),
    }


def _refuse_functions(path: Path, network: Mapping[str, Any]) -> None:
    """Reading a package calls no function that it names, whatever runs may be made with."""
    from landmarking.models.build import functions_in

    found = list(functions_in(network))
    if found:
        raise ConfigError(
            f"{path}: a packed model holds networks that are classes, and {found[0]} is not one; "
            "use the run's folder as the model, or a class that makes the network"
        )


KNOWN = ("landmarking.models.", "monai.networks.nets.", "torch.nn.")
"""Where classes that a packed model names may come from without more ado."""


def _refuse_strangers(path: Path, values: Any) -> None:
    """A package comes from anybody: reading it imports no module that it names.

    Classes of the project and of known libraries are made; one of somebody else where its module
    has been imported already, by those who trust it, and it is a torch module.

    Raises:
        ConfigError: If another one is named.
    """
    if isinstance(values, Mapping):
        target = values.get("_target_")
        if target is not None and not _is_known(current_path(str(target))):
            raise ConfigError(
                f"{path}: a packed model names classes of landmarking.models, MONAI or torch.nn, "
                f"found {target}; if you trust it, import its module first (from Python), or use "
                "the run's folder as the model"
            )
        values = list(values.values())
    if isinstance(values, list):
        for value in values:
            _refuse_strangers(path, value)


def _is_known(target: str) -> bool:
    import torch

    if target.startswith(KNOWN):
        return True
    module, _, name = target.rpartition(".")
    found = getattr(sys.modules.get(module), name, None)
    return isinstance(found, type) and issubclass(found, torch.nn.Module)


def read_package(path: Path) -> LandmarkModel:
    """Read what `write_package` wrote.

    Raises:
        ConfigError: If the file is missing, damaged, of another version, or no packed model.
    """
    card, arrays = _read(path)
    try:
        return _model(path, card, arrays)
    except LandmarkError as error:
        raise ConfigError(f"{path}: the card does not fit ({error}); pack it again") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: the card lacks something; pack it again") from error


def read_card(path: Path) -> dict[str, Any]:
    """The card of a packed model, without its weights.

    Raises:
        ConfigError: As `read_package`.
    """
    return _read(path, weights=False)[0]


def _read(path: Path, *, weights: bool = True) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    try:
        with zipfile.ZipFile(path) as archive:
            card = parse_json(archive.read(_CARD))
            names = [name for name in archive.namelist() if name.endswith(".npy") and weights]
            arrays = {name: _array(archive.read(name)) for name in names}
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: there is no such model; give a .zip or a run") from error
    except DAMAGED_ARCHIVE as error:
        raise ConfigError(
            f"{path}: not a packed model ({error}); copy it again, or make it with `landmarking "
            "pack`"
        ) from error
    found = card.get("format") if isinstance(card, dict) else None
    if found != FORMAT:
        raise ConfigError(
            f"{path}: its format is {found!r}, this version reads {FORMAT}; pack the run again"
        )
    if weights and _digest(arrays) != card.get("weights_sha256"):
        raise ConfigError(f"{path}: the weights do not have their checksum; copy it again")
    return card, arrays


def _array(content: bytes) -> NDArray[Any]:
    return np.asarray(np.load(io.BytesIO(content), allow_pickle=False))


def _model(path: Path, card: dict[str, Any], arrays: Mapping[str, Any]) -> LandmarkModel:
    chosen = card["landmarks"]
    preprocess = settings(PreprocessSettings, card["preprocess"], "preprocess")
    calibration = card["calibration"]
    return LandmarkModel(
        name=card["name"],
        landmarks=landmark_set(chosen["set"]).subset(chosen["names"]),
        preprocess=preprocess,
        reference=_reference(preprocess, arrays[_REFERENCE], card["reference"]["source"]),
        members=tuple(_members(path, card["members"], arrays)),
        calibration=None if calibration is None else from_plain(calibration),
        shape=shape_from_plain(card["shape"]) if card.get("shape") else None,
        card=card,
        shifts=int(card.get("shifts", 1)),
    )


def _reference(preprocess: PreprocessSettings, image: Array, source: str) -> Reference:
    # The values travel with the model, so that it needs no file of the machine it was made on.
    region = template_slice(preprocess, "brain_mask") > 0.5
    return Reference(np.asarray(image, np.float32), region, source)


def _members(
    path: Path, described: Sequence[Mapping[str, Any]], arrays: Mapping[str, NDArray[Any]]
) -> Iterator[Member]:
    import torch

    for number, values in enumerate(described):
        _refuse_strangers(path, {key: part for key, part in values.items() if key != "facts"})
        prefix = f"members/{number}/"
        weights = {
            name.removeprefix(prefix).removesuffix(".npy"): torch.from_numpy(
                # Tensors want memory of their own, and numbers of no dimensions stay such.
                np.array(part, dtype=np.float32 if part.dtype == np.float16 else part.dtype)
            )
            for name, part in arrays.items()
            if name.startswith(prefix)
        }
        plain = {key: value for key, value in values.items() if key != "facts"}
        _refuse_functions(path, plain["network"])
        yield build_member(plain, weights, values["facts"], str(path))


WEIGHTS = Path(__file__).resolve().parents[1] / "weights"
"""Packed models that come with the package; each is called by its bare name too."""

SHIPPED = WEIGHTS / "default.zip"
"""The model that comes with the package."""


def open_model(sources: Sequence[str | Path] = ()) -> LandmarkModel:
    """Open a model; the same one is opened once per process.

    Args:
        sources: None for the model that ships with the package; one packed model, or the name of
            one that ships (`shipped`; `painted`, which has seen no scan); or folders of runs or of
            studies with runs in them.

    Raises:
        ConfigError: If there is no such model, it is damaged, or runs do not belong together.
    """
    return _open(tuple(str(packed_path(s) or s) for s in sources) or (str(SHIPPED),))


def packed_path(source: str | Path) -> Path | None:
    """File of a packed model, given it or the name of one that ships; None for anything else."""
    named = SHIPPED if str(source) == "shipped" else WEIGHTS / f"{source}{SUFFIX}"
    if Path(source).suffix == SUFFIX:
        return Path(source)
    return named if named.is_file() and not Path(source).exists() else None


@lru_cache(maxsize=2)
def _open(sources: tuple[str, ...]) -> LandmarkModel:
    paths = [Path(source) for source in sources]
    packed = [path for path in paths if path.suffix == SUFFIX]
    if packed and len(paths) > 1:
        raise ConfigError(f"{packed[0]}: a packed model is used alone; give it as the only one")
    if packed:
        return read_package(packed[0])
    return model_from_runs(paths)
