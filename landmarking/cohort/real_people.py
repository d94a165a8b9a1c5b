"""The open benchmark on real people: two public sets of scans with landmarks that come with us."""

from __future__ import annotations

import csv
from pathlib import Path

from landmarking.cohort.records import Cohort, ScanRecord
from landmarking.errors import CohortError

FOLDER = Path(__file__).with_suffix("")
"""One `.fcsv` a person below the folder of each group; its README says how they were placed."""

GROUPS = ("people", "ten")
"""47 people to learn from, and ten to measure by."""

HOW_TO_GET = (
    "get ds000011 and ds002748 from OpenNeuro, such as `datalad install -g "
    "https://github.com/OpenNeuroDatasets/ds000011` (docs/people.md), and name their common folder"
)


def read_people(root: Path, *, name: str = "people") -> Cohort:
    """The scans of the people whose landmarks the project has.

    Persons are called by their data set as well, such as `ds000011_sub-01`.

    Args:
        root: Folder that holds `ds000011` and `ds002748`.
        name: Name of the cohort.

    Returns:
        The cohort, groups `people` and `ten`.

    Raises:
        CohortError: If scans are missing; carries all of them.
    """
    scans: list[ScanRecord] = []
    problems: list[str] = []
    tables = {folder.name: _table(folder / "participants.tsv") for folder in root.glob("ds*/")}
    for group in GROUPS:
        for landmarks in sorted((FOLDER / group).glob("*.fcsv")):
            dataset, _, person = landmarks.stem.partition("_")
            image = root / dataset / person / "anat" / f"{person}_T1w.nii.gz"
            if not image.exists():
                problems.append(f"{image}: is not there")
            facts = tables.get(dataset, {}).get(person, {})
            sex = (facts.get("sex") or facts.get("gender") or "").upper() or None
            age = float(facts["age"]) if facts.get("age", "n/a") != "n/a" else None
            scans.append(
                ScanRecord(landmarks.stem, landmarks.stem, None, group, image, landmarks, age, sex)
            )
    if problems:
        raise CohortError(
            f"{root}: lacks scans of the cohort of people; {HOW_TO_GET}", tuple(problems)
        )
    return Cohort(name, root, tuple(scans))


def _table(path: Path) -> dict[str, dict[str, str]]:
    """Rows of a participants.tsv by person; empty where there is none."""
    if not path.exists():
        return {}
    with path.open(encoding="utf-8-sig", newline="") as file:
        return {row["participant_id"]: row for row in csv.DictReader(file, delimiter="\t")}


def raters(landmarks: Path) -> dict[str, tuple[int, float]]:
    """Who placed the points of one of our files: number of raters and mm between them.

    Args:
        landmarks: A file of this cohort.

    Returns:
        Raters and distance by landmark; NaN where one rater placed it.
    """
    found = {}
    for line in landmarks.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            label, text = line.split(",")[11:13]
            count, _, apart = text.removeprefix("raters: ").partition("; ")
            found[label] = (int(count), float(apart.removesuffix(" mm apart") or "nan"))
    return found
