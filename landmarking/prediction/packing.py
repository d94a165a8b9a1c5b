"""From runs to the one file that can be passed on, with its card made from what is on disk."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from landmarking.errors import ConfigError
from landmarking.prediction.calibration import facts_of
from landmarking.prediction.model import LandmarkModel
from landmarking.prediction.package import read_package, write_package
from landmarking.prediction.runs import model_from_runs
from landmarking.prediction.scoring import accuracy_rows, learnt_from, score, unseen

if TYPE_CHECKING:
    from landmarking.data.prepared import PreparedCohort

LARGEST_ROUNDING_PX = 0.05
"""16-bit weights that move a landmark further are refused."""

LIMITS = (
    "For research; not a medical device, and not checked for clinical use.",
    "For T1-weighted scans of whole heads or brains; no other contrasts, slabs or slices.",
    "All landmarks come to lie on the mid-sagittal plane that the pipeline finds.",
    "No tumours, surgery, malformations or children were seen in training.",
    "Radii keep their promise for people like those of the calibration; look at the picture.",
)


@dataclass(frozen=True)
class Packing:
    """What to pack and how to call it.

    Attributes:
        runs: Folders of runs or studies.
        name: What reports call the model.
        licence: Licence of the weights.
        note: A sentence on what it was trained on, beside what the runs say themselves.
    """

    runs: tuple[Path, ...]
    name: str
    licence: str = "MIT"
    note: str = ""


def pack(path: Path, packing: Packing, cohorts: Sequence[PreparedCohort] = ()) -> LandmarkModel:
    """Write a packed model; its accuracy is that of the packed weights, not of the runs.

    Args:
        path: File to write, ending in `.zip`.
        packing: What to pack.
        cohorts: Prepared cohorts with truth to state the accuracy on; people whom a run has learnt
            from, and groups that radii were calibrated on, are left out.

    Returns:
        The model as it is read back.

    Raises:
        ConfigError: If runs do not belong together, a cohort's slices are of another kind, or
            rounding the weights moves landmarks.
    """
    model = replace(model_from_runs(packing.runs), name=packing.name)
    card: dict[str, Any] = {
        "licence": packing.licence,
        "note": packing.note,
        "limits": list(LIMITS),
        "calibrated_on": facts_of(packing.runs[0]) if model.calibration else None,
    }
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / "model.zip"
        write_package(trial, model, card)
        packed = read_package(trial)
    card["rounding_px"] = _rounding_px(model, packed, cohorts)
    learnt = learnt_from(packing.runs) if cohorts else set()
    card["accuracy"] = [
        row
        for cohort in cohorts
        for row in accuracy_rows(packed, score(packed, cohort, _fresh(cohort, learnt, card)))
    ]
    write_package(path, model, card)
    return read_package(path)


def _fresh(cohort: PreparedCohort, learnt: set[str], card: Mapping[str, Any]) -> NDArray[np.int64]:
    """Scans that neither weights nor radii come from."""
    calibrated = card["calibrated_on"] or {}
    same = calibrated.get("cohort_digest") == cohort.digest
    groups = calibrated.get("groups", ()) if same else ()
    kept = [
        index
        for index in unseen(cohort, learnt).tolist()
        if cohort.records[index].group not in groups
    ]
    return np.array(kept, dtype=np.int64)


def _rounding_px(
    model: LandmarkModel, packed: LandmarkModel, cohorts: Sequence[PreparedCohort]
) -> float:
    """How far 16-bit weights move a landmark, at most, on the template and some slices."""
    if model.reference.image.ndim == 2:
        images = [model.reference.image]
    else:
        from landmarking.imaging.pipeline import template_slice

        images = [template_slice(model.preprocess)]
    images += [np.asarray(image) for cohort in cohorts for image in cohort.images[:8]]
    stack = np.stack(images).astype(np.float32)
    moved = model.locate(stack).points_px - packed.locate(stack).points_px
    largest = float(np.linalg.norm(moved, axis=-1).max())
    if not largest <= LARGEST_ROUNDING_PX:
        raise ConfigError(
            f"{model.name}: weights of 16 bits move a landmark by {largest:.3f} pixels, more than "
            f"{LARGEST_ROUNDING_PX}; train with weight decay, or use the run's folder as --model"
        )
    return largest
