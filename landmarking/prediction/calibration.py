"""How far off a prediction may be: radii by split-conformal calibration, and a check of the shape.

On people who were not trained on, errors are divided by a score of the model's own doubt (spread of
its heatmap, of an ensemble, of augmented copies). The 90 % quantile of these ratios, with the
correction for finite samples, times the score of a new prediction is a radius that holds the truth
with at least 90 % probability, whatever the distribution, for people drawn as the calibration's
were (Papadopoulos et al. 2002; Lei et al. 2018). Other people may be covered less: report it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from landmarking.errors import ConfigError, PredictionsError
from landmarking.files import parse_json
from landmarking.geometry import Array

if TYPE_CHECKING:
    from landmarking.prediction.model import LandmarkModel


_Z95 = 1.959963984540054


@dataclass(frozen=True, eq=False)
class Calibration:
    """Factors from a score of doubt to a radius.

    Attributes:
        factors: Radius for a score of one, by landmark, shape (L,).
        coverage: Probability with which a radius holds the truth.
        counts: Errors that each factor was found from, shape (L,).
    """

    factors: Array
    coverage: float
    counts: NDArray[np.int64]

    def radius(self, scores: Array) -> Array:
        """Radii in the unit of the calibration's errors, scores of shape (B, L) to (B, L).

        Raises:
            PredictionsError: If the scores do not fit or are not positive.
        """
        _check_scores(scores, len(self.factors))
        return scores * self.factors


def calibrate(errors_mm: Array, scores: Array, coverage: float = 0.9) -> Calibration:
    """Find the factors, for each landmark by itself.

    Args:
        errors_mm: Errors of people who were not trained on, shape (B, L); NaN where unknown.
        scores: The model's doubt, positive, shape (B, L); all ones give radii of one size.
        coverage: Probability with which a radius is to hold the truth.

    Returns:
        The calibration.

    Raises:
        PredictionsError: If shapes do not fit, the coverage is out of range, or a landmark has too
            few errors for it (fewer than nine for 90 %).
    """
    if not 0.0 < coverage < 1.0:
        raise PredictionsError(f"coverage lies between 0 and 1, found {coverage}")
    if errors_mm.shape != scores.shape or errors_mm.ndim != 2:
        raise PredictionsError(
            f"errors and scores have one shape (B, L), found {errors_mm.shape} and {scores.shape}"
        )
    _check_scores(scores, errors_mm.shape[1])
    factors, counts = [], []
    for column in range(errors_mm.shape[1]):
        known = np.isfinite(errors_mm[:, column])
        ratios = np.sort(errors_mm[known, column] / scores[known, column])
        # The new person counts as one more: the k-th smallest of n with k = ceil((n + 1) * share).
        rank = math.ceil((len(ratios) + 1) * coverage - 1e-9)
        if rank > len(ratios):
            needed = math.ceil(coverage / (1.0 - coverage) - 1e-9)
            raise PredictionsError(
                f"a radius for {coverage:.0%} needs {needed} errors of each landmark, landmark "
                f"{column} has {len(ratios)}; hold out more people for validation"
            )
        factors.append(float(ratios[rank - 1]))
        counts.append(len(ratios))
    return Calibration(np.array(factors), coverage, np.array(counts))


def _check_scores(scores: Array, landmarks: int) -> None:
    if scores.ndim != 2 or scores.shape[1] != landmarks:
        raise PredictionsError(f"scores have shape (B, {landmarks}), found {scores.shape}")
    if not (np.isfinite(scores).all() and (scores > 0.0).all()):
        raise PredictionsError("scores of doubt are positive numbers; found others")


@dataclass(frozen=True)
class Coverage:
    """How often radii held the truth.

    Attributes:
        group: Group of people.
        landmark: Name, or `all`.
        share: Share of known truths within their radius.
        low: Lower end of Wilson's 95 % interval of the share.
        high: Upper end.
        count: Known truths.
        radius_mm: Median radius.
    """

    group: str
    landmark: str
    share: float
    low: float
    high: float
    count: int
    radius_mm: float


def coverage_table(
    errors_mm: Array, radii_mm: Array, groups: Sequence[str], landmarks: Sequence[str]
) -> list[Coverage]:
    """Coverage by group and landmark, each group's `all` last.

    Args:
        errors_mm: Errors, shape (B, L); NaN where unknown, which does not count.
        radii_mm: Radii, shape (B, L).
        groups: Group of each of the B people.
        landmarks: Names of the L landmarks.

    Raises:
        PredictionsError: If the shapes do not fit.
    """
    expected = (len(groups), len(landmarks))
    if errors_mm.shape != expected or radii_mm.shape != expected:
        raise PredictionsError(
            f"errors and radii have shape {expected}, found {errors_mm.shape} and {radii_mm.shape}"
        )
    rows = []
    for group in dict.fromkeys(groups):
        members = np.array([other == group for other in groups])
        for column, name in enumerate(landmarks):
            part = slice(column, column + 1)
            rows.append(_coverage(group, name, errors_mm[members, part], radii_mm[members, part]))
        rows.append(_coverage(group, "all", errors_mm[members], radii_mm[members]))
    return rows


def _coverage(group: str, landmark: str, errors_mm: Array, radii_mm: Array) -> Coverage:
    known = np.isfinite(errors_mm)
    count = int(known.sum())
    if count == 0:
        return Coverage(group, landmark, math.nan, math.nan, math.nan, 0, math.nan)
    share = float((errors_mm[known] <= radii_mm[known]).mean())
    low, high = wilson(share, count)
    return Coverage(group, landmark, share, low, high, count, float(np.median(radii_mm[known])))


def wilson(share: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of `count` (Wilson 1927)."""
    square = _Z95**2 / count
    middle = (share + square / 2.0) / (1.0 + square)
    half = _Z95 / (1.0 + square) * math.sqrt(share * (1.0 - share) / count + square / 4.0 / count)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def rank_correlation(scores: Array, errors_mm: Array) -> float:
    """Spearman's correlation of doubt and error over all known errors; ties share their rank.

    Raises:
        PredictionsError: If fewer than three errors are known.
    """
    known = np.isfinite(errors_mm)
    if int(known.sum()) < 3:
        raise PredictionsError("a rank correlation needs three known errors")
    from scipy.stats import spearmanr

    return float(spearmanr(scores[known], errors_mm[known]).statistic)


