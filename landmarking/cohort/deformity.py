"""What sets some phantom heads apart: ageing, and the published differences of Down syndrome.

All of them are smooth local scalings, so that landmarks move with the tissue. Directions come from
the papers named; sizes are assumptions where marked [A], and each is a setting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from landmarking.geometry import Array


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
