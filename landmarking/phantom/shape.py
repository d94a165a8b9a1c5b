"""Shapes of people: modes of variation of 32 landmarks, ageing, and what Down syndrome changes.

`python -m landmarking.phantom.shape AFIDS_DIR` fits the modes again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np

from landmarking.errors import CohortError
from landmarking.files import write_text
from landmarking.geometry import Array
from landmarking.landmarks import landmark_set, read_landmarks

# Shape of 32 brain landmarks across people: mean and modes of variation, pose apart.
#
# The fitted figures ship in `shape_model.json`. They come from the manual coordinates of the
# Anatomical Fiducials (AFIDs) data of 60 people, 30 of HCP and 30 of OASIS (Taha et al. 2023,
# Scientific Data; Lau et al. 2019; CC BY 4.0), and are fitted again by
#
#     python -m landmarking.phantom.shape AFIDS_DIR
#
# where AFIDS_DIR holds one ground-truth `*_afids.fcsv` for each person, in any folders.


_SOURCE = (
    "Mean and modes of the AFIDs coordinates of 60 people (30 HCP, 30 OASIS; ground truth of "
    "several raters); Taha et al. 2023, Lau et al. 2019, CC BY 4.0"
)


@dataclass(frozen=True, eq=False)
class ShapeModel:
    """Landmarks of a person: mean plus normally distributed amounts of each mode.

    Attributes:
        names: Landmark names, in the order of `afids32`.
        mean_mm: Mean shape, aligned to the template by rotation and shift, shape (L, 3).
        modes_mm: Modes of variation, each scaled to one standard deviation, shape (K, L, 3).
        people: Number of people behind the figures.
    """

    names: tuple[str, ...]
    mean_mm: Array
    modes_mm: Array
    people: int

    def sample(self, rng: np.random.Generator, limit_sd: float = 3.0) -> Array:
        """Landmarks of a new person, mm in the template's frame, shape (L, 3).

        Args:
            rng: Source of chance.
            limit_sd: Amounts beyond it are drawn again.
        """
        amounts = rng.standard_normal(len(self.modes_mm))
        while (far := np.abs(amounts) > limit_sd).any():
            amounts[far] = rng.standard_normal(int(far.sum()))
        return self.mean_mm + np.tensordot(amounts, self.modes_mm, 1)


@cache
def load_shape_model() -> ShapeModel:
    """The fitted model that ships with the package."""
    text = files("landmarking.phantom").joinpath("shape_model.json").read_text(encoding="utf-8")
    data = json.loads(text)
    return ShapeModel(
        tuple(data["names"]), np.array(data["mean_mm"]), np.array(data["modes_mm"]), data["people"]
    )


def read_people(folder: Path) -> Array:
    """Landmarks of all people in a folder.

    Args:
        folder: Searched for `sub-*_afids.fcsv`, one file a person.

    Returns:
        World RAS mm, shape (P, 32, 3), in the order of the paths.

    Raises:
        CohortError: If there are no files, a person comes twice, a landmark is missing, or a shape
            lies so far from the others that it must be in another frame.
    """
    paths = sorted(folder.rglob("sub-*_afids.fcsv"))
    names = [path.name for path in paths]
    if len(paths) < 3 or len(set(names)) != len(names):
        raise CohortError(
            f"{folder}: needs one sub-*_afids.fcsv for each of at least three people, "
            f"found {len(paths)} files and {len(set(names))} names"
        )
    landmarks = landmark_set("afids32")
    people = np.stack([landmarks.arrange(read_landmarks(path)) for path in paths])
    problems = []
    template = landmarks.template_mm
    for path, points in zip(paths, people, strict=True):
        if np.isnan(points).any():
            missing = [n for n, p in zip(landmarks.names, points, strict=True) if np.isnan(p).any()]
            problems.append(f"{path.name}: has no {', '.join(missing)}")
        else:
            # The lateral landmarks say left from right; the extent says mm from other units.
            size = np.linalg.norm(points - points.mean(0)) / np.linalg.norm(
                template - template.mean(0)
            )
            miss = float(np.median(np.linalg.norm(align(points, template) - template, axis=1)))
            if not 0.8 < size < 1.25 or miss > 10.0:
                problems.append(
                    f"{path.name}: median distance {miss:.1f} mm from the template's landmarks "
                    f"and size {size:.2f} of it; it may be in another frame"
                )
    if problems:
        raise CohortError(f"{folder}: not all shapes can be used:", tuple(problems))
    return people


def align(points: Array, reference: Array, weights: Array | None = None) -> Array:
    """Rotate and shift points, shape (L, 3), to fit a reference by weighted least squares.

    Source: Kabsch 1976, without reflection or scaling.
    """
    w = np.full(len(points), 1.0) if weights is None else weights
    w = (w / w.sum())[:, None]
    centre, goal = (w * points).sum(0), (w * reference).sum(0)
    u, _, vt = np.linalg.svd((w * (points - centre)).T @ (reference - goal))
    turn = u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt
    return np.asarray((points - centre) @ turn + goal)


def align_all(people: Array, template_mm: Array, rounds: int = 10) -> tuple[Array, Array]:
    """Bring all people into the frame of the template, steady landmarks counting more.

    Args:
        people: Landmarks, shape (P, L, 3).
        template_mm: Landmarks of the template, shape (L, 3), which fix the frame.
        rounds: Rounds of alignment to the mean.

    Returns:
        Aligned landmarks, shape (P, L, 3), and their mean, shape (L, 3).
    """
    mean, weights = template_mm, np.ones(len(template_mm))
    for _ in range(rounds):
        aligned = np.stack([align(points, mean, weights) for points in people])
        weights = 1.0 / np.maximum(aligned.var(axis=0, ddof=1).sum(-1), 0.25)
        mean = align(aligned.mean(0), template_mm, weights)
    return np.stack([align(points, mean, weights) for points in people]), mean


def fit_shape_model(people: Array, kept: float = 0.998) -> ShapeModel:
    """Fit mean and modes.

    Args:
        people: Landmarks of `afids32`, world RAS mm in any pose, shape (P, 32, 3).
        kept: Share of the variance that the modes carry.
    """
    landmarks = landmark_set("afids32")
    aligned, _ = align_all(people, landmarks.template_mm)
    mean = aligned.mean(0)
    _, singular, rows = np.linalg.svd((aligned - mean).reshape(len(people), -1))
    variance = singular**2 / (len(people) - 1)
    count = int(np.searchsorted(np.cumsum(variance) / variance.sum(), kept)) + 1
    modes = np.sqrt(variance[:count, None]) * rows[:count]
    # The sign of a mode is arbitrary; fixing it keeps the file the same on every machine.
    modes *= np.sign(modes[np.arange(count), np.abs(modes).argmax(1)])[:, None]
    return ShapeModel(landmarks.names, mean, modes.reshape(count, *mean.shape), len(people))


def write_shape_model(path: Path, model: ShapeModel) -> None:
    """Write the fitted figures as JSON, rounded to a tenth of a micrometre."""
    rows = ",\n  ".join(json.dumps(np.round(mode, 4).tolist()) for mode in model.modes_mm)
    head = {
        "source": _SOURCE,
        "frame": "world RAS mm, aligned to the template by rotation and shift",
        "people": model.people,
        "names": list(model.names),
        "mean_mm": np.round(model.mean_mm, 4).tolist(),
    }
    body = ",\n ".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head.items())
    write_text(path, f'{{{body},\n "modes_mm": [\n  {rows}]\n}}\n')


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit the model to a folder of people and write the package's data file."""
    parser = argparse.ArgumentParser(description="Fit the landmark shape model.")
    parser.add_argument("folder", type=Path, help="folder with one *_afids.fcsv a person")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).with_name("shape_model.json"), help="JSON file"
    )
    options = parser.parse_args(arguments)
    write_shape_model(options.out, fit_shape_model(read_people(options.folder)))


