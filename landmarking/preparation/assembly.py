"""From single scans to one prepared cohort, its digest, and the mean histogram of its slices."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landmarking.cohort.records import Cohort, ScanRecord
from landmarking.errors import ConfigError
from landmarking.files import readable, refuse_foreign
from landmarking.imaging.intensity import mean_quantiles, read_reference, save_reference
from landmarking.imaging.pipeline import MAPS, PreprocessSettings, histogram_reference
from landmarking.imaging.quality import Value, landmark_figures, misplaced
from landmarking.landmarks import LandmarkSet
from landmarking.preparation.cache import (
    STAGE_SETTINGS,
    STAGE_VERSIONS,
    TISSUES,
    FileDigests,
    StageCache,
    decisive_settings,
    key_settings,
    stage_key,
)
from landmarking.preparation.jobs import PreparedScan
from landmarking.preparation.prepared import PreparedCohort, SliceRecord, save_prepared
from landmarking.preparation.review import quality_csv, quality_table, write_contact_sheets
from landmarking.preparation.stages import raw_slice

QUALITY = "qc.csv"
SKIPPED = "skipped.csv"
"""Scans that were left out, with the reason; there only if there are any."""


def _write_skipped(path: Path, skipped: Mapping[str, str], cohort: Cohort) -> None:
    known = {scan.scan_id: scan for scan in cohort.scans}
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("scan_id", "problem", "participant_id", "group"))
        for scan_id, problem in skipped.items():
            scan = known[scan_id]
            writer.writerow((scan_id, problem, scan.participant_id, scan.group))


def read_skipped(folder: Path) -> dict[str, str]:
    """What is wrong with scans that a prepared cohort leaves out, by scan id."""
    path = folder / SKIPPED
    if not path.exists():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        return {row["scan_id"]: row["problem"] for row in csv.DictReader(file)}


def scan_states(cohort: PreparedCohort, groups: Sequence[str]) -> list[dict[str, str]]:
    """What became of every scan of some groups, those that came to no slice included.

    Args:
        cohort: A prepared cohort. One that was carried in a file has lost what was flagged and
            left out: all of its scans are `done`.
        groups: Groups wanted.

    Returns:
        Rows with `scan_id`, `participant_id`, `group`, `state` (`done`, `flagged` or `failed`) and
        `reason`, in the order of the cohort, failed ones last.
    """
    flags, failed = (_rows(cohort.folder / name, frozenset(groups)) for name in (QUALITY, SKIPPED))
    reasons = {row["scan_id"]: row["reason"] for row in flags if row["flagged"] == "True"}
    chosen = [cohort.records[index] for index in cohort.indices(groups)]
    done = [
        (r.scan_id, r.participant_id, r.group, "flagged" if r.scan_id in reasons else "done",
         reasons.get(r.scan_id, ""))
        for r in chosen
    ]  # fmt: skip
    left_out = [
        (row["scan_id"], row["participant_id"], row["group"], "failed", row["problem"])
        for row in failed
    ]
    return [dict(zip(STATE_COLUMNS, row, strict=True)) for row in (*done, *left_out)]


STATE_COLUMNS = ("scan_id", "participant_id", "group", "state", "reason")


def _rows(path: Path, groups: frozenset[str]) -> list[dict[str, str]]:
    """Rows of a table beside the slices, of some groups; none where there is no such table."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if row.get("group") in groups]


def input_digests(cohort: Cohort, outputs: Path, workers: int) -> dict[Path, str]:
    """SHA-256 of all scan, landmark and tissue files of a cohort, remembered in `outputs/cache`.

    A file that cannot be read has a word for a digest; see `FileDigests`.
    """
    files = [path for record in cohort.scans for path in record.files]
    return FileDigests(outputs / "cache" / "files.json").digests(files, workers)


def combined_digest(cohort: Cohort, digests: Mapping[Path, str]) -> str:
    """SHA-256 of the bytes of all scan, landmark and tissue files, wherever the cohort lies.

    Args:
        cohort: People and files.
        digests: SHA-256 of the files.
    """
    scans = [(record.scan_id, [digests[path] for path in record.files]) for record in cohort.scans]
    return stage_key("inputs", 1, sorted(scans))


def cohort_digest(
    cohort: Cohort,
    landmarks: LandmarkSet,
    settings: PreprocessSettings,
    digests: Mapping[Path, str],
    *,
    allow_scaled: bool = False,
) -> str:
    """SHA-256 of everything that decides a prepared cohort.

    Args:
        cohort: People, groups and files.
        landmarks: Landmark set.
        settings: Settings of the imaging stages.
        digests: SHA-256 of the files.
        allow_scaled: Whether scans are read whose header stretches their voxels.
    """
    scans = [
        (
            _person(record),
            digests[record.image],
            None if record.landmarks is None else digests[record.landmarks],
        )
        for record in cohort.scans
    ]
    decided_by = (
        cohort.name,
        cohort.simulated,
        _named(landmarks),
        decisive_settings(settings),
        {stage: STAGE_VERSIONS[stage] for stage in STAGE_SETTINGS},
    )
    # Cohorts without tissue maps keep their digest whatever becomes of that stage.
    tissues = [[digests[path] for path in record.tissues or ()] for record in cohort.scans]
    maps = (STAGE_VERSIONS[TISSUES], tissues) if any(tissues) else ()
    more = ("allow_scaled",) if allow_scaled else ()
    return stage_key("cohort", 1, *decided_by, scans, *maps, *more)


