"""A trained model that knows all it needs: networks, preprocessing, histogram reference, radii."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from landmarking.data.cache import canonical_json
from landmarking.errors import ConfigError
from landmarking.evaluation.confidence import Calibration
from landmarking.geometry import Array
from landmarking.imaging.intensity import Reference, normalise_images
from landmarking.imaging.pipeline import PreprocessSettings
from landmarking.landmarks import LandmarkSet

if TYPE_CHECKING:
    from torch import Tensor, nn

_AT_ONCE = 32
"""Slices that a network sees together; each is still predicted by itself."""


@dataclass(frozen=True, eq=False)
class Member:
    """One trained network.

    Attributes:
        network: Slices (B, 1, H, W) to slice pixels (B, L, 2), in evaluation mode.
        settings: What it is built from: `network`, `landmarks`, `image_size`, `mean_px` and
            `normalisation`, as a checkpoint's hyperparameters have them.
        facts: Where it comes from: run, seed, epochs, cohort, as far as known.
    """

    network: nn.Module
    settings: Mapping[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def landmarks(self) -> tuple[str, ...]:
        """Names of the landmarks that it predicts, in order."""
        return tuple(self.settings["landmarks"])


@dataclass(frozen=True, eq=False)
class Located:
    """Landmarks on slices.

    Attributes:
        points_px: Slice pixels (x, y), shape (B, L, 2).
        doubt_px: Spread of heatmaps and of members in pixels, shape (B, L); NaN where the model
            has neither.
    """

    points_px: Array
    doubt_px: Array


@dataclass(frozen=True, eq=False)
class LandmarkModel:
    """Networks with everything that turns a scan into their input and their output into mm.

    Several networks of one landmark are averaged.

    Attributes:
        name: What reports call it.
        landmarks: The landmarks, in the order of all arrays.
        preprocess: Scan to slice.
        reference: What histograms of slices are matched to.
        members: The networks; every landmark is predicted by one or more.
        calibration: Factors from doubt in pixels to radii in mm, or None.
        card: What the model was made of and how well it does, plain values.
    """

    name: str
    landmarks: LandmarkSet
    preprocess: PreprocessSettings
    reference: Reference
    members: tuple[Member, ...]
    calibration: Calibration | None = None
    card: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that decides a position: weights, settings, reference; hexadecimal."""
        digest = hashlib.sha256()
        plain = {k: v for k, v in asdict(self.preprocess).items() if k != "histogram_reference"}
        parts = [self.landmarks.names, plain, [dict(member.settings) for member in self.members]]
        digest.update(canonical_json(parts).encode())
        digest.update(self.reference.digest.encode())
        for member in self.members:
            for name, tensor in sorted(member.network.state_dict().items()):
                digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def locate(self, images: NDArray[np.float32]) -> Located:
        """Find the landmarks on slices, each by itself.

        Networks that were trained with per-batch normalisation see a batch of one.

        Args:
            images: Histogram-matched slices, not normalised, shape (B, H, W).

        Returns:
            Positions and doubt.

        Raises:
            ConfigError: If the slices have another size than the networks were built for.
        """
        predicted = [_answer(member, images) for member in self.members]
        points = np.full((len(images), len(self.landmarks), 2), np.nan)
        doubt = np.full(points.shape[:2], np.nan)
        for column, name in enumerate(self.landmarks.names):
            answers = [
                (found[:, member.landmarks.index(name)], spread[:, member.landmarks.index(name)])
                for member, (found, spread) in zip(self.members, predicted, strict=True)
                if name in member.landmarks
            ]
            places = np.stack([place for place, _ in answers])
            points[:, column] = places.mean(axis=0)
            doubt[:, column] = _doubt(places, np.stack([spread for _, spread in answers]))
        return Located(points, doubt)


def _doubt(places: Array, spreads: Array) -> Array:
    """Root of the members' mean variance and of the variance between them, shape (B,).

    Args:
        places: Slice pixels of M members, shape (M, B, 2).
        spreads: Spread of their heatmaps in pixels, shape (M, B); NaN where they have none.
    """
    between = places.var(axis=0).sum(axis=-1)
    if len(places) == 1:
        return np.asarray(spreads[0])
    within = np.where(np.isfinite(spreads), spreads**2, 0.0).mean(axis=0)
    return np.asarray(np.sqrt(within + between))


def _answer(member: Member, images: NDArray[np.float32]) -> tuple[Array, Array]:
    """Slice pixels (B, l, 2) and spread in pixels (B, l) of one network, float64."""
    import torch

    height, width = member.settings["image_size"]
    if images.shape[1:] != (height, width):
        raise ConfigError(
            f"the network was trained on slices of {height} x {width} pixels, found "
            f"{images.shape[1]} x {images.shape[2]}; use the preprocess of its own run"
        )
    how = "none" if member.settings["normalisation"] == "none" else "image"
    slices = torch.from_numpy(normalise_images(images, how))[:, None]
    with torch.inference_mode():
        # Few at once, so that memory does not grow with the cohort.
        parts = [points_and_spread(member.network, part) for part in torch.split(slices, _AT_ONCE)]
    points, spread = (torch.cat(part) for part in zip(*parts, strict=True))
    return points.double().numpy(), spread.double().numpy()


def points_and_spread(network: nn.Module, batch: Tensor) -> tuple[Tensor, Tensor]:
    """Ask a network for points and, where it has any, for the spread of its heatmaps.

    Args:
        network: In evaluation mode.
        batch: Normalised slices, shape (B, 1, H, W).

    Returns:
        Slice pixels, shape (B, L, 2), and spread in pixels, shape (B, L), NaN where there is none.
    """
    with_spread: Any = getattr(network, "with_spread", None)
    if with_spread is not None:
        points, spread = with_spread(batch)
        return points, spread
    points = network(batch)
    return points, points[..., 0] * float("nan")
