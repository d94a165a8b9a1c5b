"""One scan through the imaging stages, each of them looked up in the cache first.

read -> registration -> plane -> slice -> intensity
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from landmarking.cohort import slices
from landmarking.geometry import Plane, SliceGeometry
from landmarking.imaging.midsagittal import MidsagittalPlane
from landmarking.imaging.pipeline import (
    PreprocessSettings,
    finish_slice,
    histogram_reference,
    plane_stage,
    register_stage,
    slice_stage,
    tissue_maps,
)
from landmarking.imaging.quality import intensity_figures, outside_share
from landmarking.imaging.registration import Registration
from landmarking.imaging.scan import Scan, load_scan, to_pil
from landmarking.preparation.cache import (
    TISSUES,
    Entry,
    StageCache,
    canonical_json,
    stage_keys,
    tissue_key,
)

R = TypeVar("R")


@dataclass(frozen=True, eq=False)
class StagedSlice:
    """A finished slice, and what it took.

    Attributes:
        image: Histogram-matched, not normalised, shape (H, W).
        geometry: Where it lies.
        qc: Figures of the stages by name.
        scan_shape: Voxels of the scan along its axes in PIL order.
        scan_affine: Voxel (PIL order) to world RAS mm of the scan, shape (4, 4).
        seconds: Time of the stages that were computed, by name.
    """

    image: NDArray[np.float32]
    geometry: SliceGeometry
    qc: Mapping[str, float | str | bool]
    scan_shape: tuple[int, int, int]
    scan_affine: NDArray[np.float64]
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(eq=False)
class _Scan:
    """A scan that is read when the first stage asks for it."""

    path: Path
    seconds: dict[str, float]
    allow_scaled: bool = False
    _canonical: Scan | None = None

    def canonical(self) -> Scan:
        if self._canonical is None:
            self._canonical = self.timed(
                "read", lambda: to_pil(load_scan(self.path, allow_scaled=self.allow_scaled))
            )
        return self._canonical

    def timed(self, stage: str, work: Callable[[], R]) -> R:
        start = time.perf_counter()
        result = work()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start
        return result


def staged_tissues(
    files: Sequence[Path], sha256: Sequence[str], geometry: SliceGeometry, cache: StageCache
) -> NDArray[np.uint8]:
    """Tissue maps on a slice, shape (4, H, W), from the cache where it has them.

    Args:
        files: Maps of grey matter, white matter and fluid.
        sha256: Digests of their bytes.
        geometry: Where the slice lies.
        cache: Where results are looked up and stored.

    Raises:
        ScanError: If a map cannot be read.
        CacheError: If the cache cannot be written.
    """
    keys = {TISSUES: tissue_key(sha256, geometry)}
    entry = _cached(cache, TISSUES, keys, lambda: Entry({}, tissue_maps(files, geometry)))
    return np.asarray(entry.image, dtype=np.uint8)


def staged_slice(
    image: Path,
    image_sha256: str,
    settings: PreprocessSettings,
    cache: StageCache,
    allow_scaled: bool = False,
) -> StagedSlice:
    """Finished slice of one scan, from the cache as far as it goes.

    Args:
        image: The scan's file.
        image_sha256: Digest of its bytes.
        settings: Settings of all stages.
        cache: Where results are looked up and stored.
        allow_scaled: Read a scan whose header stretches its voxels.

    Raises:
        ScanError: If the scan cannot be read or has no usable slice.
        CacheError: If the cache cannot be written.
    """
    scan = _Scan(image, {}, allow_scaled)
    keys = stage_keys(image_sha256, settings)
    finished = _cached(
        cache,
        "intensity",
        keys,
        lambda: _finished(scan, _slice(scan, keys, settings, cache), settings),
    )
    assert finished.image is not None
    shape = finished.values["scan_shape"]
    return StagedSlice(
        image=np.asarray(finished.image, dtype=np.float32),
        geometry=SliceGeometry.from_dict(finished.values["geometry"]),
        qc=finished.values["qc"],
        scan_shape=(shape[0], shape[1], shape[2]),
        scan_affine=np.array(finished.values["scan_affine"], dtype=np.float64),
        seconds=scan.seconds,
    )


def raw_slice(
    image: Path, image_sha256: str, settings: PreprocessSettings, cache: StageCache
) -> NDArray[np.float32]:
    """Cropped slice of one scan before its histogram is matched; see `staged_slice`."""
    keys = stage_keys(image_sha256, settings)
    cut = _slice(_Scan(image, {}), keys, settings, cache)
    assert cut.image is not None
    return np.asarray(cut.image, dtype=np.float32)


def _cached(
    cache: StageCache, stage: str, keys: Mapping[str, str], make: Callable[[], Entry]
) -> Entry:
    entry = cache.get(stage, keys[stage])
    if entry is None:
        made = make()
        cache.put(stage, keys[stage], made)
        # As it will be read the next time: same order, same types.
        entry = Entry(json.loads(canonical_json(made.values)), made.image)
    return entry


def _registration(
    scan: _Scan, keys: Mapping[str, str], settings: PreprocessSettings, cache: StageCache
) -> Registration:
    def make() -> Entry:
        canonical = scan.canonical()
        return Entry(
            _plain(scan.timed("registration", lambda: register_stage(canonical, settings)))
        )

    return Registration(**_arrays(_cached(cache, "registration", keys, make).values))


def _plane(
    scan: _Scan,
    registration: Registration,
    keys: Mapping[str, str],
    settings: PreprocessSettings,
    cache: StageCache,
) -> MidsagittalPlane:
    def make() -> Entry:
        canonical = scan.canonical()
        found = scan.timed("plane", lambda: plane_stage(canonical, registration, settings))
        return Entry({**_plain(found), "plane": _plain(found.plane)})

    values = dict(_cached(cache, "plane", keys, make).values)
    plane = Plane(**_arrays(values.pop("plane")))
    return MidsagittalPlane(plane=plane, **_arrays(values))


def _slice(
    scan: _Scan, keys: Mapping[str, str], settings: PreprocessSettings, cache: StageCache
) -> Entry:
    def make() -> Entry:
        if scan.path.suffix == ".png":
            return scan.timed("read", lambda: _drawn_slice(scan.path, settings))
        registration = _registration(scan, keys, settings, cache)
        found = _plane(scan, registration, keys, settings, cache)
        canonical = scan.canonical()
        cut = scan.timed("slice", lambda: slice_stage(canonical, registration, found, settings))
        shape, affine = canonical.data.shape, canonical.affine
        values = {
            "geometry": cut.geometry.to_dict(),
            "qc": {**cut.qc, "outside_share": outside_share(cut.geometry, shape, affine)},
            "scan_shape": list(shape),
            "scan_affine": affine.tolist(),
        }
        return Entry(values, np.asarray(cut.image, dtype=np.float32))

    return _cached(cache, "slice", keys, make)


def _drawn_slice(path: Path, settings: PreprocessSettings) -> Entry:
    # A slice that another tool has cut; the "scan" is the whole slice, one voxel thick.
    size, window = settings.slice_size, settings.window
    whole = slices.cut_geometry(size)
    image = slices.read_slice_image(path, size)[window, window]
    values = {
        "geometry": whole.cropped(window, window).to_dict(),
        "qc": {},
        "scan_shape": [size, size, 1],
        "scan_affine": whole.pixel_to_world.tolist(),
    }
    return Entry(values, np.ascontiguousarray(image))


def _finished(scan: _Scan, raw: Entry, settings: PreprocessSettings) -> Entry:
    def work() -> Entry:
        assert raw.image is not None
        matched = np.asarray(finish_slice(raw.image, settings), dtype=np.float32)
        reference = histogram_reference(settings)
        figures = intensity_figures(raw.image, matched, reference.image, reference.region)
        return Entry({**raw.values, "qc": {**raw.values["qc"], **figures}}, matched)

    return scan.timed("intensity", work)


def _plain(value: Any) -> dict[str, Any]:
    result = {}
    for item in fields(value):
        content = getattr(value, item.name)
        result[item.name] = content.tolist() if isinstance(content, np.ndarray) else content
    return result


def _arrays(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: np.array(value, dtype=np.float64) if isinstance(value, list) else value
        for key, value in values.items()
    }
