"""Which runs may stand in one table, and how a refusal reads."""

import json

import numpy as np
import pytest
import yaml

from landmarking.errors import PredictionsError, RunError
from landmarking.evaluation.study import different_code, load_study
from landmarking.files import file_sha256, seal

TWO = {"names": ("AC", "PC"), "slices": False}


def test_a_study_pools_finished_runs_in_the_protocols_order(make_study):
    study = make_study(**(TWO | {"names": ("SPLE", "AC")}))
    folder = study.write()
    (folder / "sl-PMJ-seed0").mkdir()  # started, not finished

    loaded = load_study(folder)

    assert [run.name for run in loaded.runs] == ["ml-seed0", "sl-AC-seed0", "sl-SPLE-seed0"]
    assert loaded.landmarks == ("AC", "SPLE")
    assert len(loaded.frame) == 2 * 11 * 2
    assert loaded.simulated
    assert loaded.warnings == ()


def test_one_runs_folder_is_a_study_too(make_study):
    folder = make_study(**TWO).write()

    assert [run.name for run in load_study(folder / "sl-AC-seed0").runs] == ["sl-AC-seed0"]


def test_no_finished_run_is_said(tmp_path):
    with pytest.raises(PredictionsError, match=r"no finished run.*train first"):
        load_study(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        (
            {"digest": "0ther0000000"},
            r"different cohorts: 0ther0000000 in heat-seed0; c0ffee123456",
        ),
        ({"split": "0ther"}, r"train/validation splits of seed 0: 0ther in heat-seed0"),
        ({"simulated": False}, r"different kinds of cohort .*: False in heat-seed0; True in ml"),
        ({"names": ("AC",)}, r"different landmark sets: .*HEAT seed 0 lacks PC"),
        ({"people": {"HS": 6}}, r"different test scans: .*HEAT seed 0 lacks sub-DS00_ses-01"),
    ],
)
def test_runs_that_do_not_belong_together_are_refused_by_name(make_study, knobs, words):
    folder = make_study(**TWO).write()
    other = make_study(**(TWO | knobs), sd_px={"HEAT": 1.0})
    other.write_run("heat-seed0", "HEAT", other.names, 0)

    with pytest.raises(PredictionsError, match=words) as caught:
        load_study(folder)

    assert "allow_mixed=true" in str(caught.value)
    mixed = load_study(folder, allow_mixed=True)
    assert len(mixed.runs) == 4
    assert len(mixed.warnings) == 1


def test_an_unfinished_sweep_is_named(make_study):
    folder = make_study(**TWO).write()
    (folder / "sl-PC-seed0" / "predictions.csv").unlink()

    with pytest.raises(PredictionsError, match="SL seed 0 lacks PC"):
        load_study(folder)


def test_a_finished_run_without_its_predictions_is_not_left_out(make_study):
    folder = make_study(**TWO).write()
    run = folder / "ml-seed0"
    seal(run, {"predictions.csv": run / "predictions.csv"})
    (run / "predictions.csv").unlink()

    with pytest.raises(RunError, match=r"ml-seed0/predictions.csv: cannot be read.*overwrite=true"):
        load_study(folder)

    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "last.ckpt").touch()  # stopped just before the end: it will go on
    assert {run.name for run in load_study(folder).runs} == {"sl-AC-seed0", "sl-PC-seed0"}


def test_two_runs_of_the_same_thing_are_refused(make_study):
    study = make_study(**TWO)
    folder = study.write()
    study.write_run("ml-again", "ML", study.names, 0)

    with pytest.raises(
        PredictionsError, match=r"ml-again, ml-seed0 all predict AC with ML and seed 0"
    ):
        load_study(folder, allow_mixed=True)


def test_what_lies_beside_the_predictions_is_optional(make_study):
    folder = make_study(**TWO).write()
    for name in ("provenance.json", "config.yaml", "history.csv"):
        (folder / "ml-seed0" / name).unlink()

    run = load_study(folder).runs[0]

    assert run.provenance == {}
    assert run.config == {}
    assert run.history is None
    assert run.slices == {}


@pytest.mark.parametrize(
    ("name", "content", "attribute"),
    [
        ("provenance.json", "{", "provenance"),
        ("provenance.json", json.dumps([1]), "provenance"),
        ("config.yaml", "a: [", "config"),
        ("history.csv", "", "history"),
        ("slices.npz", "no archive", "slices"),
    ],
)
def test_a_damaged_neighbour_is_named(make_study, name, content, attribute):
    folder = make_study(**TWO).write()
    (folder / "ml-seed0" / name).write_text(content)

    with pytest.raises(PredictionsError, match=name):
        getattr(load_study(folder).runs[0], attribute)


def test_slices_come_from_whichever_run_has_them(make_study):
    folder = make_study(names=("AC",)).write()
    (folder / "ml-seed0" / "slices.npz").unlink()

    slices = load_study(folder).slices

    assert len(slices) == 11
    assert all(image.shape == (150, 150) and image.dtype == np.uint8 for image in slices.values())


