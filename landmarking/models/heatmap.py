"""Encoder-decoder with one heatmap per landmark and an expectation head."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from landmarking.errors import ConfigError
from landmarking.models.expectation import ExpectationNetwork


class HeatmapNetwork(ExpectationNetwork):
    """Slices to coordinates through the heatmaps of a slim encoder-decoder.

    Attributes:
        stride: Image pixels for one heatmap pixel.
    """

    def __init__(
        self,
        *,
        image_size: Sequence[int],
        mean_px: Sequence[Sequence[float]],
        channels: Sequence[int] = (24, 32, 48, 64, 64),
        stride: int = 2,
        dropout: float = 0.0,
        spread_weight: float = 0.05,
        spread_target_px: float = 2.0,
    ) -> None:
        """Build the network from the global random state.

        Args:
            image_size: Rows and columns (H, W) of a slice.
            mean_px: Mean training position of each landmark; only its length L is used.
            channels: Channels from the finest level to the coarsest; each level halves the last.
            stride: Image pixels for one heatmap pixel, 1, 2 or 4.
            dropout: Probability for whole channels of the coarsest level.
            spread_weight: Weight of the penalty on spread, pixels of loss for a pixel of spread.
            spread_target_px: Standard deviation of a heatmap that costs nothing.

        Raises:
            ConfigError: If an argument is out of range.
        """
        super().__init__(spread_weight, spread_target_px)
        _check(channels, stride, dropout)
        self.stride = stride
        self.stem = _block(1, channels[0], stride=min(stride, 2), kernel=5)
        self.down = nn.ModuleList(_block(a, b, stride=2) for a, b in pairwise(channels))
        self.deep = nn.ModuleList(_block(width, width) for width in channels[1:])
        self.rest = nn.Dropout2d(dropout)
        # A stride of 4 leaves out the last and dearest step up; the level below has seen its
        # features all the same.
        finest = 1 if stride == 4 else 0
        self.up = nn.ModuleList(
            _block(fine + coarse, fine)
            for fine, coarse in reversed(list(pairwise(channels[finest:])))
        )
        self.head = nn.Conv2d(channels[finest], len(mean_px), kernel_size=3, padding=1)
        rows, columns = ((side - 1) // stride + 1 for side in image_size)
        self.place(torch.arange(rows) * float(stride), torch.arange(columns) * float(stride))

    def scores(self, images: Tensor) -> Tensor:
        """Logarithm of each heatmap up to a constant, shape (B, L, H / stride, W / stride)."""
        features = self.stem(images)
        levels = [features]
        for down, deep in zip(self.down, self.deep, strict=True):
            features = down(features)
            features = features + deep(features)
            levels.append(features)
        features = self.rest(levels.pop())
        for up in self.up:
            finer = levels.pop()
            features = interpolate(features, size=finer.shape[-2:], mode="bilinear")
            features = up(torch.cat([finer, features], dim=1))
        scores: Tensor = self.head(features)
        return scores


def _block(inputs: int, outputs: int, *, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def _check(channels: Sequence[int], stride: int, dropout: float) -> None:
    if len(channels) < 2 or min(channels) < 1:
        raise ConfigError(
            f"model.channels has at least two levels of at least one, found {list(channels)}"
        )
    if stride not in (1, 2, 4):
        raise ConfigError(f"model.stride is 1, 2 or 4, found {stride}")
    if not 0.0 <= dropout < 1.0:
        raise ConfigError(f"model.dropout lies in 0 <= dropout < 1, found {dropout}")
