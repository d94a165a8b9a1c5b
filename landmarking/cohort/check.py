"""Read everything of a cohort and say all that is wrong with it, before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from landmarking.cohort.records import Cohort, ScanRecord
from landmarking.cohort.slices import read_slice_image, read_slice_points
from landmarking.errors import LandmarkError, LandmarkingError
from landmarking.geometry import Array, apply_affine
from landmarking.landmarks import LandmarkSet, read_landmarks
from landmarking.processes import map_processes


@dataclass(frozen=True)
class CohortCheck:
    """What a check has found.

    Attributes:
        problems: One sentence a problem; scans with problems cannot be used.
        notes: What a person should know and nothing needs to be done about.
        summary: Counts by group, a few lines.
    """

    problems: tuple[str, ...]
    notes: tuple[str, ...]
    summary: str

    @property
    def text(self) -> str:
        """All of it, for people."""
        parts = [self.summary]
        for title, lines in (("problems", self.problems), ("notes", self.notes)):
            parts.append(f"{title}: {len(lines) or 'none'}")
            parts += [f"  - {line}" for line in lines]
        return "\n".join(parts)


@dataclass(frozen=True, eq=False)
class Finding:
    """What there is to say of one scan.

    Attributes:
        record: The scan.
        problem: Why it cannot be used, or None.
        notes: Doubts.
        known: Which landmarks it has, shape (L,).
    """

    record: ScanRecord
    problem: str | None
    notes: tuple[str, ...]
    known: NDArray[np.bool_]


def check_cohort(
    cohort: Cohort, landmarks: LandmarkSet, *, workers: int = 1, slice_size: int = 256
) -> CohortCheck:
    """Read all scans and landmark files of a cohort; what needs imaging is not looked at.

    Args:
        cohort: The cohort.
        landmarks: Landmarks that are going to be used.
        workers: Processes.
        slice_size: Rows and columns of slices, in a cohort of slices.

    Returns:
        All problems, in the order of the scans, and a summary.
    """
    jobs = [(scan, landmarks, slice_size) for scan in cohort.scans]
    found = {each.record.scan_id: each for each in map_processes(_check_scan, jobs, workers)}
    return check_prepared(cohort, landmarks, [found[scan.scan_id] for scan in cohort.scans])


def check_prepared(
    cohort: Cohort, landmarks: LandmarkSet, findings: Sequence[Finding]
) -> CohortCheck:
    """Problems, notes and counts of a cohort.

    Args:
        cohort: The cohort.
        landmarks: Landmarks that are going to be used.
        findings: What was found of each scan, in order.
    """
    problems = tuple(finding.problem for finding in findings if finding.problem is not None)
    notes = [*cohort.notes]
    for finding in findings:
        notes += [f"{finding.record.scan_id}: {note}" for note in finding.notes]
        if finding.record.landmarks is not None and finding.problem is None:
            pairs = zip(landmarks.names, finding.known, strict=True)
            missing = ", ".join(name for name, there in pairs if not there)
            if missing:
                notes.append(f"{finding.record.scan_id}: has no {missing}; masked everywhere")
    return CohortCheck(
        (*cohort.bad, *problems), tuple(notes), _summary(cohort, landmarks, findings)
    )


def _summary(cohort: Cohort, landmarks: LandmarkSet, findings: Sequence[Finding]) -> str:
    placed = {each.record.scan_id: int(each.known.sum()) for each in findings}
    kind = ", simulated" if cohort.simulated else ""
    lines = [f"cohort {cohort.name} ({cohort.root}){kind}: {len(cohort.scans)} scans"]
    for group in cohort.groups:
        scans = cohort.select([group])
        people = len({scan.participant_id for scan in scans})
        points = sum(placed[scan.scan_id] for scan in scans)
        bare = sum(scan.landmarks is None for scan in scans)
        lines.append(
            f"  {group}: {len(scans)} scans of {people} people, {points} of "
            f"{len(scans) * len(landmarks)} landmarks of {landmarks.name}"
            + (f", {bare} scans without landmarks" if bare else "")
        )
    return "\n".join(lines)


def _check_scan(job: tuple[ScanRecord, LandmarkSet, int]) -> Finding:
    record, landmarks, size = job
    try:
        points, notes = (
            _read_slice(record, landmarks, size)
            if record.image.suffix == ".png"
            else _read_scan(record, landmarks)
        )
    except (LandmarkingError, OSError) as error:
        text = " ".join(str(error).split())
        nothing = np.zeros(len(landmarks), dtype=bool)
        return Finding(record, f"{record.scan_id}: {text}", (), nothing)
    known = np.asarray(np.isfinite(points).all(axis=-1))
    problem = None
    if record.landmarks is not None and not known.any():
        problem = (
            f"{record.scan_id}: {record.landmarks.name} has none of {', '.join(landmarks.names)}; "
            "label the points by these names or their AFIDs numbers"
        )
    return Finding(record, problem, notes, known)


def _read_slice(
    record: ScanRecord, landmarks: LandmarkSet, size: int
) -> tuple[Array, tuple[str, ...]]:
    read_slice_image(record.image, size)
    if record.landmarks is None:
        return np.full((len(landmarks), 2), np.nan), ()
    return read_slice_points(record.landmarks, landmarks), ()


def _read_scan(record: ScanRecord, landmarks: LandmarkSet) -> tuple[Array, tuple[str, ...]]:
    from landmarking.imaging.scan import load_scan

    scan = load_scan(record.image)
    if record.landmarks is None:
        return np.full((len(landmarks), 3), np.nan), scan.notes
    points = landmarks.arrange(read_landmarks(record.landmarks))
    voxels = apply_affine(np.linalg.inv(scan.affine), points)
    last = np.array(scan.data.shape) - 0.5
    beyond = np.asarray(((voxels < -0.5) | (voxels > last)).any(axis=-1))
    if beyond.any():
        names = [name for name, out in zip(landmarks.names, beyond, strict=True) if out]
        raise LandmarkError(
            f"{record.landmarks.name}: {', '.join(names)} lie outside the scan; the points may be "
            "in another frame (RAS, LPS) or belong to another scan"
        )
    return points, scan.notes
