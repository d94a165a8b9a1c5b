import json
from dataclasses import replace

import numpy as np
import pytest

from landmarking.data.splits import Split, write_split
from landmarking.errors import ConfigError, LandmarkError
from landmarking.geometry import SliceGeometry
from landmarking.landmarks import landmark_set, write_fcsv
from landmarking.prediction.calibration import calibrate
from landmarking.prediction.model import model_from_runs
from landmarking.prediction.packing import Packing, card_page, card_text, describe, pack
from landmarking.prediction.predict import scores
from landmarking.prediction.scoring import calibrate_runs, compare, comparison_text, score
from landmarking.preparation.cache import key_settings
from landmarking.preparation.prepared import SliceRecord, save_prepared

# Radii from people whom no run has learnt from, and a card made from what is on disk.


PIXEL_TO_WORLD = np.array([[0, 0, -1.0, 0], [-1, 0, 0, 62], [0, -1, 0, 70], [0, 0, 0, 1.0]])
OFFSETS_MM = np.linspace(0.5, 3.0, 26)


@pytest.fixture
def study(make_run, tmp_path):
    folder = make_run(tmp_path / "study" / "ml-seed0")
    people = tuple(f"sub-{number:02d}" for number in range(26))
    write_split(folder / "split.json", Split(people[:6], people[6:], 0, 0.3))
    return folder.parent


@pytest.fixture
def cohort(study, tmp_path):
    """Truth lies beside the model's own answers by known distances; 4 more people are tested on."""
    model = model_from_runs([study])
    rng = np.random.default_rng(0)
    images = rng.normal(5.0, 2.0, (30, 150, 150)).astype(np.float32)
    offsets = np.concatenate([OFFSETS_MM, np.full(4, 1.5)])
    pixels = model.locate(images).points_px + offsets[:, None, None] * [0.6, 0.8]
    geometry = SliceGeometry(PIXEL_TO_WORLD, (150, 150))
    reference = {"histogram_reference_sha256": model.reference.digest}
    return save_prepared(
        tmp_path / "prepared",
        name="known",
        simulated=True,
        digest="0" * 64,
        landmarks=landmark_set("msp8"),
        images=images,
        points_mm=geometry.to_world(pixels),
        pixel_to_world=np.repeat(PIXEL_TO_WORLD[None], 30, axis=0),
        records=[
            SliceRecord(f"sub-{n:02d}", f"sub-{n:02d}", None, "train" if n < 26 else "HS")
            for n in range(30)
        ],
        settings={**key_settings(model.preprocess), **reference},
    )


def test_errors_are_the_known_distances(study, cohort):
    scored = score(model_from_runs([study]), cohort, np.arange(26))
    np.testing.assert_allclose(scored.errors_mm, np.repeat(OFFSETS_MM[:, None], 8, 1), atol=1e-6)


def test_radii_come_from_people_who_were_not_learnt_from(study, cohort):
    path, count = calibrate_runs(study, cohort)
    assert (path, count) == (study / "calibration.json", 20)
    model = model_from_runs([study])
    # Of 20 errors in rising order the 19th: ceil(21 * 0.9) = 19, over the doubt of each.
    scored = score(model, cohort, np.arange(6, 26))
    ratios = np.sort(scored.errors_mm / scores(scored.doubt_px), axis=0)
    np.testing.assert_allclose(model.calibration.factors, ratios[18])
    assert model.calibration.coverage == 0.9


def test_a_calibration_serves_its_own_model_only(study, cohort, make_run):
    calibrate_runs(study, cohort)
    make_run(study / "ml-seed1", seed=1)
    with pytest.raises(ConfigError, match="belongs to another model"):
        model_from_runs([study])
    (study / "calibration.json").write_text("{}")
    with pytest.raises(ConfigError, match="not a calibration"):
        model_from_runs([study])


def test_everybody_is_judged_by_the_runs_that_left_them_out(study, cohort, make_run, tmp_path):
    people = [f"sub-{number:02d}" for number in range(26)]
    for fold in range(2):
        left_out = set(people[fold::2])
        for seed in (1, 2):
            run = make_run(tmp_path / "folds" / f"f{fold}-s{seed}", seed=10 * fold + seed)
            known = tuple(name for name in people if name not in left_out)
            write_split(run / "split.json", Split(known[2:], known[:2], seed, 0.1))
    path, count = calibrate_runs(study, cohort, folds=tmp_path / "folds", shifts=3)
    assert count == 26
    calibration = model_from_runs([study]).calibration
    errors, doubt = [], []
    for fold in range(2):
        runs = [tmp_path / "folds" / f"f{fold}-s{seed}" for seed in (1, 2)]
        judge = replace(model_from_runs(runs), shifts=3)
        scored = score(judge, cohort, np.arange(fold, 26, 2))
        errors.append(scored.errors_mm)
        doubt.append(scored.doubt_px)
    expected = calibrate(np.concatenate(errors), scores(np.concatenate(doubt)), 0.9)
    np.testing.assert_allclose(calibration.factors, expected.factors)
    values = json.loads(path.read_text())
    assert values["scans"] == 26


