"""Read a BIDS tree: participants, T1 scans, and landmarks and tissue maps as derivatives.

    participants.tsv                     participant_id, group, and where known age, sex, exclude
    sub-*/[ses-*/]anat/*_T1w.nii[.gz]    the scans
    derivatives/landmarks/**/*_landmarks.mrk.json (or .fcsv), named after the scan
    derivatives/*/sub-*/[ses-*/]anat/*_label-{GM,WM,CSF}_probseg.nii.gz, named after the scan

Layout: Brain Imaging Data Structure, bids-specification.readthedocs.io.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from landmarking.cohort.bids import (
    LANDMARK_SUFFIXES,
    SCAN_SUFFIXES,
    Cohort,
    Participant,
    ScanRecord,
    people_of_table,
    tissue_paths,
)
from landmarking.errors import CohortError
from landmarking.storage import parse_json


@dataclass(frozen=True)
class Layout:
    """Where a tree departs from this project's own layout.

    Attributes:
        landmarks: Folder of the landmark files under `derivatives/`.
        suffixes: Endings of the landmark files.
        group: Group of people to whom participants.tsv gives none; empty where it must.
    """

    landmarks: str = "landmarks"
    suffixes: tuple[str, ...] = LANDMARK_SUFFIXES
    group: str = ""


AFIDS_LAYOUT = Layout("afids_groundtruth", ("_afids.fcsv", "_afids.mrk.json"), "HS")
"""Layout of the open AFIDs data sets such as OpenNeuro ds004470 and ds004471."""


def read_cohort(root: Path, *, name: str | None = None, layout: Layout | None = None) -> Cohort:
    """Read the names and groups of a BIDS tree; images and landmarks stay unread.

    Args:
        root: Folder with participants.tsv.
        name: Name of the cohort; the folder's name by default.
        layout: Where the tree departs from this project's layout.

    Returns:
        The cohort, scans in the order of their ids.

    Raises:
        CohortError: If the tree breaks the contract; carries every problem found.
    """
    layout = layout or Layout()
    problems: list[str] = []
    people = people_of_table(root / "participants.tsv", layout.group, problems)
    scans = _scans(root, people, problems)
    placed = _landmark_files(root, layout, scans, problems)
    derivatives = sorted(root.glob("derivatives/*/"))
    scans = [
        replace(
            scan,
            landmarks=placed.get(scan.scan_id),
            tissues=_tissue_files(root, derivatives, scan.image),
        )
        for scan in scans
    ]
    _compare(people, placed, scans, problems)
    if not scans and not problems:
        problems.append("there is no scan: sub-*/[ses-*/]anat/*_T1w.nii.gz matches nothing")
    simulated = _simulated(root / "dataset_description.json", problems)
    if problems:
        raise CohortError(
            f"{root} is not a cohort that can be read; mend these (docs/data.md):", tuple(problems)
        )
    kept = tuple(scan for scan in scans if not people[scan.participant_id].exclude)
    return Cohort(name or root.resolve().name, root, kept, simulated)


def _landmark_files(
    root: Path, layout: Layout, scans: Sequence[ScanRecord], problems: list[str]
) -> dict[str, Path]:
    """Landmark file by scan id; files that fit no scan stay under their own name."""
    known = [scan.scan_id for scan in scans]
    placed: dict[str, Path] = {}
    folder = root / "derivatives" / layout.landmarks
    for suffix in layout.suffixes:
        for path in sorted(_visible(folder.rglob(f"*{suffix}"))):
            stem = _scan_of(path.name.removesuffix(suffix), known)
            if stem in placed:
                problems.append(
                    f"{stem}: has two landmark files, {placed[stem].relative_to(root)} and "
                    f"{path.relative_to(root)}; keep one"
                )
            placed.setdefault(stem, path)
    return placed


def _visible(paths: Iterable[Path]) -> Iterator[Path]:
    """Without what begins with a dot: files under way, and what other systems put beside files."""
    return (path for path in paths if not path.name.startswith("."))


def _scan_of(stem: str, known: Sequence[str]) -> str:
    """Scan id that a landmark file's name stands for, or the name itself where it fits none."""
    if stem in known:
        return stem
    # Raters' files may say desc-groundtruth, and may leave out the entities of the only scan.
    parts = [part for part in stem.split("_") if not part.startswith(("desc-", "space-"))]
    if "_".join(parts) in known:
        return "_".join(parts)
    matches = [scan for scan in known if set(parts) <= set(scan.split("_"))]
    return matches[0] if len(matches) == 1 else stem


def _scans(root: Path, people: Mapping[str, Participant], problems: list[str]) -> list[ScanRecord]:
    scans: dict[str, ScanRecord] = {}
    found = [*root.glob("sub-*/anat/*"), *root.glob("sub-*/ses-*/anat/*")]
    for path in sorted(_visible(found)):
        suffix = next((end for end in SCAN_SUFFIXES if path.name.endswith(end)), None)
        if suffix is None:
            continue
        scan_id = path.name.removesuffix(suffix)
        parts = path.relative_to(root).parts
        session = parts[1] if len(parts) == 4 else None
        expected = "_".join(part for part in (parts[0], session) if part)
        if scan_id != expected and not scan_id.startswith(f"{expected}_"):
            problems.append(f"{path.relative_to(root)}: the file name must begin with {expected}")
        elif scan_id in scans:
            problems.append(f"{scan_id}: is there as .nii and as .nii.gz; keep one")
        elif parts[0] in people:
            person = people[parts[0]]
            scans[scan_id] = ScanRecord(
                scan_id,
                person.participant_id,
                session,
                person.group,
                path,
                None,
                person.age,
                person.sex,
            )
        elif people:
            problems.append(f"{path.relative_to(root)}: {parts[0]} is not in participants.tsv")
    return [scans[key] for key in sorted(scans)]


def _tissue_files(root: Path, derivatives: Sequence[Path], image: Path) -> tuple[Path, ...] | None:
    """Tissue maps of a scan, from the first derivative that has all three."""
    for folder in derivatives:
        paths = tissue_paths(folder, image, root)
        if all(path.is_file() for path in paths):
            return paths
    return None


def _compare(
    people: Mapping[str, Participant],
    placed: Mapping[str, Path],
    scans: Sequence[ScanRecord],
    problems: list[str],
) -> None:
    scanned = {scan.participant_id for scan in scans}
    problems.extend(
        f"participants.tsv: {person} has no scan sub-*/[ses-*/]anat/*_T1w.nii.gz; "
        "add it, or state a reason in a column named exclude"
        for person, row in people.items()
        if person not in scanned and not row.exclude
    )
    known = {scan.scan_id for scan in scans}
    problems.extend(
        f"{path.name}: belongs to no scan; landmark files are named after their scan"
        for stem, path in placed.items()
        if stem not in known and people
    )


def _simulated(path: Path, problems: list[str]) -> bool:
    if not path.exists():
        return False
    try:
        return bool(parse_json(path.read_text(encoding="utf-8")).get("Simulated", False))
    except (OSError, ValueError, AttributeError) as error:
        problems.append(f"{path.name}: is not a JSON object ({error})")
        return False
