"""Whoever changes what a stage computes raises its version: otherwise old results are taken.

`stage_results.json` holds, by stage, its version and a summary of what it computes from small fixed
inputs. Every stage gets inputs of its own, written into the cache as the result of the stage
before, so that a change shows at the stage that was changed and at no other. A summary is not a
hash: numbers are compared with a tolerance of 1e-4 (relative where they are above one), and an
image by its maximum and its 25 block means over that maximum. Inputs that are off by 1e-5 of
themselves, a hundred times what another processor or BLAS makes of them, stay within it.

Renew the table with `python tests/preparation/test_stage_versions.py`, from the repository's root.
"""

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pytest

from landmarking.geometry import SliceGeometry
from landmarking.imaging.midsagittal import MidsagittalSettings
from landmarking.imaging.pipeline import PreprocessSettings
from landmarking.imaging.template import load_template
from landmarking.preparation.cache import (
    STAGE_SETTINGS,
    STAGE_VERSIONS,
    TISSUES,
    Entry,
    StageCache,
    stage_keys,
)
from landmarking.preparation.stages import staged_slice, staged_tissues

TABLE = Path(__file__).with_name("stage_results.json")
RENEW = f"python tests/data/{Path(__file__).name}"
TOLERANCE = 1e-4

SCAN, SETTINGS = "ab" * 32, PreprocessSettings()
TURN = np.array([[0.96, -0.28, 0.0], [0.28, 0.96, 0.0], [0.0, 0.0, 1.0]])
"""Exactly a rotation: a right triangle of 7, 24 and 25."""
FAR_TURN = np.array([[0.6, -0.8, 0.0], [0.8, 0.6, 0.0], [0.0, 0.0, 1.0]])
"""So far that registration needs its many starts."""
STRETCH = np.array([0.95, 1.04, 1.02])
SHIFT_MM = np.array([6.0, -4.0, 9.0])

# As entries of the cache have them, written out: what is renamed here cannot be read any more.
REGISTRATION = {
    "world_to_common": [
        [0.96, 0.28, 0.0, -4.64],
        [-0.28, 0.96, 0.0, 5.52],
        [0.0, 0.0, 1.0, -9.0],
        [0.0, 0.0, 0.0, 1.0],
    ],
    "quality": 0.9,
    "ok": True,
    "method": "rigid",
    "starts": 1,
}
PLANE = {
    "plane": {"normal": [-0.9216, -0.2688, 0.28], "offset_mm": -1.9},
    "score": 0.8,
    "sharpness": 0.1,
    "centre_mm": [6.0, -20.0, 10.0],
}


