"""How well a model does: on a prepared cohort, against truth files; radii from its errors."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from landmarking.data.splits import read_split
from landmarking.errors import ConfigError, LandmarkError
from landmarking.evaluation.predictions import mean_sd, radial_error_mm, sdr_counts
from landmarking.files import write_text
from landmarking.geometry import Array, SliceGeometry
from landmarking.landmarks import landmark_set, read_landmarks
from landmarking.prediction.calibration import (
    FEWEST,
    FILE,
    Shape,
    calibrate,
    coverage_table,
    fit_shape,
    shape_to_plain,
    to_plain,
)
from landmarking.prediction.model import LandmarkModel, model_from_runs, trained_runs
from landmarking.prediction.predict import scores
from landmarking.preparation.cache import differing_settings

if TYPE_CHECKING:
    from landmarking.preparation.prepared import PreparedCohort


@dataclass(frozen=True)
class Miss:
    """Error of one landmark of one scan.

    Attributes:
        scan: Name of the scan.
        landmark: Short name.
        in_plane_mm: Distance within the mid-sagittal plane that was found, truth dropped onto it.
        distance_mm: Distance in space; the truth may lie off the plane.
        radius_mm: Confidence radius, or None.
    """

    scan: str
    landmark: str
    in_plane_mm: float
    distance_mm: float
    radius_mm: float | None


def compare(record: Mapping[str, Any], truth: Path) -> list[Miss]:
    """Errors of a scan's landmarks that the truth has too.

    Args:
        record: What `Prediction.record` gives.
        truth: Landmark file, `.mrk.json` or `.fcsv`.

    Raises:
        LandmarkError: If the file cannot be read or has no landmark in common.
    """
    rows = record["landmarks"]
    wanted = landmark_set("afids32").subset([row["name"] for row in rows])
    true_mm = wanted.arrange(read_landmarks(truth))
    geometry = SliceGeometry.from_dict(record["slice"])
    errors = [
        _error(str(record["name"]), row, geometry, point)
        for row, point in zip(rows, true_mm, strict=True)
        if np.isfinite(point).all()
    ]
    if not errors:
        raise LandmarkError(
            f"{truth}: none of {', '.join(wanted.names)} is in it; check that it belongs to "
            f"{record['name']}"
        )
    return errors


def _error(scan: str, row: Mapping[str, Any], geometry: SliceGeometry, true_mm: Array) -> Miss:
    offset = np.array(row["world_mm"]) - true_mm
    normal = geometry.plane.normal
    within = offset - (offset @ normal) * normal
    return Miss(
        scan=scan,
        landmark=row["name"],
        in_plane_mm=float(np.linalg.norm(within)),
        distance_mm=float(np.linalg.norm(offset)),
        radius_mm=row["radius_mm"],
    )


def comparison_text(errors: Sequence[Miss]) -> str:
    """A table for people: every landmark, and the mean of each scan and of all."""
    width = max(len("landmark"), *(len(error.scan) for error in errors))
    lines = [f"{'scan':<{width}}  landmark  in plane, mm  in 3-D, mm"]
    if any(error.radius_mm is not None for error in errors):
        lines[0] += "  radius, mm"
    for scan in dict.fromkeys(error.scan for error in errors):
        own = [error for error in errors if error.scan == scan]
        for error in own:
            radius = "" if error.radius_mm is None else f"{error.radius_mm:12.2f}"
            lines.append(
                f"{scan:<{width}}  {error.landmark:<8}{error.in_plane_mm:14.2f}"
                f"{error.distance_mm:12.2f}{radius}"
            )
        lines.append(_mean_line(scan, own, width))
    if len({error.scan for error in errors}) > 1:
        lines.append(_mean_line("all", errors, width))
    return "\n".join(lines)


def _mean_line(scan: str, errors: Sequence[Miss], width: int) -> str:
    plane = float(np.mean([error.in_plane_mm for error in errors]))
    space = float(np.mean([error.distance_mm for error in errors]))
    return f"{scan:<{width}}  {'mean':<8}{plane:14.2f}{space:12.2f}"


@dataclass(frozen=True, eq=False)
class Scored:
    """Errors and doubt of a model on scans of a cohort.

    Attributes:
        cohort: Name of the cohort.
        simulated: Whether its heads are simulated.
        groups: Group of each of the B scans.
        landmarks: Names of the L landmarks.
        errors_mm: In-plane errors, shape (B, L); NaN where there is no truth.
        doubt_px: Shape (B, L); NaN where the model has none.
    """

    cohort: str
    simulated: bool
    groups: tuple[str, ...]
    landmarks: tuple[str, ...]
    errors_mm: Array
    doubt_px: Array


def score(model: LandmarkModel, cohort: PreparedCohort, chosen: NDArray[np.int64]) -> Scored:
    """Predict scans of a prepared cohort.

    Args:
        model: The model.
        cohort: Slices made with the model's own settings, and truth.
        chosen: Positions of the scans.

    Raises:
        ConfigError: If the slices were made in another way than the model's.
        LandmarkError: If the cohort lacks one of the model's landmarks.
    """
    _check_same_slices(model, cohort)
    columns = [cohort.landmarks.index(name) for name in model.landmarks.names]
    images = np.asarray(cohort.images[chosen], dtype=np.float32)
    located = model.locate(images)
    metric = np.array([cohort.geometry(int(index)).px_to_mm for index in chosen])
    true_px = cohort.points_px[chosen][:, columns]
    errors = radial_error_mm(located.points_px, true_px, metric.reshape(-1, 2, 2))
    groups = tuple(cohort.records[int(index)].group for index in chosen)
    return Scored(
        cohort.name, cohort.simulated, groups, model.landmarks.names, errors, located.doubt_px
    )


def _check_same_slices(model: LandmarkModel, cohort: PreparedCohort) -> None:
    # What counts of the reference is its content, not where it lay.
    matched = cohort.settings.get("histogram_reference_sha256")
    differing = [*differing_settings(cohort.settings, model.preprocess)]
    if matched != model.reference.digest:
        differing.append("histogram_reference")
    if differing:
        raise ConfigError(
            f"{cohort.folder}: its slices were made with another {', '.join(differing)} than the "
            f"model {model.name} was trained on; prepare the cohort with the run's preprocess"
        )


def calibrate_runs(
    folder: Path,
    cohort: PreparedCohort,
    groups: Sequence[str] = (),
    coverage: float = 0.9,
    *,
    folds: Path | None = None,
    shifts: int = 1,
) -> tuple[Path, int]:
    """Find radii on people whom no run has learnt from, and keep them beside the runs.

    Where there are enough people, a shape model of their known landmarks is kept too.

    Args:
        folder: A run, or a study whose runs make one model.
        cohort: Prepared cohort with truth.
        groups: Groups to calibrate on; by default those that the runs were trained on, of which
            the people held out for validation remain.
        coverage: Probability with which a radius is to hold the truth.
        folds: Study of runs of the same recipe that left out a fold of people each; every person
            is judged by those that had not seen them, and the runs of `folder` may know all.
        shifts: Looks at a slice, each shifted, that are averaged.

    Returns:
        The file written, and the number of scans.

    Raises:
        ConfigError: If there is no run or nobody is left.
        CohortError: If a group is missing or a run has no split.
        PredictionsError: If there are too few people.
    """
    (folder / FILE).unlink(missing_ok=True)
    model = replace(model_from_runs([folder]), shifts=shifts)
    wanted = groups or model.members[0].facts.get("train_groups") or ["train"]
    members = cohort.indices(wanted)
    judged = [
        score(judge, cohort, chosen)
        for judge, chosen in _judges(model, folder, folds, cohort, members, shifts)
        if len(chosen)
    ]
    if not judged:
        raise ConfigError(
            f"{folds or folder}: the runs have learnt from everybody in {', '.join(wanted)} of "
            f"{cohort.folder}; calibrate on the cohort that they were trained on, or other groups"
        )
    errors_mm = np.concatenate([scored.errors_mm for scored in judged])
    doubt_px = np.concatenate([scored.doubt_px for scored in judged])
    found = calibrate(errors_mm, scores(doubt_px), coverage)
    facts: dict[str, Any] = {
        "cohort": cohort.name,
        "cohort_digest": cohort.digest,
        "groups": list(wanted),
    }
    facts |= {"simulated": cohort.simulated, "scans": len(errors_mm), "model_digest": model.digest}
    facts |= {"shifts": shifts} if shifts > 1 else {}
    shape = _shape(model, cohort, members)
    facts |= {"shape": shape_to_plain(shape)} if shape else {}
    write_text(folder / FILE, json.dumps({**to_plain(found), **facts}, indent=1) + "\n")
    return folder / FILE, len(errors_mm)


def _judges(
    model: LandmarkModel,
    folder: Path,
    folds: Path | None,
    cohort: PreparedCohort,
    members: NDArray[np.int64],
    shifts: int,
) -> Iterator[tuple[LandmarkModel, NDArray[np.int64]]]:
    """Models, each with the scans of people that it has not seen."""
    if folds is None:
        yield model, np.intersect1d(members, unseen(cohort, learnt_from([folder])))
        return
    by_people: dict[frozenset[str], list[Path]] = {}
    for run in trained_runs(folds):
        split = read_split(run.split)
        known = frozenset({*split.train, *split.validation})
        by_people.setdefault(known, []).append(run.path)
    for known, runs in by_people.items():
        # Seeds of one fold are averaged, as those of the model are.
        yield (
            replace(model_from_runs(runs), shifts=shifts),
            np.intersect1d(members, unseen(cohort, known)),
        )


def points_mm(cohort: PreparedCohort, columns: Sequence[int], rows: NDArray[np.int64]) -> Array:
    """Known landmarks in the plane, in mm, shape (B, L, 2)."""
    points = cohort.points_px[rows][:, columns]
    metric = np.array([cohort.geometry(int(row)).px_to_mm for row in rows]).reshape(-1, 2, 2)
    return np.asarray(np.einsum("bij,blj->bli", metric, points))


def _shape(model: LandmarkModel, cohort: PreparedCohort, rows: NDArray[np.int64]) -> Shape | None:
    columns = [cohort.landmarks.index(name) for name in model.landmarks.names]
    known = points_mm(cohort, columns, rows)
    enough = int(np.isfinite(known).all(axis=(1, 2)).sum()) >= FEWEST
    return fit_shape(known) if enough and len(columns) > 2 else None


def learnt_from(paths: Sequence[Path]) -> set[str]:
    """Ids of people (or scans) on the training side of any run.

    Args:
        paths: Runs or studies.

    Raises:
        CohortError: If a run has no split file.
    """
    runs = [run for path in paths for run in trained_runs(path)]
    return {name for run in runs for name in read_split(run.split).train}


def unseen(cohort: PreparedCohort, learnt: Collection[str]) -> NDArray[np.int64]:
    """Positions of the scans of a cohort that nobody has learnt from.

    Args:
        cohort: Prepared cohort.
        learnt: People and scans, as `learnt_from` gives them.
    """
    chosen = [
        index
        for index, record in enumerate(cohort.records)
        if record.participant_id not in learnt and record.scan_id not in learnt
    ]
    return np.array(chosen, dtype=np.int64)


def accuracy_rows(model: LandmarkModel, scored: Scored) -> list[dict[str, Any]]:
    """Figures by group and landmark, each group's `all` last, plain values.

    Args:
        model: Its calibration gives coverage, where there is one.
        scored: Errors and doubt.
    """
    radii = None
    if model.calibration is not None:
        radii = model.calibration.radius(scores(scored.doubt_px))
    covered = {
        (row.group, row.landmark): row
        for row in (
            []
            if radii is None
            else coverage_table(scored.errors_mm, radii, scored.groups, scored.landmarks)
        )
    }
    rows = []
    for group in dict.fromkeys(scored.groups):
        members = np.array([other == group for other in scored.groups])
        for name in (*scored.landmarks, "all"):
            errors = scored.errors_mm[members]
            if name != "all":
                errors = errors[:, scored.landmarks.index(name)]
            row = _accuracy(errors)
            if row is not None:
                hit = covered.get((group, name))
                within = {} if hit is None else {"coverage": hit.share, "radius_mm": hit.radius_mm}
                where = {"cohort": scored.cohort, "simulated": scored.simulated}
                rows.append({**where, "group": group, "landmark": name, **row, **within})
    return rows


def _accuracy(errors_mm: Array) -> dict[str, Any] | None:
    known = errors_mm[np.isfinite(errors_mm)]
    if not known.size:
        return None
    mean, deviation = mean_sd(known)
    hits, count = sdr_counts(known)
    return {
        "n": count,
        "mean_mm": mean,
        "sd_mm": None if np.isnan(deviation) else deviation,
        "median_mm": float(np.median(known)),
        "largest_mm": float(known.max()),
        "hits_1_to_5_mm": hits.tolist(),
    }
