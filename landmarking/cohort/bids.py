"""A BIDS tree: read and written, and gathered from scans and landmark files.

Layout: Brain Imaging Data Structure, bids-specification.readthedocs.io.
`python -m landmarking.cohort.bids FOLDER --group HS ...` gathers scans into a tree.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from landmarking.cohort.records import Cohort, ScanRecord
from landmarking.errors import CohortError, LandmarkError, LandmarkingError
from landmarking.files import atomic_path, parse_json, write_text
from landmarking.landmarks import landmark_set, read_landmarks, write_markups

SCAN_SUFFIXES = ("_T1w.nii.gz", "_T1w.nii")
_UNKNOWN = {"", "n/a", "nan"}
LANDMARK_SUFFIXES = ("_landmarks.mrk.json", "_landmarks.fcsv")
TISSUE_LABELS = ("GM", "WM", "CSF")


@dataclass(frozen=True)
class Participant:
    """One row of participants.tsv; `exclude` states why the person is left out, or is empty."""

    participant_id: str
    group: str
    age: float | None = None
    sex: str | None = None
    exclude: str = ""


def read_participants(root: Path) -> dict[str, Participant]:
    """People of a tree by id, also those left out.

    Raises:
        CohortError: If participants.tsv breaks the contract; carries every problem found.
    """
    problems: list[str] = []
    people = people_of_table(root / "participants.tsv", "", problems)
    if problems:
        raise CohortError(
            f"{root}: participants.tsv cannot be used; mend these (docs/data.md):", tuple(problems)
        )
    return people


def read_table(path: Path, required: Iterable[str], problems: list[str]) -> list[dict[str, str]]:
    """Read a tab-separated table with a header.

    Args:
        path: File to read.
        required: Columns that it has to have.
        problems: Where problems are added; the result is empty where the table cannot be used.

    Returns:
        Rows by column name, cells stripped of blanks.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{path.name}: cannot be read ({error})")
        return []
    rows = list(csv.reader(text.splitlines(), delimiter="\t"))
    header = [cell.strip() for cell in rows[0]] if rows else []
    missing = [column for column in required if column not in header]
    if missing:
        problems.append(
            f"{path.name}: has no column {', '.join(missing)}; found {', '.join(header) or 'none'} "
            "(columns are separated by tabs)"
        )
        return []
    table = []
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(header):
            if any(cell.strip() for cell in row):
                problems.append(
                    f"{path.name} line {number}: {len(header)} cells expected, found {len(row)}"
                )
            continue
        table.append({key: cell.strip() for key, cell in zip(header, row, strict=True)})
    return table


def people_of_table(path: Path, default_group: str, problems: list[str]) -> dict[str, Participant]:
    """People of a participants.tsv by id.

    Args:
        path: The table.
        default_group: Group of people to whom it gives none; empty where it must.
        problems: Where problems are added.
    """
    people: dict[str, Participant] = {}
    required = ("participant_id",) if default_group else ("participant_id", "group")
    for row in read_table(path, required, problems):
        person, group = row["participant_id"], row.get("group", "")
        if default_group and group.casefold() in _UNKNOWN:
            group = default_group
        if person in people:
            problems.append(f"{path.name}: {person} comes twice; keep one row a person")
        if not person.startswith("sub-") or group.casefold() in _UNKNOWN:
            problems.append(
                f"{path.name}: {person or 'a row without id'} needs an id that starts with sub- "
                f"and a group, found group {group!r}"
            )
        sex = row.get("sex", "")
        exclude = row.get("exclude", "")
        people[person] = Participant(
            person,
            group,
            _age(person, row.get("age", ""), problems),
            None if sex.casefold() in _UNKNOWN else sex,
            "" if exclude.casefold() in {*_UNKNOWN, "0", "false", "no"} else exclude,
        )
    return people


def _age(person: str, text: str, problems: list[str]) -> float | None:
    if text.casefold() in _UNKNOWN:
        return None
    try:
        age = float(text.removesuffix("+"))
    except ValueError:
        age = math.nan
    if not 0.0 <= age < 130.0:
        problems.append(f"participants.tsv: {person} has age {text!r}; years or n/a")
        return None
    return age


def write_description(root: Path, name: str, *, simulated: bool = False) -> None:
    """Write dataset_description.json; every BIDS tree has one.

    Args:
        root: The tree.
        name: Title of the data set.
        simulated: Whether its images are simulated.
    """
    description = {
        "Name": name,
        "BIDSVersion": "1.10.0",
        "DatasetType": "raw",
        "Simulated": simulated,
    }
    write_text(root / "dataset_description.json", json.dumps(description, indent=1) + "\n")


def write_participants(root: Path, people: Iterable[Participant]) -> None:
    """Write participants.tsv, one row a person, in the order given."""
    lines = ["participant_id\tgroup\tage\tsex\texclude"]
    for person in people:
        age = "n/a" if person.age is None else f"{person.age:g}"
        cells = (person.participant_id, person.group, age, person.sex or "n/a", person.exclude)
        lines.append("\t".join(cell or "n/a" for cell in cells))
    write_text(root / "participants.tsv", "\n".join(lines) + "\n")


