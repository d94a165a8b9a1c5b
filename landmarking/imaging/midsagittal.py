"""The mid-sagittal plane: where the head is most symmetric (Eq. 1 of the paper).

The search starts at the brain's centre and goes along the gradient, or tries planes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from landmarking.errors import ConfigError, ScanError
from landmarking.geometry import LEFT, Array, Plane, apply_affine, rigid_matrix
from landmarking.imaging.intensity import flattened, head_mask
from landmarking.imaging.registration import MIN_OVERLAP, Fit, about, fit_quality, refine
from landmarking.imaging.scan import Scan
from landmarking.imaging.symmetry import (
    Frame,
    Level,
    Pairs,
    block_mean,
    coarser_levels,
    grid_score,
    mirror_pairs,
    pair_symmetry,
)
from landmarking.imaging.template import Volume, scan_volume, template_level

# The brain's centre from its plane of symmetry, by a rough fit of the template at 8 mm.
#
# Mirror pairs about another point give another plane, because hemispheres differ; the outline of a
# head moves with its pose, its neck and the field of view, its brain does not. With the plane
# known, four numbers are left to try: pitch, size, and the place on the plane.


QUALITY_THRESHOLD = 0.45
"""Correlation at 8 mm below which no brain was recognised; random places reach about 0.3."""

_GRID_MM = 8.0
_PITCHES_DEG = (-24.0, -12.0, 0.0, 12.0, 24.0)
_SIZES = (0.76, 0.86, 0.97)
_ANTERIOR_MM = (-24.0, -12.0, 0.0, 12.0, 24.0)
_SUPERIOR_MM = (-36.0, -24.0, -12.0, 0.0, 12.0, 24.0)
_EVERY = 9
"""One in so many of the template's points is looked at while places are tried."""
_KEEP = 6


def brain_centre(finest: Level, frame: Frame) -> Array | None:
    """Centre of the brain in world RAS mm, shape (3,), or None where no brain is recognised.

    Args:
        finest: The scan's volume and affine.
        frame: Its plane of symmetry, about a point within about 30 mm of the centre.
    """
    volume = scan_volume(Scan(finest.volume, finest.affine, "volume"))
    level = template_level(_GRID_MM)
    starts = _best_places(volume, _places(frame))
    # As in the registration: without stretching, size would be traded for place.
    rigid = sorted((refine(volume, level, start, 6, 6) for start in starts), key=fit_quality)
    free = [refine(volume, level, fit.common_to_world, 12, 12) for fit in rigid[-2:]]
    best: Fit = max(free, key=fit_quality)
    if best.quality < QUALITY_THRESHOLD:
        return None
    return apply_affine(best.common_to_world, level.centre_mm)


def _places(frame: Frame) -> list[Array]:
    """Common-to-world matrices with the template's plane on the plane found."""
    posterior, superior, left = frame.axes
    axes = np.stack([-left, -posterior, superior], axis=1)
    centre = template_level(_GRID_MM).centre_mm
    matrices = []
    for pitch, size, ahead, up in product(_PITCHES_DEG, _SIZES, _ANTERIOR_MM, _SUPERIOR_MM):
        matrix = about(centre, size * axes @ rigid_matrix(pitch, 0.0, 0.0)[:3, :3])
        matrix[:3, 3] += frame.centre_mm + axes @ (0.0, ahead, up) - centre
        matrices.append(matrix)
    return matrices


def _best_places(volume: Volume, matrices: list[Array]) -> list[Array]:
    """The few matrices under which the template correlates best with the scan."""
    level = template_level(_GRID_MM)
    points, template = level.points_mm[::_EVERY], level.values[::_EVERY]
    world = np.concatenate([apply_affine(matrix, points) for matrix in matrices])
    values, inside = (part.reshape(-1, len(points)) for part in volume.sample(world, _GRID_MM))
    share = inside.mean(axis=1)
    count = np.maximum(inside.sum(axis=1, keepdims=True), 1)
    head = (values - (values * inside).sum(axis=1, keepdims=True) / count) * inside
    brain = (template - (template * inside).sum(axis=1, keepdims=True) / count) * inside
    power = np.einsum("ij,ij->i", head, head) * np.einsum("ij,ij->i", brain, brain)
    score = np.einsum("ij,ij->i", head, brain) / np.sqrt(np.maximum(power, 1e-9)) * np.sqrt(share)
    best = np.argsort(-np.where(share < MIN_OVERLAP, -1.0, score), kind="stable")
    return [matrices[index] for index in best[:_KEEP]]


