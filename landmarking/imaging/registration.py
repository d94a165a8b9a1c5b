"""Rigid or affine registration of a head to the common space.

The template has a brain and no head, a scan may have a head, a neck, or only a brain. What both
share is the brain and the dark shell of fluid about it. So the criterion is the normalised
correlation within the template's brain and a small margin, wherever the scan has voxels there, and
it is taken between local contrasts (`template.local_contrast`): raw intensities let scalp fat, bias
fields and the mere outline of the head outweigh ventricles, brainstem and cerebellum.

Every translation is tried at once: for a grid of rotations the correlation is found for all shifts
by FFT at 8 mm (masked normalised correlation: Padfield 2012). The best few are refined by
Gauss-Newton steps at 8 and then 4 mm, with the derivative taken on the template (inverse
compositional alignment: Baker and Matthews 2004). Nothing is random.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.spatial.transform import Rotation

from landmarking.errors import ConfigError
from landmarking.geometry import Array, apply_affine, rigid_matrix
from landmarking.imaging.scan import Scan
from landmarking.imaging.template import Level, Volume, scan_volume, template_level

_LOGGER = logging.getLogger(__name__)

Spectrum = NDArray[np.complexfloating[Any]]


QUALITY_THRESHOLD = 0.6
"""Below this a registration is tried again from more starts, and marked if it stays there."""

CENTRE_MM = np.array([0.0, -11.3, -3.5])
"""Middle between AC and PC in common space; where the rigid part of an affine fit is exact."""

Start = tuple[float, float, float, float]
"""Pitch, roll and yaw in degrees, and the size of the brain against the template's."""

_SIZES = (0.78, 0.88, 1.0)
_FEW: tuple[Start, ...] = tuple(itertools.product((-20.0, 0.0, 20.0), (0.0,), (0.0,), _SIZES))
_MANY: tuple[Start, ...] = tuple(
    itertools.product(
        (-24.0, -8.0, 8.0, 24.0), (-15.0, 0.0, 15.0), (-15.0, 0.0, 15.0), (0.76, 0.84, 0.95)
    )
)
_GRID_MM = 8.0
_KEEP_COARSE = 2
"""Starts of each size that are refined."""
_KEEP_FINE = 4
"""Fits at 8 mm, of twelve and of six degrees of freedom in turn, that are refined at 4 mm."""
_SURE = 0.7
"""Quality at 4 mm that ends the refinement: fits 2 mm or more off have stayed below it."""
MIN_OVERLAP = 0.4


@dataclass(frozen=True, eq=False)
class Registration:
    """Where a scan's world lies in the common space.

    Attributes:
        world_to_common: Matrix, shape (4, 4), scan world RAS mm to common space RAS mm.
        quality: Normalised correlation about the brain at 4 mm, -1 to 1; NaN for method `none`.
        ok: Whether the quality reached its threshold.
        method: `rigid`, `affine` or `none`.
        starts: Number of starting rotations that were tried.
    """

    world_to_common: Array
    quality: float
    ok: bool
    method: str
    starts: int = 0


@dataclass(frozen=True, eq=False)
class Fit:
    """A map from the common space to a scan's world, and the correlation under it.

    Attributes:
        common_to_world: Matrix, shape (4, 4).
        quality: Normalised correlation about the brain, times the root of the share of it that
            lies in the scan.
    """

    common_to_world: Array
    quality: float


