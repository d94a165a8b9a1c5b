"""Predictions to numbers: intervals, tests and effect sizes by person, and their tables.

Landmarks of one head are not independent, and neither are two scans of one person: spread is that
between people, and all permuting moves whole people. Everything is seeded and vectorised.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from landmarking.evaluation.predictions import SDR_THRESHOLDS_MM, mean_sd, sdr_counts
from landmarking.geometry import Array

_EXACT_BELOW = 2**14
_CHUNK = 2_000


def intervals(rows: pd.DataFrame, *, level: float = 0.95) -> dict[str, float]:
    """Intervals of the mean error and of each SDR, from the spread between people.

    Each person counts with all landmarks, scans and seeds at once, within the person's group. The
    mean is taken as a ratio of sums (Cochran 1977, chapter 6), on a logarithmic scale, with
    Student's t; a rate by Wilson's score interval (1927) with the number of points that the spread
    between people is worth (Korn and Graubard 1998). docs/statistics.md has their coverage.

    Args:
        rows: Predictions of one model, or a table of `error_mm`, `participant_id` and `group`.
        level: Coverage, 0 to 1.

    Returns:
        `mean_mm_low`, `mean_mm_high`, and the same for `sdr_<radius>mm_percent`; NaN where a group
        has fewer than two people who were scored.
    """
    known = rows[rows["error_mm"].notna()]
    scored = known.loc[np.isfinite(known["error_mm"]), ["group", "participant_id"]]
    names = ["mean_mm", *(f"sdr_{radius:g}mm_percent" for radius in SDR_THRESHOLDS_MM)]
    people = [_person_sums(part) for _, part in known.groupby("group", sort=True)]
    counts = scored.drop_duplicates().groupby("group").size()
    if not people or len(counts) < len(people) or counts.min() < 2:
        return {f"{name}_{end}": float("nan") for name in names for end in ("low", "high")}
    total = np.add.reduce([each.sum(axis=0) for each in people])
    # The mean is over points that were predicted, rates are over those of failed scans as well.
    under = np.array([0, *(1 for _ in SDR_THRESHOLDS_MM)])
    ratios = total[2:] / total[under]
    variances = np.add.reduce([_ratio_variance(each, ratios, under, total) for each in people])
    freedom = sum(len(each) - 1 for each in people)
    ends = [_mean_ends(ratios[0], variances[0], int(counts.sum()) - len(counts), level)]
    ends += [
        _rate_ends(rate, variance, total[1], freedom, level)
        for rate, variance in zip(ratios[1:], variances[1:], strict=True)
    ]
    result: dict[str, float] = {}
    for name, (low, high) in zip(names, ends, strict=True):
        result |= {f"{name}_low": low, f"{name}_high": high}
    return result


def _person_sums(rows: pd.DataFrame) -> Array:
    """Per person: points predicted, points, summed error, hits; shape (people, 3 + radii)."""
    person = pd.factorize(rows["participant_id"], sort=True)[0]
    errors = rows["error_mm"].to_numpy()
    predicted = np.isfinite(errors)
    values = [
        predicted.astype(float),
        np.ones_like(errors),
        np.where(predicted, errors, 0.0),
        *((errors <= r).astype(float) for r in SDR_THRESHOLDS_MM),
    ]
    return np.stack([np.bincount(person, weights=value) for value in values], axis=1)


def _ratio_variance(sums: Array, ratios: Array, under: NDArray[np.int64], total: Array) -> Array:
    """A group's part of the variance of ratios of sums over people, shape (1 + radii,)."""
    apart = (sums[:, 2:] - ratios * sums[:, under]) / total[under]
    # Whoever has no point to divide by says nothing of the spread.
    counts = (sums[:, under] > 0.0).sum(axis=0)
    squares = (apart**2).sum(axis=0) - apart.sum(axis=0) ** 2 / counts
    return np.asarray(counts / np.maximum(counts - 1, 1) * squares)


def _mean_ends(mean: float, variance: float, freedom: int, level: float) -> tuple[float, float]:
    if not mean > 0.0:
        return float(mean), float(mean)
    reach = float(stats.t.ppf(0.5 + level / 2, freedom) * np.sqrt(variance) / mean)
    return float(mean * np.exp(-reach)), float(mean * np.exp(reach))