# What sets some phantom heads apart: ageing, and the published differences of Down syndrome.
#
# All of them are smooth local scalings, so that landmarks move with the tissue. Directions come
# from the papers named; sizes are assumptions where marked [A], and each is a setting.


@dataclass(frozen=True)
class LocalScaling:
    """Scaling about a centre within a region with a soft border.

    Attributes:
        centre_mm: Centre in the template's world.
        reach_mm: Semi-axes of the region; infinite for the whole head.
        factor: Size in the subject over size in the template, by axis.
    """

    centre_mm: tuple[float, float, float]
    reach_mm: tuple[float, float, float]
    factor: tuple[float, float, float]


def scaled(points_mm: Array, changes: Sequence[LocalScaling]) -> Array:
    """Look back through local scalings.

    Args:
        points_mm: Points of the changed head, shape (N, 3).
        changes: The changes, the last one made to the head first looked through.

    Returns:
        Where those points were before the changes, shape (N, 3).
    """
    points = np.asarray(points_mm, dtype=np.float64)
    for change in reversed(changes):
        offset = points - change.centre_mm
        radius = np.sum((offset / change.reach_mm) ** 2, axis=-1, keepdims=True)
        # Flat inside and steep at the border, so that the whole structure has the size named.
        weight = np.exp(-0.5 * radius**2)
        points = points + (1.0 / np.array(change.factor) - 1.0) * weight * offset
    return points


@dataclass
class DownSyndromeSettings:
    """Differences of the group `DS`; each subject draws its own amounts about these.

    Attributes:
        head_length: Length of the head over normal (brachycephaly, -8 to -12 %) [A].
        callosum_front: Thickness of the front fifth of the corpus callosum over normal (thinner:
            Wang 1992; size [A]).
        callosum_length: Length of the corpus callosum over normal (rounder: Wang 1992; size [A]).
        pons: Height and depth of the pons over normal (area -15 to -20 % [A]; Fujii 2017).
        cerebellum: Linear size of the cerebellum over normal (-20 to -30 % of the mid-sagittal
            area [A]; Pinter 2001).
        frontal: Length of the frontal lobe over normal (Hamner 2018; size [A]).
        ventricles: Linear size of the lateral and third ventricles over normal [A].
        spread: SD of the amounts between subjects, as a share of each difference.
    """

    head_length: float = 0.90
    callosum_front: float = 0.80
    callosum_length: float = 0.94
    pons: float = 0.91
    cerebellum: float = 0.87
    frontal: float = 0.95
    ventricles: float = 1.12
    spread: float = 0.3