def register(
    scan: Scan, method: str = "rigid", *, threshold: float = QUALITY_THRESHOLD
) -> Registration:
    """Register a scan to the common space.

    Args:
        scan: Head or brain in any orientation and pose; its affine states left and right.
        method: `rigid` (six degrees of freedom, mm kept), `affine` (twelve), or `none` (the scan's
            world is taken for the common space).
        threshold: Quality that ends the search; below it more starts are tried.

    Returns:
        The registration; `ok` is False where the best quality stays below the threshold.

    Raises:
        ConfigError: If the method is unknown.
    """
    if method not in ("rigid", "affine", "none"):
        raise ConfigError(f"registration is rigid, affine or none, found {method!r}")
    if method == "none":
        return Registration(np.eye(4), float("nan"), True, method)
    volume = scan_volume(scan)
    best = _search(volume, _FEW)
    starts = len(_FEW)
    if best.quality < threshold:
        best = max(best, _search(volume, _MANY), key=fit_quality)
        starts += len(_MANY)
    if best.quality < threshold:
        _LOGGER.warning(
            "%s: registration quality %.2f is below %.2f after %d starts; look at its slice",
            scan.name, best.quality, threshold, starts,
        )  # fmt: skip
    matrix = best.common_to_world if method == "affine" else nearest_rigid(best.common_to_world)
    return Registration(
        np.linalg.inv(matrix), best.quality, bool(best.quality >= threshold), method, starts
    )


def nearest_rigid(common_to_world: Array, centre_mm: Array = CENTRE_MM) -> Array:
    """The rotation of an affine map and its image of one point, as a rigid map.

    Args:
        common_to_world: Matrix, shape (4, 4), with positive determinant.
        centre_mm: The point that keeps its image, shape (3,).

    Returns:
        Rigid matrix, shape (4, 4).
    """
    left, _, right = np.linalg.svd(common_to_world[:3, :3])
    matrix = np.eye(4)
    matrix[:3, :3] = left @ right
    matrix[:3, 3] = apply_affine(common_to_world, centre_mm) - matrix[:3, :3] @ centre_mm
    return matrix


def _search(volume: Volume, starts: Sequence[Start]) -> Fit:
    coarse, fine = template_level(_GRID_MM), template_level(_GRID_MM / 2)
    matrices = _best_starts(volume, starts)
    rigid = sorted((refine(volume, coarse, start, 6, 6) for start in matrices), key=fit_quality)
    # Brains are smaller than the template by a tenth on average; without the twelve degrees of
    # freedom, size would be traded for pose.
    free = [refine(volume, coarse, fit.common_to_world, 12, 12) for fit in rigid]
    free.sort(key=fit_quality)
    # At 8 mm, stretching can blow a small brain up to the skull; the rigid fits have not done so.
    kept = itertools.chain.from_iterable(zip(reversed(free), reversed(rigid), strict=True))
    best = Fit(matrices[0], -1.0)
    for fit in itertools.islice(kept, _KEEP_FINE):
        best = max(best, refine(volume, fine, fit.common_to_world, 12, 12), key=fit_quality)
        if best.quality >= _SURE:
            break
    return best


def fit_quality(fit: Fit) -> float:
    """Quality of a fit, to sort by."""
    return fit.quality


def _best_starts(volume: Volume, starts: Sequence[Start]) -> list[Array]:
    """Common-to-world matrices at the best shifts: the best few starts of each size."""
    head, inside, origin = volume.on_world_grid(_GRID_MM)
    level = template_level(_GRID_MM)
    # Room for the template to stick out of the field of view on every side.
    box = level.box_shape
    shape = [fft.next_fast_len(n + b, real=True) for n, b in zip(head.shape, box, strict=True)]
    spectra = [fft.rfftn(part, shape) for part in (head * inside, head**2 * inside, inside)]
    found: dict[float, list[tuple[float, Array]]] = {}
    for pitch, roll, yaw, size in starts:
        turn = rigid_matrix(pitch, roll, yaw, centre_mm=level.centre_mm)
        matrix = turn @ about(level.centre_mm, size * np.eye(3))
        score, shift = _best_shift(spectra, shape, *level.moved(matrix))
        matrix[:3, 3] += origin + shift * _GRID_MM - level.box_origin_mm
        found.setdefault(size, []).append((score, matrix))
    kept = [sorted(group, key=lambda pair: -pair[0])[:_KEEP_COARSE] for group in found.values()]
    return [matrix for _, matrix in itertools.chain.from_iterable(kept)]