def write_head(folder, name="sub-1", turn=TURN, step=3):
    """Every third voxel of the template or so, one side brighter, stretched, turned, shifted."""
    path, template = folder / f"{name}_T1w.nii.gz", load_template()
    data = 100.0 * template.brain[::step, ::step, ::step].astype(np.float64)
    data[: 60 // step] *= 1.1
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn * STRETCH, SHIFT_MM
    affine = affine @ template.affine @ np.diag([step, step, step, 1.0])
    nib.save(nib.Nifti1Image(data.astype(np.float32), affine), path)
    return path


def write_picture(folder):
    """A slice that another tool has cut."""
    path = folder / "sub-1.png"
    y, x = np.mgrid[:256, :256] / 255.0
    plt.imsave(path, np.sin(9.0 * x) * np.cos(5.0 * y) + x, cmap="gray")
    return path


def write_tissues(folder):
    """Grey and white matter of the template, and fluid where the brain is neither."""
    template = load_template()
    grey, white = (
        np.asarray(part, float)[::3, ::3, ::3] for part in (template.grey, template.white)
    )
    fluid = (template.brain_mask[::3, ::3, ::3] > 0.5) * (1.0 - grey - white).clip(0.0, 1.0)
    affine = template.affine @ np.diag([3.0, 3.0, 3.0, 1.0])
    paths = [folder / f"{label}.nii.gz" for label in ("GM", "WM", "CSF")]
    for path, share in zip(paths, (grey, white, fluid), strict=True):
        nib.save(nib.Nifti1Image(np.rint(255.0 * share.clip(0, 1)).astype(np.uint8), affine), path)
    return paths


def computed(folder, stage, image, settings=SETTINGS, **known):
    """What `stage` leaves in the cache, which holds the entries `known` beforehand."""
    cache = StageCache(Path(tempfile.mkdtemp(dir=folder)))
    keys = stage_keys(SCAN, settings)
    for name, entry in known.items():
        cache.put(name, keys[name], entry)
    staged_slice(image, SCAN, settings, cache)
    return cache.get(stage, keys[stage])


def stage_results(folder):
    """Summary of what every stage computes, plain values by stage."""
    head, picture = write_head(folder), write_picture(folder)
    np.save(folder / "mean.npy", np.linspace(5.0, 90.0, 200, dtype=np.float32))
    quantiles = replace(SETTINGS, histogram_reference=str(folder / "mean.npy"))
    registration, plane = Entry(REGISTRATION), Entry(PLANE)
    affine, plain = (
        replace(SETTINGS, registration="affine"),
        replace(SETTINGS, midsagittal=MidsagittalSettings(search="plain")),
    )
    cut = {"registration": registration, "plane": plane}
    y, x = np.mgrid[:150, :150] / 149.0
    geometry = SliceGeometry(
        np.array([[0, 0, -1, 2], [-1, 0, 0, 62], [0, -1, 0, 70], [0, 0, 0, 1.0]]), (150, 150)
    )
    raw = Entry(
        {
            "geometry": geometry.to_dict(),
            "qc": {},
            "scan_shape": [9, 9, 9],
            "scan_affine": np.eye(4).tolist(),
        },
        (300.0 * np.sin(7.0 * x) ** 2 * y + 40.0 * x).astype(np.float32),
    )
    cache = StageCache(folder / "tissues")
    maps = staged_tissues(write_tissues(folder), ["01", "02", "03"], geometry, cache)
    entries = {
        "registration": {
            "rigid": computed(folder, "registration", head),
            "affine": computed(folder, "registration", head, affine),
            "far": computed(folder, "registration", write_head(folder, "far", FAR_TURN)),
        },
        "plane": {
            "fast": computed(folder, "plane", head, registration=registration),
            "plain": computed(
                folder,
                "plane",
                write_head(folder, "blocks", step=6),
                plain,
                registration=registration,
            ),
        },
        "slice": {
            "scan": computed(folder, "slice", head, **cut),
            "coarse": computed(folder, "slice", head, replace(SETTINGS, spacing_mm=4.0), **cut),
            "picture": computed(folder, "slice", picture),
        },
        "intensity": {
            "template": computed(folder, "intensity", head, slice=raw),
            "quantiles": computed(folder, "intensity", head, quantiles, slice=raw),
        },
        TISSUES: {"maps": Entry({}, maps)},
    }
    return {
        stage: {case: summary(entry) for case, entry in cases.items()}
        for stage, cases in entries.items()
    }


def summary(entry):
    """An entry's values, rounded to ten decimals, and its image as maximum and block means."""
    found = {"values": rounded(entry.values)}
    if entry.image is not None:
        image = entry.image.astype(np.float64)
        peak = float(np.abs(image).max())
        blocks = image.reshape(*image.shape[:-2], 5, image.shape[-2] // 5, 5, image.shape[-1] // 5)
        means = blocks.mean(axis=(-3, -1)) / peak
        found["image"] = rounded(
            {"type": str(entry.image.dtype), "max": peak, "means": means.tolist()}
        )
    return found


def rounded(value):
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return round(value, 10) if isinstance(value, float) else value


def same(found, expected):
    """Whether two summaries are equal but for the tolerance."""
    if isinstance(expected, dict) and isinstance(found, dict):
        return found.keys() == expected.keys() and all(
            same(found[key], expected[key]) for key in expected
        )
    if isinstance(expected, list) and isinstance(found, list):
        return len(found) == len(expected) and all(map(same, found, expected))
    if isinstance(expected, float) and isinstance(found, float):
        return abs(found - expected) <= TOLERANCE * max(1.0, abs(expected))
    return type(found) is type(expected) and found == expected


def problem(stage, found, row):
    """What is to be done about a stage, or None.

    Args:
        stage: Name of the stage.
        found: Summary of what it computes.
        row: Its row of the table, None where there is none.
    """
    version = STAGE_VERSIONS[stage]
    if row is None or row["version"] != version:
        return f"the table is not of {stage}'s version {version}: run {RENEW}, and commit both"
    if not same(found, row["results"]):
        return (
            f"what the stage {stage} computes has changed: raise STAGE_VERSIONS[{stage!r}] in "
            f"landmarking/preparation/cache.py to {version + 1} and run {RENEW} to renew the "
            "table; if it should not have changed, mend the stage"
        )
    return None


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return stage_results(tmp_path_factory.mktemp("stages"))


@pytest.fixture(scope="module")
def table():
    return json.loads(TABLE.read_text())


def test_every_stage_has_a_version_and_a_row(results, table):
    assert list(STAGE_VERSIONS) == [*STAGE_SETTINGS, TISSUES] == list(results) == list(table)


@pytest.mark.parametrize("stage", STAGE_VERSIONS)
def test_a_stage_computes_what_its_version_did(results, table, stage):
    found = problem(stage, results[stage], table[stage])
    assert found is None, found


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda row: row["results"]["fast"]["values"].update(score=0.123), "raise STAGE_VERSIONS"),
        (lambda row: row["results"]["fast"]["values"].pop("score"), "raise STAGE_VERSIONS"),
        (lambda row: row.update(version=0), "not of plane's version"),
    ],
)
def test_a_forgotten_version_and_a_forgotten_table_are_told_apart(results, table, change, word):
    row = json.loads(json.dumps(table["plane"]))
    assert problem("plane", results["plane"], row) is None
    change(row)
    assert word in problem("plane", results["plane"], row)


def test_rounding_of_another_machine_changes_nothing():
    assert same({"a": [1.0, 100.0], "ok": True}, {"a": [1.00005, 100.005], "ok": True})
    assert not same({"a": [1.0]}, {"a": [1.0003]})
    assert not same({"ok": True}, {"ok": False})


def renew():
    """Write the table; a stage that has changed under its old version is refused."""
    old = json.loads(TABLE.read_text()) if TABLE.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        results = stage_results(Path(folder))
    forgotten = [
        problem(stage, found, old[stage])
        for stage, found in results.items()
        if stage in old
        and old[stage]["version"] == STAGE_VERSIONS[stage]
        and not same(found, old[stage]["results"])
    ]
    if forgotten:
        sys.exit("\n".join(forgotten))
    rows = []
    for stage, found in results.items():
        row = {"version": STAGE_VERSIONS[stage], "results": found}
        # What differs by rounding only is kept, so that the table does not drift.
        row = row if problem(stage, found, old.get(stage)) else old[stage]
        rows.append(f"{json.dumps(stage)}: {json.dumps(row)}")
    TABLE.write_text("{\n" + ",\n".join(rows) + "\n}\n")


if __name__ == "__main__":
    renew()
