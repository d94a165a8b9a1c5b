"""Which score of doubt ranks errors best, and how often calibrated radii hold the truth.

Radii are calibrated on people of the training groups whom no run has learnt from, and tried on
every other group of the cohort.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from arguments import main, read_arguments
from landmarking.config import PROJECT
from landmarking.errors import ConfigError
from landmarking.files import write_text
from landmarking.geometry import Array
from landmarking.prediction.calibration import (
    calibrate,
    coverage_table,
    flag_quality,
    rank_correlation,
)
from landmarking.prediction.model import LandmarkModel, model_from_runs
from landmarking.prediction.predict import scores
from landmarking.prediction.scoring import learnt_from, score, unseen
from landmarking.preparation.prepared import load_prepared


@dataclass
class ConfidenceBenchmark:
    """What to measure.

    Attributes:
        runs: A run, or a study whose runs make one model; commas join several.
        cohort: Folder of the prepared cohort that the runs were trained on.
        train_groups: Groups that were trained on, with commas.
        copies: Moved and brightened copies of a slice for the score `copies`.
        coverage: Probability with which a radius is to hold the truth.
        failure_mm: Errors above it are failures.
        outputs: Folder for the tables; relative to the project.
    """

    runs: str = ""
    cohort: str = ""
    train_groups: str = "train"
    copies: int = 8
    coverage: float = 0.9
    failure_mm: float = 5.0
    outputs: str = "outputs/benchmarks/confidence"


@dataclass(frozen=True, eq=False)
class Doubted:
    """Errors and scores of doubt on scans.

    Attributes:
        groups: Group of each of the B scans; `validation` for those to calibrate on.
        landmarks: Names of the L landmarks.
        errors_mm: In-plane errors, shape (B, L); NaN where there is no truth.
        scores: Scores of doubt by name, each of shape (B, L).
    """

    groups: tuple[str, ...]
    landmarks: tuple[str, ...]
    errors_mm: Array
    scores: dict[str, Array]


def run(arguments: list[str]) -> str:
    """Measure, and write confidence.md.

    Args:
        arguments: `key=value` for the fields of `ConfidenceBenchmark`.

    Returns:
        Tables in Markdown, with the path of the file.

    Raises:
        ConfigError: If a key is unknown or missing, or there is no run.
        CohortError: If a group is missing.
        PredictionsError: If there are too few people to calibrate on.
    """
    chosen = read_arguments(ConfidenceBenchmark, arguments, "confidence")
    for key in ("runs", "cohort"):
        if not getattr(chosen, key):
            raise ConfigError(f"confidence.{key}: set it, as in {key}=DIR")
    doubted = measure(chosen)
    simulated = load_prepared(PROJECT / chosen.cohort).simulated
    lines = list(_tables(doubted, chosen))
    if simulated:
        lines += ["", "The cohort is simulated."]
    path = PROJECT / chosen.outputs / "confidence.md"
    write_text(path, "\n".join(lines) + "\n")
    return "\n".join([*lines, "", f"Written to {path}"])


def measure(config: ConfidenceBenchmark) -> Doubted:
    """Predict everybody whom no run has learnt from.

    Args:
        config: Runs and cohort.
    """
    runs = [PROJECT / path for path in config.runs.split(",")]
    model, cohort = model_from_runs(runs), load_prepared(PROJECT / config.cohort)
    trained, learnt = config.train_groups.split(","), learnt_from(runs)
    chosen = unseen(cohort, learnt)
    scored = score(model, cohort, chosen)
    images = np.asarray(cohort.images[chosen], dtype=np.float32)
    return Doubted(
        tuple("validation" if group in trained else group for group in scored.groups),
        scored.landmarks,
        scored.errors_mm,
        dict(_scores(model, images, scored.doubt_px, config.copies)),
    )


def _scores(
    model: LandmarkModel, images: NDArray[np.float32], doubt_px: Array, copies: int
) -> Iterator[tuple[str, Array]]:
    """Scores by name; `none` gives every prediction of a landmark the same radius."""
    yield "none", np.ones_like(doubt_px)
    alone = [replace(model, members=(member,)).locate(images) for member in model.members]
    spread = np.nanmean([answer.doubt_px for answer in alone], axis=0)
    if np.isfinite(spread).all():
        yield "spread", scores(spread)
    if all(np.isfinite(answer.points_px).all() for answer in alone) and len(alone) > 1:
        places = np.stack([answer.points_px for answer in alone])
        yield "members", _deviation(places)
        if np.isfinite(doubt_px).all():
            yield "spread and members", scores(doubt_px)
    yield "copies", _deviation(np.stack(list(_copies(model, images, copies))))


def _deviation(places: Array) -> Array:
    """Root of the variance summed over both axes, shape (M, B, L, 2) to (B, L)."""
    return scores(np.sqrt(places.var(axis=0).sum(axis=-1)))


def _copies(model: LandmarkModel, images: NDArray[np.float32], count: int) -> Iterator[Array]:
    """Predictions on copies moved by whole pixels and bent in contrast, moved back."""
    rng = np.random.default_rng(0)
    low, high = images.min(axis=(1, 2), keepdims=True), images.max(axis=(1, 2), keepdims=True)
    for _ in range(count):
        dx, dy = rng.integers(-4, 5, size=2)
        gamma = float(np.exp(rng.normal(0.0, 0.15)))
        bent = low + (high - low) * ((images - low) / (high - low)) ** gamma
        edge = np.pad(bent, ((0, 0), (4, 4), (4, 4)), mode="edge")
        rows, columns = images.shape[1:]
        moved = edge[:, 4 - dy : 4 - dy + rows, 4 - dx : 4 - dx + columns]
        found = model.locate(np.ascontiguousarray(moved, dtype=np.float32))
        yield found.points_px - np.array([dx, dy])


def _tables(doubted: Doubted, config: ConfidenceBenchmark) -> Iterator[str]:
    groups = ("validation", *dict.fromkeys(g for g in doubted.groups if g != "validation"))
    held = np.array([group == "validation" for group in doubted.groups])
    yield "| score | " + " | ".join(f"rank correlation, {group}" for group in groups) + " |"
    yield "|---|" + "---|" * len(groups)
    for name, values in doubted.scores.items():
        if name == "none":
            continue
        found = [_ranked(values, doubted, group) for group in groups]
        yield f"| {name} | " + " | ".join(f"{value:.2f}" for value in found) + " |"
    for name, values in doubted.scores.items():
        factors = calibrate(doubted.errors_mm[held], values[held], config.coverage)
        radii = factors.radius(values)
        yield from ("", *_coverage_lines(name, doubted, radii, ~held, config))


def _ranked(scores: Array, doubted: Doubted, group: str) -> float:
    members = np.array([other == group for other in doubted.groups])
    return rank_correlation(scores[members], doubted.errors_mm[members])


def _coverage_lines(
    name: str,
    doubted: Doubted,
    radii: Array,
    tried: NDArray[np.bool_],
    config: ConfidenceBenchmark,
) -> Iterator[str]:
    groups = [group for group, here in zip(doubted.groups, tried, strict=True) if here]
    errors = doubted.errors_mm[tried]
    yield f"Radii from `{name}`, for {config.coverage:.0%}:"
    yield ""
    yield "| group | landmark | held, % (95 % interval) | points | median radius, mm |"
    yield "|---|---|---|---|---|"
    for row in coverage_table(errors, radii[tried], groups, doubted.landmarks):
        share = f"{100 * row.share:.0f} ({100 * row.low:.0f} to {100 * row.high:.0f})"
        yield f"| {row.group} | {row.landmark} | {share} | {row.count} | {row.radius_mm:.2f} |"
    limit = config.failure_mm
    flag = flag_quality(errors, radii[tried], failure_mm=limit, radius_mm=limit)
    yield ""
    yield (
        f"Errors above {limit:g} mm: {flag.failures}; radii above it: {flag.flagged}; "
        f"precision {flag.precision:.2f}, recall {flag.recall:.2f}."
    )


if __name__ == "__main__":
    main(run)
