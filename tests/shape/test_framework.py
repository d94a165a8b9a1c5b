"""The whole frame on a handful of coarse phantoms: what lies where, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from landmarking.errors import CohortError, ConfigError
from landmarking.preparation.sources import CohortConfig
from landmarking.shape import framework
from landmarking.shape.framework import FrameworkConfig, run_framework


@pytest.fixture(scope="module")
def config(coarse, tmp_path_factory):
    root = tmp_path_factory.mktemp("framework")
    preset = replace(coarse, label="tiny", train=0, healthy=5, down_syndrome=5, keep_tissues=False)
    preset = replace(preset, scanner=replace(coarse.scanner, voxel_mm=[2.5, 2.5]))
    cohort = CohortConfig("phantom", "tiny", str(root / "heads"), preset=preset)
    return FrameworkConfig(
        cohort=cohort,
        outputs=str(root / "out"),
        registration="affine",
        spacing_mm=8.0,
        permutations=20,
        tfce=False,
        draws=1,
        noises_mm=[0.0],
        classifiers=["logistic"],
        workers=1,
        learn=False,
    )


@pytest.fixture(scope="module")
def text(config):
    return run_framework(config)


def test_the_page_maps_tables_and_figures_are_there_and_say_that_nothing_is_real(text, config):
    assert text.startswith("Simulated people: no finding.")
    page = (config.folder / "index.html").read_text()
    for words in ("Simulated data.", "no finding", "affine one, which moves nothing"):
        assert words in page
    for name in ("maps", "procrustes", "edma", "diagnosis"):
        table = (config.folder / "tables" / f"{name}.md").read_text()
        assert "(simulated)" in table
        assert "(docs/phantom.md)" in table
    image = nib.load(config.folder / "maps" / "volume_t.nii.gz")
    assert image.shape == framework.maps.template_grid(8.0).mask.shape
    assert np.isfinite(np.asarray(image.dataobj)).all()
    for name in ("framework", "shape-change", "components", "calibration", "cost"):
        assert (config.folder / "figures" / f"{name}.png").stat().st_size > 10_000


def test_an_interrupted_run_goes_on_with_what_is_kept(text, config, monkeypatch):
    def never(*_args, **_kwargs):
        raise AssertionError("it was kept")

    monkeypatch.setattr("landmarking.prediction.predict.predict_scan", never)
    monkeypatch.setattr(framework.maps, "deform", never)
    monkeypatch.setattr(framework, "map_processes", lambda f, jobs, _: map(f, jobs))
    assert run_framework(config).splitlines()[1:4] == text.splitlines()[1:4]


def test_settings_that_make_no_comparison_are_refused(config):
    with pytest.raises(ConfigError, match="compares two groups"):
        replace(config, cohort=replace(config.cohort, test_groups=["HS"]))
    with pytest.raises(ConfigError, match="between 2 and 8"):
        replace(config, spacing_mm=1.0)
    few = replace(config, cohort=replace(config.cohort, test_groups=["HS", "nobody"]))
    with pytest.raises(CohortError, match="five people with landmarks are needed"):
        run_framework(few)


def test_a_set_that_was_found_can_be_learnt(tmp_path):
    from landmarking.preparation.prepare import LandmarksConfig

    row = {"name": "D1", "title": "t", "afid": 101, "aliases": [], "template_mm": [0, 1, 2]}
    path = tmp_path / "found.json"
    path.write_text(json.dumps({"name": "data_driven", "landmarks": [row]}))
    assert LandmarksConfig(str(path)).build().names == ("D1",)
