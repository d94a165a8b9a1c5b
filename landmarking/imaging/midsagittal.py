"""The mid-sagittal plane: where the head is most symmetric (Eq. 1 of the paper).

Two searches share the criterion. `plain` is the published one (Ruppert et al. 2011, the paper's
reference [12]): all voxels, planes tried on a quarter of the scale, then on the full scale. `fast`
samples mirror pairs about the brain's centre, climbs along the analytic gradient from coarse to
fine, and gives less weight to pairs that no plane makes alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from landmarking.errors import ConfigError, ScanError
from landmarking.geometry import Array, Plane
from landmarking.imaging.bias import flattened, head_mask
from landmarking.imaging.brain_centre import brain_centre
from landmarking.imaging.levels import Level, coarser_levels
from landmarking.imaging.plane_search import coarse_start, fast_search, plain_search, sagittal
from landmarking.imaging.symmetry import Frame, grid_score, mirror_pairs, pair_symmetry

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
