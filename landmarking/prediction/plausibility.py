"""Whether eight points can be those of one head: Mahalanobis distances within a shape model.

A network may be sure and wrong. The points of people whose landmarks are known say how a point may
lie given the others: a Gaussian over the shape, of which each landmark's distribution given all
others follows in closed form. Position, rotation and size of the head play no part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from landmarking.errors import PredictionsError
from landmarking.geometry import Array

OWN_SD_MM = 0.5
"""Error of the points that a shape model is made of, and of those that it is asked about."""

LEAST_LIMIT = 4.0
"""No distance below it is implausible: one in 3,000 of a Gaussian, and other groups differ more."""

FEWEST = 20
"""People that a shape model needs."""


@dataclass(frozen=True, eq=False)
class Shape:
    """How the landmarks of people lie to one another.

    Attributes:
        mean_mm: Mean shape about its centroid, shape (L, 2).
        covariance: Of the coordinates after alignment, mm squared, shape (2 L, 2 L).
        limits: Distance of each landmark given the others that counts as implausible, shape (L,).
    """

    mean_mm: Array
    covariance: Array
    limits: Array

    def distances(self, points_mm: Array) -> Array:
        """Mahalanobis distance of each landmark given all others.

        Args:
            points_mm: In the plane, shape (B, L, 2).

        Returns:
            Distances, shape (B, L); about 1.25 on average for people like those of the model.
        """
        residual = aligned(points_mm, self.mean_mm) - self.mean_mm
        flat = residual.reshape(len(residual), -1)
        precision = np.linalg.inv(self.covariance)
        found = np.empty(residual.shape[:2])
        # A Gaussian's block of the precision is the inverse covariance given all the rest.
        for index in range(residual.shape[1]):
            own = slice(2 * index, 2 * index + 2)
            block = precision[own, own]
            away = np.linalg.solve(block, (flat @ precision)[:, own].T).T
            found[:, index] = np.sqrt(np.einsum("bi,ij,bj->b", away, block, away))
        return found

    def implausible(self, points_mm: Array) -> Array:
        """Whether each landmark lies where the others do not let it, bool, shape (B, L)."""
        return np.asarray(self.distances(points_mm) > self.limits)


def aligned(points_mm: Array, mean_mm: Array) -> Array:
    """Shapes moved, turned and scaled onto a mean shape by least squares, shape (B, L, 2).

    Args:
        points_mm: Shape (B, L, 2).
        mean_mm: Centred, shape (L, 2).
    """
    centred = points_mm - points_mm.mean(axis=1, keepdims=True)
    # In the complex plane one number is the best rotation and scale.
    ours, mean = centred[..., 0] + 1j * centred[..., 1], mean_mm[:, 0] + 1j * mean_mm[:, 1]
    factor = (ours.conj() * mean).sum(axis=1) / (np.abs(ours) ** 2).sum(axis=1)
    placed = ours * factor[:, None]
    return np.stack([placed.real, placed.imag], axis=-1)


def fit_shape(points_mm: Array, slack: float = 1.25) -> Shape:
    """A shape model of people, with limits that none of them reaches.

    Args:
        points_mm: Known points in the plane, shape (B, L, 2); people with a missing one are left
            out.
        slack: Limit over the largest distance of a person whom the model has not seen.

    Raises:
        PredictionsError: If fewer than `FEWEST` people have all points.
    """
    known = points_mm[np.isfinite(points_mm).all(axis=(1, 2))]
    if len(known) < FEWEST:
        raise PredictionsError(
            f"a shape model needs {FEWEST} people with all landmarks, found {len(known)}; "
            "calibrate on more people"
        )
    everyone = _gaussian(known)
    folds = np.arange(len(known)) % 10
    largest = np.concatenate(
        [_gaussian(known[folds != f]).distances(known[folds == f]) for f in range(10)]
    ).max(axis=0)
    return Shape(everyone.mean_mm, everyone.covariance, np.maximum(slack * largest, LEAST_LIMIT))


def _gaussian(points_mm: Array) -> Shape:
    mean = points_mm[0] - points_mm[0].mean(axis=0)
    for _ in range(5):
        mean = aligned(points_mm, mean).mean(axis=0)
        mean *= np.linalg.norm(
            points_mm - points_mm.mean(axis=1, keepdims=True), axis=(1, 2)
        ).mean() / (np.linalg.norm(mean))
    residual = (aligned(points_mm, mean) - mean).reshape(len(points_mm), -1)
    covariance = residual.T @ residual / max(len(residual) - 1, 1)
    covariance += OWN_SD_MM**2 * np.eye(len(covariance))
    return Shape(mean, covariance, np.full(len(mean), np.inf))


def shape_to_plain(shape: Shape) -> dict[str, Any]:
    """Plain values of a shape model."""
    return {
        "mean_mm": shape.mean_mm.tolist(),
        "covariance": shape.covariance.tolist(),
        "limits": shape.limits.tolist(),
    }


def shape_from_plain(values: dict[str, Any]) -> Shape:
    """Inverse of `shape_to_plain`."""
    return Shape(*(np.array(values[key], float) for key in ("mean_mm", "covariance", "limits")))
