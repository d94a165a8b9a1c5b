"""Intensities of slices: histogram matching to a reference, and normalisation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from landmarking.errors import ConfigError, ScanError
from landmarking.geometry import Array

NORMALISATIONS = ("image", "batch", "none")
"""Per image (default), over the whole batch (the authors' code), or not at all."""

_TINY = 1e-6


def match_histogram(image: Array, reference: Array) -> NDArray[np.float32]:
    """Give an image the intensity distribution of a reference, by scikit-image.

    Args:
        image: Intensities, shape (H, W).
        reference: Intensities of any shape.

    Returns:
        Matched intensities, float32, shape (H, W); their order is kept.

    Raises:
        ScanError: If either is empty or not finite.
    """
    from skimage.exposure import match_histograms

    for what, values in (("image", image), ("reference", reference)):
        if values.size == 0 or not np.isfinite(values).all():
            raise ScanError(f"histogram matching: the {what} must be finite and not empty")
    # match_histograms treats float images value by value; integers would come back as float64.
    matched = match_histograms(image.astype(np.float32), reference.astype(np.float32))
    return np.asarray(matched, dtype=np.float32)


def normalise(image: Array) -> NDArray[np.float32]:
    """Shift and scale to mean 0 and variance 1; a constant image becomes all zeros.

    Args:
        image: Intensities of any shape.

    Returns:
        Normalised intensities, float32, same shape.
    """
    values = np.asarray(image, dtype=np.float32)
    mean, deviation = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
    if deviation <= _TINY * max(1.0, abs(mean)):
        return np.zeros_like(values)
    return np.asarray((values - mean) / deviation, dtype=np.float32)


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
