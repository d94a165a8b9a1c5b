"""Does anything leak? The classifier, and maps, with labels that mean nothing: `leaks.py`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from rich.progress import track

from arguments import main, read_arguments
from landmarking.geometry import Array
from landmarking.landmarks import landmark_set
from landmarking.shape.classifier import Data, nested, selected_outside
from landmarking.shape.maps import compare_maps


@dataclass
class LeaksBenchmark:
    """What to try.

    Attributes:
        runs: Shuffles of the labels.
        people: In each of both groups.
        scans: Of each person; two are side by side in one fold.
        maps: Comparisons of maps under exchanged labels.
        seed: Of all draws.
    """

    runs: int = 50
    people: int = 24
    scans: int = 2
    maps: int = 100
    seed: int = 0


def heads(chosen: LeaksBenchmark, rng: np.random.Generator) -> tuple[Array, list[str]]:
    """Landmarks of people who differ by chance alone; scans of one person are nearly the same."""
    template = landmark_set("msp8").template_mm[:, 1:]
    people = 2 * chosen.people
    own = template + rng.normal(0.0, 2.0, (people, *template.shape))
    points = np.repeat(own, chosen.scans, axis=0)
    points = points + rng.normal(0.0, 0.3, points.shape)
    return points, [f"p{n}" for n in range(people) for _ in range(chosen.scans)]


def run(arguments: list[str]) -> str:
    """Shuffle labels and see what the whole chain makes of them.

    Args:
        arguments: `key=value` for the fields of `LeaksBenchmark`.

    Returns:
        A table in Markdown.

    Raises:
        ConfigError: If a key is unknown.
    """
    chosen = read_arguments(LeaksBenchmark, arguments, "leaks")
    rng = np.random.default_rng(chosen.seed)
    figures: dict[str, list[float]] = {name: [] for name in ROWS}
    for number in track(range(chosen.runs), "shuffled labels", transient=True):
        points, people = heads(chosen, rng)
        label = rng.permutation(np.repeat([0, 1], chosen.people))
        labels = np.repeat(label, chosen.scans)
        data = Data(points, labels, people)
        figures["whole"].append(nested(data, seed=number).auc)
        figures["selected inside"].append(nested(data, kind="distances", select=5, seed=number).auc)
        figures["selected outside"].append(selected_outside(data, 5, seed=number))
        apart = [f"scan{n}" for n in range(len(labels))]
        alone = Data(points, labels, apart)
        figures["scans apart"].append(nested(alone, kind="distances", by="svm", seed=number).auc)
    lines = ["| chain | AUC, mean | SD | verdict |", "|---|---|---|---|"]
    for name, text in ROWS.items():
        mean, spread = np.mean(figures[name]), np.std(figures[name], ddof=1)
        verdict = "as it should be" if abs(mean - 0.5) <= 0.05 else "**leaks**"
        lines.append(f"| {text} | {mean:.3f} | {spread:.3f} | {verdict} |")
    share = family_wise(chosen.maps, rng)
    said = f"of {chosen.maps} comparisons under exchanged labels {share:.0%} found something"
    lines += ["", f"Maps: {said} at p < 0.05, corrected (5 % is right)."]
    return "\n".join(lines)


ROWS = {
    "whole": "shape, logistic, everything inside the folds",
    "selected inside": "distances, five selected inside the folds",
    "selected outside": "distances, five selected on everybody before the folds (a mistake)",
    "scans apart": "two scans of a person in different folds (a mistake)",
}
"""What is tried; the last two are how it must not be done."""


def family_wise(runs: int, rng: np.random.Generator, people: int = 30, voxels: int = 400) -> float:
    """Share of comparisons of smooth noise that find something.

    Args:
        runs: Comparisons.
        rng: Source of chance.
        people: In both groups together.
        voxels: Of the small grid.
    """
    hits = 0
    for number in track(range(runs), "exchanged labels", transient=True):
        noise = rng.normal(size=(people, voxels))
        values = np.array([np.convolve(row, np.ones(5) / 5, mode="same") for row in noise])
        second = rng.permutation(np.arange(people) < people // 2)
        age = rng.normal(70, 5, people)
        found = compare_maps(values, second, {"age": age}, permutations=200, seed=number)
        hits += bool((found.p < 0.05).any())
    return hits / runs


if __name__ == "__main__":
    main(run)
