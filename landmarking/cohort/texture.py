"""Random textures, looked up by position: the same person keeps them from scan to scan."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from landmarking.cohort.anatomy import Float32, Volume

_SIZE = 64


@dataclass(frozen=True, eq=False)
class Texture:
    """A periodic random field with mean 0 and SD 1.

    Attributes:
        cube: One period and one voxel more, so that look-ups go on across its edge.
        period_mm: Length of the period.
    """

    cube: Volume
    period_mm: float

    def at(self, points_mm: Float32) -> Float32:
        """Values at points of shape (3, N), shape (N,)."""
        return self.cube.at(self._within(points_mm))

    def nearest(self, points_mm: Float32) -> Float32:
        """As `at`, without interpolation: for grain finer than a voxel."""
        points = self._within(points_mm)
        points *= np.float32(1.0 / self.cube.spacing_mm)
        points += np.float32(0.5)
        i, j, k = points.astype(np.int32)
        size = np.int32(_SIZE + 1)
        return np.asarray(self.cube.data.ravel()[(i * size + j) * size + k])

    def _within(self, points_mm: Float32) -> Float32:
        period = np.float32(self.period_mm)
        turns: Float32 = points_mm * (np.float32(1.0) / period)
        np.floor(turns, out=turns)
        turns *= period
        np.subtract(points_mm, turns, out=turns)
        np.maximum(turns, 0.0, out=turns)
        return turns


def texture(rng: np.random.Generator, wavelength_mm: float, width: float = 0.35) -> Texture:
    """Draw a field whose waves have about one length.

    Args:
        rng: Source of chance.
        wavelength_mm: Middle of the band.
        width: SD of the band, as a share of its middle; large values give rougher fields.
    """
    from scipy import fft

    spacing = wavelength_mm / 8.0
    band = _band(width)
    # White noise is white in frequency as well, so that one transform is enough.
    waves = rng.standard_normal((*band.shape, 2), dtype=np.float32).view(np.complex64)[..., 0]
    waves *= band
    field = fft.irfftn(waves, (_SIZE,) * 3, overwrite_x=True)
    field = np.pad(field / field.std(), (0, 1), mode="wrap")
    return Texture(
        Volume(np.asarray(field, dtype=np.float32), np.zeros(3), spacing), _SIZE * spacing
    )


@lru_cache(maxsize=4)
def _band(width: float) -> Float32:
    """Strength of the waves of a period, shape (S, S, S // 2 + 1); the middle is an eighth."""
    squared = np.fft.fftfreq(_SIZE) ** 2
    half = np.fft.rfftfreq(_SIZE) ** 2
    length = 8.0 * np.sqrt(squared[:, None, None] + squared[:, None] + half)
    band = np.exp(-0.5 * ((length - 1.0) / width) ** 2)
    band[0, 0, 0] = 0.0
    return np.asarray(band, dtype=np.float32)
