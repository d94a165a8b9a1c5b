"""Whoever changes what a slice and a model come to raises VERSION: else old results are taken.

`result_version.json` holds what the shipped model finds on the template's slice and on one that is
noisy and moved: positions, doubt, radii, and what is implausible, within 0.02 px and mm, a hundred
times what another processor makes of them. Renew it with
`python tests/prediction/test_result_version.py`, from the repository's root.
"""

import json
from pathlib import Path

import numpy as np

from landmarking.imaging.pipeline import template_slice
from landmarking.prediction.model import VERSION
from landmarking.prediction.package import open_model
from landmarking.prediction.predict import scores

TABLE = Path(__file__).with_name("result_version.json")
RENEW = f"python tests/prediction/{Path(__file__).name}"


def found():
    model = open_model(())
    y, x = np.mgrid[:150, :150]
    image = template_slice(model.preprocess).astype(np.float64)
    waves = 0.2 * image.max() * np.sin(17 * x) * np.sin(13 * y)
    moved = np.roll(image, (6, -4), axis=(0, 1)) + waves
    images = np.stack([image, moved]).astype(np.float32)
    located = model.locate(images)
    return {
        "version": VERSION,
        "model": model.made_with["model"],
        "trust": model.made_with["trust"],
        "points_px": located.points_px.round(3).tolist(),
        "doubt_px": located.doubt_px.round(3).tolist(),
        "radii_mm": model.calibration.radius(scores(located.doubt_px)).round(3).tolist(),
        "implausible": model.shape.implausible(located.points_px).tolist(),
    }


def test_results_are_those_of_their_version():
    now, table = found(), json.loads(TABLE.read_text())
    keys = ("version", "model", "trust")
    assert [now[key] for key in keys] == [table[key] for key in keys], (
        f"the table is of another version or model: run {RENEW}, and commit both"
    )
    numbers = ("points_px", "doubt_px", "radii_mm")
    same = now["implausible"] == table["implausible"] and all(
        np.allclose(now[key], table[key], atol=0.02) for key in numbers
    )
    assert same, (
        "what a slice and a model come to has changed: raise VERSION in "
        f"landmarking/prediction/model.py and run {RENEW}; if it should not have, mend it"
    )


if __name__ == "__main__":
    TABLE.write_text(json.dumps(found()) + "\n")
