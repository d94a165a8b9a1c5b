"""One scan through the imaging stages, each of them looked up in the cache first."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from landmarking.data.cache import Entry, StageCache, stage_key
from landmarking.geometry import SliceGeometry

if TYPE_CHECKING:
    from landmarking.imaging.pipeline import PreprocessSettings

STAGES = ("read", "slice", "intensity")
"""Stages in order, as times and counts name them."""

VERSIONS: Mapping[str, int] = {"slice": 1, "intensity": 1}


@dataclass(frozen=True, eq=False)
class StagedSlice:
    """A finished slice, and what it took.

    Attributes:
        image: Histogram-matched, not normalised, shape (H, W).
        geometry: Where it lies.
        qc: Figures of the stages by name.
        scan_shape: Voxels of the scan, (I, J, K).
        scan_affine: Voxel to world RAS mm of the scan, shape (4, 4).
        seconds: Time of the stages that were computed, by name.
    """

    image: NDArray[np.float32]
    geometry: SliceGeometry
    qc: Mapping[str, float | str | bool]
    scan_shape: tuple[int, int, int]
    scan_affine: NDArray[np.float64]
    seconds: Mapping[str, float] = field(default_factory=dict)


def key_settings(settings: PreprocessSettings) -> dict[str, Any]:
    """Settings that decide a prepared slice; normalisation happens later, batch by batch."""
    return {key: value for key, value in asdict(settings).items() if key != "normalisation"}


def staged_slice(
    image: Path, image_sha256: str, settings: PreprocessSettings, cache: StageCache
) -> StagedSlice:
    """Finished slice of one scan, from the cache as far as it goes.

    Args:
        image: The scan's file.
        image_sha256: Digest of its bytes.
        settings: Settings of all stages.
        cache: Where results are looked up and stored.

    Raises:
        ScanError: If the scan cannot be read or has no usable slice.
        CacheError: If the cache cannot be written.
    """
    seconds: dict[str, float] = {}
    made_with = key_settings(settings)
    reference = made_with.pop("histogram_reference")
    slice_key = stage_key("slice", VERSIONS["slice"], image_sha256, made_with)
    raw = cache.get("slice", slice_key)
    if raw is None:
        raw = _cut(image, settings, seconds)
        cache.put("slice", slice_key, raw)
    key = stage_key("intensity", VERSIONS["intensity"], slice_key, reference)
    finished = cache.get("intensity", key)
    if finished is None:
        finished = _finish(raw, settings, seconds)
        cache.put("intensity", key, finished)
    if finished.image is None:
        raise AssertionError("an intensity entry always has an image")
    return StagedSlice(
        image=finished.image,
        geometry=SliceGeometry.from_dict(raw.values["geometry"]),
        qc=raw.values["qc"],
        scan_shape=tuple(raw.values["scan_shape"]),
        scan_affine=np.array(raw.values["scan_affine"], dtype=np.float64),
        seconds=seconds,
    )


def _cut(image: Path, settings: PreprocessSettings, seconds: dict[str, float]) -> Entry:
    from landmarking.imaging.pipeline import extract_slice
    from landmarking.imaging.scan import load_scan

    start = time.perf_counter()
    scan = load_scan(image)
    seconds["read"] = time.perf_counter() - start
    cut = extract_slice(scan, settings)
    seconds["slice"] = time.perf_counter() - start - seconds["read"]
    values = {
        "geometry": cut.geometry.to_dict(),
        "qc": dict(cut.qc),
        "scan_shape": list(scan.data.shape),
        "scan_affine": scan.affine.tolist(),
    }
    return Entry(values, np.asarray(cut.image, dtype=np.float32))


def _finish(raw: Entry, settings: PreprocessSettings, seconds: dict[str, float]) -> Entry:
    from landmarking.imaging.pipeline import finish_slice

    start = time.perf_counter()
    image = np.asarray(finish_slice(raw.image, settings), dtype=np.float32)
    seconds["intensity"] = time.perf_counter() - start
    return Entry({}, image)
