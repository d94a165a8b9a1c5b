"""The scanner: where the head lies in the field of view, and what the image suffers."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from landmarking.geometry import Array, rigid_matrix
from landmarking.phantom.anatomy import Float32
from landmarking.phantom.fields import SmoothField, smooth_field

_SLAB = 8
"""Planes worked on at once."""
_POOL = 2**19
"""Numbers that the noise of a scan is taken from."""


@dataclass
class ScannerSettings:
    """Pose, field of view, voxels and artefacts.

    Attributes:
        voxel_mm: Smallest and largest voxel edge.
        anisotropic: Share of scans whose voxels are longer along one axis.
        field_mm: Mean field of view along left-right, front-back and up-down.
        field_sd_mm: SD of each.
        turn_deg: SD of pitch, roll and yaw.
        shift_mm: SD of the head's position in the field of view, along each axis.
        orientations: Orientation codes to draw from; empty for all 48.
        bias: SD of the log bias field.
        noise: Smallest and largest noise SD, as a share of white matter.
        blur_mm: Largest SD of the blur.
        ghosts: Largest amplitude of a motion ghost; half of the scans have one.
        ringing: Largest strength of truncation ringing, 0 to 1; half of the scans have it.
        gamma: SD of the log exponent of the intensities.
    """

    voxel_mm: list[float] = field(default_factory=lambda: [0.8, 1.3])
    anisotropic: float = 0.3
    field_mm: list[float] = field(default_factory=lambda: [176.0, 232.0, 224.0])
    field_sd_mm: float = 8.0
    turn_deg: list[float] = field(default_factory=lambda: [8.0, 3.0, 4.0])
    shift_mm: float = 4.0
    orientations: list[str] = field(default_factory=list)
    bias: float = 0.15
    noise: list[float] = field(default_factory=lambda: [0.01, 0.05])
    blur_mm: float = 0.7
    ghosts: float = 0.03
    ringing: float = 0.5
    gamma: float = 0.1


@dataclass(frozen=True, eq=False)
class ScannerFrame:
    """Grid of one scan, before its axes are permuted.

    Attributes:
        affine: Voxel to world RAS mm, shape (4, 4); axes run right, front, up.
        shape: Voxels by axis.
        pose: Head (the template's frame) to world, rigid, shape (4, 4).
        voxel_mm: Voxel size, shape (3,).
        codes: Orientation code that the file will have, such as `PIL`.
    """

    affine: Array
    shape: tuple[int, int, int]
    pose: Array
    voxel_mm: Array
    codes: str


def scanner_frame(settings: ScannerSettings, rng: np.random.Generator) -> ScannerFrame:
    """Draw pose, voxels, field of view and orientation of one scan."""
    smallest, largest = settings.voxel_mm
    voxel = np.full(3, rng.uniform(smallest, largest))
    if rng.random() < settings.anisotropic:
        voxel[rng.integers(3)] = rng.uniform(voxel[0], largest)
    extent = np.array(settings.field_mm) + settings.field_sd_mm * rng.standard_normal(3).clip(-1, 2)
    shape = np.rint(extent / voxel).astype(int)
    pitch, roll, yaw = np.array(settings.turn_deg) * rng.standard_normal(3).clip(-2.5, 2.5)
    pose = rigid_matrix(
        pitch, roll, yaw, settings.shift_mm * rng.standard_normal(3), (0.0, -20.0, 0.0)
    )
    affine = np.diag([*voxel, 1.0])
    # The vertex stays in view: the field hangs down from it, as technologists place it.
    middle = np.array([0.0, -16.0, 105.0 - 0.5 * extent[2]])
    affine[:3, 3] = middle - 0.5 * voxel * (shape - 1)
    codes = str(rng.choice(settings.orientations or _all_codes()))
    return ScannerFrame(affine, (int(shape[0]), int(shape[1]), int(shape[2])), pose, voxel, codes)


def _all_codes() -> list[str]:
    from itertools import permutations, product

    return ["".join(code) for order in permutations(("LR", "PA", "IS")) for code in product(*order)]


def acquire(
    settings: ScannerSettings, image: Float32, frame: ScannerFrame, rng: np.random.Generator
) -> NDArray[np.int16]:
    """What the scanner makes of ideal intensities.

    Args:
        settings: Sizes of the artefacts.
        image: Intensities, white matter near 1, shape (I, J, K).
        frame: Grid of the scan.
        rng: Source of chance of the scan.

    Returns:
        int16 magnitudes, white matter at 300 to 900.
    """
    blur = rng.uniform(0.3, settings.blur_mm) / frame.voxel_mm
    signal = image
    for axis, sd in enumerate(blur):
        signal = _filtered(signal, _bell(sd), axis)
    gamma = float(np.exp(settings.gamma * rng.standard_normal()))
    _coloured(signal, gamma, settings.bias, smooth_field(rng, frame.shape, frame.voxel_mm, 60.0))
    axis, side = int(rng.integers(3)), int(rng.integers(2))
    if rng.random() < 0.5:
        signal = _filtered(signal, _side_lobes(rng.uniform(0.0, settings.ringing)), axis)
    if rng.random() < 0.5:
        # Breathing and swallowing repeat the head along the phase axis.
        shift = int(image.shape[axis] * rng.uniform(0.15, 0.5)) * (1 - 2 * side)
        signal += np.float32(rng.uniform(0.0, settings.ghosts)) * np.roll(signal, shift, axis)
    least, most = settings.noise
    return _magnitude(signal, rng.uniform(least, most), rng.uniform(300.0, 900.0), rng)


def _bell(sd: float) -> Float32:
    """Gaussian weights from the middle outwards, of sum one with those of the other side."""
    offsets = np.arange(int(3.0 * sd + 0.5) + 1)
    half = np.exp(-0.5 * (offsets / sd) ** 2)
    return np.asarray(half / (2.0 * half.sum() - half[0]), dtype=np.float32)


def _side_lobes(strength: float) -> Float32:
    """Weights of ringing beside edges, as a k-space cut short leaves it, from the middle on."""
    # A sinc of 1.5 voxels under a window, mixed with the identity.
    half = np.sinc(np.arange(7) / 1.5) * np.hanning(15)[7:-1]
    half *= strength / (2.0 * half.sum() - half[0])
    half[0] += 1.0 - strength
    return np.asarray(half, dtype=np.float32)


def _filtered(values: Float32, half: Float32, axis: int) -> Float32:
    """Symmetric filter along one axis, edges going on; `half` is its weights from the middle."""
    result = np.empty_like(values)
    # Slab by slab, for a slab stays near the processor.
    across = 1 if axis == 0 else 0
    for first in range(0, values.shape[across], _SLAB):
        cut = (slice(None),) * across + (slice(first, first + _SLAB),)
        before, after = values[cut].swapaxes(0, axis), result[cut].swapaxes(0, axis)
        np.multiply(before, half[0], out=after)
        for offset, weight in enumerate(half[1:], start=1):
            part = weight * before
            after[offset:] += part[:-offset]
            after[:offset] += part[:1]
            after[:-offset] += part[offset:]
            after[-offset:] += part[-1:]
    return result


def _coloured(signal: Float32, gamma: float, strength: float, bias: SmoothField) -> None:
    """Curve of intensities and bias field, in place: powers and factors add up as logarithms."""
    for first in range(0, len(signal), _SLAB):
        part = signal[first : first + _SLAB]
        np.maximum(part, 1e-9, out=part)
        np.log(part, out=part)
        part *= np.float32(gamma)
        part += np.float32(strength) * bias.planes(first, first + _SLAB)
        np.exp(part, out=part)


def _magnitude(
    signal: Float32, sd: float, scale: float, rng: np.random.Generator
) -> NDArray[np.int16]:
    """Length of the complex signal with noise in both parts, as whole numbers.

    Every row of voxels takes a stretch of one long row of noise, from a place of its own, which is
    far quicker than drawing numbers for each voxel.
    """
    count, rows, columns = signal.shape
    pool = np.float32(sd) * rng.standard_normal(_POOL + columns, dtype=np.float32)
    stretches = np.lib.stride_tricks.sliding_window_view(pool, columns)
    starts = rng.integers(0, _POOL, (2, count, rows))
    result = np.empty(signal.shape, dtype=np.int16)
    for first in range(0, count, _SLAB):
        near = slice(first, first + _SLAB)
        real, imaginary = stretches[starts[0, near]], stretches[starts[1, near]]
        real += signal[near]
        real *= real
        imaginary *= imaginary
        real += imaginary
        np.sqrt(real, out=real)
        real *= np.float32(scale)
        np.minimum(real, 32000.0, out=real)
        np.rint(real, out=real)
        result[near] = real
    return result


def reoriented(
    data: NDArray[np.int16], tissues: NDArray[np.uint8], frame: ScannerFrame
) -> tuple[NDArray[np.int16], NDArray[np.uint8], Array]:
    """Permute and flip the axes to the orientation code of the frame; the world stays."""
    letters = ("RL", "AP", "SI")
    axes = [next(n for n, pair in enumerate(letters) if code in pair) for code in frame.codes]
    back = [code == letters[axis][1] for code, axis in zip(frame.codes, axes, strict=True)]
    cut = tuple(slice(None, None, -1) if flip else slice(None) for flip in back)
    change = np.zeros((4, 4))
    change[3, 3] = 1.0
    for new, (old, flip) in enumerate(zip(axes, back, strict=True)):
        # Column `new` says which old voxel a step along the new axis leads to.
        change[old, new] = -1.0 if flip else 1.0
        change[old, 3] = data.shape[old] - 1 if flip else 0.0
    turned = tissues.transpose(0, *(axis + 1 for axis in axes))[(slice(None), *cut)]
    return data.transpose(axes)[cut], turned, frame.affine @ change
