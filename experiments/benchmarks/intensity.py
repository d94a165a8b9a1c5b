"""How far the brain's values move when something else of the slice changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from arguments import main, read_arguments
from landmarking.config import PROJECT
from landmarking.geometry import Array
from landmarking.imaging.intensity import Reference, match_histogram, normalise
from landmarking.imaging.pipeline import PreprocessSettings, extract_slice, histogram_reference
from landmarking.imaging.symmetry import Mask
from registration import LandmarkedHead, real_heads

Change = Callable[[Array, Mask], Array]


@dataclass
class IntensityBenchmark:
    """What to measure.

    Attributes:
        heads: Folder with the real heads; relative to the project. Skipped where it is absent.
    """

    heads: str = "../shared/real"


def _stripped(image: Array, brain: Mask) -> Array:
    return np.where(ndimage.binary_dilation(brain, iterations=3), image, image.min())


def _rows_missing(image: Array, brain: Mask) -> Array:
    kept = int(np.flatnonzero(brain.any(axis=1)).max()) + 3
    return np.where(np.arange(len(image))[:, None] < kept, image, image.min())


def _biased(image: Array, brain: Mask) -> Array:
    slope = np.linspace(-0.2, 0.2, image.shape[1])
    return np.asarray(image * np.exp(slope))


def _gamma(image: Array, brain: Mask) -> Array:
    low, high = float(image.min()), float(np.percentile(image[brain], 99.0))
    return np.asarray(((image - low) / (high - low)) ** 1.3)


def _fat(image: Array, brain: Mask) -> Array:
    bright = image > np.percentile(image[brain], 99.0)
    return np.where(bright & ~brain, 2.0 * image, image)


CHANGES: dict[str, Change] = {
    "stripped": _stripped,
    "cut below the brain": _rows_missing,
    "scalp twice as bright": _fat,
    "bias 40 %": _biased,
    "gamma 1.3": _gamma,
}


def run(arguments: list[str]) -> str:
    """Measure on the real heads.

    Args:
        arguments: `key=value` for the fields of `IntensityBenchmark`.

    Returns:
        A table in Markdown: RMS change of the brain's values, in their own standard deviations.

    Raises:
        ConfigError: If a key is unknown or a value has the wrong type.
    """
    chosen = read_arguments(IntensityBenchmark, arguments)
    heads = list(real_heads(Path(PROJECT / chosen.heads)))
    if not heads:
        return f"Real heads: skipped, there is no folder {chosen.heads}."
    return "\n".join(table(heads))


def table(heads: list[LandmarkedHead]) -> list[str]:
    """Rows by matching and normalisation, columns by change; means over the heads."""
    preprocess = PreprocessSettings()
    brain_reference = histogram_reference(preprocess)
    brain = brain_reference.region
    everywhere = Reference(brain_reference.image, np.ones_like(brain), "template")
    slices = [extract_slice(head.scan, preprocess).image for head in heads]
    lines = [["matching", "normalised over", *CHANGES], ["---"] * (2 + len(CHANGES))]
    for name, reference in (("none", None), ("slice", everywhere), ("brain", brain_reference)):
        for over, norm in (("all", _over_all), ("not air", normalise)):
            row = [name, over]
            for change in CHANGES.values():
                moves = [_move(image, change, reference, norm, brain) for image in slices]
                row.append(f"{np.mean(moves):.2f}")
            lines.append(row)
    return ["| " + " | ".join(line) + " |" for line in lines]


def _over_all(image: Array) -> Array:
    return np.asarray((image - image.mean()) / image.std())


def _move(
    image: Array, change: Change, reference: Reference | None, norm: Callable[[Array], Array],
    brain: Mask,
) -> float:  # fmt: skip
    before, after = (
        norm(each if reference is None else match_histogram(each, reference))
        for each in (image, change(image, brain))
    )
    return float(np.sqrt(np.mean((after - before)[brain] ** 2)) / before[brain].std())


if __name__ == "__main__":
    main(run)
