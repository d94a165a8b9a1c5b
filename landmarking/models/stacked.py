"""Many single-landmark networks trained as one batched computation.

All members see the same slices and share no weight. Their weights are stacked along a first axis.
On a GPU the network is mapped over it, so that convolutions become grouped ones and dense layers
batched products; a CPU, where grouped convolutions are slow, does the members in turn within a
step. A member starts from the same random state, and draws the same dropout, as a run of its own
with the same seed would: it learns the same weights up to rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from landmarking.models.build import build_network

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