def sagittal(centre_mm: Array) -> Frame:
    """The world's sagittal plane through a point."""
    return Frame.on_plane(Plane.from_normal(LEFT, centre_mm), centre_mm)


def _planes_about(frame: Frame, tilts_deg: Array, shifts_mm: Array) -> list[Frame]:
    tilts = np.tan(np.deg2rad(tilts_deg))
    return [frame.moved(np.array(step)) for step in product(tilts, tilts, shifts_mm)]


def coarse_start(level: Level, centre_mm: Array, pairs: Pairs, robustness: float) -> Frame:
    """The best of a grid of planes about a centre, after climbing from the first four.

    Args:
        level: Volume of about 8 mm voxels.
        centre_mm: About the brain's centre, shape (3,).
        pairs: Where to look; the first few thousand are used.
        robustness: See `climb`.

    Returns:
        A plane within a few degrees of the best.
    """
    few, more = pairs.first(500), pairs.first(3000)
    tilts, shifts = np.arange(-24.0, 25.0, 12.0), np.arange(-20.0, 21.0, 10.0)
    frames = _planes_about(sagittal(centre_mm), tilts, shifts)
    order = np.argsort([-_support(level, frame, few, robustness) for frame in frames])
    climbed = [climb(level, frames[index], more, robustness) for index in order[:4]]
    return max(climbed, key=lambda frame: _support(level, frame, more, robustness))


def _support(level: Level, frame: Frame, pairs: Pairs, robustness: float) -> float:
    """Share of the pairs that agree; where robustness is 0, Eq. 1."""
    now = pair_symmetry(level, frame, pairs)
    # A large lesion costs the true plane more of Eq. 1 than a wrong plane loses by small
    # differences everywhere; counting pairs that agree, it costs no more than its own pairs.
    if robustness == 0.0:
        return now.score
    counted = pairs.weights * now.inside
    return float(counted @ now.agreement(robustness) / pairs.weights.sum())


def climb(level: Level, frame: Frame, pairs: Pairs, robustness: float) -> Frame:
    """Gauss-Newton steps up Eq. 1, until one moves no pair by more than 0.002 mm.

    Args:
        level: Volume of one resolution.
        frame: Plane to start from.
        pairs: Where to look.
        robustness: Difference of a pair, in standard deviations of the values, that halves its
            weight in the next step; 0 leaves the weights alone.

    Returns:
        The plane reached.
    """
    reach = np.array([*np.abs(pairs.offsets_mm[:2]).max(axis=1), 1.0])
    weighted = pairs
    for _ in range(15):
        now = pair_symmetry(level, frame, weighted)
        step = np.linalg.solve(now.curvature + 1e-9 * np.eye(3), now.gradient)
        length = float(np.abs(step * reach).max())
        # Beyond 8 mm the linear picture of the intensities has no say.
        frame = frame.moved(step * min(1.0, 8.0 / max(length, 1e-12)))
        if length < 2e-3:
            break
        weighted = pairs.weighted(now.agreement(robustness))
    return frame


