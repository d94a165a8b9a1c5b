"""Radii that a model's doubt stands for, kept beside the run or study that they belong to.

`calibration.json` holds what `landmarking.evaluation.confidence.calibrate` found on people whom no
member was trained on. It names the model by its digest and serves no other.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from landmarking.errors import ConfigError
from landmarking.evaluation.confidence import Calibration
from landmarking.storage import parse_json

if TYPE_CHECKING:
    from landmarking.prediction.model import LandmarkModel

FILE = "calibration.json"


def to_plain(calibration: Calibration) -> dict[str, Any]:
    """Plain values of a calibration."""
    return {
        "coverage": calibration.coverage,
        "factors": calibration.factors.tolist(),
        "counts": calibration.counts.tolist(),
    }


def from_plain(values: dict[str, Any]) -> Calibration:
    """Inverse of `to_plain`."""
    return Calibration(
        np.array(values["factors"], dtype=np.float64),
        float(values["coverage"]),
        np.array(values["counts"], dtype=np.int64),
    )


def read_calibration(folder: Path, model: LandmarkModel) -> Calibration | None:
    """What `calibrate_runs` wrote for a model, or None where there is nothing.

    Args:
        folder: Of the run or study.
        model: The model that the runs make.

    Raises:
        ConfigError: If the file is damaged or belongs to another model.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    again = "calibrate again with `landmarking calibrate`, or remove the file"
    try:
        values = parse_json(path.read_text(encoding="utf-8"))
        found = from_plain(values)
        owner = values["model_digest"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: not a calibration ({error!r}); {again}") from error
    if owner != model.digest or len(found.factors) != len(model.landmarks):
        raise ConfigError(
            f"{path}: belongs to another model ({owner[:12]}, this one is {model.digest[:12]}): "
            f"runs were added, removed or trained again; {again}"
        )
    return found


def facts_of(folder: Path) -> dict[str, Any]:
    """On whom the calibration of a run or study was made, for its card.

    Args:
        folder: Of the run or study; its calibration has been read before.
    """
    values = parse_json((folder / FILE).read_text(encoding="utf-8"))
    return {
        key: values.get(key) for key in ("cohort", "cohort_digest", "groups", "simulated", "scans")
    }
