"""Eq. 1 of the paper: the symmetry of a head about a plane, on coarser copies of its volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import erf, erfinv

from landmarking.geometry import Array, Plane, apply_affine

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Level:
    """One volume of several, from fine to coarse.

    Attributes:
        volume: Intensities, shape (I, J, K), at least two voxels along each axis.
        affine: Voxel index to world RAS mm, shape (4, 4).
    """

    volume: Array
    affine: Array

    @property
    def world_to_voxel(self) -> Array:
        """Inverse of the affine, shape (4, 4)."""
        return np.linalg.inv(self.affine)

    def centres_mm(self) -> Array:
        """World position of every voxel's centre, shape (I, J, K, 3)."""
        grid = np.stack(np.meshgrid(*map(np.arange, self.volume.shape), indexing="ij"), axis=-1)
        return apply_affine(self.affine, grid)


def block_mean(level: Level, factors: Sequence[int]) -> Level:
    """Average blocks of voxels; what does not fill a block at an axis' end is left out.

    Args:
        level: Volume to shrink, any memory order.
        factors: Voxels that become one, per axis.

    Returns:
        The smaller volume, float32 and C-contiguous, with the affine that keeps every block's
        centre where it was.
    """
    volume = level.volume
    # Sums of strided views cost a tenth of a mean over a reshaped array when they walk memory in
    # order; nibabel gives Fortran order, for which the walk starts at the other end.
    axes = (2, 1, 0) if volume.flags.f_contiguous else (0, 1, 2)
    for axis in axes:
        volume = _block_sum(volume, axis, factors[axis])
    scale = np.float32(1.0 / np.prod(factors))
    step = np.diag([*map(float, factors), 1.0])
    # Voxel 0 of the result is centred between voxels 0 and factor - 1.
    step[:3, 3] = (np.asarray(factors) - 1.0) / 2.0
    return Level(np.ascontiguousarray(volume, dtype=np.float32) * scale, level.affine @ step)


def _block_sum(volume: Array, axis: int, factor: int) -> Array:
    if factor == 1:
        return volume
    front = np.moveaxis(volume, axis, 0)
    length = len(front) // factor * factor
    total = front[0:length:factor] + front[1:length:factor]
    for offset in range(2, factor):
        total += front[offset:length:factor]
    return np.moveaxis(total, 0, axis)


