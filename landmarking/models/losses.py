"""Losses of the paper (Eq. 2 and 3), and radial error and SDR as a torchmetrics metric.

Malé et al., "Single-Landmark vs. Multi-Landmark Deep Learning Approaches to Brain MRI
Landmarking": L_SL is the distance between predicted and true landmark, L_ML the mean of the N
distances. The paper leaves open how a batch is reduced; the mean over it is taken here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from landmarking.evaluation.predictions import SDR_THRESHOLDS_MM


def euclidean_distance(predicted: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
    """Distance of each landmark in pixels, and whether its truth is known.

    Args:
        predicted: Slice pixels (x, y), shape (B, L, 2).
        true: Same shape and frame; NaN where a landmark is missing.

    Returns:
        Distances, shape (B, L), zero where the truth is missing, and the mask, shape (B, L). The
        gradient is zero where the truth is missing and where the distance is zero.
    """
    known = torch.isfinite(true).all(dim=-1)
    # The NaN goes before the norm: a NaN times a zero gradient would still be NaN.
    offset = torch.where(known[..., None], predicted.float() - true, 0.0)
    return torch.linalg.vector_norm(offset, dim=-1), known


def multi_landmark_loss(predicted: Tensor, true: Tensor) -> Tensor:
    """Eq. 3, the mean Euclidean distance over landmarks and batch; with L = 1 it is Eq. 2.

    Args:
        predicted: Slice pixels (x, y), shape (B, L, 2).
        true: Same shape and frame; NaN where a landmark is missing, which then does not count.

    Returns:
        Loss in pixels, a scalar; zero if every landmark is missing.
    """
    distance, known = euclidean_distance(predicted, true)
    return distance.sum() / known.sum().clamp(min=1)


def ensemble_loss(predicted: Tensor, true: Tensor) -> Tensor:
    """Sum over landmarks of each one's own Eq. 2.

    The networks of a stacked ensemble share no weight, so the gradient of the sum is, for each of
    them, the gradient of its own loss.

    Args:
        predicted: Slice pixels (x, y), shape (B, L, 2), one landmark from each member.
        true: Same shape and frame; NaN where a landmark is missing.

    Returns:
        Sum of L losses in pixels, a scalar.
    """
    distance, known = euclidean_distance(predicted, true)
    return (distance.sum(dim=0) / known.sum(dim=0).clamp(min=1)).sum()


# Radial error and SDR as a metric of torchmetrics, for validation and test steps.
#
# The same definitions as `landmarking.evaluation.predictions`, which tables are made with; here on
# the device, batch by batch, and summed over processes.


class WeightedMean(Metric):
    """Mean of values by their weights, over all batches and processes.

    Unlike torchmetrics' own it never asks the device whether a value is NaN.
    """

    full_state_update = False
    total: Tensor
    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("weight", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, value: Tensor, weight: Tensor) -> None:
        """Add a value, a scalar, and its weight."""
        self.total += value * weight
        self.weight += weight

    def compute(self) -> Tensor:
        """The mean; zero where nothing had a weight."""
        return self.total / self.weight.clamp(min=1.0)


class RadialErrors(Metric):
    """Mean radial error in mm and SDR in percent, over all known landmarks and by landmark.

    Attributes:
        landmarks: Names of the L landmarks.
    """

    full_state_update = False
    total_mm: Tensor
    hits: Tensor
    count: Tensor

    def __init__(self, landmarks: Sequence[str]) -> None:
        """Begin with nothing scored.

        Args:
            landmarks: Names of the L landmarks.
        """
        super().__init__()
        self.landmarks = tuple(landmarks)
        each = torch.zeros(len(self.landmarks))
        self.add_state("total_mm", each, dist_reduce_fx="sum")
        self.add_state("count", each.clone(), dist_reduce_fx="sum")
        self.add_state("hits", torch.zeros(len(SDR_THRESHOLDS_MM)), dist_reduce_fx="sum")

    def update(
        self, predicted_px: Tensor, true_px: Tensor, px_to_mm: Tensor, weight: float = 1.0
    ) -> None:
        """Add a batch.

        Args:
            predicted_px: Slice pixels (x, y), shape (B, L, 2).
            true_px: Likewise; NaN where a landmark is missing, which does not count.
            px_to_mm: In-plane metric of each slice, shape (B, 2, 2).
            weight: Zero for a batch that only keeps this process in step with the others.
        """
        known = torch.isfinite(true_px).all(dim=-1) & (weight > 0.0)
        offset = torch.where(known[..., None], predicted_px.float() - true_px, 0.0)
        error = torch.linalg.vector_norm(offset @ px_to_mm.mT, dim=-1)
        self.total_mm += error.sum(dim=0)
        self.count += known.sum(dim=0)
        radii = torch.tensor(SDR_THRESHOLDS_MM, device=error.device)
        within = (error[..., None] <= radii) & known[..., None]
        self.hits += within.sum(dim=(0, 1))

    def compute(self) -> dict[str, Tensor]:
        """What came out, by name.

        Returns:
            `error_mm`, `sdr_1mm` to `sdr_5mm` (percent, all landmarks pooled) and
            `LANDMARK/error_mm`; what was never scored is left out.
        """
        scored = self.count.sum()
        if not scored:
            return {}
        found = {"error_mm": self.total_mm.sum() / scored}
        for radius, hits in zip(SDR_THRESHOLDS_MM, self.hits, strict=True):
            found[f"sdr_{radius:g}mm"] = 100.0 * hits / scored
        for name, total, count in zip(self.landmarks, self.total_mm, self.count, strict=True):
            if count:
                found[f"{name}/error_mm"] = total / count
        return found