def down_syndrome(
    settings: DownSyndromeSettings, rng: np.random.Generator
) -> tuple[LocalScaling, ...]:
    """Changes of one subject of group `DS`."""
    everywhere = (np.inf, np.inf, np.inf)

    def drawn(size: float) -> float:
        return 1.0 + (size - 1.0) * float(np.clip(1.0 + settings.spread * rng.normal(), 0.2, 1.8))

    length = drawn(settings.head_length)
    front, callosum = drawn(settings.callosum_front), drawn(settings.callosum_length)
    pons, cerebellum = drawn(settings.pons), drawn(settings.cerebellum)
    frontal, ventricles = drawn(settings.frontal), drawn(settings.ventricles)
    return (
        LocalScaling((0.0, 30.0, 8.0), (14.0, 9.0, 9.0), (1.0, front, front)),
        LocalScaling((0.0, 0.0, 15.0), (25.0, 28.0, 16.0), (1.0, callosum, 1.0)),
        LocalScaling((0.0, -22.0, -34.0), (18.0, 13.0, 13.0), (1.0, pons, pons)),
        LocalScaling((0.0, -60.0, -32.0), (42.0, 24.0, 24.0), (cerebellum,) * 3),
        LocalScaling((0.0, 45.0, 10.0), (50.0, 25.0, 35.0), (1.0, frontal, 1.0)),
        *_ventricles(ventricles),
        LocalScaling((0.0, -18.0, 0.0), everywhere, (1.0, length, 1.0)),
    )


def _ventricles(factor: float) -> tuple[LocalScaling, ...]:
    body = [
        LocalScaling((side * 13.0, -10.0, 18.0), (9.0, 24.0, 10.0), (factor, 1.0, factor))
        for side in (-1, 1)
    ]
    return (*body, LocalScaling((0.0, -10.0, -2.0), (4.0, 10.0, 8.0), (factor, 1.0, 1.0)))


@dataclass
class AgeingSettings:
    """Ageing and atrophy, as a memory clinic's cohort such as ADNI has them.

    Attributes:
        share: Share of `train` with atrophy.
        ventricles: Linear size of the ventricles over normal at full atrophy [A].
        callosum: Thickness of the corpus callosum over normal at full atrophy [A].
        sulci: Widening of sulci at full atrophy, in mm of cortex given way to fluid [A].
        yearly: Atrophy gained from one scan of a person to the next, as a share of full [A].
        train_years: Mean and SD of the age in `train`.
        healthy_years: Likewise in `HS`.
        syndrome_years: Likewise in `DS`.
    """

    share: float = 0.5
    ventricles: float = 1.45
    callosum: float = 0.80
    sulci: float = 0.8
    yearly: float = 0.05
    train_years: list[float] = field(default_factory=lambda: [74.0, 7.0])
    healthy_years: list[float] = field(default_factory=lambda: [45.0, 12.0])
    syndrome_years: list[float] = field(default_factory=lambda: [43.0, 9.0])


@dataclass(frozen=True)
class Age:
    """Age of one subject and what it has done.

    Attributes:
        years: Age at the scan.
        atrophy: From 0, none, to 1.
        sulci_mm: Widening of sulci.
        changes: Local scalings of ventricles and callosum.
    """

    years: float
    atrophy: float
    sulci_mm: float
    changes: tuple[LocalScaling, ...]


def ageing(settings: AgeingSettings, rng: np.random.Generator, group: str, scan: int) -> Age:
    """Age and atrophy of a subject at one of its scans.

    Args:
        settings: Sizes.
        rng: Source of chance of the person.
        group: Group of the person.
        scan: Number of the scan; each is a year after the last.
    """
    by_group = {"HS": settings.healthy_years, "DS": settings.syndrome_years}
    mean, sd = by_group.get(group, settings.train_years)
    years = float(np.clip(rng.normal(mean, sd), 18.0, 95.0))
    amount, ill = float(rng.beta(2.0, 2.0)), bool(rng.random() < settings.share)
    atrophy = (amount if ill and group == "train" else 0.25 * amount) + settings.yearly * scan
    ventricles = 1.0 + (settings.ventricles - 1.0) * atrophy
    callosum = 1.0 + (settings.callosum - 1.0) * atrophy
    thinner = tuple(
        LocalScaling(centre, (14.0, 12.0, 7.0), (1.0, 1.0, callosum))
        for centre in ((0.0, 15.0, 22.0), (0.0, -8.0, 24.0))
    )
    changes = (*thinner, *_ventricles(ventricles))
    return Age(round(years + scan, 1), round(atrophy, 4), settings.sulci * atrophy, changes)


if __name__ == "__main__":
    main()
