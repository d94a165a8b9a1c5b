"""Networks of other libraries, made to find landmarks.

Any torch network that takes slices of one channel can be named in a YAML file, by its class or by
the function that makes it: one that gives numbers becomes a coordinate network, one that gives maps
a heatmap network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from landmarking.errors import ConfigError
from landmarking.models.build import make, network_class, takes
from landmarking.models.coordinate_cnn import in_float32
from landmarking.models.heatmap import ExpectationNetwork


class LibraryCoordinates(nn.Module):
    """Slices to coordinates through a network that gives numbers, such as a classifier."""

    mean_px: Tensor

    def __init__(
        self,
        *,
        image_size: Sequence[int],
        mean_px: Sequence[Sequence[float]],
        network: Mapping[str, Any],
        outputs: str,
        pool: int = 1,
        scale_px: float = 10.0,
    ) -> None:
        """Build the network from the global random state.

        Args:
            image_size: Rows and columns (H, W) of a slice.
            mean_px: Mean training position of each landmark, slice pixels (x, y), shape (L, 2);
                the outputs are offsets from it.
            network: `_target_` and arguments of the network.
            outputs: Its argument that takes how many numbers it gives, such as `num_classes`.
            pool: Side of an average-pool ahead of it; 1 is none.
            scale_px: Pixels for one unit of its output.

        Raises:
            ConfigError: If the network cannot be built or does not take such slices.
        """
        super().__init__()
        self.pool, self.scale_px = pool, float(scale_px)
        self.register_buffer("mean_px", torch.as_tensor(mean_px, dtype=torch.float32))
        self.network = _build(network, outputs, 2 * len(mean_px), pool)
        _check_shape(self.network, image_size, pool, (1, 2 * len(mean_px)))

    def forward(self, images: Tensor) -> Tensor:
        """Predict slice pixels.

        Args:
            images: Normalised slices, shape (B, 1, H, W).

        Returns:
            Slice pixels (x, y), shape (B, L, 2), float32.
        """
        return in_float32(self._points, self.network(_pooled(images, self.pool)))

    def _points(self, outputs: Tensor) -> Tensor:
        offset = outputs.float().reshape(-1, *self.mean_px.shape)
        points: Tensor = self.mean_px + self.scale_px * offset
        return points


class LibraryHeatmaps(ExpectationNetwork):
    """Slices to coordinates through a network that gives maps, such as one for segmentation."""

    def __init__(
        self,
        *,
        image_size: Sequence[int],
        mean_px: Sequence[Sequence[float]],
        network: Mapping[str, Any],
        outputs: str,
        pool: int = 1,
        spread_weight: float = 0.05,
        spread_target_px: float = 2.0,
    ) -> None:
        """Build the network from the global random state.

        Args:
            image_size: Rows and columns (H, W) of a slice.
            mean_px: Mean training position of each landmark; only its length L is used.
            network: `_target_` and arguments of the network; its maps are as large as its input.
            outputs: Its argument that takes how many maps it gives, such as `out_channels`.
            pool: Side of an average-pool ahead of it; 1 is none.
            spread_weight: Weight of the penalty on spread, pixels of loss for a pixel of spread.
            spread_target_px: Standard deviation of a heatmap that costs nothing.

        Raises:
            ConfigError: If the network cannot be built or does not take such slices.
        """
        super().__init__(spread_weight, spread_target_px)
        self.pool = pool
        self.network = _build(network, outputs, len(mean_px), pool)
        rows, columns = (side // pool for side in image_size)
        _check_shape(self.network, image_size, pool, (1, len(mean_px), rows, columns))
        middle = (pool - 1) / 2
        self.place(torch.arange(rows) * pool + middle, torch.arange(columns) * pool + middle)

    def scores(self, images: Tensor) -> Tensor:
        """Logarithm of each heatmap up to a constant, shape (B, L, H / pool, W / pool)."""
        scores: Tensor = self.network(_pooled(images, self.pool))
        return scores


def _pooled(images: Tensor, pool: int) -> Tensor:
    return avg_pool2d(images, pool) if pool > 1 else images


def _build(spec: Mapping[str, Any], outputs: str, count: int, pool: int) -> nn.Module:
    if pool < 1:
        raise ConfigError(f"model.pool is 1 or more, found {pool}")
    factory = network_class(spec)
    if not takes(factory, outputs):
        raise ConfigError(
            f"model.outputs: {spec['_target_']} has no argument {outputs!r}; name the one that "
            "takes how many numbers or maps it gives"
        )
    arguments = {key: value for key, value in spec.items() if key != "_target_"}
    return make(factory, spec, **{**arguments, outputs: count})


def _check_shape(
    network: nn.Module, image_size: Sequence[int], pool: int, expected: tuple[int, ...]
) -> None:
    """Try the network on an empty slice, which tells mistakes from training that goes badly."""
    was_training = network.training
    name = f"model.network: {type(network).__name__}"
    try:
        with torch.no_grad():
            found = network.eval()(_pooled(torch.zeros(1, 1, *image_size), pool))
    except (RuntimeError, ValueError, IndexError) as error:
        raise ConfigError(
            f"{name} takes no slice of {image_size[0]} x {image_size[1]} pixels after a pool of "
            f"{pool} ({error}); change its arguments or model.pool"
        ) from error
    finally:
        network.train(was_training)
    shape = tuple(getattr(found, "shape", ()))
    if shape != expected:
        raise ConfigError(
            f"{name} gives {shape or type(found).__name__} for a slice where {expected} is needed; "
            "change its arguments or model.outputs, or take the other kind of network"
        )
