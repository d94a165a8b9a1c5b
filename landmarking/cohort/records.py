"""What a cohort is made of: scans with their people, groups and landmarks.

People come in tables as other hands write them: participants.tsv by Excel, pandas and R.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from landmarking.errors import CohortError
from landmarking.files import write_text
from landmarking.landmarks import LandmarkSet


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
        bad: What was left out because it breaks the contract, one sentence each.
        notes: What a person should know and nothing needs to be done about.
    """

    name: str
    root: Path
    scans: tuple[ScanRecord, ...]
    simulated: bool = False
    bad: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

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


UNKNOWN = {"", "n/a", "nan", "na", "<na>", "none", "null", "-", ".", "unknown"}
"""What stands for no value, in lower case."""

_NO = {"0", "false", "no", "f", "n", "keep", "kept"}


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


def read_text(path: Path) -> str:
    """A text file, in UTF-8 or, with the mark that Excel puts at its beginning, UTF-16.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is in neither; says what to do.
    """
    content = path.read_bytes()
    wide = content[:2] in (b"\xff\xfe", b"\xfe\xff")
    try:
        return content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError("it is no UTF-8 text; save it again with that encoding") from error


def read_table(path: Path, required: Iterable[str], problems: list[str]) -> list[dict[str, str]]:
    """Read a tab-separated table with a header.

    Quotation marks about a cell, as R writes them, are left out; an open one swallows nothing.

    Args:
        path: File to read.
        required: Columns that it has to have.
        problems: Where problems are added; the result is empty where the table cannot be used.

    Returns:
        Rows by column name, cells stripped of blanks.
    """
    try:
        text = read_text(path)
    except OSError as error:
        problems.append(f"{path.name}: cannot be read ({error.strerror or error}); check the path")
        return []
    except ValueError as error:
        problems.append(f"{path.name}: cannot be read: {error}")
        return []
    rows = [[_cell(cell) for cell in line.split("\t")] for line in re.split(r"\r\n|\r|\n", text)]
    header = rows[0]
    missing = [column for column in required if column not in header]
    if missing:
        near = {name.casefold().replace(" ", "_"): name for name in header}
        hints = [f"{near[name]} is to be called {name}" for name in missing if name in near]
        problems.append(
            f"{path.name}: has no column {', '.join(missing)}; found "
            f"{', '.join(header).strip(', ') or 'none'} (columns are separated by tabs)"
            + (f"; {', '.join(hints)}" if hints else "")
        )
        return []
    if len(set(header)) < len(header):
        double = next(name for name in header if header.count(name) > 1)
        problems.append(f"{path.name}: has two columns {double or 'without a name'}; keep one")
        return []
    table = []
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(header):
            if any(row):
                problems.append(
                    f"{path.name} line {number}: {len(header)} cells expected, found {len(row)}; "
                    "separate them by tabs"
                )
            continue
        table.append(dict(zip(header, row, strict=True)))
    return [row for row in table if any(row.values())]


def _cell(text: str) -> str:
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] == '"':
        return text[1:-1].replace('""', '"').strip()
    return text


def known(text: str) -> bool:
    """Whether a cell holds a value."""
    return text.casefold() not in UNKNOWN


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
        if re.fullmatch(r"[0-9A-Za-z]+", person) and (path.parent / f"sub-{person}").is_dir():
            # Ids as other tables have them, for a folder that is there.
            person = f"sub-{person}"
        if default_group and not known(group):
            group = default_group
        if person in people:
            problems.append(f"{path.name}: {person} comes twice; keep one row a person")
        if not person.startswith("sub-") or not known(group):
            problems.append(
                f"{path.name}: {person or 'a row without id'} needs an id that starts with sub- "
                f"and a group, found group {group!r}; fill in both"
            )
        sex = row.get("sex", row.get("gender", ""))
        people[person] = Participant(
            person,
            group,
            _age(person, row.get("age", ""), problems),
            sex if known(sex) else None,
            _reason(row.get("exclude", "")),
        )
    return people


def _reason(text: str) -> str:
    """Why a person is left out; empty where the cell says no, as pandas and R write it."""
    try:
        if float(text) == 0.0:
            return ""
    except ValueError:
        pass
    return "" if not known(text) or text.casefold() in _NO else text


def _age(person: str, text: str, problems: list[str]) -> float | None:
    if not known(text):
        return None
    try:
        age = float(text.removesuffix("+"))
    except ValueError:
        age = math.nan
    if not 0.0 <= age < 130.0:
        problems.append(f"participants.tsv: {person} has age {text!r}; give years or n/a")
        return None
    return age


def scans_left_out(root: Path) -> dict[Path, str]:
    """Scans that a tree says are not to be used, in `exclude` of its tables.

    Args:
        root: A BIDS tree; participants.tsv leaves out people, `sub-*[_ses-*]_scans.tsv` scans.

    Returns:
        Why, by path of the scan.

    Raises:
        CohortError: If a table cannot be read.
    """
    found: dict[Path, str] = {}
    problems: list[str] = []
    tables = [*root.glob("sub-*/*_scans.tsv"), *root.glob("sub-*/ses-*/*_scans.tsv")]
    for table in sorted(path for path in tables if not path.name.startswith(".")):
        for row in read_table(table, ("filename",), problems):
            if why := _reason(row.get("exclude", "")):
                found[table.parent / row["filename"]] = f"{table.name}: {why}"
    if problems:
        raise CohortError(
            f"{root}: which scans are left out cannot be read; mend:", tuple(problems)
        )
    people = root / "participants.tsv"
    if people.is_file():
        # What else may be wrong with a person is no matter of who is left out.
        for person, about in people_of_table(people, "any", []).items():
            scans = (root / person).rglob("*.nii*") if about.exclude else ()
            found |= dict.fromkeys(scans, f"participants.tsv: {about.exclude}")
    return found


def write_participants(root: Path, people: Iterable[Participant]) -> None:
    """Write participants.tsv, one row a person, in the order given."""
    lines = [TABLE_HEAD, *(table_row(person) for person in people)]
    write_text(root / "participants.tsv", "\n".join(lines) + "\n")


TABLE_HEAD = "participant_id\tgroup\tage\tsex\texclude"


def table_row(person: Participant, columns: Iterable[str] = TABLE_HEAD.split("\t")) -> str:
    """A row of participants.tsv; columns that we know nothing of get n/a."""
    age = "n/a" if person.age is None else f"{person.age:g}"
    cells = {
        "participant_id": person.participant_id,
        "group": person.group,
        "age": age,
        "sex": person.sex or "n/a",
        "exclude": person.exclude,
    }
    return "\t".join(cells.get(column) or "n/a" for column in columns)
