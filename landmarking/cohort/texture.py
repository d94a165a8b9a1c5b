"""Random textures, looked up by position: the same person keeps them from scan to scan."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from landmarking.cohort.anatomy import Float32, Volume

_SIZE = 80


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
        # As np.mod, at a fifth of its time.
        period = np.float32(self.period_mm)
        turns = points_mm / period
        np.floor(turns, out=turns)
        turns *= period
        return self.cube.at(np.subtract(points_mm, turns, out=turns))


def texture(rng: np.random.Generator, wavelength_mm: float, width: float = 0.35) -> Texture:
    """Draw a field whose waves have about one length.

    Args:
        rng: Source of chance.
        wavelength_mm: Middle of the band.
        width: SD of the band, as a share of its middle; large values give rougher fields.
    """
    spacing = wavelength_mm / 8.0
    frequency = np.fft.fftfreq(_SIZE, spacing)
    half = np.fft.rfftfreq(_SIZE, spacing)
    squared = frequency[:, None, None] ** 2 + frequency[:, None] ** 2 + half**2
    middle = 1.0 / wavelength_mm
    band = np.exp(-0.5 * ((np.sqrt(squared) - middle) / (width * middle)) ** 2)
    band[0, 0, 0] = 0.0
    waves = np.fft.rfftn(rng.standard_normal((_SIZE,) * 3, dtype=np.float32)) * band
    field = np.fft.irfftn(waves, (_SIZE,) * 3, axes=(0, 1, 2))
    field = np.pad(field / field.std(), (0, 1), mode="wrap")
    return Texture(
        Volume(np.asarray(field, dtype=np.float32), np.zeros(3), spacing), _SIZE * spacing
    )