def _rate_ends(
    rate: float, variance: float, points: float, freedom: int, level: float
) -> tuple[float, float]:
    """In percent."""
    z, t = stats.norm.ppf(0.5 + level / 2), stats.t.ppf(0.5 + level / 2, freedom)
    worth = rate * (1.0 - rate) / variance if variance > 0.0 else points
    # As many points as there are at most, and as few as there are people at least.
    worth = float(np.clip(worth, min(freedom + 1, points), points) * (z / t) ** 2)
    centre = (rate + z * z / (2 * worth)) / (1 + z * z / worth)
    reach = z * np.sqrt(rate * (1 - rate) / worth + (z / (2 * worth)) ** 2) / (1 + z * z / worth)
    return 100.0 * max(0.0, float(centre - reach)), 100.0 * min(1.0, float(centre + reach))


@dataclass(frozen=True)
class Outcome:
    """Outcome of one permutation test.

    Attributes:
        difference_mm: Mean difference, first minus second.
        low_mm: Lower end of its 95 % interval (Student's t, or Welch's for two samples).
        high_mm: Upper end.
        effect_size: Cohen's d_z of paired differences, or Hedges' g of two samples.
        effect_low: Lower end of its 95 % interval.
        effect_high: Upper end.
        p_value: Two-sided.
        n: People in the test (paired), or in both samples together.
    """

    difference_mm: float
    low_mm: float
    high_mm: float
    effect_size: float
    effect_low: float
    effect_high: float
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
        seed: Seed of the signs.

    Returns:
        The test; all NaN with fewer than two people.
    """
    d = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    d = d[~np.isnan(d)]
    if d.size < 2:
        return _no_test(d.size)
    observed, spread = float(d.mean()), float(d.std(ddof=1))
    p_value = _sign_flip_p(d, permutations, np.random.default_rng(seed))
    effect = observed / spread if spread > 0 else float("nan")
    reach = float(stats.t.ppf(0.975, d.size - 1)) * spread / np.sqrt(d.size)
    ends = _effect_ends(effect, np.sqrt(d.size), d.size - 1)
    return Outcome(observed, observed - reach, observed + reach, effect, *ends, p_value, d.size)


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
    # Equal sums may differ in the last bits, depending on the order of addition.
    limit = abs(float(d.sum())) - 1e-12 * float(np.abs(d).sum())
    extreme = int((np.abs(sums) >= limit).sum())
    # The observed labelling is one of the random ones too, or p could be zero.
    return extreme / sums.size if exact else (1 + extreme) / (1 + sums.size)


def unpaired_test(
    first: ArrayLike, second: ArrayLike, *, permutations: int = 10_000, seed: int = 0
) -> Outcome:
    """Studentised permutation test of two groups of people: labels are shuffled, sizes kept.

    What is permuted is Welch's t, so that groups of unequal spread and size do not make the test
    reject too often (Janssen 1997).

    Args:
        first: Mean error of each person of one group in mm, shape (n,); NaN where not scored.
        second: Mean errors of the other group, shape (m,).
        permutations: Random relabellings.
        seed: Seed of the relabellings.

    Returns:
        The test, first minus second; all NaN where a group has fewer than two people.
    """
    a, b = (np.asarray(values, np.float64) for values in (first, second))
    a, b = a[~np.isnan(a)], b[~np.isnan(b)]
    if min(a.size, b.size) < 2:
        return _no_test(a.size + b.size)
    rng = np.random.default_rng(seed)
    pooled = np.concatenate([a, b])
    shuffled = rng.permuted(np.broadcast_to(pooled, (permutations, pooled.size)), axis=1)
    observed, error = _welch(a[None], b[None])
    differences, errors = _welch(shuffled[:, : a.size], shuffled[:, a.size :])
    # A relabelling without spread within both groups is as extreme as can be, or no difference.
    tiny = 1e-12 * float(np.abs(pooled).max())
    t = np.abs(differences) / np.maximum(errors, tiny or 1.0)
    limit = float(np.abs(observed[0]) / max(error[0], tiny or 1.0))
    p_value = (1 + int((t >= limit * (1 - 1e-9)).sum())) / (1 + permutations)
    parts = [float(values.var(ddof=1)) / values.size for values in (a, b)]
    squares = parts[0] ** 2 / (a.size - 1) + parts[1] ** 2 / (b.size - 1)
    freedom = sum(parts) ** 2 / squares if squares > 0 else float(pooled.size - 2)
    reach = float(stats.t.ppf(0.975, freedom) * error[0])
    difference, effect = float(observed[0]), hedges_g(a, b)
    ends = _effect_ends(effect, np.sqrt(a.size * b.size / pooled.size), pooled.size - 2)
    return Outcome(
        difference, difference - reach, difference + reach, effect, *ends, p_value, pooled.size
    )


def _welch(first: Array, second: Array) -> tuple[Array, Array]:
    """Difference of means and its standard error, row by row."""
    parts = [each.var(axis=1, ddof=1) / each.shape[1] for each in (first, second)]
    return first.mean(axis=1) - second.mean(axis=1), np.sqrt(parts[0] + parts[1])


def _effect_ends(effect: float, scale: float, freedom: int) -> tuple[float, float]:
    """95 % interval of a standardised difference, by its large-sample error (Hedges 1981)."""
    if np.isnan(effect):
        return float("nan"), float("nan")
    error = np.sqrt(1.0 / scale**2 + effect**2 / (2.0 * max(freedom, 1)))
    reach = float(stats.t.ppf(0.975, max(freedom, 1)) * error)
    return effect - reach, effect + reach


def _no_test(n: int) -> Outcome:
    nan = float("nan")
    return Outcome(nan, nan, nan, nan, nan, nan, nan, n)


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


def summarise(rows: pd.DataFrame, *, level: float = 0.95) -> dict[str, float | int]:
    """All figures of one cell of a table.

    Args:
        rows: Predictions of one model, for one group or several.
        level: Coverage of the intervals.

    Returns:
        people (with a landmark scored), landmarks, seeds, n (landmarks scored), missing, failed
        (points of scans that came to nothing: misses at every radius, part of no mean), mean_mm,
        sd_mm, median_mm, seed_sd_mm (spread of the seeds' means), hits and sdr by radius, and the
        intervals `<name>_low` and `<name>_high` of mean_mm and of each sdr.
    """
    errors = rows["error_mm"].to_numpy()
    hits, points = sdr_counts(errors)
    found = rows[np.isfinite(errors)]
    scored = len(found)
    mean, deviation = mean_sd(errors)
    by_seed = found.groupby("seed")["error_mm"].mean()
    cell: dict[str, float | int] = {
        "people": found["participant_id"].nunique(),
        "landmarks": rows["landmark"].nunique(),
        "seeds": rows["seed"].nunique(),
        "n": scored,
        "missing": len(errors) - points,
        "failed": points - scored,
        "mean_mm": mean,
        "sd_mm": deviation,
        "median_mm": float(found["error_mm"].median()) if scored else float("nan"),
        "seed_sd_mm": float(by_seed.std(ddof=1)),  # NaN for one seed
    }
    for radius, count in zip(SDR_THRESHOLDS_MM, hits, strict=True):
        cell[f"hits_{radius:g}mm"] = int(count)
        cell[f"sdr_{radius:g}mm_percent"] = 100.0 * count / points if points else float("nan")
    return cell | intervals(rows, level=level)


def table_1(frame: pd.DataFrame) -> pd.DataFrame:
    """Table 1: model by group, each model's pooled row, and no skill at the end.

    Args:
        frame: Rows of a study.

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
            cell = summarise(part)
            rows.append({"model": model, "group": group, **cell})
    return pd.DataFrame(rows)


def by_landmark(frame: pd.DataFrame, landmarks: Sequence[str]) -> pd.DataFrame:
    """The same figures for each landmark: landmark by model by group, no skill included.

    Args:
        frame: Rows of a study.
        landmarks: Names in the order wanted.
    """
    parts = []
    for name in landmarks:
        part = frame[frame["landmark"] == name]
        if len(part):
            table = table_1(part)
            table.insert(0, "landmark", name)
            parts.append(table)
    return pd.concat(parts, ignore_index=True)


def by_seed(frame: pd.DataFrame) -> pd.DataFrame:
    """Table 1's figures for each seed on its own; empty where every model has one seed only.

    Args:
        frame: Rows of a study.

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
                cell = summarise(rows_of_seed)
                rows.append({"model": model, "group": group, "seed": number, **cell})
    return pd.DataFrame(rows)


def in_space(frame: pd.DataFrame) -> pd.DataFrame:
    """Error in the plane, distance of the truth from the plane, and error in 3-D, side by side.

    A prediction lies on the plane that the pipeline found, so its error in 3-D holds both.

    Args:
        frame: Rows of a study.

    Returns:
        Rows by model and group with n (points whose truth is known in 3-D) and, in mm, the mean
        and SD of `error_mm`, of `off_plane_mm` (without its sign) and of `space_mm`.
    """
    axes = [[f"{side}_{axis}_mm" for axis in "ras"] for side in ("pred", "true")]
    offset = frame[axes[0]].to_numpy(np.float64) - frame[axes[1]].to_numpy(np.float64)
    values = frame.assign(
        off_plane_mm=frame["off_plane_mm"].abs(), space_mm=np.linalg.norm(offset, axis=1)
    )
    values = values[values["space_mm"].notna()]
    rows = []
    for model in model_order(values["model"]):
        of_model = values[values["model"] == model]
        groups = group_order(of_model["group"])
        for group in [*groups, ALL] if len(groups) > 1 else groups:
            part = of_model if group == ALL else of_model[of_model["group"] == group]
            row: dict[str, str | int | float] = {"model": model, "group": group, "n": len(part)}
            for name in ("error_mm", "off_plane_mm", "space_mm"):
                row[f"{name}_mean"], row[f"{name}_sd"] = mean_sd(part[name].to_numpy())
            rows.append(row)
    return pd.DataFrame(rows)


def variance_parts(frame: pd.DataFrame, folds: Mapping[str, int]) -> pd.DataFrame:
    """What the mean error varies with: people, seeds, folds, each apart from the others.

    Two-way analysis of variance without replication (people by seeds) on each person's mean error
    over landmarks; folds are compared by the means of their people, who differ anyway. A part that
    comes out negative is zero (Searle, Casella and McCulloch 1992, Variance Components, ch. 4).

    Args:
        frame: Rows of predictions.csv.
        folds: Fold by name of the run, for runs of a cross-validation.

    Returns:
        One row a model and group that has several seeds or folds: people, seeds, folds, mean_mm,
        standard deviations sd_people_mm, sd_seeds_mm, sd_folds_mm and sd_rest_mm (training by
        person), and the standard errors of the mean that people and seeds leave, se_people_mm and
        se_seeds_mm. NaN where there is one of a kind.
    """
    rows = []
    known = frame[np.isfinite(frame["error_mm"])]
    for (model, group), part in known.groupby(["model", "group"], sort=False):
        table = part.pivot_table(index="participant_id", columns="seed", values="error_mm")
        whole = table.dropna()  # everybody with every seed
        of_person = part.assign(fold=part["run"].map(folds)).groupby("participant_id")["fold"]
        fold = of_person.first().reindex(whole.index)
        seeds, people = whole.shape[1], len(whole)
        if people < 2 or (seeds < 2 and fold.nunique() < 2):
            continue
        rows.append(
            {
                "model": model, "group": group, "people": people, "seeds": seeds,
                "folds": fold.nunique(), "mean_mm": float(whole.to_numpy().mean()),
                **_crossed(whole.to_numpy()),
                "sd_folds_mm": _between(whole.mean(axis=1), fold),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def _crossed(errors: Array) -> dict[str, float]:
    """Parts of people, seeds and the rest; errors of shape (people, seeds)."""
    people, seeds = errors.shape
    mean = errors.mean()
    by_person, by_seed = errors.mean(axis=1), errors.mean(axis=0)
    of_people = seeds * float(np.square(by_person - mean).sum()) / (people - 1)
    nan = float("nan")
    if seeds == 1:
        sd = np.sqrt(of_people)
        return {
            "sd_people_mm": sd, "sd_seeds_mm": nan, "sd_rest_mm": nan,
            "se_people_mm": sd / np.sqrt(people), "se_seeds_mm": nan,
        }  # fmt: skip
    of_seeds = people * float(np.square(by_seed - mean).sum()) / (seeds - 1)
    rest = np.square(errors - by_person[:, None] - by_seed + mean).sum()
    rest = float(rest) / ((people - 1) * (seeds - 1))
    person = np.sqrt(max(of_people - rest, 0.0) / seeds)
    seed = np.sqrt(max(of_seeds - rest, 0.0) / people)
    return {
        "sd_people_mm": person, "sd_seeds_mm": seed, "sd_rest_mm": np.sqrt(rest),
        "se_people_mm": person / np.sqrt(people), "se_seeds_mm": seed / np.sqrt(seeds),
    }  # fmt: skip


def _between(values: pd.Series[float], fold: pd.Series[Any]) -> float:
    """Standard deviation between folds beyond what their people explain; NaN for one fold."""
    parts = [values[fold == each].to_numpy() for each in fold.dropna().unique()]
    parts = [part for part in parts if len(part)]
    counts = np.array([len(part) for part in parts], dtype=float)
    if len(parts) < 2 or counts.sum() <= len(parts):
        return float("nan")
    mean = np.concatenate(parts).mean()
    between = sum(len(p) * (p.mean() - mean) ** 2 for p in parts) / (len(parts) - 1)
    within = sum(np.square(p - p.mean()).sum() for p in parts) / (counts.sum() - len(parts))
    size = (counts.sum() - np.square(counts).sum() / counts.sum()) / (len(parts) - 1)
    return float(np.sqrt(max(between - within, 0.0) / size))
