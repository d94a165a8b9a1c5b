"""The mid-sagittal plane: where the head is most symmetric (Eq. 1 of the paper).

Two searches share the criterion. `plain` is the published one (Ruppert et al. 2011, the paper's
reference [12]): all voxels, planes tried on a quarter of the scale, then on the full scale. `fast`
samples mirror pairs about the brain's centre, climbs along the analytic gradient from coarse to
fine, and gives less weight to pairs that no plane makes alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np

from landmarking.errors import ConfigError, ScanError
from landmarking.geometry import LEFT, Array, Plane
from landmarking.imaging.levels import Level, block_mean, coarser_levels
from landmarking.imaging.symmetry import Frame, Pairs, grid_score, pair_symmetry


@dataclass
class MidsagittalSettings:
    """How the plane is searched for.

    Attributes:
        search: `fast` or `plain`.
        pairs: Mirror pairs of the fast search on its finest level.
        radius_mm: Pairs lie in a ball of this radius about the brain's centre.
        edge_mm: Width over which weights fall to zero at the ball's rim.
        robustness: Difference of a pair, in standard deviations of the values, that halves its
            weight; 0 turns robust weights off.
    """

    search: str = "fast"
    pairs: int = 40_000
    radius_mm: float = 90.0
    edge_mm: float = 20.0
    robustness: float = 0.5

    def __post_init__(self) -> None:
        """Refuse settings without a meaning.

        Raises:
            ConfigError: If the search is unknown or a number is out of range.
        """
        if self.search not in ("fast", "plain"):
            raise ConfigError(f"midsagittal.search is fast or plain, got {self.search!r}")
        if self.pairs < 1000 or self.radius_mm <= 0 or self.edge_mm <= 0 or self.robustness < 0:
            raise ConfigError(
                "midsagittal settings need pairs >= 1000, radius_mm and edge_mm above 0, and "
                f"robustness >= 0, got {self}"
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
            within 28 degrees of the world's sagittal direction are tried.
        settings: How to search.
        centre_mm: Brain's centre in world RAS, shape (3,), such as the template's after
            registration; without it, taken from the outline of the head.

    Returns:
        Plane, score and sharpness; the same for the same input, always.

    Raises:
        ScanError: If the volume is not 3-D with 16 voxels or more a side, has NaN or infinite
            values, does not vary, or the affine is singular.
    """
    settings = settings or MidsagittalSettings()
    finest = _checked(volume, affine)
    levels = coarser_levels(finest, (2.0, 4.0, 8.0))
    if not np.isfinite(levels[-1].volume).all():
        raise ScanError("the volume has NaN or infinite values; replace them before the search")
    centre = head_centre(levels[-1]) if centre_mm is None else np.asarray(centre_mm, np.float64)
    frame = None if start is None else Frame.on_plane(start, centre)
    if settings.search == "plain":
        return _plain(finest, frame or _sagittal(centre))
    frame = frame or _coarse_start(levels[-1], centre, settings)
    for level, share in zip(levels[::-1], (0.1, 0.3, 1.0), strict=True):
        pairs = mirror_pairs(int(settings.pairs * share), settings)
        frame = _climb(level, frame, pairs, settings)
    return _result(frame, lambda moved: pair_symmetry(levels[0], moved, pairs).score)


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
    bright = volume[volume > volume.mean()].mean()
    points = level.centres_mm()[volume > 0.3 * bright]
    heights = points[:, 2]
    # The vertex: the height above which 2000 mm^2 of a section (some 250 cm^3 would be a slab of
    # the skull cap) no longer fit; single bright voxels above the head do not move it.
    voxel_mm3 = abs(float(np.linalg.det(level.affine[:3, :3])))
    above = min(len(heights) - 1, int(30_000.0 / voxel_mm3))
    vertex = float(np.partition(heights, -above - 1)[-above - 1])
    cap = points[heights > vertex - 100.0]
    return np.array([*cap.mean(axis=0)[:2], vertex - 75.0])