def coarser_levels(level: Level, spacings_mm: Sequence[float]) -> list[Level]:
    """Volumes of about the given voxel sizes, each made from the one before.

    Args:
        level: Volume to start from.
        spacings_mm: Voxel sizes to reach, ascending; an axis already coarser is left as it is, and
            none falls below four voxels.

    Returns:
        One level per size, in the same order.
    """
    levels = []
    for spacing in spacings_mm:
        wanted = np.round(spacing / np.linalg.norm(level.affine[:3, :3], axis=0))
        factors = np.maximum(1, np.minimum(wanted, np.array(level.volume.shape) // 4))
        level = block_mean(level, factors.astype(int).tolist())
        levels.append(level)
    return levels


def trilinear(volume: Array, voxels: Array) -> tuple[Array, Array, Mask]:
    """Values and gradients of the trilinear interpolant.

    Args:
        volume: C-contiguous float32, shape (I, J, K).
        voxels: Positions in voxel indices, float32, shape (3, N).

    Returns:
        Values of shape (N,), gradients per voxel of shape (3, N), and a mask of shape (N,): False
        where a position lies outside the volume, whose value means nothing.
    """
    last = np.array(volume.shape)[:, None] - 2
    floor = np.floor(voxels).astype(np.int32)
    inside: Mask = np.all((floor >= 0) & (floor <= last), axis=0)
    floor = np.clip(floor, 0, last).astype(np.int32)
    x, y, z = (voxels - floor).astype(np.float32)
    columns, planes = volume.shape[2], volume.shape[1] * volume.shape[2]
    base = floor[0] * planes + floor[1] * columns + floor[2]
    flat = volume.ravel()
    # Eight neighbours, interpolated along z, then y, then x; the differences met on the way are
    # the gradient.
    edges, rises = [], []
    for corner in (0, columns, planes, planes + columns):
        near = flat.take(base + corner)
        rises.append(flat.take(base + (corner + 1)) - near)
        edges.append(near + z * rises[-1])
    step_front, step_back = edges[1] - edges[0], edges[3] - edges[2]
    front, back = edges[0] + y * step_front, edges[2] + y * step_back
    rise_front = rises[0] + y * (rises[1] - rises[0])
    rise_back = rises[2] + y * (rises[3] - rises[2])
    slopes = [
        back - front,
        step_front + x * (step_back - step_front),
        rise_front + x * (rise_back - rise_front),
    ]
    return front + x * slopes[0], np.stack(slopes), inside


# The symmetry of a head about a plane: Eq. 1 of the paper, on a whole grid or on sampled pairs.
#
# Eq. 1 is the correlation of a volume A with its mirror image B. A point counts where both it and
# its mirror image lie in the volume; a point without a partner says nothing about symmetry, and
# counting it as zero would pull the plane to the middle of the field of view.


def grid_score(level: Level, plane: Plane) -> float:
    """Eq. 1 with every voxel: the correlation of a volume with its reflection at the plane.

    Args:
        level: Volume and affine.
        plane: Plane under test, world RAS of the affine.

    Returns:
        Correlation, -1 to 1, over the voxels whose mirror image lies in the volume; 0 where there
        are none or they do not vary.
    """
    # The reflection is its own inverse, so it serves to look up each voxel's mirror image.
    matrix = level.world_to_voxel @ plane.reflection() @ level.affine
    mirrored = ndimage.affine_transform(
        level.volume, matrix, order=1, mode="constant", cval=np.nan, output=np.float32
    )
    both = np.isfinite(mirrored)
    return correlation(level.volume[both], mirrored[both])


def correlation(a: Array, b: Array) -> float:
    """Eq. 1 on two samples of shape (N,); 0 where a sample is empty or constant."""
    if a.size == 0:
        return 0.0
    # Float32 sums over millions of voxels lose the digits that tell one plane from the next.
    a, b = a - a.mean(dtype=np.float64), b - b.mean(dtype=np.float64)
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm > 0.0 else 0.0


@dataclass(frozen=True, eq=False)
class Frame:
    """A plane with axes of its own: position = centre + u * first + v * second + w * normal.

    Attributes:
        centre_mm: Point on the plane, world RAS, shape (3,).
        axes: Orthonormal rows (first, second, normal), shape (3, 3).
    """

    centre_mm: Array
    axes: Array

    @classmethod
    def on_plane(cls, plane: Plane, near_mm: Array) -> Self:
        """Frame at the foot of a point; the first axis runs posterior, the second superior."""
        posterior = np.array([0.0, -1.0, 0.0])
        first = posterior - (posterior @ plane.normal) * plane.normal
        # A normal within 6 degrees of the front-back axis needs another direction to start from.
        if np.linalg.norm(first) < 0.1:
            first = np.array([0.0, 0.0, -1.0]) - -plane.normal[2] * plane.normal
        first = first / np.linalg.norm(first)
        axes = np.stack([first, np.cross(plane.normal, first), plane.normal])
        return cls(plane.project(near_mm), axes)

    @property
    def plane(self) -> Plane:
        """The plane without its axes."""
        return Plane.from_normal(self.axes[2], self.centre_mm)

    def moved(self, step: Array) -> Frame:
        """Tilt towards the first and second axis (radians) and shift along the normal (mm).

        Args:
            step: The three parameters of the search, shape (3,).
        """
        first, second, normal = self.axes
        turned = normal + step[0] * first + step[1] * second
        turned /= np.linalg.norm(turned)
        along = first - (first @ turned) * turned
        along /= np.linalg.norm(along)
        return Frame(
            self.centre_mm + step[2] * normal, np.stack([along, np.cross(turned, along), turned])
        )


@dataclass(frozen=True, eq=False)
class Pairs:
    """Mirror pairs (u, v, w) and (u, v, -w) in the frame of a plane, with weights.

    Attributes:
        offsets_mm: Float32, shape (3, N), third row above zero.
        weights: Shape (N,), not negative.
    """

    offsets_mm: Array
    weights: Array

    def first(self, count: int) -> Pairs:
        """The first pairs of the sequence, at least 500."""
        kept = max(500, count)
        return Pairs(np.ascontiguousarray(self.offsets_mm[:, :kept]), self.weights[:kept])

    def weighted(self, factor: Array) -> Pairs:
        """The same pairs with weights multiplied by a factor of shape (N,)."""
        return replace(self, weights=self.weights * factor)


def mirror_pairs(count: int, radius_mm: float, edge_mm: float, near_mm: float) -> Pairs:
    """Quasi-random mirror pairs in a ball about the frame's centre, denser near the plane.

    Args:
        count: Number of pairs.
        radius_mm: Radius of the ball.
        edge_mm: Width at the rim over which weights fall to zero, so that what lies just inside
            or outside decides nothing.
        near_mm: Standard deviation of the distances from the plane.

    Returns:
        The same pairs for the same arguments.
    """
    # Roberts' R3 sequence: even coverage without a lattice that could lock on to the voxel grid.
    ratio = 1.2207440846057596
    steps = np.array([ratio**-1, ratio**-2, ratio**-3])
    # A ball fills at least half of the box that holds it.
    unit = (0.5 + np.arange(1, 2 * count + 1)[:, None] * steps) % 1.0
    in_plane = (2.0 * unit[:, :2] - 1.0) * radius_mm
    scale = near_mm * np.sqrt(2.0)
    across = scale * erfinv(unit[:, 2] * erf(radius_mm / scale))
    offsets = np.column_stack([in_plane, across])
    distance = np.linalg.norm(offsets, axis=1)
    kept = np.flatnonzero(distance < radius_mm)[:count]
    weights = np.minimum((radius_mm - distance[kept]) / edge_mm, 1.0)
    return Pairs(
        np.ascontiguousarray(offsets[kept].T, dtype=np.float32), weights.astype(np.float32)
    )


@dataclass(frozen=True, eq=False)
class Symmetry:
    """Eq. 1 on pairs, and how it changes with the plane.

    Attributes:
        score: Weighted correlation, -1 to 1.
        gradient: Its derivative by the step of `Frame.moved`, shape (3,).
        curvature: Gauss-Newton estimate of minus its second derivative, shape (3, 3).
        difference: Left minus right value of every pair, shape (N,).
        deviation: Standard deviation of all values.
        inside: Pairs that lie in the volume on both sides, shape (N,).
    """

    score: float
    gradient: Array
    curvature: Array
    difference: Array
    deviation: float
    inside: Mask

    def agreement(self, robustness: float) -> Array:
        """How far each pair may be trusted to belong to a symmetric head, 0 to 1, shape (N,).

        Args:
            robustness: Difference, in standard deviations of the values, that counts as a half;
                0 trusts every pair.
        """
        if robustness == 0.0 or self.deviation == 0.0:
            return np.ones_like(self.difference)
        return np.asarray(1.0 / (1.0 + (self.difference / (robustness * self.deviation)) ** 2))


def pair_symmetry(level: Level, frame: Frame, pairs: Pairs) -> Symmetry:
    """Eq. 1 on mirror pairs, with its gradient.

    A and B hold both members of every pair, in opposite order, and so have one mean m and one
    norm: S = 1 - N / D with N = sum of w (a - b)^2 and D = sum of w ((a - m)^2 + (b - m)^2).

    Args:
        level: Volume, interpolated on both sides, so that no side is smoother than the other.
        frame: Plane under test.
        pairs: Where to look; pairs outside the volume on either side count nothing.

    Returns:
        Score and derivatives; all zero where no pair is inside or the values do not vary.
    """
    left, left_slopes, left_inside = _sample(level, frame, pairs.offsets_mm, 1.0)
    right, right_slopes, right_inside = _sample(level, frame, pairs.offsets_mm, -1.0)
    inside = left_inside & right_inside
    weights = np.where(inside, pairs.weights, 0.0).astype(np.float32)
    difference = left - right
    total = float(weights.sum(dtype=np.float64))
    mean = float(weights @ (left + right)) / (2.0 * total) if total > 0.0 else 0.0
    left, right = left - np.float32(mean), right - np.float32(mean)
    spread = float(weights @ (left**2 + right**2))
    if not (spread > 0.0 and total > 0.0):
        return Symmetry(0.0, np.zeros(3), np.zeros((3, 3)), difference, 0.0, inside)
    misfit = float(weights @ difference**2) / spread
    slopes = left_slopes - right_slopes
    misfit_slope = (slopes * weights) @ difference
    spread_slope = (left_slopes * weights) @ left + (right_slopes * weights) @ right
    return Symmetry(
        score=1.0 - misfit,
        gradient=np.asarray(misfit * spread_slope - misfit_slope, np.float64) * 2.0 / spread,
        curvature=np.asarray((slopes * weights) @ slopes.T, np.float64) * 2.0 / spread,
        difference=difference,
        deviation=float(np.sqrt(spread / (2.0 * total))),
        inside=inside,
    )


def _sample(level: Level, frame: Frame, offsets: Array, side: float) -> tuple[Array, Array, Mask]:
    """Values of one side, their derivatives by the step (3, N), and the mask of the inside."""
    inverse = level.world_to_voxel
    # One product takes frame coordinates to voxels: the mirror is a sign on the third axis.
    to_voxel = (inverse[:3, :3] @ frame.axes.T).astype(np.float32)
    origin = (inverse[:3, :3] @ frame.centre_mm + inverse[:3, 3]).astype(np.float32)
    mirror = np.array([1.0, 1.0, side], np.float32)
    values, slopes, inside = trilinear(
        level.volume, (to_voxel * mirror) @ offsets + origin[:, None]
    )
    first, second, normal = to_voxel.T @ slopes
    u, v, w = offsets
    w = np.float32(side) * w
    # Tilting the normal towards an axis moves a point along that axis by its height, and down by
    # its distance along the axis.
    return values, np.stack([w * first - u * normal, w * second - v * normal, normal]), inside
