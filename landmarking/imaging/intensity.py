"""Intensities: the slow bias of a volume; histogram matching and normalisation of a slice."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from landmarking.errors import ConfigError, ScanError
from landmarking.files import atomic_path
from landmarking.geometry import Array
from landmarking.imaging.symmetry import Level, Mask


def head_mask(level: Level) -> Mask:
    """Voxels that are not air: above 0.3 of the mean of those above the mean.

    Args:
        level: Volume whose background is dark, of 4 to 8 mm voxels, in which noise is averaged out.

    Returns:
        Mask of the volume's shape; empty where the volume does not vary.
    """
    volume = level.volume
    above: Mask = np.greater(volume, volume.mean())
    if not above.any():
        return above
    mask: Mask = np.greater(volume, 0.3 * volume[above].mean())
    return mask


def flattened(fine: Level, coarse: Level, width_mm: float) -> Level:
    """Divide a volume by the local mean of the head's brightness.

    A coil that is brighter on one side makes a symmetric head unequal, and a search for symmetry
    would answer by moving the plane. The mean is symmetric where the head is.

    Args:
        fine: Volume to flatten.
        coarse: Block average of the same volume, from which the mean is taken.
        width_mm: Standard deviation of the Gaussian that the mean is weighted with.

    Returns:
        Volume on the grid of `fine`, about 1 in the head.
    """
    mask = head_mask(coarse).astype(np.float32)
    sigma = width_mm / np.linalg.norm(coarse.affine[:3, :3], axis=0)
    count = _smooth(mask, sigma) + 0.02
    mean = float(coarse.volume[mask > 0].mean())
    field = np.full_like(mask, mean)
    # Where the head ends the mean is one-sided and falls short of the slope; what is left after
    # one division is found by the next.
    for _ in range(3):
        # Far from the head there is nothing to average, and the field stays as it is.
        field *= (_smooth(coarse.volume / field * mask, sigma) + 0.02) / count
    return Level((fine.volume / _upsampled(field, coarse, fine)).astype(np.float32), fine.affine)


def _smooth(volume: Array, sigma: Array) -> Array:
    smooth = ndimage.gaussian_filter(volume, sigma, mode="constant", truncate=3.0)
    return np.maximum(np.asarray(smooth, dtype=np.float32), 0.0)


def _upsampled(field: Array, coarse: Level, fine: Level) -> Array:
    """Linear interpolation from coarse to fine, axis by axis, as three matrix products."""
    matrix = coarse.world_to_voxel @ fine.affine
    for axis, length in enumerate(fine.volume.shape):
        last = field.shape[axis] - 1
        # Blocks keep the axes: a coarse index depends on the fine index of the same axis alone.
        position = np.clip(np.arange(length) * matrix[axis, axis] + matrix[axis, 3], 0, last)
        weights = np.maximum(0.0, 1.0 - np.abs(position[:, None] - np.arange(last + 1)))
        product = np.tensordot(weights.astype(np.float32), field, axes=(1, axis))
        field = np.moveaxis(product, 0, axis)
    return field


# Intensities of slices: histogram matching to a reference, and normalisation.
#
# Over a whole slice, air, scalp and neck decide what the brain looks like after the matching.
# Slices of the common space know where the brain is, so only the pixels of the template's brain
# count; docs/results.md has the measurement.


INTENSITIES = ("matched", "scaled")
"""Histograms matched to the reference, as in the paper, or each slice scaled by itself."""

BRIGHTEST = 1.5
"""Scaled intensities end here; arteries and fat lie above, and say nothing about a landmark."""

NORMALISATIONS = ("image", "batch", "none")
"""Per image (default), over the whole batch (the authors' code), or not at all."""

AIR_SHARE = 0.1
"""Part of the intensity range, from the lowest, that counts as air in the normalisation."""

_TINY = 1e-6


@dataclass(frozen=True, eq=False)
class Reference:
    """What histograms are matched to.

    Attributes:
        image: Intensities, float32, shape (H, W); or of a mean reference, quantiles, shape (Q,).
        region: Pixels of a slice whose histogram counts, bool, shape (H, W).
        source: `template`, or the path that it was read from.
    """

    image: NDArray[np.float32]
    region: NDArray[np.bool_]
    source: str

    @property
    def digest(self) -> str:
        """SHA-256 over values and region, hexadecimal; recorded with whatever was matched."""
        digest = hashlib.sha256()
        for part in (np.asarray(self.image, "<f4"), self.region):
            digest.update(f"{part.shape}".encode() + np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()

    @property
    def values(self) -> NDArray[np.float32]:
        """The intensities that count, shape (N,)."""
        return self.image[self.region] if self.image.ndim == 2 else self.image


def match_histogram(
    image: Array, reference: Array | Reference, region: NDArray[np.bool_] | None = None
) -> NDArray[np.float32]:
    """Give an image the intensity distribution of a reference, by scikit-image.

    Only pixels within the region count on either side; the map that scikit-image finds for them is
    carried to all others, held constant above its end and led to the reference's darkest below it.
    Pixels of the image's lowest intensity are air or outside the field of view and never count.

    Args:
        image: Intensities, shape (H, W).
        reference: A reference with its own region; or intensities, shape (H, W).
        region: Pixels that count, bool, shape (H, W), where the reference has none; all by default.

    Returns:
        Matched intensities, float32, shape (H, W); no two pixels change their order.

    Raises:
        ScanError: If a shape does not fit, or intensities are not finite.
    """
    if not isinstance(reference, Reference):
        every = np.ones(reference.shape, dtype=bool)
        reference = Reference(
            np.asarray(reference, np.float32), every if region is None else region, "image"
        )
    _check_match(image, reference)
    image = np.asarray(image, dtype=np.float32)
    from skimage.exposure import match_histograms

    darkest = image.min()
    source = image[reference.region & (image > darkest)]
    if source.size == 0:
        return np.full(image.shape, reference.image.min(), dtype=np.float32)
    matched = match_histograms(source, reference.values)
    order = np.argsort(source, kind="stable")
    known = np.concatenate([[darkest], source[order]])
    target = np.concatenate([[reference.image.min()], matched[order]])
    return np.asarray(np.interp(image, known, target), dtype=np.float32)


def _check_match(image: Array, reference: Reference) -> None:
    if image.shape != reference.region.shape:
        raise ScanError(
            f"histogram matching: the image has shape {image.shape} and the reference's region "
            f"{reference.region.shape}; make both with the same slice size and crop"
        )
    for what, values in (("image", image), ("reference", reference.values)):
        if values.size == 0 or not np.isfinite(values).all():
            raise ScanError(f"histogram matching: the {what} must be finite and not empty")


def scaled(image: Array) -> NDArray[np.float32]:
    """Scale a slice by its own 1st and 99th percentile, to 0 and 1.

    Air stays air: what lies below the 1st percentile becomes 0. No other slice and no template
    decides what a person's brain looks like, so all groups are treated alike.

    Args:
        image: Intensities, shape (H, W).

    Returns:
        Intensities from 0 to `BRIGHTEST`, float32, shape (H, W); zeros for a constant image.

    Raises:
        ScanError: If intensities are not finite.
    """
    values = np.asarray(image, dtype=np.float32)
    if values.size == 0 or not np.isfinite(values).all():
        raise ScanError("intensities of a slice must be finite and not empty")
    low, high = np.percentile(values, [1.0, 99.0])
    return np.asarray(np.clip((values - low) / max(high - low, _TINY), 0.0, BRIGHTEST), np.float32)


def finished(image: Array, reference: Reference, how: str = "matched") -> NDArray[np.float32]:
    """A raw slice as models see it, but for the normalisation.

    Args:
        image: Intensities, shape (H, W).
        reference: What histograms are matched to.
        how: `matched` or `scaled`.

    Raises:
        ScanError: If shapes do not fit, or intensities are not finite.
    """
    return scaled(image) if how == "scaled" else match_histogram(image, reference)


def mean_quantiles(
    images: Iterable[Array], region: NDArray[np.bool_], count: int = 1024
) -> NDArray[np.float32]:
    """Mean histogram of a training set: quantiles averaged over its slices.

    Each slice is first scaled by its own 1st and 99th percentile within the region, because
    scanners agree on no unit.

    Args:
        images: Raw slices, each of shape (H, W), of the training persons only.
        region: Pixels that count, bool, shape (H, W).
        count: Number of quantiles.

    Returns:
        Intensities in rising order, about 0 to 1, float32, shape (count,).

    Raises:
        ScanError: If there is no image.
    """
    rows = []
    for image in images:
        quantiles = np.quantile(image[region], np.linspace(0.0, 1.0, count))
        low, high = np.quantile(image[region], [0.01, 0.99])
        rows.append((quantiles - low) / max(float(high - low), _TINY))
    if not rows:
        raise ScanError("a mean reference needs at least one slice; give the training set's")
    return np.asarray(np.mean(rows, axis=0), dtype=np.float32)


def save_reference(path: Path, values: Array) -> None:
    """Write the values of a reference as `.npy`, as a whole; see `files.atomic_path`."""
    with atomic_path(path) as temporary, temporary.open("wb") as handle:
        np.save(handle, np.asarray(values, dtype=np.float32))


def read_reference(path: Path) -> NDArray[np.float32]:
    """Read what `save_reference` wrote.

    Raises:
        ScanError: If the file is missing, damaged, or holds no finite numbers of one or two axes.
    """
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ScanError(f"{path}: cannot be read as a histogram reference ({error})") from error
    real = isinstance(values, np.ndarray) and values.dtype.kind in "fiu"
    if not real or values.ndim not in (1, 2) or not values.size or not np.isfinite(values).all():
        raise ScanError(
            f"{path}: a histogram reference holds finite numbers along one or two axes; "
            "write it with save_reference"
        )
    return np.asarray(values, dtype=np.float32)


def normalise(image: Array) -> NDArray[np.float32]:
    """Shift and scale so that what is not air has mean 0 and variance 1.

    Air is what lies within the darkest tenth of the range from the lowest to the highest intensity;
    with it, the field of view would decide how bright the brain is. Without any such pixels (or any
    others), all pixels count.

    Args:
        image: Intensities of any shape.

    Returns:
        Normalised intensities, float32, same shape; all zeros for a constant image.
    """
    values = np.asarray(image, dtype=np.float32)
    low, high = float(values.min()), float(values.max())
    if high - low <= _TINY * max(1.0, abs(low)):
        return np.zeros_like(values)
    head = values[values > low + AIR_SHARE * (high - low)].astype(np.float64)
    deviation = float(head.std())
    if deviation <= _TINY * (high - low):
        head, deviation = values.astype(np.float64), float(values.std(dtype=np.float64))
    return np.asarray((values - float(head.mean())) / deviation, dtype=np.float32)


def normalise_images(images: Array, how: str = "image") -> NDArray[np.float32]:
    """Normalise a batch of slices.

    Args:
        images: Intensities, shape (B, H, W).
        how: `image` for each by itself; `batch` by the mean and deviation of the whole batch, as
            the authors' code does (a prediction then depends on its neighbours); `none`.

    Returns:
        Normalised intensities, float32, shape (B, H, W).

    Raises:
        ConfigError: If `how` is unknown.
    """
    if how == "image":
        return np.stack([normalise(image) for image in images]) if len(images) else images
    if how == "batch":
        return normalise(images)
    if how == "none":
        return np.asarray(images, dtype=np.float32)
    raise ConfigError(f"normalisation is one of {', '.join(NORMALISATIONS)}, found {how!r}")
