"""A model of a second and small heads, for the tests of prediction."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml

from landmarking.geometry import LEFT, Plane
from landmarking.imaging.midsagittal import MidsagittalPlane
from landmarking.imaging.registration import Registration
from landmarking.imaging.template import block_average, load_template
from landmarking.landmarks import landmark_set
from landmarking.models.build import save_model
from landmarking.models.module import LandmarkModule
from landmarking.prediction import predict
from landmarking.prediction.model import LandmarkModel, model_from_runs

NAMES = landmark_set("msp8").names
HEATMAP = {
    "_target_": "landmarking.models.heatmap.HeatmapNetwork",
    "channels": [4, 6],
    "stride": 4,
}
DENSE = {
    "_target_": "landmarking.models.coordinate_cnn.CoordinateCNN",
    "channels": [2, 4],
    "hidden": [8],
    "initialisation": "kaiming",
    "centred": True,
    "scale_px": 5.0,
}


# The rules of Slicer's Markups schema 1.0.3 (Modules/Loadable/Markups/Resources/Schema), by field:
# type, and for arrays their length, for texts their choices.
NUMBERS = (int, float)
MARKUP = {
    "type": (str, ["Fiducial", "Line", "Angle", "Curve", "ClosedCurve", "Plane", "ROI"]),
    "name": (str, None),
    "coordinateSystem": (str, ["LPS", "RAS"]),
    "coordinateUnits": (str, ["mm", "um"]),
    "locked": (bool, None),
    "fixedNumberOfControlPoints": (bool, None),
    "labelFormat": (str, None),
    "planeType": (str, None),
    "sizeMode": (str, None),
    "center": (list, 3),
    "normal": (list, 3),
    "size": (list, 3),
    "planeBounds": (list, 4),
    "objectToBase": (list, 16),
    "baseToNode": (list, 16),
    "orientation": (list, 9),
    "controlPoints": (list, None),
    "display": (dict, None),
}
POINT = {
    "id": (str, None),
    "label": (str, None),
    "description": (str, None),
    "associatedNodeID": (str, None),
    "position": (list, 3),
    "orientation": (list, 9),
    "selected": (bool, None),
    "locked": (bool, None),
    "visibility": (bool, None),
    "positionStatus": (str, ["undefined", "preview", "defined"]),
}
DISPLAY = {"visibility": (bool, None), "opacity": (float, None), "color": (list, 3)}


def breaches(fields: dict, rules: dict) -> list[str]:
    """Fields that break their rule; a field without a rule here is a breach too."""
    found = []
    for key, value in fields.items():
        kind, allowed = rules.get(key, (None, None))
        if (
            kind is None
            or not isinstance(value, kind)
            or (isinstance(allowed, list) and value not in allowed)
            or (
                isinstance(allowed, int)
                and (
                    len(value) != allowed
                    or not all(isinstance(number, NUMBERS) for number in value)
                )
            )
        ):
            found.append(key)
    return found


def markups_breaches(path: Path) -> list[str]:
    """Breaches of the schema in a file."""
    body = json.loads(path.read_text())
    found = [] if isinstance(body["@schema"], str) else ["@schema"]
    for markup in body["markups"]:
        found += ["type"] if "type" not in markup else []
        found += breaches(markup, MARKUP) + breaches(markup.get("display", {}), DISPLAY)
        for point in markup["controlPoints"]:
            found += breaches(point, POINT)
    return found


def write_run(
    folder: Path,
    *,
    names: tuple[str, ...] = NAMES,
    seed: int = 0,
    network: dict | None = None,
    landmark: str | None = None,
    preprocess: dict | None = None,
    normalisation: str = "image",
) -> Path:
    """A run's folder as training leaves it, with a network that has learnt nothing."""
    torch.manual_seed(seed)
    module = LandmarkModule(
        network=network or HEATMAP,
        landmarks=list(names),
        image_size=[150, 150],
        mean_px=[[60.0 + 5 * index, 80.0] for index in range(len(names))],
        normalisation=normalisation,
    )
    save_model(module.eval(), folder / "checkpoints" / "model.ckpt")
    config = {
        "study": folder.parent.name,
        "seed": seed,
        "landmark": landmark,
        "landmarks": {"set": "msp8", "only": None},
        "preprocess": {"normalisation": normalisation, **(preprocess or {})},
        "model": network or HEATMAP,
        "cohort": {"name": "synthetic"},
        "trainer": {"max_epochs": 1},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture(scope="session")
def check_markups() -> Callable[[Path], list[str]]:
    """Breaches of Slicer's Markups schema in a file, see `markups_breaches`."""
    return markups_breaches


@pytest.fixture(scope="session")
def make_run() -> Callable[..., Path]:
    """Factory of runs, see `write_run`."""
    return write_run


@pytest.fixture(scope="session")
def dense() -> dict:
    """Settings of a network without heatmaps."""
    return DENSE


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory) -> Path:
    """One run of eight landmarks."""
    return write_run(tmp_path_factory.mktemp("study") / "ml-seed0")


@pytest.fixture(scope="session")
def model(run_folder) -> LandmarkModel:
    """Its model."""
    return model_from_runs([run_folder])


@pytest.fixture(scope="session")
def head_file(tmp_path_factory) -> Path:
    """The template itself in voxels of 3 mm, as a file in its own world."""
    template = load_template()
    data, affine = block_average(template.brain, template.affine, 3.0)
    path = tmp_path_factory.mktemp("scans") / "head_T1w.nii.gz"
    nib.save(nib.Nifti1Image(np.asarray(data, np.float32), affine), path)
    return path


@pytest.fixture(scope="module")
def known_stages() -> Iterator[None]:
    """The head lies in the common space: what the slow stages would find; they have their tests."""
    registration = Registration(np.eye(4), 0.9, True, "rigid")
    plane = MidsagittalPlane(Plane(LEFT, 0.0), 0.9, 0.05, np.zeros(3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predict, "register_stage", lambda *_: registration)
        patch.setattr(predict, "plane_stage", lambda *_: plane)
        yield
