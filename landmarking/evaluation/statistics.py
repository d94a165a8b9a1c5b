"""Predictions to numbers: intervals, tests and effect sizes by person, and their tables.

Landmarks of one head are not independent, and neither are two scans of one person: all resampling
and all permuting moves whole people. Everything is seeded and vectorised.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from landmarking.evaluation.metrics import SDR_THRESHOLDS_MM, mean_sd, sdr_counts
from landmarking.geometry import Array

_EXACT_BELOW = 2**14
_CHUNK = 2_000


def bootstrap_intervals(
    rows: pd.DataFrame, *, resamples: int = 10_000, seed: int = 0, level: float = 0.95
) -> dict[str, float]:
    """Percentile intervals of the mean error and of each SDR, from a bootstrap over people.

    People are drawn with replacement within their group, each with all their landmarks, scans and
    seeds, so the groups keep their sizes in a pooled row (Efron and Tibshirani 1993, chapter 13).

    Args:
        rows: Predictions of one model.
        resamples: Number of draws.
        seed: Seed of the draws.
        level: Coverage, 0 to 1.

    Returns:
        `mean_mm_low`, `mean_mm_high`, and the same for `sdr_<radius>mm_percent`; NaN where fewer
        than two people were scored.
    """
    known = rows[rows["error_mm"].notna()]
    names = ["mean_mm", *(f"sdr_{radius:g}mm_percent" for radius in SDR_THRESHOLDS_MM)]
    if known["participant_id"].nunique() < 2:
        return {f"{name}_{end}": float("nan") for name in names for end in ("low", "high")}
    people = [_person_sums(part) for _, part in known.groupby("group", sort=True)]
    draws = _draws(tuple(map(len, people)), resamples, seed)
    sums = np.add.reduce([counts @ each for counts, each in zip(draws, people, strict=True)])
    values = sums[:, 1:] / sums[:, :1] * np.array([1.0, *[100.0] * len(SDR_THRESHOLDS_MM)])
    tail = 50.0 * (1.0 - level)
    low, high = np.percentile(values, [tail, 100.0 - tail], axis=0)
    result: dict[str, float] = {}
    for column, name in enumerate(names):
        result |= {f"{name}_low": float(low[column]), f"{name}_high": float(high[column])}
    return result


@lru_cache(maxsize=8)
def _draws(sizes: tuple[int, ...], resamples: int, seed: int) -> tuple[Array, ...]:
    """How often each person is drawn, shape (resamples, people) for each group.

    Kept, since every cell of a table draws the same.
    """
    rng = np.random.default_rng(seed)
    return tuple(
        rng.multinomial(size, np.full(size, 1 / size), size=resamples).astype(np.float64)
        for size in sizes
    )


def _person_sums(rows: pd.DataFrame) -> Array:
    """Per person: points scored, summed error, hits by radius; shape (people, 2 + radii)."""
    person = pd.factorize(rows["participant_id"], sort=True)[0]
    errors = rows["error_mm"].to_numpy()
    values = [
        np.ones_like(errors),
        errors,
        *((errors <= r).astype(float) for r in SDR_THRESHOLDS_MM),
    ]
    return np.stack([np.bincount(person, weights=value) for value in values], axis=1)


@dataclass(frozen=True)
class Outcome:
    """Outcome of one permutation test.

    Attributes:
        difference_mm: Mean difference, first minus second.
        low_mm: Lower end of its 95 % bootstrap interval over people.
        high_mm: Upper end.
        effect_size: Cohen's d_z of paired differences, or Hedges' g of two samples.
        p_value: Two-sided.
        n: People in the test (paired), or in both samples together.
    """

    difference_mm: float
    low_mm: float
    high_mm: float
    effect_size: float
    p_value: float
    n: int


def paired_test(
    first: ArrayLike, second: ArrayLike, *, permutations: int = 10_000, seed: int = 0
) -> Outcome:
    """Sign-flip permutation test of paired differences, exact for 13 people or fewer.

    Args:
        first: Mean error of each person in mm, shape (n,); NaN where not scored.
        second: Same people under the other model.
        permutations: Random sign vectors where 2**n is too many.
        seed: Seed of signs and bootstrap.

    Returns:
        The test; all NaN with fewer than two people.
    """
    d = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    d = d[~np.isnan(d)]
    if d.size < 2:
        return _no_test(d.size)
    rng = np.random.default_rng(seed)
    observed = float(d.mean())
    p_value = _sign_flip_p(d, permutations, rng)
    spread = float(d.std(ddof=1))
    effect = observed / spread if spread > 0 else float("nan")
    means = d[rng.integers(0, d.size, (permutations, d.size))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Outcome(observed, float(low), float(high), effect, p_value, d.size)


def _sign_flip_p(d: Array, permutations: int, rng: np.random.Generator) -> float:
    exact = 2**d.size < _EXACT_BELOW
    if exact:
        signs = 1.0 - 2.0 * ((np.arange(2**d.size)[:, None] >> np.arange(d.size)) & 1)
        sums = signs @ d
    else:
        sums = np.concatenate(
            [
                rng.choice([-1.0, 1.0], (min(_CHUNK, permutations - start), d.size)) @ d
                for start in range(0, permutations, _CHUNK)
            ]
        )
    extreme = _at_least(sums, float(d.sum()), float(np.abs(d).sum()))
    # The observed labelling is one of the random ones too, or p could be zero.
    return extreme / sums.size if exact else (1 + extreme) / (1 + sums.size)


def unpaired_test(
    first: ArrayLike, second: ArrayLike, *, permutations: int = 10_000, seed: int = 0
) -> Outcome:
    """Permutation test of two groups of people: labels are shuffled, sizes kept.

    Args:
        first: Mean error of each person of one group in mm, shape (n,); NaN where not scored.
        second: Mean errors of the other group, shape (m,).
        permutations: Random relabellings.
        seed: Seed of relabellings and bootstrap.

    Returns:
        The test, first minus second; all NaN where a group has fewer than two people.
    """
    a, b = (np.asarray(values, np.float64) for values in (first, second))
    a, b = a[~np.isnan(a)], b[~np.isnan(b)]
    if min(a.size, b.size) < 2:
        return _no_test(a.size + b.size)
    rng = np.random.default_rng(seed)
    observed = float(a.mean() - b.mean())
    pooled = np.concatenate([a, b])
    shuffled = rng.permuted(np.broadcast_to(pooled, (permutations, pooled.size)), axis=1)
    differences = shuffled[:, : a.size].mean(axis=1) - shuffled[:, a.size :].mean(axis=1)
    extreme = _at_least(differences, observed, float(np.abs(pooled).sum()))
    low, high = np.percentile(
        _resampled_mean(a, permutations, rng) - _resampled_mean(b, permutations, rng), [2.5, 97.5]
    )
    p_value = (1 + extreme) / (1 + permutations)
    return Outcome(observed, float(low), float(high), hedges_g(a, b), p_value, pooled.size)


def _resampled_mean(values: Array, resamples: int, rng: np.random.Generator) -> Array:
    return np.asarray(values[rng.integers(0, values.size, (resamples, values.size))].mean(axis=1))


def _at_least(permuted: Array, observed: float, scale: float) -> int:
    # Equal sums may differ in the last bits, depending on the order of addition.
    return int((np.abs(permuted) >= abs(observed) - 1e-12 * scale).sum())


def _no_test(n: int) -> Outcome:
    nan = float("nan")
    return Outcome(nan, nan, nan, nan, nan, n)


def hedges_g(first: Array, second: Array) -> float:
    """Standardised difference of two means, corrected for small samples (Hedges 1981)."""
    n, m = first.size, second.size
    pooled = ((n - 1) * first.var(ddof=1) + (m - 1) * second.var(ddof=1)) / (n + m - 2)
    if pooled <= 0:
        return float("nan")
    correction = 1.0 - 3.0 / (4.0 * (n + m) - 9.0)
    return float((first.mean() - second.mean()) / np.sqrt(pooled) * correction)


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Holm's step-down adjustment (Holm 1979), shape kept; NaN is left out and stays NaN."""
    p = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(p.shape, np.nan)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    return adjusted


