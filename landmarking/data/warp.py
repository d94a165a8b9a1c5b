"""Smooth maps of slices that move image and points together, from numbers that a seed decides.

Augmentation must come out the same whatever the batch a slice falls into, whoever its neighbours
are, on whatever device, and after a resumed run. Numbers are therefore hashes of (key, counter), as
in counter-based generators (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"),
with the 32-bit finaliser of MurmurHash3 (Appleby, public domain) as the mixer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

_LOW = 0xFFFFFFFF
_GOLDEN = 0x9E3779B1


def _mix(values: Tensor) -> Tensor:
    """Scramble 32-bit numbers held in int64; products wrap, and only the low half is kept."""
    values = values ^ (values >> 16)
    values = (values * 0x85EBCA6B) & _LOW
    values = values ^ (values >> 13)
    values = (values * 0xC2B2AE35) & _LOW
    return values ^ (values >> 16)


class Chance:
    """A stream of random numbers for each subject of a batch.

    Every call takes the next stream, so that a fixed order of calls gives fixed numbers.

    Attributes:
        size: Number of subjects, B.
        device: Where the numbers are made.
    """

    def __init__(self, seed: int, epoch: int, subjects: Tensor) -> None:
        """Key the streams.

        Args:
            seed: Seed of the run.
            epoch: Number of the epoch.
            subjects: Whole numbers that name the subjects, shape (B,), on the device to use.
        """
        key = _mix(subjects.to(torch.int64) & _LOW)
        for part in (epoch, seed):
            key = _mix((key * _GOLDEN + 1 + (part & _LOW)) & _LOW)
        self._key = key
        self._stream = 0
        self.size = len(subjects)
        self.device = subjects.device

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Numbers in [low, high), float32, shape (B, *shape)."""
        self._stream += 1
        key = _mix((self._key + self._stream * _GOLDEN) & _LOW)
        counter = torch.arange(math.prod(shape), device=self.device, dtype=torch.int64)
        bits = _mix((_mix((counter * _GOLDEN) & _LOW)[None] + key[:, None]) & _LOW)
        # 24 bits are what a float32 holds; half a step keeps zero out, as `normal` needs.
        share = ((bits >> 8).to(torch.float32) + 0.5) * 2.0**-24
        return (low + (high - low) * share).reshape(self.size, *shape)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, float32, shape (B, *shape)."""
        # One ulp below 1, so that the largest share does not become infinite in float32.
        centred = (2.0 * self.uniform(*shape) - 1.0).clamp(-1.0 + 2.0**-23, 1.0 - 2.0**-23)
        return math.sqrt(2.0) * torch.erfinv(centred)

    def happens(self, probability: float) -> Tensor:
        """One if an event of this probability happens, else zero; float32, shape (B,)."""
        return (self.uniform() < probability).to(torch.float32)


# Smooth maps of slices that move image and points together exactly.
#
# A slice is warped by looking back: output pixel q shows the source at F(q). F is affine plus a
# cubic B-spline on a knot grid, an analytic function: on the pixel grid it is two small matrix
# products, and a landmark's new place is the root of F(q) = p, found by Newton's method on the same
# function.
#
# The libraries at hand move points with affine maps only: kornia 0.9 (its elastic and thin-plate
# transforms take no keypoints), MONAI 1.6 (`ApplyTransformToPoints` takes matrices), TorchIO 1.2
# (no points).


_MARGIN = 1
"""Knots before the first pixel and after the last that a cubic B-spline reaches."""

WITHOUT_FLOAT64 = ("mps",)
"""Types of device that have no float64."""


def exact(values: Tensor) -> Tensor:
    """The same numbers in float64; on the CPU where their device has none, for a few of them."""
    near = values.cpu() if values.device.type in WITHOUT_FLOAT64 else values
    return near.double()


def knot_count(size: int, step: float) -> int:
    """Knots along an axis of `size` pixels."""
    return int(-(-(size - 1) // step)) + 1 + 2 * _MARGIN


def basis(positions: Tensor, step: float, count: int) -> Tensor:
    """Values of all cubic B-splines of an axis.

    Args:
        positions: Pixels, shape (...).
        step: Pixels from knot to knot.
        count: Number of knots.

    Returns:
        Values, shape (..., count).
    """
    knots = torch.arange(count, device=positions.device, dtype=positions.dtype) - _MARGIN
    t = (positions[..., None] / step - knots).abs()
    inner = 2.0 / 3.0 - t * t * (1.0 - 0.5 * t)
    return torch.where(t < 1.0, inner, (2.0 - t).clamp(min=0.0) ** 3 / 6.0)


def basis_slope(positions: Tensor, step: float, count: int) -> Tensor:
    """Derivatives of `basis` by position, per pixel, shape (..., count)."""
    knots = torch.arange(count, device=positions.device, dtype=positions.dtype) - _MARGIN
    offset = positions[..., None] / step - knots
    t = offset.abs()
    slope = torch.where(t < 1.0, 1.5 * t * t - 2.0 * t, -0.5 * (2.0 - t).clamp(min=0.0) ** 2)
    return torch.sign(offset) * slope / step


@lru_cache(maxsize=64)
def _pixel_basis(size: int, step: float, device: torch.device) -> Tensor:
    pixels = torch.arange(size, device=device, dtype=torch.float32)
    return basis(pixels, step, knot_count(size, step))


def spline_grid(coefficients: Tensor, step: float, size: tuple[int, int]) -> Tensor:
    """A spline on all pixels.

    Args:
        coefficients: Shape (..., knots by row, knots by column).
        step: Pixels from knot to knot.
        size: Rows and columns (H, W).

    Returns:
        Values, shape (..., H, W).
    """
    rows = _pixel_basis(size[0], step, coefficients.device)
    columns = _pixel_basis(size[1], step, coefficients.device)
    return rows @ coefficients @ columns.T


@lru_cache(maxsize=64)
def _unit_deviation(size: int, step: float) -> float:
    # The spline of white noise has the variance of its squared weights, averaged over pixels.
    weights = _pixel_basis(size, step, torch.device("cpu"))
    return float((weights**2).sum(1).mean().sqrt())


def random_field(
    chance: Chance, step: float, size: tuple[int, int], channels: int | None = None
) -> Tensor:
    """Smooth random fields with mean 0 and variance 1.

    Args:
        chance: Source of numbers.
        step: Pixels from knot to knot; details are about one and a half times as large.
        size: Rows and columns (H, W).
        channels: Number of fields, C; None gives one without a channel axis.

    Returns:
        Shape (B, C, H, W), or (B, H, W).
    """
    knots = (knot_count(size[0], step), knot_count(size[1], step))
    shape = knots if channels is None else (channels, *knots)
    deviation = _unit_deviation(size[0], step) * _unit_deviation(size[1], step)
    return spline_grid(chance.normal(*shape) / deviation, step, size)


@dataclass(frozen=True, eq=False)
class SliceWarp:
    """Map from output pixels to source pixels, one for each slice of a batch.

    Attributes:
        matrix: Linear part, shape (B, 2, 2).
        shift: Constant part, shape (B, 2).
        coefficients: Spline of the rest, pixels (x, y), shape (B, 2, rows, columns); None for an
            affine map.
        step: Pixels from knot to knot.
        size: Rows and columns (H, W) of the output.
    """

    matrix: Tensor
    shift: Tensor
    coefficients: Tensor | None
    step: float
    size: tuple[int, int]

    def at(self, points: Tensor) -> Tensor:
        """Source pixels of output pixels, (B, L, 2) to (B, L, 2)."""
        moved = points @ self.matrix.transpose(1, 2) + self.shift[:, None]
        if self.coefficients is None:
            return moved
        count_y, count_x = self.coefficients.shape[-2:]
        in_x = basis(points[..., 0], self.step, count_x)
        in_y = basis(points[..., 1], self.step, count_y)
        return moved + _along(self.coefficients, in_y, in_x)

    def slope(self, points: Tensor) -> Tensor:
        """Jacobian of `at`, shape (B, L, 2, 2)."""
        linear = self.matrix[:, None].expand(-1, points.shape[1], -1, -1)
        if self.coefficients is None:
            return linear
        count_y, count_x = self.coefficients.shape[-2:]
        x, y = points[..., 0], points[..., 1]
        in_x, in_y = basis(x, self.step, count_x), basis(y, self.step, count_y)
        by_x = _along(self.coefficients, in_y, basis_slope(x, self.step, count_x))
        by_y = _along(self.coefficients, basis_slope(y, self.step, count_y), in_x)
        return linear + torch.stack([by_x, by_y], dim=-1)

    def grid(self) -> Tensor:
        """Source pixels (x, y) of all output pixels, shape (B, H, W, 2)."""
        device = self.matrix.device
        y, x = torch.meshgrid(
            *(torch.arange(side, device=device, dtype=torch.float32) for side in self.size),
            indexing="ij",
        )
        pixels = torch.stack([x, y], dim=-1).flatten(0, 1)
        moved = pixels @ self.matrix.transpose(1, 2) + self.shift[:, None]
        moved = moved.reshape(-1, *self.size, 2)
        if self.coefficients is not None:
            moved = moved + spline_grid(self.coefficients, self.step, self.size).movedim(1, -1)
        return moved

    def carry(self, points: Tensor, rounds: int = 8) -> Tensor:
        """Output pixels of source points: where a landmark of the source is seen afterwards.

        Args:
            points: Source pixels, shape (B, L, 2); NaN where missing.
            rounds: Newton steps; each is at most 8 px long.

        Returns:
            Output pixels, shape (B, L, 2), NaN where missing; computed by `exact`.
        """
        precise = self.double()
        known = torch.isfinite(points).all(dim=-1, keepdim=True)
        goal = exact(torch.where(known, points, 0.0))
        found = torch.linalg.solve(precise.matrix, (goal - precise.shift[:, None]).mT).mT
        for _ in range(rounds):
            miss = precise.at(found) - goal
            move = torch.linalg.solve(precise.slope(found), miss[..., None])[..., 0]
            length = torch.linalg.vector_norm(move, dim=-1, keepdim=True)
            found = found - move * (8.0 / length.clamp(min=8.0))
        return torch.where(known, found.to(points.dtype).to(points.device), torch.nan)

    def double(self) -> SliceWarp:
        """The same map in float64, see `exact`."""
        coefficients = None if self.coefficients is None else exact(self.coefficients)
        return SliceWarp(exact(self.matrix), exact(self.shift), coefficients, self.step, self.size)

    def sample(self, images: Tensor, mode: str = "bilinear") -> Tensor:
        """Look back into the source, linearly or by cubic convolution; zero outside it.

        Args:
            images: Source slices, shape (B, C, H', W').
            mode: `bilinear` or `bicubic`.

        Returns:
            Warped slices, shape (B, C, H, W).
        """
        # grid_sample counts from -1 to 1 over pixel centres with align_corners.
        rows, columns = images.shape[-2:]
        span = torch.tensor([columns - 1, rows - 1], device=images.device, dtype=torch.float32)
        at = 2.0 * self.grid() / span - 1.0
        return grid_sample(images, at, mode=mode, padding_mode="zeros", align_corners=True)


def _along(coefficients: Tensor, in_y: Tensor, in_x: Tensor) -> Tensor:
    return torch.einsum("bcyx,bly,blx->blc", coefficients, in_y, in_x)


def pose(
    turn_rad: Tensor, scale: Tensor, shift_px: Tensor, centre_px: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """Linear and constant part of a look-back map that turns, scales and shifts what is seen.

    Args:
        turn_rad: Angle, shape (B,); positive turns x (posterior) towards y (inferior).
        scale: Size of what is seen, by axis (x, y), shape (B, 2).
        shift_px: Where the centre goes, shape (B, 2).
        centre_px: Fixed point (x, y) of turn and scale.

    Returns:
        Matrix, shape (B, 2, 2), and shift, shape (B, 2).
    """
    cosine, sine = torch.cos(turn_rad), torch.sin(turn_rad)
    # Looking back is the inverse: first turn back, then divide by the scale.
    turned = torch.stack([torch.stack([cosine, sine], -1), torch.stack([-sine, cosine], -1)], -2)
    matrix = turned / scale[..., None]
    centre = torch.tensor(centre_px, device=scale.device, dtype=scale.dtype)
    shift = centre - (matrix @ (centre + shift_px)[..., None])[..., 0]
    return matrix, shift


@lru_cache(maxsize=8)
def knot_pixels(counts: tuple[int, int], step: float, device: torch.device) -> Tensor:
    """Pixels (x, y) of all knots, row by row, shape (rows * columns, 2)."""
    y, x = torch.meshgrid(
        *((torch.arange(count, device=device) - 1.0) * step for count in counts), indexing="ij"
    )
    return torch.stack([x, y], dim=-1).flatten(0, 1)


def thin_plate(source: Tensor, target: Tensor, points: Tensor, stiffness: float = 2.0) -> Tensor:
    """Thin-plate spline that takes source to target, at points; shapes (B, N, 2), (B, M, 2).

    Source: Bookstein 1989; `stiffness` (Wahba 1990) trades exactness for smoothness, so that
    close neighbours do not tear. Landmarks stay exact: they are carried by the final map.
    """
    batch, count = source.shape[:2]
    ones = torch.ones(batch, count, 1, device=source.device)
    affine = torch.cat([ones, source / 100.0], dim=-1)
    kernel = _plate(source, source) + stiffness / 1e4 * torch.eye(count, device=source.device)
    corner = torch.zeros(batch, 3, 3, device=source.device)
    system = torch.cat(
        [torch.cat([kernel, affine], -1), torch.cat([affine.transpose(1, 2), corner], -1)], 1
    )
    right = torch.cat([target - source, torch.zeros(batch, 3, 2, device=source.device)], dim=1)
    weights = torch.linalg.solve(exact(system), exact(right)).float().to(source.device)
    ones = torch.ones(batch, points.shape[1], 1, device=source.device)
    rows = torch.cat([_plate(points, source), ones, points / 100.0], dim=-1)
    moved: Tensor = points + rows @ weights
    return moved


def _plate(points: Tensor, centres: Tensor) -> Tensor:
    squared: Tensor = ((points[:, :, None] - centres[:, None]) / 100.0).square().sum(-1)
    return squared * torch.log(squared + 1e-9)


def interpolating(values: Tensor) -> Tensor:
    """Spline coefficients that meet values, shape (B, 2, rows, columns), at all knots."""
    rows, columns = values.shape[-2:]
    return _prefilter(rows, values.device) @ values @ _prefilter(columns, values.device).T


@lru_cache(maxsize=8)
def _prefilter(count: int, device: torch.device) -> Tensor:
    at_knots = basis(torch.arange(count, dtype=torch.float64) - 1.0, 1.0, count)
    inverse: Tensor = torch.linalg.inv(at_knots)
    return inverse.float().to(device)