def test_looks_and_shape_travel_with_the_radii_and_the_package(study, cohort, tmp_path):
    calibrate_runs(study, cohort, shifts=4)
    model = model_from_runs([study])
    assert model.shifts == 4
    assert model.digest != replace(model, shifts=1).digest
    packed = pack(tmp_path / "model.zip", Packing((study,), "known"))
    assert packed.shifts == 4
    assert np.array_equal(packed.shape.limits, model.shape.limits)


def test_slices_made_in_another_way_are_refused(study, cohort):
    model = model_from_runs([study])
    other = replace(model, preprocess=replace(model.preprocess, spacing_mm=0.9))
    with pytest.raises(ConfigError, match="another spacing_mm"):
        score(other, cohort, np.arange(2))


def test_without_calibration_the_accuracy_is_of_everybody_not_learnt_from(study, cohort, tmp_path):
    model = pack(tmp_path / "model.zip", Packing((study,), "known"), [cohort])
    rows = {(row["group"], row["landmark"]): row for row in model.card["accuracy"]}
    assert rows["train", "AC"]["n"] == 20
    assert "coverage" not in rows["HS", "all"]


def test_the_card_states_what_was_measured_on_people_not_learnt_from(study, cohort, tmp_path):
    calibrate_runs(study, cohort)
    path = tmp_path / "model.zip"
    packing = Packing((study,), "known", note="Trained on noise.")
    model = pack(path, packing, [cohort])
    rows = {(row["group"], row["landmark"]): row for row in model.card["accuracy"]}
    # What radii were calibrated on proves nothing about them.
    assert {group for group, _ in rows} == {"HS"}
    assert rows["HS", "AC"]["n"] == 4
    assert rows["HS", "all"]["n"] == 32
    assert rows["HS", "all"]["mean_mm"] == pytest.approx(1.5, abs=0.02)
    assert rows["HS", "all"]["hits_1_to_5_mm"] == [0, 32, 32, 32, 32]
    assert rows["HS", "all"]["simulated"] is True
    assert 0.0 <= rows["HS", "all"]["coverage"] <= 1.0
    assert model.card["rounding_px"] < 0.05

    facts = describe(model)
    json.dumps(facts, allow_nan=False)
    page, text = card_page(facts), card_text(facts)
    for said in ("Trained on noise.", "90%, calibrated on 20 held-out scans of known (simulated)"):
        assert said in page
        assert said in text
    (row,) = [line for line in page.splitlines() if "| HS " in line and "| all " in line]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:5] == ["known (simulated)", "HS", "all", "32", "1.50"]
    assert "6 people trained on" in page


# Errors in the plane and in space, against numbers worked out by hand.


# The plane is x = 0.
RECORD = {
    "name": "head",
    "slice": {
        "pixel_to_world": [[0, 0, -1.0, 0], [-1, 0, 0, 75], [0, -1, 0, 75], [0, 0, 0, 1.0]],
        "shape": [150, 150],
    },
    "landmarks": [
        {"name": "AC", "world_mm": [0.0, 3.0, 0.0], "radius_mm": 2.0},
        {"name": "PC", "world_mm": [0.0, -24.0, 0.0], "radius_mm": None},
    ],
}


def test_the_distance_off_the_plane_counts_in_space_only(tmp_path):
    truth = tmp_path / "truth.fcsv"
    write_fcsv(truth, {"AC": np.array([12.0, 0.0, 4.0]), "GENU": np.zeros(3)})
    (error,) = compare(RECORD, truth)
    assert (error.scan, error.landmark, error.radius_mm) == ("head", "AC", 2.0)
    assert error.in_plane_mm == pytest.approx(5.0)
    assert error.distance_mm == pytest.approx(13.0)


def test_the_text_has_means_by_scan_and_of_all(tmp_path):
    truth = tmp_path / "truth.fcsv"
    write_fcsv(truth, {"AC": np.array([0.0, 3.0, 1.0]), "PC": np.array([0.0, -24.0, 3.0])})
    errors = compare(RECORD, truth) + compare({**RECORD, "name": "other"}, truth)
    lines = [line.split() for line in comparison_text(errors).splitlines()]
    assert lines[1] == ["head", "AC", "1.00", "1.00", "2.00"]
    assert lines[3] == ["head", "mean", "2.00", "2.00"]
    assert lines[-1] == ["all", "mean", "2.00", "2.00"]


def test_truth_without_a_landmark_in_common_is_refused(tmp_path):
    truth = tmp_path / "truth.fcsv"
    write_fcsv(truth, {"GENU": np.zeros(3)})
    with pytest.raises(LandmarkError, match="none of AC, PC is in it"):
        compare(RECORD, truth)