NO_SKILL = "no skill"
"""Label of the row that predicts every landmark at its mean training position."""

ALL = "all"
"""Label of the rows that pool the groups, or the landmarks."""

_FIRST_MODELS = ("ML", "SL")
_FIRST_GROUPS = ("DS", "HS")


def ordered(values: Iterable[str], first: Sequence[str], last: Sequence[str]) -> list[str]:
    """Distinct values: those in `first`, then the others by name, then those in `last`."""
    present = set(values)
    middle = sorted(present - set(first) - set(last))
    return [
        *(name for name in first if name in present),
        *middle,
        *(name for name in last if name in present),
    ]


def model_order(models: Iterable[str]) -> list[str]:
    """Models as the paper lists them, ML before SL; others by name; no skill last."""
    return ordered(models, _FIRST_MODELS, (NO_SKILL,))


def group_order(groups: Iterable[str]) -> list[str]:
    """Groups as the paper lists them, DS before HS; others by name; all last."""
    return ordered(groups, _FIRST_GROUPS, (ALL,))


def with_no_skill(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of all models, and one row per test point whose error is that of the mean position.

    Args:
        frame: Rows of predictions.csv.

    Returns:
        The same columns; the added rows have the model `NO_SKILL`, the mean position as their
        prediction in pixels, and its error. Runs on the same point give one such row.
    """
    point = ["cohort_digest", "split_digest", "scan_id", "landmark"]
    ranked = frame.sort_values([*point, "seed", "model", "run"], kind="stable")
    base = ranked.drop_duplicates(point).copy()
    base["model"], base["run"], base["seed"] = NO_SKILL, NO_SKILL, 0
    base["error_mm"] = base["mean_error_mm"]
    base["pred_x_px"], base["pred_y_px"] = base["mean_x_px"], base["mean_y_px"]
    return pd.concat([frame, base], ignore_index=True)


def summarise(
    rows: pd.DataFrame, *, resamples: int = 10_000, seed: int = 0
) -> dict[str, float | int]:
    """All figures of one cell of a table.

    Args:
        rows: Predictions of one model, for one group or several.
        resamples: Bootstrap draws of people for the 95 % intervals; 0 leaves them out.
        seed: Seed of the draws.

    Returns:
        people (with a landmark scored), landmarks, seeds, n (landmarks scored), missing,
        mean_mm, sd_mm, median_mm, seed_sd_mm (spread of the seeds' means), hits and sdr by
        radius, and where asked for the intervals `<name>_low` and `<name>_high` of mean_mm and of
        each sdr.
    """
    errors = rows["error_mm"].to_numpy()
    hits, scored = sdr_counts(errors)
    mean, deviation = mean_sd(errors)
    by_seed = rows.groupby("seed")["error_mm"].mean()
    cell: dict[str, float | int] = {
        "people": rows.loc[rows["error_mm"].notna(), "participant_id"].nunique(),
        "landmarks": rows["landmark"].nunique(),
        "seeds": rows["seed"].nunique(),
        "n": scored,
        "missing": len(errors) - scored,
        "mean_mm": mean,
        "sd_mm": deviation,
        "median_mm": float(np.nanmedian(errors)) if scored else float("nan"),
        "seed_sd_mm": float(by_seed.std(ddof=1)) if len(by_seed) > 1 else float("nan"),
    }
    for radius, count in zip(SDR_THRESHOLDS_MM, hits, strict=True):
        cell[f"hits_{radius:g}mm"] = int(count)
        cell[f"sdr_{radius:g}mm_percent"] = 100.0 * count / scored if scored else float("nan")
    if resamples:
        cell |= bootstrap_intervals(rows, resamples=resamples, seed=seed)
    return cell


def table_1(frame: pd.DataFrame, *, resamples: int = 10_000, seed: int = 0) -> pd.DataFrame:
    """Table 1: model by group, each model's pooled row, and no skill at the end.

    Args:
        frame: Rows of a study.
        resamples: Bootstrap draws for the intervals; 0 leaves them out.
        seed: Seed of the draws.

    Returns:
        One row per model and group with the columns of `summarise`, unrounded.
    """
    everything = with_no_skill(frame)
    rows = []
    for model in model_order(everything["model"]):
        of_model = everything[everything["model"] == model]
        groups = group_order(of_model["group"])
        for group in [*groups, ALL] if len(groups) > 1 else groups:
            part = of_model if group == ALL else of_model[of_model["group"] == group]
            cell = summarise(part, resamples=resamples, seed=seed)
            rows.append({"model": model, "group": group, **cell})
    return pd.DataFrame(rows)


def by_landmark(
    frame: pd.DataFrame, landmarks: Sequence[str], *, resamples: int = 10_000, seed: int = 0
) -> pd.DataFrame:
    """The same figures for each landmark: landmark by model by group, no skill included.

    Args:
        frame: Rows of a study.
        landmarks: Names in the order wanted.
        resamples: Bootstrap draws for the intervals; 0 leaves them out.
        seed: Seed of the draws.
    """
    parts = []
    for name in landmarks:
        part = frame[frame["landmark"] == name]
        if len(part):
            table = table_1(part, resamples=resamples, seed=seed)
            table.insert(0, "landmark", name)
            parts.append(table)
    return pd.concat(parts, ignore_index=True)


def by_seed(frame: pd.DataFrame, *, resamples: int = 10_000, seed: int = 0) -> pd.DataFrame:
    """Table 1's figures for each seed on its own; empty where every model has one seed only.

    Args:
        frame: Rows of a study.
        resamples: Bootstrap draws for the intervals; 0 leaves them out.
        seed: Seed of the draws.

    Returns:
        Rows by model, group and seed, with the columns of `summarise`.
    """
    rows = []
    several = frame.groupby("model")["seed"].nunique() > 1
    for model in model_order(several.index[several]):
        of_model = frame[frame["model"] == model]
        groups = group_order(of_model["group"])
        for group in [*groups, ALL] if len(groups) > 1 else groups:
            part = of_model if group == ALL else of_model[of_model["group"] == group]
            for number, rows_of_seed in part.groupby("seed", sort=True):
                cell = summarise(rows_of_seed, resamples=resamples, seed=seed)
                rows.append({"model": model, "group": group, "seed": number, **cell})
    return pd.DataFrame(rows)
