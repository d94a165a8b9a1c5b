"""The paper's network, convolution blocks and dense layers to coordinates; and many of them as one.

A stacked ensemble has one such network a landmark, trained as one batched computation. All members
see the same slices and share no weight; their weights are stacked along a first axis. On a GPU the
network is mapped over it, so that convolutions become grouped ones and dense layers batched
products; a CPU, where grouped convolutions are slow, does the members in turn within a step. A
member starts from the same random state, and draws the same dropout, as a run of its own with the
same seed would: it learns the same weights up to rounding.

Convolutions may be rounded to 16 bits, coordinates may not: one of 100 pixels has steps of half a
pixel in bfloat16.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from landmarking.errors import ConfigError
from landmarking.models.build import build_network

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


_DOT = "/"  # names of registered tensors may not contain dots


class StackedEnsemble(nn.Module):
    """One network a landmark, in one module.

    Attributes:
        one_per_landmark: Says that every landmark has a network, and a loss, of its own.
        members: How many there are.
        penalised: Whether members add something to the loss; the ensemble adds the sum.
    """

    one_per_landmark = True

    def __init__(
        self,
        *,
        image_size: Sequence[int],
        mean_px: Sequence[Sequence[float]],
        member: Mapping[str, Any],
    ) -> None:
        """Build every member from the same random state and stack their weights.

        Args:
            image_size: Rows and columns (H, W) of a slice.
            mean_px: Mean training position of each landmark, slice pixels, shape (L, 2).
            member: `_target_` and arguments of one single-landmark network.

        Raises:
            ConfigError: If the member's settings are wrong.
        """
        super().__init__()
        self.members = len(mean_px)
        state = torch.get_rng_state()
        networks = []
        for mean in mean_px:
            torch.set_rng_state(state)
            networks.append(build_network(member, image_size=image_size, mean_px=[mean]))
        weights, buffers = stack_module_state(networks)
        for name, weight in weights.items():
            stacked = nn.Parameter(weight.detach(), requires_grad=weight.requires_grad)
            self.register_parameter(name.replace(".", _DOT), stacked)
        kept = networks[0].state_dict()
        for name, values in buffers.items():
            self.register_buffer(name.replace(".", _DOT), values, persistent=name in kept)
        self.penalised = bool(getattr(networks[0], "penalised", False))
        # The pattern of a member without storage, kept out of the module's own children.
        pattern = copy.deepcopy(networks[0]).to("meta")
        self._pattern = [pattern]

    def forward(self, images: Tensor, with_penalty: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Predict every landmark with its own network.

        Args:
            images: Normalised slices, shape (B, 1, H, W).
            with_penalty: Return what the members add to the training loss as well, a scalar.

        Returns:
            Slice pixels (x, y), shape (B, L, 2); and the sum of the penalties if asked for.
        """
        run = self.in_turn if images.device.type == "cpu" else self.mapped
        return run(images, with_penalty)

    def mapped(self, images: Tensor, with_penalty: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """What `forward` gives, as one batched computation."""
        member = self._member(images, with_penalty)
        predicted, penalty = vmap(member, randomness="same")(self._weights(), self._buffers_now())
        points: Tensor = predicted.squeeze(2).transpose(0, 1)
        return (points, penalty.sum()) if with_penalty else points

    def in_turn(self, images: Tensor, with_penalty: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """What `forward` gives, member by member."""
        member, state = self._member(images, with_penalty), torch.get_rng_state()
        # Taken apart at once: the gradients are then put together once, not for every member.
        weights = {name: value.unbind() for name, value in self._weights().items()}
        buffers = self._buffers_now()
        predicted = []
        for index in range(self.members):
            torch.set_rng_state(state)  # the same dropout for all
            own = (
                {name: values[index] for name, values in of.items()} for of in (weights, buffers)
            )
            predicted.append(member(*own))
        points, penalties = zip(*predicted, strict=True)
        together = torch.cat(points, dim=1)
        return (together, torch.stack(penalties).sum()) if with_penalty else together

    def _member(self, images: Tensor, with_penalty: bool) -> Callable[..., tuple[Tensor, Tensor]]:
        """The network as a function of its weights and buffers, to (B, 1, 2) and its penalty."""
        pattern = self._pattern[0].train(self.training)
        options = {"with_penalty": True} if with_penalty else {}

        def run(weights: dict[str, Tensor], buffers: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
            found = functional_call(pattern, (weights, buffers), (images,), options)
            return found if with_penalty else (found, found.new_zeros(()))

        return run

    def _weights(self) -> dict[str, Tensor]:
        return {name.replace(_DOT, "."): value for name, value in self.named_parameters()}

    def _buffers_now(self) -> dict[str, Tensor]:
        return {name.replace(_DOT, "."): value for name, value in self.named_buffers()}

    def member_state(self, index: int) -> dict[str, Tensor]:
        """State of one member under the names of a network of its own."""
        return {
            name.replace(_DOT, "."): value[index].clone()
            for name, value in self.state_dict().items()
        }