def fast_search(levels: Sequence[Level], frame: Frame, pairs: Pairs, robustness: float) -> Frame:
    """Climb on every level, from coarse to fine, with a tenth, a third and all of the pairs.

    Args:
        levels: From fine to coarse.
        frame: Plane to start from.
        pairs: Pairs of the finest level; any stretch of the sequence covers the ball evenly.
        robustness: See `climb`.
    """
    for depth in reversed(range(len(levels))):
        part = pairs.first(len(pairs.weights) // (1, 3, 10)[min(depth, 2)])
        frame = climb(levels[depth], frame, part, robustness)
    return frame


def plain_search(level: Level, frame: Frame) -> Frame:
    """The published two-scale search: planes tried on a quarter of the scale, then on the full.

    Args:
        level: Volume, used as a whole.
        frame: Plane about which planes are tried, to 24 degrees and 24 mm.
    """
    quarter = block_mean(level, [min(4, length // 4) for length in level.volume.shape])
    steps = np.arange(-24.0, 25.0, 8.0)
    tried = _planes_about(frame, steps, steps)
    frame = max(tried, key=lambda moved: grid_score(quarter, moved.plane))
    frame = _hill(quarter, frame, 4.0, 1.0)
    return _hill(level, frame, 0.5, 0.06)


def _hill(level: Level, frame: Frame, first: float, last: float) -> Frame:
    """Step either way in each parameter, keep the best; halve the step when none is better.

    Args:
        level: Volume, used as a whole.
        frame: Plane to start from.
        first: First step, in degrees and in mm.
        last: Steps below this end the search.
    """
    best, step = grid_score(level, frame.plane), first
    while step >= last:
        size = np.array([np.deg2rad(step), np.deg2rad(step), step])
        around = [frame.moved(sign * row) for row in np.diag(size) for sign in (-1.0, 1.0)]
        scores = [grid_score(level, moved.plane) for moved in around]
        if max(scores) > best:
            best, frame = max(scores), around[int(np.argmax(scores))]
        else:
            step /= 2.0
    return frame


# The mid-sagittal plane: where the head is most symmetric (Eq. 1 of the paper).
#
# Two searches share the criterion. `plain` is the published one (Ruppert et al. 2011, the paper's
# reference [12]): all voxels, planes tried on a quarter of the scale, then on the full scale.
# `fast` samples mirror pairs about the brain's centre, climbs along the analytic gradient from
# coarse to fine, and gives less weight to pairs that no plane makes alike.


SPACINGS_MM = (2.0, 4.0, 8.0)
"""Voxel sizes of the levels of the fast search."""


@dataclass
class MidsagittalSettings:
    """How the plane is searched for.

    Attributes:
        search: `fast` or `plain`.
        pairs: Mirror pairs of the fast search on its finest level.
        radius_mm: Pairs lie in a ball of this radius about the brain's centre.
        edge_mm: Width over which weights fall to zero at the ball's rim.
        near_mm: Standard deviation of the pairs' distances from the plane. The structures of the
            midline are to decide; hemispheres differ in size and twist in every head.
        robustness: Difference of a pair, in standard deviations of the values, that halves its
            weight; 0 turns robust weights off.
        flatten_mm: Width of the local mean that intensities are divided by, against uneven
            brightness; 0 leaves them as they are.
    """

    search: str = "fast"
    pairs: int = 40_000
    radius_mm: float = 75.0
    edge_mm: float = 20.0
    near_mm: float = 30.0
    robustness: float = 0.5
    flatten_mm: float = 30.0

    def __post_init__(self) -> None:
        """Refuse settings without a meaning.

        Raises:
            ConfigError: If the search is unknown or a number is out of range.
        """
        if self.search not in ("fast", "plain"):
            raise ConfigError(f"midsagittal.search is fast or plain, found {self.search!r}")
        lengths = (self.radius_mm, self.edge_mm, self.near_mm)
        if self.pairs < 1000 or min(lengths) <= 0 or min(self.robustness, self.flatten_mm) < 0:
            raise ConfigError(
                "midsagittal.pairs is 1000 or more, radius_mm, edge_mm and near_mm are above 0, "
                f"robustness and flatten_mm are not below 0, found {self}"
            )


@dataclass(frozen=True, eq=False)
class MidsagittalPlane:
    """The plane found, with what tells how far to trust it.

    Attributes:
        plane: Plane in world RAS of the volume's affine; the normal points left.
        score: Eq. 1 at the plane, over the points that the search used.
        sharpness: Fall of the score when the plane is shifted by 2 mm, or tilted by 2 mm at 60 mm
            from the head's centre: the least of the three. Near 0 the plane is a guess.
        centre_mm: Foot on the plane of the centre that the search turned about, shape (3,).
    """

    plane: Plane
    score: float
    sharpness: float
    centre_mm: Array


def find_midsagittal_plane(
    volume: Array,
    affine: Array,
    start: Plane | None = None,
    *,
    settings: MidsagittalSettings | None = None,
    centre_mm: Array | None = None,
) -> MidsagittalPlane:
    """Find the plane that a head is most symmetric about.

    Args:
        volume: Intensities, shape (I, J, K); any orientation and voxel size.
        affine: Voxel index to world RAS mm, shape (4, 4).
        start: Plane to start from, such as the template's after registration; without it, planes
            within 24 degrees of the world's sagittal direction are tried.
        settings: How to search.
        centre_mm: Brain's centre in world RAS, shape (3,), such as the template's after
            registration; without it, from a rough fit of the template on a first plane
            (`brain_centre`), or where that fails from the outline of the head.

    Returns:
        Plane, score and sharpness; the same for the same input, always.

    Raises:
        ScanError: If the volume is not 3-D with 16 voxels or more a side, has NaN or infinite
            values, does not vary, or the affine is singular.
    """
    settings = settings or MidsagittalSettings()
    finest = _checked(volume, affine)
    levels = coarser_levels(finest, SPACINGS_MM)
    if not np.isfinite(levels[-1].volume).all():
        raise ScanError("the volume has NaN or infinite values; replace them before the search")
    centre = head_centre(levels[-1]) if centre_mm is None else np.asarray(centre_mm, np.float64)
    if settings.search == "plain":
        around = sagittal(centre) if start is None else Frame.on_plane(start, centre)
        found = plain_search(finest, around)
        return _result(found, lambda frame: grid_score(finest, frame.plane))
    if settings.flatten_mm > 0:
        levels = coarser_levels(flattened(levels[0], levels[-1], settings.flatten_mm), SPACINGS_MM)
    pairs = mirror_pairs(settings.pairs, settings.radius_mm, settings.edge_mm, settings.near_mm)
    if start is None:
        frame = coarse_start(levels[-1], centre, pairs, settings.robustness)
    else:
        frame = Frame.on_plane(start, centre)
    if centre_mm is None:
        # The outline of a head tells its brain's place to a centimetre only.
        frame = fast_search(
            levels[1:], frame, pairs.first(settings.pairs // 3), settings.robustness
        )
        brain = brain_centre(finest, frame)
        frame = frame if brain is None else Frame.on_plane(frame.plane, brain)
    found = fast_search(levels, frame, pairs, settings.robustness)
    return _result(found, lambda frame: pair_symmetry(levels[0], frame, pairs).score)


def _checked(volume: Array, affine: Array) -> Level:
    if volume.ndim != 3 or min(volume.shape) < 16:
        raise ScanError(
            f"the mid-sagittal search takes volumes of 16 or more voxels a side, got {volume.shape}"
        )
    determinant = float(np.linalg.det(affine[:3, :3]))
    if not np.isfinite(affine).all() or abs(determinant) < 1e-9:
        raise ScanError(f"the affine is singular (determinant {determinant:.3g}); export it again")
    return Level(volume, np.asarray(affine, np.float64))


def head_centre(level: Level) -> Array:
    """Rough centre of the brain from the outline of the head.

    The height is taken from the vertex, because necks are of any length.

    Args:
        level: Volume of about 8 mm voxels.

    Returns:
        World RAS mm, shape (3,).

    Raises:
        ScanError: If the volume does not vary.
    """
    volume = level.volume
    if float(np.ptp(volume)) <= 0.0:
        raise ScanError("the volume does not vary; there is no head to find a plane in")
    points = level.centres_mm()[head_mask(level)]
    heights = points[:, 2]
    # The vertex: the height above which 30 cm^3 of head are left, so that single bright voxels in
    # the air do not count.
    voxel_mm3 = abs(float(np.linalg.det(level.affine[:3, :3])))
    above = min(len(heights) - 1, int(30_000.0 / voxel_mm3))
    vertex = float(np.partition(heights, -above - 1)[-above - 1])
    cap = points[heights > vertex - 100.0]
    return np.array([*cap.mean(axis=0)[:2], vertex - 75.0])


def _result(frame: Frame, score: Callable[[Frame], float]) -> MidsagittalPlane:
    best = score(frame)
    falls = [
        best - 0.5 * (score(frame.moved(step)) + score(frame.moved(-step)))
        for step in np.diag([2.0 / 60.0, 2.0 / 60.0, 2.0])
    ]
    return MidsagittalPlane(frame.plane, best, min(falls), frame.centre_mm)
