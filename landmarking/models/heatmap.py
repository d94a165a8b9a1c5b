"""Networks with one heatmap per landmark, whose expectation is the landmark's point.

The heatmap is a softmax over pixels and the prediction its expectation, as in integral regression
(Sun et al. 2018) and DSNT (Nibali et al. 2018): sub-pixel, differentiable, and trained with the
Euclidean loss on coordinates. The spread of the heatmap is held near a few pixels by a small
penalty in the manner of DSNT's variance term, and says how sure the network is.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from landmarking.errors import ConfigError
from landmarking.models.coordinate_cnn import in_float32


class ExpectationNetwork(nn.Module):
    """Slices to coordinates through heatmaps; a subclass makes the scores.

    Attributes:
        spread_weight: Weight of the penalty on spread in the training loss.
        spread_target_px: Standard deviation of a heatmap that costs nothing.
        penalised: Tells `LandmarkModule` that `forward` takes `with_penalty`.
    """

    penalised = True
    columns: Tensor
    rows: Tensor

    def __init__(self, spread_weight: float, spread_target_px: float) -> None:
        """Keep the settings of the penalty.

        Args:
            spread_weight: Pixels of loss for a pixel of spread.
            spread_target_px: Standard deviation of a heatmap that costs nothing.

        Raises:
            ConfigError: If an argument is out of range.
        """
        super().__init__()
        if spread_weight < 0.0 or spread_target_px <= 0.0:
            raise ConfigError(
                "model.spread_weight is not negative and model.spread_target_px positive, found "
                f"{spread_weight} and {spread_target_px}"
            )
        self.spread_weight = spread_weight
        self.spread_target_px = spread_target_px

    def place(self, rows: Tensor, columns: Tensor) -> None:
        """Say where the pixels of the heatmap lie.

        Args:
            rows: Slice pixel (y) of each row of the heatmap's pixel centres.
            columns: Slice pixel (x) of each column likewise.
        """
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)

    def scores(self, images: Tensor) -> Tensor:
        """Logarithm of each heatmap up to a constant, shape (B, L, rows, columns)."""
        raise NotImplementedError

    def heatmaps(self, images: Tensor) -> Tensor:
        """Probability of each landmark by heatmap pixel, shape (B, L, rows, columns)."""
        return in_float32(_shares, self.scores(images))

    def forward(self, images: Tensor, with_penalty: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Predict slice pixels.

        Args:
            images: Normalised slices, shape (B, 1, H, W).
            with_penalty: Return what the spread adds to the training loss as well, a scalar.

        Returns:
            Slice pixels (x, y), shape (B, L, 2), float32; and the penalty if asked for.
        """
        points, spread = self.with_spread(images)
        return (points, self.penalty(spread)) if with_penalty else points

    def with_spread(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Predict slice pixels and how widely each heatmap spreads.

        Args:
            images: Normalised slices, shape (B, 1, H, W).

        Returns:
            Slice pixels (x, y), shape (B, L, 2), and the heatmaps' standard deviation in pixels
            (root of the variance summed over both axes), shape (B, L); float32.
        """
        return in_float32(self._expected, self.heatmaps(images))

    def _expected(self, heatmaps: Tensor) -> tuple[Tensor, Tensor]:
        # Marginals first: the expectation of x needs only the sum over rows.
        along_x, along_y = heatmaps.sum(dim=-2), heatmaps.sum(dim=-1)
        x, y = along_x @ self.columns, along_y @ self.rows
        variance = along_x @ self.columns**2 - x * x + along_y @ self.rows**2 - y * y
        return torch.stack([x, y], dim=-1), variance.clamp(min=1e-4).sqrt()

    def penalty(self, spread_px: Tensor) -> Tensor:
        """What spreads, shape (B, L), away from the target add to the loss, a scalar."""
        return self.spread_weight * (spread_px - self.spread_target_px).abs().mean()


def _shares(scores: Tensor) -> Tensor:
    shares: Tensor = scores.float().flatten(2).softmax(dim=-1)
    return shares.reshape(scores.shape)


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