def mirror_pairs(count: int, settings: MidsagittalSettings) -> Pairs:
    """Quasi-random mirror pairs in a half ball about the frame's centre, denser than a grid's.

    Args:
        count: Number of pairs, about.
        settings: Radius and rim of the ball.

    Returns:
        Pairs with weights that fall off at the rim.
    """
    # Roberts' R3 sequence: even coverage without a lattice that could lock on to the voxel grid.
    ratio = 1.2207440846057596
    steps = np.array([ratio**-1, ratio**-2, ratio**-3])
    total = int(count * 6.0 / np.pi)
    unit = (0.5 + np.arange(1, total + 1)[:, None] * steps) % 1.0
    cube = unit * [2.0, 2.0, 1.0] - [1.0, 1.0, 0.0]
    distance = np.linalg.norm(cube, axis=1) * settings.radius_mm
    kept = distance < settings.radius_mm
    weights = np.clip((settings.radius_mm - distance[kept]) / settings.edge_mm, 0.0, 1.0)
    offsets = (cube[kept].T * settings.radius_mm).astype(np.float32)
    return Pairs(np.ascontiguousarray(offsets), weights.astype(np.float32))


def _sagittal(centre: Array) -> Frame:
    return Frame.on_plane(Plane.from_normal(LEFT, centre), centre)


def _coarse_start(level: Level, centre: Array, settings: MidsagittalSettings) -> Frame:
    """Best of a grid of planes about the centre, after climbing from the first few."""
    pairs = mirror_pairs(600, settings)
    tilts, shifts = np.tan(np.deg2rad(np.arange(-24.0, 25.0, 12.0))), np.arange(-20.0, 21.0, 10.0)
    frames = [_sagittal(centre).moved(np.array(step)) for step in product(tilts, tilts, shifts)]
    scores = [pair_symmetry(level, frame, pairs).score for frame in frames]
    best = np.argsort(scores)[::-1][:4]
    more = mirror_pairs(4000, settings)
    climbed = [_climb(level, frames[index], more, settings) for index in best]
    return max(climbed, key=lambda frame: pair_symmetry(level, frame, more).score)


def _climb(level: Level, frame: Frame, pairs: Pairs, settings: MidsagittalSettings) -> Frame:
    """Gauss-Newton steps up Eq. 1 until they fall below a thousandth of a mm at the rim."""
    reach = np.array([settings.radius_mm, settings.radius_mm, 1.0])
    longest = 8.0
    for _ in range(12):
        now = pair_symmetry(level, frame, pairs)
        if settings.robustness > 0:
            ratio = now.difference / (settings.robustness * max(now.deviation, 1e-12))
            now = pair_symmetry(level, frame, pairs.weighted(1.0 / (1.0 + ratio**2)))
        curvature = now.curvature + np.eye(3) * 1e-9
        step = np.linalg.solve(curvature, now.gradient)
        length = float(np.abs(step * reach).max())
        frame = frame.moved(step * min(1.0, longest / max(length, 1e-12)))
        if length < 2e-3:
            break
    return frame


def _result(frame: Frame, score: Callable[[Frame], float]) -> MidsagittalPlane:
    best = score(frame)
    falls = [
        best - 0.5 * (score(frame.moved(step)) + score(frame.moved(-step)))
        for step in np.diag([2.0 / 60.0, 2.0 / 60.0, 2.0])
    ]
    return MidsagittalPlane(frame.plane, best, min(falls), frame.centre_mm)


def _plain(level: Level, frame: Frame) -> MidsagittalPlane:
    """The published two-scale search: a grid of planes on a quarter of the scale, then the full."""
    quarter = block_mean(level, [min(4, length // 4) for length in level.volume.shape])
    tilts, shifts = np.tan(np.deg2rad(np.arange(-24.0, 25.0, 8.0))), np.arange(-24.0, 25.0, 8.0)
    grid = [frame.moved(np.array(step)) for step in product(tilts, tilts, shifts)]
    frame = max(grid, key=lambda moved: grid_score(quarter, moved.plane))
    frame = _hill(quarter, frame, 4.0, 1.0)
    frame = _hill(level, frame, 0.5, 0.03)
    return _result(frame, lambda moved: grid_score(level, moved.plane))


def _hill(level: Level, frame: Frame, first: float, last: float) -> Frame:
    """Try a step either way in each parameter, take the best, halve the step when none is better.

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
