"""Two ways to the plane of greatest symmetry: along the gradient, and by trying planes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from landmarking.geometry import LEFT, Array, Plane
from landmarking.imaging.levels import Level, block_mean
from landmarking.imaging.symmetry import Frame, Pairs, grid_score, pair_symmetry


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
