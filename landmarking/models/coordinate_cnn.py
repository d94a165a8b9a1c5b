"""The paper's network: convolution blocks, then dense layers, to landmark coordinates.

Convolutions may be rounded to 16 bits, coordinates may not: one of 100 pixels has steps of half a
pixel in bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn

from landmarking.errors import ConfigError

_Result = TypeVar("_Result")


def in_float32(function: Callable[[Tensor], _Result], values: Tensor) -> _Result:
    """A function's result without autocast; where there is none, exactly what it gives.

    Args:
        function: What is computed.
        values: Its argument; float32 if autocast is on, else as it comes.
    """
    kind = values.device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return function(values)
    with torch.autocast(kind, enabled=False):
        return function(values.float())


# The paper's network: convolution blocks, then dense layers, to landmark coordinates.
#
# Section 2: "four blocks comprising each a convolutional layer, a batch normalization layer, a ReLU
# and a max-pooling layer, followed by three fully connected layers, together with ReLU and dropout
# layers". The widths (32 to 256 channels, 1,000 and 500 units, dropout 0.5) are those of the
# authors' public scripts; the text does not give them.


INITIALISATIONS = ("normal", "kaiming", "torch")


class CoordinateCNN(nn.Module):
    """Slices to coordinates, sized by computation from the image.

    Attributes:
        features: Blocks of convolution, batch normalisation, pooling and ReLU. Pooling comes before
            the ReLU: both orders give the same numbers, and this one has four times fewer.
        head: Dense layers.
        mean_px: Buffer, shape (L, 2): where the output starts if `centred`, else zero.
    """

    mean_px: Tensor

    def __init__(
        self,
        *,
        image_size: Sequence[int],
        mean_px: Sequence[Sequence[float]],
        channels: Sequence[int] = (32, 64, 128, 256),
        pools: int | None = None,
        hidden: Sequence[int] = (1000, 500),
        dropout: float = 0.5,
        stem_pool: int = 1,
        initialisation: str = "normal",
        initial_sd: float = 0.1,
        centred: bool = False,
        scale_px: float = 1.0,
    ) -> None:
        """Build and initialise the network from the global random state.

        Args:
            image_size: Rows and columns (H, W) of a slice.
            mean_px: Mean training position of each landmark, slice pixels (x, y), shape (L, 2).
            channels: Output channels of each block.
            pools: How many of the blocks end with a 2 x 2 max-pool, counted from the first; all if
                not given. The authors' scripts have three for four blocks.
            hidden: Units of the dense layers before the last.
            dropout: Probability after each hidden dense layer.
            stem_pool: Side of an average-pool ahead of the first block; 1 is none.
            initialisation: `normal` (the paper: every weight from N(0, `initial_sd`), biases zero),
                `kaiming` (He et al. 2015, last layer zero), or `torch` (the library's default).
            initial_sd: Standard deviation of `normal`.
            centred: Start at the mean position, as an offset that is not learned.
            scale_px: Pixels for one unit of the last layer's output.

        Raises:
            ConfigError: If an argument is out of range or the image is too small for the pools.
        """
        super().__init__()
        pools = len(channels) if pools is None else pools
        _check(channels, hidden, pools, dropout, initialisation)
        self.scale_px = float(scale_px)
        mean = torch.as_tensor(mean_px, dtype=torch.float32)
        self.register_buffer("mean_px", mean if centred else torch.zeros_like(mean))
        blocks: list[nn.Module] = [nn.AvgPool2d(stem_pool)] if stem_pool > 1 else []
        size = [side // stem_pool for side in image_size]
        previous = 1
        for number, width in enumerate(channels):
            pooled = number < pools
            blocks.append(_block(previous, width, pooled))
            size = [side // 2 for side in size] if pooled else size
            previous = width
        if min(size) < 1:
            raise ConfigError(
                f"model: {pools} pools after a stem of {stem_pool} leave nothing of "
                f"{image_size[0]} x {image_size[1]} pixels; take fewer"
            )
        self.features = nn.Sequential(*blocks)
        self.feature_count = previous * size[0] * size[1]
        self.head = _dense([self.feature_count, *hidden, 2 * len(mean)], dropout)
        self._initialise(initialisation, initial_sd)

    def forward(self, images: Tensor) -> Tensor:
        """Predict slice pixels.

        Args:
            images: Normalised slices, shape (B, 1, H, W).

        Returns:
            Slice pixels (x, y), shape (B, L, 2), float32.
        """
        return in_float32(self._points, self.features(images).flatten(1))

    def _points(self, features: Tensor) -> Tensor:
        offset = self.head(features).float().unflatten(1, (-1, 2))
        predicted: Tensor = self.mean_px + self.scale_px * offset
        return predicted

    @torch.no_grad()
    def _initialise(self, initialisation: str, initial_sd: float) -> None:
        layers = [m for m in self.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        if initialisation == "torch":
            return
        for layer in layers:
            if initialisation == "normal":
                nn.init.normal_(layer.weight, 0.0, initial_sd)
            else:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        if initialisation == "kaiming":
            nn.init.zeros_(layers[-1].weight)


def _block(inputs: int, outputs: int, pooled: bool) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1)
    # The normalisation takes the batch's mean away, and this bias with it: its gradient is zero.
    # What is computed of it is rounding error, which Adam would scale up to whole steps.
    assert convolution.bias is not None
    convolution.bias.requires_grad_(False)
    layers: list[nn.Module] = [convolution, nn.BatchNorm2d(outputs)]
    if pooled:
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.ReLU(inplace=True))


def _dense(widths: Sequence[int], dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths[:-1]):
        layers += [nn.Linear(inputs, outputs), nn.ReLU(inplace=True), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))


def _check(
    channels: Sequence[int], hidden: Sequence[int], pools: int, dropout: float, initialisation: str
) -> None:
    if min((*channels, *hidden), default=1) < 1:
        raise ConfigError(
            f"model.channels and model.hidden are 1 or more each, found {list(channels)} and "
            f"{list(hidden)}"
        )
    if not channels or not 0 <= pools <= len(channels):
        raise ConfigError(
            f"model.pools counts blocks that end with a pool: 0 to {len(channels)}, found {pools}"
        )
    if not 0.0 <= dropout < 1.0:
        raise ConfigError(f"model.dropout lies in 0 <= dropout < 1, found {dropout}")
    if initialisation not in INITIALISATIONS:
        raise ConfigError(
            f"model.initialisation is one of {', '.join(INITIALISATIONS)}, found {initialisation!r}"
        )