def _best_shift(
    spectra: Sequence[Spectrum], shape: Sequence[int], values: Array, mask: Array
) -> tuple[float, Array]:
    """Best masked correlation over all whole shifts of a template box, and that shift."""

    def correlate(spectrum: Spectrum, part: Array) -> Array:
        return np.asarray(fft.irfftn(spectrum * np.conj(fft.rfftn(part, shape)), shape))

    head, head_squared, inside = spectra
    count = np.maximum(correlate(inside, mask), 1.0)
    sum_head = correlate(head, mask)
    sum_template = correlate(inside, values * mask)
    variance_head = correlate(head_squared, mask) - sum_head**2 / count
    variance_template = correlate(inside, values**2 * mask) - sum_template**2 / count
    covariance = correlate(head, values * mask) - sum_head * sum_template / count
    scale = np.sqrt(np.maximum(variance_head, 1e-6) * np.maximum(variance_template, 1e-6))
    overlap = count / mask.sum()
    score = np.where(overlap > MIN_OVERLAP, covariance / scale * np.sqrt(overlap), -1.0)
    peak = np.array(np.unravel_index(int(np.argmax(score)), score.shape))
    # FFT shifts wrap round: those past half of the padded size are negative.
    shift = np.where(peak > np.array(shape) / 2, peak - np.array(shape), peak)
    return float(score.max()), shift


def refine(volume: Volume, level: Level, start: Array, freedom: int, steps: int) -> Fit:
    """Gauss-Newton steps on the normalised correlation; the best of all iterates is returned.

    Args:
        volume: The scan.
        level: The template, at 8 or 4 mm.
        start: Common-to-world matrix, shape (4, 4).
        freedom: 6 for rigid steps, 12 for affine ones.
        steps: Steps at most.
    """
    steepest = level.steepest_descent[:, :freedom]
    matrix, best = start, Fit(start, -1.0)
    for _ in range(steps + 1):
        values, inside = volume.sample(apply_affine(matrix, level.points_mm), level.spacing_mm)
        if np.count_nonzero(inside) < MIN_OVERLAP * len(inside):
            break
        head = values[inside] - values[inside].mean()
        template = level.values[inside] - level.values[inside].mean()
        covariance, power = float(head @ template), float(head @ head)
        if covariance <= 0.0 or power <= 0.0:
            break
        correlation = covariance / np.sqrt(power * float(template @ template))
        score = correlation * np.sqrt(np.mean(inside))
        if score > best.quality:
            best = Fit(matrix, float(score))
        # With the scan scaled to the template by least squares, the residual's derivative is that
        # of the template; the step is found there and undone on the scan's side.
        residual = template - covariance / power * head
        slopes = steepest[inside] - steepest[inside].mean(axis=0)
        step = np.linalg.lstsq(slopes.T @ slopes, slopes.T @ residual, rcond=None)[0]
        matrix = np.asarray(matrix @ _motion(step, level.centre_mm))
        if np.abs(step[:3]).max() < 0.01 and np.abs(step[3:]).max() * 80.0 < 0.01:
            break
    return best


def _motion(step: Array, centre_mm: Array) -> Array:
    """Matrix of a small motion: shift (3), rotation vector (3) and, for twelve, stretches (6)."""
    linear = Rotation.from_rotvec(step[3:6]).as_matrix()
    if len(step) == 12:
        xx, yy, zz, yz, xz, xy = step[6:]
        linear = linear @ (np.eye(3) + np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]))
    matrix = about(centre_mm, linear)
    matrix[:3, 3] += step[:3]
    return matrix


def about(centre_mm: Array, linear: Array) -> Array:
    """The affine map, shape (4, 4), with a linear part (3, 3) that keeps a point (3,) in place."""
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = centre_mm - linear @ centre_mm
    return matrix