def test_every_seed_has_a_split_of_its_own(make_study):
    folder = make_study(**TWO).write()
    make_study(**TWO, seeds=(1,), split="5eed11111111").write()
    assert load_study(folder).warnings == ()
    odd = make_study(**TWO, split="0dd", sd_px={"HEAT": 1.0})
    odd.write_run("heat-seed1", "HEAT", odd.names, 1)
    with pytest.raises(
        PredictionsError, match=r"splits of seed 1: 0dd in heat-seed1; 5eed11111111"
    ):
        load_study(folder)


def test_folds_may_all_predict_people_of_whom_none_has_learnt(make_study):
    study = make_study(**TWO)
    folder = study.folder
    for fold in range(2):
        study.split = f"split-{fold}"
        study.write_run(f"ML-fold{fold}", "ML", study.names, 0)
        adapt = {"group": "HS", "people": None, "fold": fold, "folds": 2}
        (folder / f"ML-fold{fold}" / "config.yaml").write_text(yaml.safe_dump({"adapt": adapt}))
    loaded = load_study(folder)
    assert not loaded.frame.duplicated(["run", "scan_id", "landmark"]).any()
    assert len(loaded.frame) == 2 * loaded.frame.groupby("run").size().iloc[0]
    # The same split twice is one fold, trained twice.
    study.write_run("ML-again", "ML", study.names, 0)
    (folder / "ML-again" / "config.yaml").write_text(yaml.safe_dump({"adapt": adapt}))
    with pytest.raises(PredictionsError, match=r"ML-again, ML-fold1 all predict"):
        load_study(folder)


def test_a_missing_fold_is_refused_and_said_on_request(make_study):
    study = make_study(**TWO)
    for fold in (0, 2):
        study.split = f"split-{fold}"
        study.write_run(f"ML-fold{fold}", "ML", study.names, 0)
        adapt = {"group": "HS", "people": None, "fold": fold, "folds": 3}
        path = study.folder / f"ML-fold{fold}" / "config.yaml"
        path.write_text(yaml.safe_dump({"adapt": adapt}))
    with pytest.raises(PredictionsError, match=r"ML seed 0 on HS: 2 of 3 folds, fold 1 is missing"):
        load_study(study.folder)
    warnings = load_study(study.folder, allow_mixed=True).warnings
    assert "ML seed 0 on HS: 2 of 3 folds, fold 1 is missing" in warnings


HEADER = "scan_id,participant_id,group,state,reason"


def list_scans(folder, *rows):
    for run in folder.glob("*-seed*"):
        (run / "scans.csv").write_text("\n".join([HEADER, *rows]) + "\n")


def test_a_scan_that_came_to_nothing_is_a_miss_of_every_landmark_and_counts_once(make_study):
    folder = make_study(**TWO).write()
    list_scans(
        folder,
        "sub-HS00_ses-01,sub-HS00,HS,flagged,low symmetry",
        "sub-HS90_ses-01,sub-HS90,HS,failed,truncated",
    )

    study = load_study(folder)
    missed = study.with_failures().iloc[len(study.frame) :]

    assert list(study.scans["state"]) == ["flagged", "failed"]
    assert sorted(zip(missed["model"], missed["landmark"], strict=True)) == [
        (model, name) for model in ("ML", "SL") for name in ("AC", "PC")
    ]
    assert np.isinf(missed["error_mm"]).all()
    assert set(missed["scan_id"]) == {"sub-HS90_ses-01"}


def test_runs_without_a_list_of_scans_have_no_failures(make_study):
    study = load_study(make_study(**TWO).write())

    assert study.with_failures() is study.frame
    assert study.scans.empty


def note(folder, run, **facts):
    path = folder / run / "provenance.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))


def test_predictions_of_a_model_that_has_changed_since_are_refused(make_study):
    folder = make_study(**TWO).write()
    model = folder.parent / "model.ckpt"
    model.write_bytes(b"first")
    note(folder, "ml-seed0", model=str(model), model_sha256=file_sha256(model))
    assert load_study(folder).warnings == ()

    model.write_bytes(b"second")

    with pytest.raises(PredictionsError, match=r"model\.ckpt has changed since it made these"):
        load_study(folder)
    assert "has changed since" in load_study(folder, allow_mixed=True).warnings[0]


def test_runs_of_different_states_of_the_code_are_marked(make_study):
    folder = make_study(**TWO).write()
    for run in ("sl-AC-seed0", "sl-PC-seed0"):
        note(folder, run, commit="a" * 40, modified=False)
    assert different_code(load_study(folder).runs) == ""

    note(folder, "ml-seed0", commit="b" * 40, modified=True)

    said = different_code(load_study(folder).runs)
    assert "aaaaaaaaaaaa (2 runs)" in said
    assert "bbbbbbbbbbbb with changes (1 runs)" in said
