"""Predictions to numbers: Table 1 and the per-landmark tables, tidy and unrounded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from landmarking.evaluation.metrics import SDR_THRESHOLDS_MM, mean_sd, sdr_counts
from landmarking.evaluation.statistics import bootstrap_intervals

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