def _person(record: ScanRecord) -> list[str | float | None]:
    # Written out, here and below: names in the code and further columns move no digest.
    person = [record.scan_id, record.participant_id, record.session, record.group]
    return [*person, record.age, record.sex]


def _named(landmarks: LandmarkSet) -> list[Any]:
    rows = [
        [each.name, each.title, each.afid, each.aliases, each.template_mm]
        for each in landmarks.landmarks
    ]
    return [landmarks.name, rows]


def _slice_record(record: ScanRecord) -> SliceRecord:
    return SliceRecord(
        scan_id=record.scan_id,
        participant_id=record.participant_id,
        session=record.session,
        group=record.group,
        age=record.age,
        sex=record.sex,
    )


def save_cohort(
    folder: Path,
    cohort: Cohort,
    landmarks: LandmarkSet,
    settings: PreprocessSettings,
    digest: str,
    scans: Sequence[PreparedScan],
    skipped: Mapping[str, str] | None = None,
) -> PreparedCohort:
    """Write slices, index, qc.csv and contact sheets of a cohort, as a whole.

    Args:
        folder: Folder to make.
        cohort: The cohort.
        landmarks: Landmark set.
        settings: Settings of the imaging stages.
        digest: What `cohort_digest` gives.
        scans: All scans in the cohort's order, none with a problem.
        skipped: What is wrong with scans that were left out, by scan id; goes to skipped.csv.
    """
    staged = [scan.staged for scan in scans if scan.staged is not None]
    records = [_slice_record(scan.record) for scan in scans]
    images = [item.image for item in staged]
    quality = _quality(scans, records, landmarks)

    def add_quality_control(unfinished: Path) -> None:
        (unfinished / QUALITY).write_text(readable(quality_csv(quality)), encoding="utf-8")
        if skipped:
            _write_skipped(unfinished / SKIPPED, skipped, cohort)
        points_px = np.stack(
            [
                item.geometry.to_pixel(scan.points_mm)
                for item, scan in zip(staged, scans, strict=True)
            ]
        )
        write_contact_sheets(unfinished, images, points_px, records, quality, landmarks.names)

    return save_prepared(
        folder,
        name=cohort.name,
        simulated=cohort.simulated,
        digest=digest,
        landmarks=landmarks,
        images=images,
        points_mm=np.stack([scan.points_mm for scan in scans]),
        pixel_to_world=np.stack([item.geometry.pixel_to_world for item in staged]),
        records=records,
        settings={
            **key_settings(settings),
            "histogram_reference_sha256": histogram_reference(settings).digest,
        },
        tissues=_stacked([scan.tissues for scan in scans], staged[0].image.shape),
        add_files=add_quality_control,
    )


def _stacked(
    tissues: Sequence[NDArray[np.uint8] | None], shape: tuple[int, ...]
) -> NDArray[np.uint8] | None:
    """Tissue maps of all slices, zero for those that have none; None where no slice has any."""
    if all(maps is None for maps in tissues):
        return None
    stacked = np.zeros((len(tissues), len(MAPS), *shape), dtype=np.uint8)
    for row, maps in zip(stacked, tissues, strict=True):
        if maps is not None:
            row[:] = maps
    return stacked


def _quality(
    scans: Sequence[PreparedScan], records: Sequence[SliceRecord], landmarks: LandmarkSet
) -> list[dict[str, Value]]:
    figures: list[dict[str, Value]] = []
    for scan in scans:
        assert scan.staged is not None
        template_mm, names = landmarks.template_mm, landmarks.names
        placed = landmark_figures(scan.staged.geometry, scan.points_mm, template_mm, names)
        odd = misplaced(scan.points_mm, template_mm, names)
        notes = "; ".join(filter(None, (str(scan.staged.qc.get("notes") or ""), odd)))
        figures.append({**scan.staged.qc, **placed, **({"notes": notes} if notes else {})})
    return quality_table(records, figures)


def write_mean_reference(
    path: Path, cohort: Cohort, groups: Sequence[str], settings: PreprocessSettings, outputs: Path
) -> int:
    """Write the mean histogram of the raw slices of some groups.

    Args:
        path: File to write, `*.npy`; `preprocess.histogram_reference=PATH` matches slices to it.
        cohort: The cohort; scans that the cache does not hold are cut.
        groups: Groups that count: those that are trained on, never one that is tested on.
        settings: Settings of the slices; the reference named there plays no part.
        outputs: Folder of `cache/`.

    Returns:
        Number of slices in the mean.

    Raises:
        ConfigError: If the path does not end in `.npy`, or no scan is of these groups.
        ScanError: If a scan cannot be read.
        CacheError: If a file cannot be written.
    """
    if path.suffix != ".npy":
        raise ConfigError(f"mean_reference: the file's name ends in .npy, found {path}")
    refuse_foreign(path, read_reference, "histogram reference")
    scans = [record for record in cohort.scans if record.group in groups]
    if not scans:
        raise ConfigError(
            f"mean_reference: cohort {cohort.name} has no scan of the groups {', '.join(groups)}; "
            "set cohort.train_groups"
        )
    digests, cache = input_digests(cohort, outputs, 1), StageCache(outputs / "cache")
    raw = (raw_slice(record.image, digests[record.image], settings, cache) for record in scans)
    region = histogram_reference(replace(settings, histogram_reference="template")).region
    save_reference(path, mean_quantiles(raw, region))
    return len(scans)
