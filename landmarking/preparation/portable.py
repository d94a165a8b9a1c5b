"""A prepared cohort as one small file, to train on a machine that has no scans.

The file is a ZIP of the prepared folder with 8-bit slices: 2,000 of 150 x 150 take under 45 MB, and
40 MB more where they have tissue maps.
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from landmarking.errors import CacheError, CohortError
from landmarking.files import (
    DAMAGED_ARCHIVE,
    atomic_folder,
    atomic_path,
    file_lock,
    file_sha256,
    refuse_foreign,
)
from landmarking.imaging.pipeline import PreprocessSettings, histogram_reference
from landmarking.landmarks import LandmarkSet
from landmarking.preparation.cache import BASELINE, canonical_json, differing_settings
from landmarking.preparation.prepared import (
    IMAGES,
    INDEX,
    TISSUES,
    PreparedCohort,
    load_prepared,
    save_prepared,
)

SUFFIX = ".prepared.zip"


def pack_prepared(prepared: PreparedCohort, path: Path) -> None:
    """Write a prepared cohort as one file with 8-bit slices; equal cohorts give equal bytes.

    Args:
        prepared: The cohort.
        path: File to write; ends in `.prepared.zip`.

    Raises:
        CacheError: If the name has another ending or the file cannot be written.
    """
    if not path.name.endswith(SUFFIX):
        raise CacheError(f"{path}: a carried cohort is named something{SUFFIX}; name it so")
    refuse_foreign(path, _is_carried, "carried cohort")
    try:
        with tempfile.TemporaryDirectory() as folder, atomic_path(path) as temporary:
            carried = Path(folder, "cohort")
            content = prepared.content()
            if prepared.tissues is not None:
                content["tissues"] = _rounded(prepared.tissues)
            save_prepared(carried, **content, dtype="uint8")
            with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
                for name in (INDEX, IMAGES, *([] if prepared.tissues is None else [TISSUES])):
                    # A fixed date, so that the bytes depend on the content alone.
                    entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
                    entry.compress_type = zipfile.ZIP_DEFLATED
                    archive.writestr(entry, (carried / name).read_bytes())
    except OSError as error:
        raise CacheError(f"{path}: cannot be written ({error})") from error


def _is_carried(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        return {INDEX, IMAGES} <= set(archive.namelist())


def _rounded(tissues: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Tissue maps with shares in 16 levels and distances in whole millimetres, which pack well."""
    steps = np.array([17, 17, 17, 4], dtype=np.float32)[:, None, None]
    rounded = np.empty(tissues.shape, dtype=np.uint8)
    for before, after in zip(tissues, rounded, strict=True):
        after[:] = np.minimum(np.rint(before / steps) * steps, 255.0)
    return rounded


def unpack_prepared(path: Path, folder: Path) -> PreparedCohort:
    """Unpack a carried cohort.

    Args:
        path: File that `pack_prepared` wrote.
        folder: Folder to make or replace.

    Raises:
        CacheError: If the file is damaged or no such file.
    """
    try:
        with zipfile.ZipFile(path) as archive, atomic_folder(folder) as temporary:
            for name in (INDEX, IMAGES, *({TISSUES} & set(archive.namelist()))):
                # Only these members, whatever else a file holds and whatever their paths say.
                with archive.open(name) as packed, (temporary / name).open("wb") as file:
                    shutil.copyfileobj(packed, file)
            load_prepared(temporary)
    except CacheError as error:
        raise CacheError(
            f"{path}: its index or slices are damaged or of another version; copy the file again, "
            "or pack it again with experiments/prepare.py"
        ) from error
    except DAMAGED_ARCHIVE as error:
        raise CacheError(f"{path}: not a carried cohort ({error}); copy the file again") from error
    return load_prepared(folder)


def is_prepared(root: Path) -> bool:
    """Whether a cohort's root is a prepared cohort, as a folder or as one file."""
    return (root / INDEX).is_file() or (root.is_file() and root.name.endswith(SUFFIX))


def open_prepared(
    root: Path, landmarks: LandmarkSet, settings: PreprocessSettings, outputs: Path
) -> PreparedCohort:
    """Open a prepared cohort in place of its scans.

    Args:
        root: Prepared folder, or one file that is unpacked under `outputs/prepared` once.
        landmarks: Landmarks wanted, in their order.
        settings: What the slices have to have been made with.
        outputs: Folder of `prepared/`.

    Raises:
        CacheError: If it is damaged.
        CohortError: If it was made with other settings or lacks a landmark.
    """
    prepared = _unpacked_once(root, outputs) if root.is_file() else load_prepared(root)
    pairs = differing_settings(prepared.settings, settings)
    if not _same_reference(prepared, settings):
        made = prepared.settings.get("histogram_reference")
        pairs["histogram_reference"] = (made, settings.histogram_reference)
    differing = [
        f"{key} is {canonical_json(made)}, not {canonical_json(wanted)}"
        for key, (made, wanted) in pairs.items()
    ]
    if differing:
        raise CohortError(
            f"{root}: its slices were made with other settings ({'; '.join(differing)}); "
            "give the same under preprocess, or prepare the cohort again"
        )
    return with_landmarks(prepared, landmarks)


def _same_reference(prepared: PreparedCohort, settings: PreprocessSettings) -> bool:
    """Whether histograms were matched to the same; a file counts by its content, if it is here."""
    recorded = prepared.settings.get("histogram_reference_sha256")
    if recorded is not None and Path(settings.histogram_reference).is_file():
        return bool(recorded == histogram_reference(settings).digest)
    baseline = BASELINE["histogram_reference"]
    made = prepared.settings.get("histogram_reference", baseline)
    return bool(made == settings.histogram_reference)


def _unpacked_once(path: Path, outputs: Path) -> PreparedCohort:
    name = f"{path.name.removesuffix(SUFFIX)}-{file_sha256(path)[:12]}-carried"
    folder = outputs / "prepared" / name
    with file_lock(outputs / "cache" / "locks" / f"{name}.lock"):
        return load_prepared(folder) if folder.exists() else unpack_prepared(path, folder)


def with_landmarks(prepared: PreparedCohort, landmarks: LandmarkSet) -> PreparedCohort:
    """The same slices with some of their landmarks, in the order wanted.

    Raises:
        CohortError: If the cohort was prepared without one of them.
    """
    if landmarks.names == prepared.landmarks.names:
        return prepared
    missing = [name for name in landmarks.names if name not in prepared.landmarks.names]
    if missing:
        raise CohortError(
            f"cohort {prepared.name} was prepared without {', '.join(missing)}; "
            f"it has {', '.join(prepared.landmarks.names)}"
        )
    order = [prepared.landmarks.index(name) for name in landmarks.names]
    return replace(
        prepared,
        landmarks=landmarks,
        points_px=prepared.points_px[:, order],
        points_mm=prepared.points_mm[:, order],
    )