@dataclass(frozen=True)
class FlagQuality:
    """How well a flag finds failures.

    Attributes:
        precision: Share of flagged predictions that are failures; NaN if none is flagged.
        recall: Share of failures that are flagged; NaN if there are none.
        flagged: Number flagged.
        failures: Number of failures.
    """

    precision: float
    recall: float
    flagged: int
    failures: int


def flag_quality(
    errors_mm: Array, radii_mm: Array, *, failure_mm: float = 5.0, radius_mm: float = 5.0
) -> FlagQuality:
    """Precision and recall of flagging predictions with a large radius.

    Args:
        errors_mm: Errors; NaN where unknown, which does not count.
        radii_mm: Radii of the same shape.
        failure_mm: Errors above it are failures.
        radius_mm: Radii above it are flagged.
    """
    known = np.isfinite(errors_mm)
    failed, flagged = errors_mm[known] > failure_mm, radii_mm[known] > radius_mm
    both = int((failed & flagged).sum())
    return FlagQuality(
        precision=both / int(flagged.sum()) if flagged.any() else math.nan,
        recall=both / int(failed.sum()) if failed.any() else math.nan,
        flagged=int(flagged.sum()),
        failures=int(failed.sum()),
    )


# Radii that a model's doubt stands for, kept beside the run or study that they belong to.
#
# `calibration.json` holds what `landmarking.prediction.calibration.calibrate` found on people whom
# no member was trained on. It names the model by its digest and serves no other.


FILE = "calibration.json"


def to_plain(calibration: Calibration) -> dict[str, Any]:
    """Plain values of a calibration."""
    return {
        "coverage": calibration.coverage,
        "factors": calibration.factors.tolist(),
        "counts": calibration.counts.tolist(),
    }


def from_plain(values: dict[str, Any]) -> Calibration:
    """Inverse of `to_plain`."""
    return Calibration(
        np.array(values["factors"], dtype=np.float64),
        float(values["coverage"]),
        np.array(values["counts"], dtype=np.int64),
    )


def recorded_shifts(folder: Path) -> int:
    """How many looks at a slice a run or study was calibrated with; one where it was not."""
    try:
        values = parse_json((folder / FILE).read_text(encoding="utf-8"))
        return int(values.get("shifts", 1))
    except (OSError, ValueError, TypeError, AttributeError):
        return 1  # what is wrong with the file is said where all of it is read


def read_calibration(folder: Path, model: LandmarkModel) -> tuple[Calibration | None, Shape | None]:
    """What `calibrate_runs` wrote for a model: radii and shape, None where there is nothing.

    Args:
        folder: Of the run or study.
        model: The model that the runs make.

    Raises:
        ConfigError: If the file is damaged or belongs to another model.
    """
    path = folder / FILE
    if not path.is_file():
        return None, None
    again = "calibrate again with `landmarking calibrate`, or remove the file"
    try:
        values = parse_json(path.read_text(encoding="utf-8"))
        found = from_plain(values)
        shape = shape_from_plain(values["shape"]) if values.get("shape") else None
        owner = values["model_digest"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: not a calibration; {again}") from error
    if owner != model.digest or len(found.factors) != len(model.landmarks):
        raise ConfigError(
            f"{path}: belongs to another model ({owner[:12]}, this one is {model.digest[:12]}): "
            f"runs were added, removed or trained again; {again}"
        )
    return found, shape


def facts_of(folder: Path) -> dict[str, Any]:
    """On whom the calibration of a run or study was made, for its card.

    Args:
        folder: Of the run or study; its calibration has been read before.
    """
    values = parse_json((folder / FILE).read_text(encoding="utf-8"))
    return {
        key: values.get(key) for key in ("cohort", "cohort_digest", "groups", "simulated", "scans")
    }


# Whether eight points can be those of one head: Mahalanobis distances within a shape model.
#
# A network may be sure and wrong. The points of people whose landmarks are known say how a point
# may lie given the others: a Gaussian over the shape, of which each landmark's distribution given
# all others follows in closed form. Position, rotation and size of the head play no part.


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
