"""The paper's network without batch normalisation, which sees only its own process's slices."""

from __future__ import annotations

from torch import nn

from landmarking.models.coordinate_cnn import CoordinateCNN


class NormFree(CoordinateCNN):
    """As its parent, with every slice treated by itself."""

    def _initialise(self, initialisation: str, initial_sd: float) -> None:
        for block in self.features:
            if isinstance(block, nn.Sequential):
                block[1] = nn.Identity()
        super()._initialise(initialisation, initial_sd)
