"""Euclidean distance matrix analysis: all distances between landmarks, without any alignment.

EDMA-I compares forms by the ratios of mean distances, EDMA-II shapes by differences of scaled ones
(Lele and Richtsmeier 1991, 1995, 2001). No Python library has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.spatial.distance import pdist

from landmarking.errors import ConfigError, LandmarkError
from landmarking.geometry import Array


def distances(points: Array) -> Array:
    """All distances between landmarks, shape (N, L (L - 1) / 2), of configurations (N, L, D)."""
    return np.array([pdist(person) for person in points])


ESTIMATORS = ("moment", "mean")


def mean_form(squared: Array, dimensions: int, estimator: str = "moment") -> Array:
    """Distances of the mean form from squared distances of people, shape (M,).

    Args:
        squared: Squared distances, shape (N, M).
        dimensions: 2 or 3.
        estimator: `moment` is Lele's (1993): what people scatter about the mean form makes their
            squared distances too long, and their variance says by how much. `mean` is the plain
            mean of the distances, which earlier studies report.
    """
    if estimator == "mean":
        return np.asarray(np.sqrt(squared).mean(axis=0))
    mean, spread = squared.mean(axis=0), squared.var(axis=0)
    weight = 1.0 if dimensions == 2 else 1.5
    # Where people scatter more than the distance is long, the estimate has no root.
    return np.asarray(np.sqrt(np.sqrt(np.maximum(mean**2 - weight * spread, 1e-12 * mean**2))))


@dataclass(frozen=True, eq=False)
class FormDifference:
    """Two groups compared by EDMA.

    Attributes:
        table: One row a distance: `first`, `second` (landmarks), `ratio` of mean distances with
            its 90 % interval `low` and `high`, and `differs` where the interval leaves out 1.
        t: Largest ratio by the smallest.
        p: Of `t`, by the bootstrap of one group against itself (the larger of both groups' p).
        p_exchanged: Of `t`, by exchanging people between the groups.
        z: Largest difference of scaled distances (EDMA-II), with its sign.
        z_low: Lower end of its 90 % interval.
        z_high: Upper end; the shapes differ where the interval leaves out 0.
    """

    table: pd.DataFrame
    t: float
    p: float
    p_exchanged: float
    z: float
    z_low: float
    z_high: float

    @property
    def share(self) -> float:
        """Share of the distances that differ."""
        return float(self.table["differs"].mean())


def compare_forms(
    first: Array,
    second: Array,
    names: Sequence[str],
    *,
    estimator: str = "moment",
    draws: int = 1_000,
    seed: int = 0,
) -> FormDifference:
    """Compare two groups, the first by the second.

    Args:
        first: Complete configurations, shape (N, L, D).
        second: Shape (M, L, D).
        names: Landmarks.
        estimator: As for `mean_form`.
        draws: Bootstrap samples, and exchanges.
        seed: Of the draws.

    Raises:
        ConfigError: If there is no such estimator.
        LandmarkError: If a configuration lacks a landmark or a group has fewer than three people.
    """
    if estimator not in ESTIMATORS:
        raise ConfigError(f"estimator is one of {', '.join(ESTIMATORS)}, found {estimator!r}")
    for group in (first, second):
        if len(group) < 3 or not np.isfinite(group).all():
            raise LandmarkError(
                "distances are compared between complete people, three or more in each group; "
                "leave out who lacks a landmark, or the landmark"
            )
    rng = np.random.default_rng(seed)
    dimensions = first.shape[2]
    a, b = (distances(group) ** 2 for group in (first, second))

    def form(squared: Array) -> Array:
        return mean_form(squared, dimensions, estimator)

    def drawn(group: Array, size: int) -> Array:
        return form(group[rng.integers(len(group), size=size)])

    ratio = form(a) / form(b)
    t = float(ratio.max() / ratio.min())
    forms = [(drawn(a, len(a)), drawn(b, len(b))) for _ in range(draws)]
    low, high = np.percentile([one / other for one, other in forms], [5, 95], axis=0)
    # Under the null hypothesis both groups come from one population: that of either group.
    worst = 0.0
    for base in (a, b):
        null = [_t(drawn(base, len(a)), drawn(base, len(b))) for _ in range(draws)]
        worst = max(worst, (1 + sum(each >= t for each in null)) / (1 + draws))
    both = np.concatenate([a, b])
    more = 0
    for _ in range(draws):
        order = rng.permutation(len(both))
        more += _t(form(both[order[: len(a)]]), form(both[order[len(a) :]])) >= t
    scaled = np.array([_scaled(one) - _scaled(other) for one, other in forms])
    observed = _scaled(form(a)) - _scaled(form(b))
    widest = int(np.argmax(np.abs(observed)))
    z_low, z_high = np.percentile(scaled[:, widest], [5, 95])
    pairs = list(combinations(names, 2))
    table = pd.DataFrame(
        {
            "first": [pair[0] for pair in pairs],
            "second": [pair[1] for pair in pairs],
            "ratio": ratio,
            "low": low,
            "high": high,
            "differs": (low > 1.0) | (high < 1.0),
        }
    )
    exchanged = (1 + more) / (1 + draws)
    found = float(observed[widest])
    return FormDifference(table, t, worst, exchanged, found, float(z_low), float(z_high))


def _t(one: Array, other: Array) -> float:
    ratio = one / other
    return float(ratio.max() / ratio.min())


def _scaled(form: Array) -> Array:
    """Distances by their geometric mean."""
    return np.asarray(form / np.exp(np.log(form).mean()))
