"""Euclidean losses of the paper, Eq. 2 and Eq. 3, with masks for missing landmarks.

Malé et al., "Single-Landmark vs. Multi-Landmark Deep Learning Approaches to Brain MRI
Landmarking": L_SL is the distance between predicted and true landmark, L_ML the mean of the N
distances. The paper leaves open how a batch is reduced; the mean over it is taken here.
"""

from __future__ import annotations

import torch
from torch import Tensor


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
