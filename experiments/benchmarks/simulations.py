"""Do intervals hold 95 %, and tests reject one in twenty? Simulations of what tables compute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from rich.progress import track

from arguments import read_arguments
from landmarking.evaluation.predictions import SDR_THRESHOLDS_MM
from landmarking.evaluation.statistics import intervals, paired_test, unpaired_test
from landmarking.geometry import Array

LANDMARKS = 8
Draw = Callable[[np.random.Generator, int], Array]


@dataclass
class StatisticsBenchmark:
    """What to simulate.

    Attributes:
        studies: Simulated studies a row.
        permutations: Random permutations a test.
        seed: Seed of everything.
    """

    studies: int = 2000
    permutations: int = 499
    seed: int = 0


def run(arguments: list[str]) -> str:
    """Simulate coverage and type-I errors.

    Args:
        arguments: `key=value` for the fields of `StatisticsBenchmark`.

    Returns:
        Tables in Markdown.

    Raises:
        ConfigError: If a key is unknown or a value has the wrong type.
    """
    chosen = read_arguments(StatisticsBenchmark, arguments)
    return "\n".join([*_coverage(chosen), "", *_differences(chosen), "", *_type_one(chosen)])


def _gamma(rng: np.random.Generator, people: int) -> Array:
    level = rng.gamma(4.0, 0.25, people)
    return np.asarray(level[:, None] * rng.gamma(2.0, 0.5, (people, LANDMARKS)))


def _lognormal(rng: np.random.Generator, people: int) -> Array:
    level = rng.lognormal(-0.125, 0.5, people)
    return np.asarray(level[:, None] * rng.gamma(2.0, 0.5, (people, LANDMARKS)))


ERRORS: dict[str, Draw] = {"gamma (skew 1)": _gamma, "log-normal (skew 1.75)": _lognormal}
"""Radial errors in mm, shape (people, landmarks), of mean 1: people differ, and their landmarks."""


def _coverage(chosen: StatisticsBenchmark) -> list[str]:
    rng = np.random.default_rng(chosen.seed)
    heads = ["errors of people", "people", "mean, %", "percentile bootstrap, %"]
    heads += [f"SDR {radius:g} mm, %" for radius in SDR_THRESHOLDS_MM[:3]]
    lines = [heads, ["---"] * len(heads)]
    for name, draw in ERRORS.items():
        many = draw(rng, 400_000)
        rates = [100.0 * float((many <= radius).mean()) for radius in SDR_THRESHOLDS_MM[:3]]
        for people in (5, 10, 25):
            held = np.zeros(5)
            for _ in track(range(chosen.studies), f"{name}, {people}", transient=True):
                errors = draw(rng, people)
                held += _held(errors, rates, rng)
            lines.append(
                [name, str(people), *(f"{value:.1f}" for value in 100 * held / chosen.studies)]
            )
    return _markdown(lines)


def _held(errors: Array, rates: list[float], rng: np.random.Generator) -> Array:
    rows = pd.DataFrame(
        {
            "participant_id": np.repeat(np.arange(len(errors)), errors.shape[1]),
            "group": "HS",
            "error_mm": errors.ravel(),
        }
    )
    found = intervals(rows)
    persons = errors.mean(axis=1)
    drawn = persons[rng.integers(0, len(persons), (400, len(persons)))].mean(axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    held = [found["mean_mm_low"] <= 1.0 <= found["mean_mm_high"], low <= 1.0 <= high]
    for radius, rate in zip(SDR_THRESHOLDS_MM, rates, strict=False):
        name = f"sdr_{radius:g}mm_percent"
        held.append(found[f"{name}_low"] <= rate <= found[f"{name}_high"])
    return np.array(held, dtype=float)


def _differences(chosen: StatisticsBenchmark) -> list[str]:
    rng = np.random.default_rng(chosen.seed + 1)
    heads = ["interval of a difference", "people", "holds, %"]
    lines = [heads, ["---"] * len(heads)]
    for people in (5, 10, 25):
        held = 0
        for number in track(range(chosen.studies), "paired", transient=True):
            level = rng.lognormal(-0.125, 0.5, people)
            first = 1.5 * level * rng.gamma(4.0, 0.25, people)
            found = paired_test(
                first, level * rng.gamma(4.0, 0.25, people), permutations=2, seed=number
            )
            held += found.low_mm <= 0.5 <= found.high_mm
        lines.append(["models, paired", str(people), f"{100 * held / chosen.studies:.1f}"])
    for one, other in ((5, 25), (10, 10), (25, 25)):
        held = 0
        for number in track(range(chosen.studies), "unpaired", transient=True):
            a, b = 2.0 * rng.gamma(4.0, 0.25, one), rng.gamma(4.0, 0.25, other)
            found = unpaired_test(a, b, permutations=2, seed=number)
            held += found.low_mm <= 1.0 <= found.high_mm
        lines.append(["groups", f"{one} and {other}", f"{100 * held / chosen.studies:.1f}"])
    return _markdown(lines)


def _type_one(chosen: StatisticsBenchmark) -> list[str]:
    rng = np.random.default_rng(chosen.seed + 2)
    heads = ["groups of equal mean", "people", "SD", "studentised (ours), %", "plain means, %"]
    lines = [heads, ["---"] * len(heads)]
    for skewed in (False, True):
        for one, other, first, second in (
            (10, 25, 2.0, 1.0), (25, 10, 2.0, 1.0), (54, 87, 2.0, 1.0), (54, 87, 1.0, 2.0),
        ):  # fmt: skip
            rejected = np.zeros(2)
            for number in track(range(chosen.studies), "type I", transient=True):
                a, b = (
                    sd * ((rng.gamma(4.0, 0.5, n) - 2.0) if skewed else rng.normal(size=n))
                    for n, sd in ((one, first), (other, second))
                )
                ours = unpaired_test(a, b, permutations=chosen.permutations, seed=number).p_value
                rejected += np.array([ours, _plain(a, b, chosen.permutations, rng)]) <= 0.05
            name = "skewed (gamma)" if skewed else "normal"
            shares = (f"{value:.1f}" for value in 100 * rejected / chosen.studies)
            lines.append([name, f"{one} and {other}", f"{first:g} and {second:g}", *shares])
    return _markdown(lines)


def _plain(a: Array, b: Array, permutations: int, rng: np.random.Generator) -> float:
    """Permutation of the difference of means, which the tables do not use."""
    pooled = np.concatenate([a, b])
    mixed = rng.permuted(np.broadcast_to(pooled, (permutations, pooled.size)), axis=1)
    apart = np.abs(mixed[:, : a.size].mean(axis=1) - mixed[:, a.size :].mean(axis=1))
    return float((1 + (apart >= abs(a.mean() - b.mean())).sum()) / (1 + permutations))


def _markdown(lines: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(line) + " |" for line in lines]
