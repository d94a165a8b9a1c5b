"""What a cohort is made of, and the tables and file names of a BIDS tree that holds one.

Layout: Brain Imaging Data Structure, bids-specification.readthedocs.io.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from landmarking.errors import CohortError
from landmarking.storage import write_text

SCAN_SUFFIXES = ("_T1w.nii.gz", "_T1w.nii")
_UNKNOWN = {"", "n/a", "nan"}
LANDMARK_SUFFIXES = ("_landmarks.mrk.json", "_landmarks.fcsv")
TISSUE_LABELS = ("GM", "WM", "CSF")


@dataclass(frozen=True)
class ScanRecord:
    """One T1 scan of one person.

    Attributes:
        scan_id: File name without `_T1w` and suffix, such as `sub-017_ses-01`.
        participant_id: Person, such as `sub-017`; splits go by it.
        session: Session label such as `ses-01`, or None.
        group: Group from participants.tsv, such as `train`, `HS` or `DS`.
        image: NIfTI file (or, in a cohort of slices, a PNG).
        landmarks: Landmark file, or None where nobody has placed any.
        age: Age in years, or None.
        sex: As participants.tsv has it, or None.
        tissues: Maps of grey matter, white matter and fluid, or None where there are none.
    """

    scan_id: str
    participant_id: str
    session: str | None
    group: str
    image: Path
    landmarks: Path | None
    age: float | None = None
    sex: str | None = None
    tissues: tuple[Path, ...] | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """Image, landmark file and tissue maps, as far as there are any."""
        landmarks = () if self.landmarks is None else (self.landmarks,)
        return (self.image, *landmarks, *(self.tissues or ()))


@dataclass(frozen=True)
class Cohort:
    """Scans with their people, groups and landmarks.

    Attributes:
        name: Short name, used in the names of output folders.
        root: Folder that the scans lie in.
        scans: Scans in the order of their ids.
        simulated: Whether the tree says of itself that its images are simulated.
    """

    name: str
    root: Path
    scans: tuple[ScanRecord, ...]
    simulated: bool = False

    @property
    def groups(self) -> tuple[str, ...]:
        """Group names, in order of first appearance."""
        return tuple(dict.fromkeys(scan.group for scan in self.scans))

    def select(self, groups: Collection[str]) -> tuple[ScanRecord, ...]:
        """Scans of the named groups.

        Raises:
            CohortError: If the cohort has no scan of one of the groups.
        """
        missing = [group for group in groups if group not in self.groups]
        if missing:
            raise CohortError(
                f"cohort {self.name} has no group {', '.join(missing)}; "
                f"its groups are {', '.join(self.groups)}"
            )
        return tuple(scan for scan in self.scans if scan.group in groups)


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