def scan_path(root: Path, participant_id: str, session: str | None = None) -> Path:
    """Where a person's T1 scan lies in a tree."""
    folder = root / participant_id / (session or "")
    stem = "_".join(part for part in (participant_id, session) if part)
    return folder / "anat" / f"{stem}_T1w.nii.gz"


def landmark_path(root: Path, participant_id: str, session: str | None = None) -> Path:
    """Where the landmarks of a person's T1 scan lie in a tree."""
    image = scan_path(root, participant_id, session)
    stem = image.name.removesuffix(SCAN_SUFFIXES[0])
    folder = root / "derivatives" / "landmarks" / image.parent.relative_to(root)
    return folder / f"{stem}{LANDMARK_SUFFIXES[0]}"


def tissue_paths(folder: Path, image: Path, root: Path) -> tuple[Path, ...]:
    """Where a derivative holds the maps of grey matter, white matter and fluid of a scan.

    Args:
        folder: Folder of the derivative, such as `derivatives/tissues`.
        image: The scan.
        root: The tree that the scan lies in.
    """
    suffix = next(end for end in SCAN_SUFFIXES if image.name.endswith(end))
    where = folder / image.parent.relative_to(root)
    stem = image.name.removesuffix(suffix)
    return tuple(where / f"{stem}_label-{label}_probseg.nii.gz" for label in TISSUE_LABELS)


# Read a BIDS tree: participants, T1 scans, and landmarks and tissue maps as derivatives.
#
#     participants.tsv                     participant_id, group, and where known age, sex, exclude
#     sub-*/[ses-*/]anat/*_T1w.nii[.gz]    the scans
#     derivatives/landmarks/**/*_landmarks.mrk.json (or .fcsv), named after the scan
#     derivatives/*/sub-*/[ses-*/]anat/*_label-{GM,WM,CSF}_probseg.nii.gz, named after the scan
#
# Layout: Brain Imaging Data Structure, bids-specification.readthedocs.io.


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


# Put scans and their landmark files into a BIDS tree.
#
#     python -m landmarking.cohort.bids DIR --group HS SCAN=LANDMARKS [SCAN=LANDMARKS ...]
#
# SCAN is a `.nii` or `.nii.gz` file and LANDMARKS an `.mrk.json` or `.fcsv` file; a scan without
# landmarks is given alone. Run it again to add people of another group. Scans are copied byte for
# byte, landmarks are written anew under the project's names.


def gather(root: Path, group: str, pairs: Sequence[tuple[Path, Path | None]]) -> None:
    """Add one person for each pair of a scan and its landmarks.

    Args:
        root: The tree; made where it does not exist.
        group: Group of all these people.
        pairs: Scans, each with its landmark file or None.

    Raises:
        CohortError: If a scan is missing, is no NIfTI file, or its person is in the tree already.
        LandmarkError: If a landmark file has no landmark that is known.
    """
    people = {}
    if (root / "participants.tsv").exists():
        people = read_participants(root)
    for image, points in pairs:
        person = _participant_id(image)
        if person in people:
            raise CohortError(f"{image}: {person} is in {root} already; rename the file")
        _add(root, person, image, points)
        people[person] = Participant(person, group)
    write_description(root, root.resolve().name)
    write_participants(root, people.values())


def _participant_id(image: Path) -> str:
    name = image.name.removesuffix(".gz").removesuffix(".nii").removesuffix("_T1w")
    return "sub-" + re.sub("[^0-9A-Za-z]", "", name.removeprefix("sub-"))


def _add(root: Path, person: str, image: Path, points: Path | None) -> None:
    if not image.is_file() or not image.name.endswith((".nii", ".nii.gz")):
        raise CohortError(f"{image}: scans are .nii or .nii.gz files, and there is none here")
    if points is not None:
        landmarks = landmark_set("afids32")
        placed = landmarks.arrange(read_landmarks(points))
        if not np.isfinite(placed).any():
            raise LandmarkError(f"{points}: has no landmark of the AFIDs protocol")
        markups = landmark_path(root, person)
        write_markups(markups, dict(zip(landmarks.names, placed, strict=True)))
    target = scan_path(root, person)
    if image.name.endswith(".nii"):
        target = target.with_suffix("")
    with atomic_path(target) as temporary:
        shutil.copyfile(image, temporary)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; see the module's description."""
    parser = argparse.ArgumentParser(description="Put scans and landmarks into a BIDS tree.")
    parser.add_argument("root", type=Path, help="folder of the tree")
    parser.add_argument("--group", required=True, help="train, HS, DS or another group's name")
    parser.add_argument("pairs", nargs="+", metavar="SCAN[=LANDMARKS]")
    options = parser.parse_args(arguments)
    split = [text.partition("=") for text in options.pairs]
    pairs = [(Path(scan), Path(points) if points else None) for scan, _, points in split]
    try:
        gather(options.root, options.group, pairs)
    except LandmarkingError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
