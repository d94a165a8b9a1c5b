"""The whole road for a lab's own scans: a BIDS tree through check, prepare, train and report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from landmarking.cohort.bids import (
    Participant,
    landmark_path,
    scan_path,
    tissue_paths,
    write_description,
    write_participants,
)
from landmarking.config import PROJECT, settings
from landmarking.data.splits import read_split
from landmarking.evaluation.predictions import read_predictions
from landmarking.evaluation.report import ReportConfig, run_report
from landmarking.geometry import apply_affine, rigid_matrix
from landmarking.landmarks import landmark_set, write_markups
from landmarking.phantom.dataset import write_nifti
from landmarking.phantom.person import Head, PhantomSettings, Subject, make_head
from landmarking.phantom.scanner import ScannerSettings
from landmarking.preparation.prepare import PrepareConfig, run_preparation
from landmarking.preparation.prepared import load_prepared
from landmarking.shells import register
from landmarking.training.settings import TrainingConfig
from landmarking.training.train import train

ALL = landmark_set("afids32").names
EIGHT = landmark_set("msp8").names

# Person and session, group, landmark file and the landmarks that nobody has placed.
SCANS = (
    ("sub-A", "ses-01", "train", "markups", ()),
    ("sub-A", "ses-02", "train", "markups", ("PC",)),
    ("sub-A", "ses-03", "train", "markups", ()),
    ("sub-B", None, "train", "markups", ()),
    ("sub-C", None, "train", "fcsv", ()),
    ("sub-D", None, "HS", "markups", ("GENU",)),
    ("sub-E", None, "HS", "fcsv", ()),
    ("sub-F", None, "HS", "", ()),
    ("sub-G", None, "DS", "markups", ()),
)


@dataclass(frozen=True)
class Road:
    """What the road has left behind.

    Attributes:
        truth_mm: World RAS mm of all 32 landmarks by scan id.
        check: What `check_only` says.
        summary: What the preparation says.
        table: What the report says.
        run: Folder of the run.
    """

    truth_mm: dict[str, np.ndarray]
    check: str
    summary: str
    table: str
    run: Path


def composed(shell: str, *overrides: str) -> dict[str, Any]:
    register(shell)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        values = OmegaConf.to_container(compose(shell, list(overrides)), resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def write_lps_fcsv(path: Path, points: np.ndarray) -> None:
    """As 3D Slicer wrote them until 2020, labelled with the numbers of the AFIDs protocol."""
    lines = ["# Markups fiducial file version = 4.11", "# CoordinateSystem = LPS"]
    for number, (right, front, up) in enumerate(points, start=1):
        lines.append(f"id{number},{-right:.6f},{-front:.6f},{up:.6f},0,0,0,1,1,1,0,{number},,")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def make_tree(root: Path) -> dict[str, np.ndarray]:
    """Three coarse heads, turned a little anew for every scan."""
    scanner = ScannerSettings(voxel_mm=[3.2, 3.4], turn_deg=[2.0, 2.0, 2.0], shift_mm=2.0)
    heads = [make_head(PhantomSettings(scanner=scanner), Subject("HS", n)) for n in range(3)]
    truth = {}
    for number, (person, session, _, file, missing) in enumerate(SCANS):
        truth_mm = add_scan(root, heads[number % 3], number, (person, session, file), missing)
        truth["_".join(part for part in (person, session) if part)] = truth_mm
    people = {person: Participant(person, group, 40.0) for person, _, group, _, _ in SCANS}
    write_description(root, "Own scans")
    write_participants(root, people.values())
    return truth


def add_scan(
    root: Path,
    head: Head,
    number: int,
    what: tuple[str, str | None, str],
    missing: tuple[str, ...],
) -> np.ndarray:
    person, session, file = what
    turn = rigid_matrix(0.4 * number, 0.0, -0.3 * number, np.full(3, 0.5 * number), (0, 0, 0))
    points = apply_affine(turn, head.landmarks_mm)
    image = scan_path(root, person, session)
    write_nifti(image, head.data, turn @ head.affine)
    if person == "sub-A":
        for path, share in zip(
            tissue_paths(root / "derivatives/segmented", image, root), head.tissues, strict=True
        ):
            write_nifti(path, share, turn @ head.affine)
    markups = landmark_path(root, person, session)
    if file == "markups":
        placed = dict(zip(ALL, points, strict=True))
        write_markups(markups, {key: at for key, at in placed.items() if key not in missing})
    elif file == "fcsv":
        write_lps_fcsv(markups.with_name(markups.name.replace(".mrk.json", ".fcsv")), points)
    return points


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    place = tmp_path_factory.mktemp("own")
    truth_mm = make_tree(place / "scans")
    own = ("cohort=bids", f"cohort.root={place / 'scans'}", f"outputs={place}", "workers=1")
    prepare = settings(PrepareConfig, composed("prepare", *own, "progress=false"))
    prepare.check_only = True
    check = run_preparation(prepare)
    untouched = sorted(path.name for path in place.iterdir() if path.name != "cache")
    assert untouched == ["scans"], "a check computes nothing"
    prepare.check_only = False
    summary = run_preparation(prepare)
    slim = ("model=slim", "model.channels=[4,8,8]", "model.hidden=[16]", "trainer=cpu")
    quick = ("trainer.max_epochs=2", "trainer.enable_progress_bar=false", "data.batch_size=4")
    quiet = ("logger=none", "threads=1", "study=own", "run=ml")
    painted = ("augment=synth", "augment.source=cohort")
    train(settings(TrainingConfig, composed("train", *own, *slim, *quick, *quiet, *painted)))
    few = ("resamples=100", "permutations=100")
    values = composed("report", f"runs={place / 'own'}", *few)
    table = run_report(settings(ReportConfig, values))
    return Road(truth_mm, check, summary, table, place / "own" / "ml")


def test_the_check_counts_and_names_what_is_missing(road):
    assert "train: 5 scans of 3 people, 39 of 40 landmarks of msp8" in road.check
    assert "HS: 3 scans of 3 people, 15 of 24 landmarks of msp8, 1 scans without" in road.check
    assert "DS: 1 scans of 1 people, 8 of 8 landmarks of msp8" in road.check
    assert "problems: none" in road.check
    assert "sub-A_ses-02: has no PC; masked everywhere" in road.check
    assert "sub-D: has no GENU; masked everywhere" in road.check


def test_the_preparation_counts_every_scan(road):
    assert "cohort own: 9 slices" in road.summary
    assert "simulated" not in road.summary
    for count in ("train 5", "HS 3", "DS 1"):
        assert count in road.summary


def test_tissue_maps_go_along_where_there_are_any(road):
    (folder,) = (road.run.parents[1] / "prepared").iterdir()
    cohort = load_prepared(folder)
    mapped = [
        record.scan_id
        for record, maps in zip(cohort.records, cohort.tissues, strict=True)
        if maps[:3].any()
    ]
    assert mapped == ["sub-A_ses-01", "sub-A_ses-02", "sub-A_ses-03"]
    for index in cohort.indices(["train"])[:3]:
        # Colliculi and callosum touch fluid; the interhemispheric plane's middle is brain.
        distance = cohort.tissues[index, 3] * 0.25 - 20.0
        columns, rows = np.rint(cohort.points_px[index][[0, 6, 7]]).astype(int).T
        assert (distance[rows, columns] < 0.0).all()


def test_sessions_of_one_person_stay_on_one_side(road):
    split = read_split(road.run / "split.json")
    assert set(split.train) | set(split.validation) == {"sub-A", "sub-B", "sub-C"}
    assert not set(split.train) & set(split.validation)


def test_every_test_scan_is_predicted_and_placed_landmarks_alone_are_scored(road):
    frame = read_predictions(road.run / "predictions.csv")
    assert sorted(frame["scan_id"].unique()) == ["sub-D", "sub-E", "sub-F", "sub-G"]
    assert np.isfinite(frame[["pred_x_px", "pred_y_px", "pred_r_mm"]].to_numpy()).all()
    unscored = frame[frame["error_mm"].isna()]
    assert set(zip(unscored["scan_id"], unscored["landmark"], strict=True)) == {
        ("sub-D", "GENU"),
        *(("sub-F", name) for name in EIGHT),
    }


def test_the_truth_is_where_the_files_say_in_either_format(road):
    frame = read_predictions(road.run / "predictions.csv").dropna(subset=["error_mm"])
    assert len(frame) == 7 + 8 + 8
    for row in frame.itertuples():
        expected = road.truth_mm[row.scan_id][ALL.index(row.landmark)]
        assert [row.true_r_mm, row.true_a_mm, row.true_s_mm] == pytest.approx(expected, abs=1e-4)
        assert abs(row.off_plane_mm) < 12.0


def test_the_table_counts_the_landmarks_scored(road):
    table = pd.read_csv(road.run.parent / "report" / "tables" / "table1.csv")
    table = table[table["source"] == "this study"]
    for model in ("ML", "no skill"):
        rows = table[table["model"] == model].set_index("group")
        assert rows["n"].to_dict() == {"DS": 8, "HS": 15, "all": 23}
        assert rows["missing"].to_dict() == {"DS": 0, "HS": 9, "all": 9}
        # Nobody has placed a landmark for sub-F, who is predicted and not scored.
        assert rows["people"].to_dict() == {"DS": 1, "HS": 2, "all": 3}
        assert np.isfinite(rows["mean_mm"]).all()
    assert "15" in road.table
