"""Write a BIDS tree, and gather scans and landmark files of other hands into one.

`landmarking gather FOLDER --group HS SCAN[=LANDMARKS] ...` gathers; run it again to add people of
another group, or further scans of a person. Scans are copied byte for byte, landmarks
are written anew under the project's names. Nothing that lies in the tree is replaced.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from landmarking.cohort.records import (
    TABLE_HEAD,
    Participant,
    read_participants,
    read_table,
    read_text,
    table_row,
    write_participants,
)
from landmarking.cohort.tree import (
    AFIDS_LAYOUT,
    LANDMARK_SUFFIXES,
    SCAN_SUFFIXES,
    TISSUE_LABELS,
    Layout,
    native_scans,
    read_cohort,
    tissue_paths,
)
from landmarking.errors import CohortError, LandmarkError, LandmarkingError
from landmarking.files import atomic_path, not_written, write_text
from landmarking.imaging.scan import load_scan
from landmarking.landmarks import is_prediction, landmark_set, read_landmarks, write_markups

__all__ = [
    "AFIDS_LAYOUT",
    "LANDMARK_SUFFIXES",
    "SCAN_SUFFIXES",
    "TISSUE_LABELS",
    "Layout",
    "Participant",
    "gather",
    "landmark_path",
    "main",
    "native_scans",
    "read_cohort",
    "read_participants",
    "read_table",
    "scan_path",
    "tissue_paths",
    "write_description",
    "write_participants",
]


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


@dataclass(frozen=True)
class _Place:
    """Where a scan goes in a tree.

    Attributes:
        person: Such as `sub-01`.
        session: Such as `ses-1`, or None.
        others: Further entities of the name, such as `run-2`.
    """

    person: str
    session: str | None
    others: tuple[str, ...]

    @property
    def stem(self) -> str:
        """Name of the scan without `_T1w` and ending."""
        return "_".join(part for part in (self.person, self.session, *self.others) if part)

    def image(self, root: Path, ending: str) -> Path:
        """Path of the scan."""
        return root / self.person / (self.session or "") / "anat" / f"{self.stem}_T1w{ending}"

    def landmarks(self, root: Path) -> Path:
        """Path of its landmark file."""
        folder = root / "derivatives" / "landmarks" / self.person / (self.session or "") / "anat"
        return folder / f"{self.stem}{LANDMARK_SUFFIXES[0]}"


_ENTITY = re.compile(r"([a-z]+)-([0-9A-Za-z]+)")


def _place(image: Path) -> _Place:
    """Person, session and run by the name's BIDS entities; of any other name, a person each."""
    name = image.name.removesuffix(".gz").removesuffix(".nii").removesuffix("_T1w")
    parts = [_ENTITY.fullmatch(part) for part in name.split("_")]
    if parts[0] is None or parts[0][1] != "sub" or None in parts:
        return _Place("sub-" + re.sub("[^0-9A-Za-z]", "", name.removeprefix("sub-")), None, ())
    entities = [part for part in parts[1:] if part is not None]
    session = next((part[0] for part in entities if part[1] == "ses"), None)
    return _Place(parts[0][0], session, tuple(p[0] for p in entities if p[1] != "ses"))


Placed = Path | Mapping[str, np.ndarray] | None
"""A landmark file; world RAS mm, shape (3,), by name; or None where nobody has placed any."""


def gather(
    root: Path, group: str, pairs: Sequence[tuple[Path, Placed]], *, skip_bad: bool = False
) -> tuple[str, ...]:
    """Add scans with their landmarks; `sub-01_ses-1` and `sub-01_run-2` are scans of one person.

    Args:
        root: The tree; made where it does not exist.
        group: Group of all these people.
        pairs: Scans, each with its landmarks.
        skip_bad: Leave out what cannot be used; else nothing is copied.

    Returns:
        What was left out, one sentence a scan.

    Raises:
        CohortError: If a scan is missing, cannot be read, or lies in the tree already.
        LandmarkError: If a landmark file has no landmark that is known, or is a prediction.
    """
    people = {}
    if (root / "participants.tsv").exists():
        people = read_participants(root)
    problems: list[str] = []
    added: dict[str, Participant] = {}
    taken: set[Path] = set()
    try:
        for image, points in pairs:
            try:
                place = _place(image)
                placed = _checked(root, group, place, people, image, points, taken)
            except LandmarkingError as error:
                if not skip_bad:
                    raise
                problems.append(" ".join(str(error).split()))
                continue
            _add(root, place, image, placed)
            if place.person not in people:
                people[place.person] = added[place.person] = Participant(place.person, group)
    finally:
        # Also when a disk is full: what was copied is in the table.
        if added:
            _extend_table(root, list(added.values()))
    if not (root / "dataset_description.json").exists():
        write_description(root, root.resolve().name)
    return tuple(problems)


def _checked(
    root: Path,
    group: str,
    place: _Place,
    people: dict[str, Participant],
    image: Path,
    points: Placed,
    taken: set[Path],
) -> dict[str, np.ndarray] | None:
    """Refuse what cannot be added; else the landmarks by name."""
    if not image.is_file() or not image.name.endswith((".nii", ".nii.gz")):
        raise CohortError(
            f"{image}: scans are .nii or .nii.gz files, and there is none here; check the path"
        )
    targets = [place.image(root, ending) for ending in (".nii.gz", ".nii")]
    if any(target.exists() or target in taken for target in targets) or (
        place.landmarks(root).exists()
    ):
        raise CohortError(f"{image}: {place.stem} is in {root} already; rename the file")
    if place.person in people and people[place.person].group != group:
        raise CohortError(
            f"{image}: {place.person} is in {root} already, in the group "
            f"{people[place.person].group}; a person is in one group, rename the file"
        )
    load_scan(image)
    placed = None if isinstance(points, Path) or points is None else dict(points)
    if isinstance(points, Path):
        if is_prediction(points):
            raise LandmarkError(
                f"{points}: was written by a model and is no truth; save what you have checked "
                "from Slicer under another name"
            )
        landmarks = landmark_set("afids32")
        found = landmarks.arrange(read_landmarks(points))
        if not np.isfinite(found).any():
            raise LandmarkError(
                f"{points}: has no landmark of the AFIDs protocol; label the points by their names"
            )
        placed = dict(zip(landmarks.names, found, strict=True))
    taken.update(targets)
    return placed


def _add(root: Path, place: _Place, image: Path, placed: dict[str, np.ndarray] | None) -> None:
    ending = ".nii" if image.name.endswith(".nii") else ".nii.gz"
    with atomic_path(place.image(root, ending)) as temporary:
        shutil.copyfile(image, temporary)
    if placed is not None:
        write_markups(place.landmarks(root), placed)


def _extend_table(root: Path, people: Sequence[Participant]) -> None:
    """Add rows to participants.tsv; what stands there stays as it is."""
    path = root / "participants.tsv"
    text = read_text(path).rstrip("\r\n") if path.exists() else TABLE_HEAD
    columns = [cell.strip().strip('"') for cell in re.split(r"\r\n|\r|\n", text)[0].split("\t")]
    lines = [text, *(table_row(person, columns) for person in people)]
    write_text(path, "\n".join(lines) + "\n")


def pair(text: str) -> tuple[Path, Placed]:
    """A scan and its landmark file from SCAN or SCAN=LANDMARKS; paths may hold equals signs."""
    if "=" not in text or Path(text).exists():
        return Path(text), None
    cuts = [number for number, letter in enumerate(text) if letter == "="]
    cut = next((cut for cut in cuts if Path(text[:cut]).exists()), cuts[0])
    return Path(text[:cut]), Path(text[cut + 1 :])


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; see the module's description. Status 1 where a scan was left out, 2 if all."""
    parser = argparse.ArgumentParser(description="Put scans and landmarks into a BIDS tree.")
    parser.add_argument("root", type=Path, help="folder of the tree")
    parser.add_argument("--group", required=True, help="train, HS, DS or another group's name")
    parser.add_argument("pairs", nargs="+", metavar="SCAN[=LANDMARKS]")
    options = parser.parse_args(arguments)
    try:
        status = add_all(options.root, options.group, [pair(text) for text in options.pairs])
    except LandmarkingError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
    if status:
        sys.exit(status)


def add_all(root: Path, group: str, pairs: Sequence[tuple[Path, Placed]]) -> int:
    """Gather what can be used, and say what was left out.

    Args:
        root: The tree.
        group: Group of all these people.
        pairs: As for `gather`.

    Returns:
        The exit status: 1 where a scan was left out, 2 if all were.

    Raises:
        LandmarkingError: If the tree cannot be read or written.
    """
    try:
        bad = gather(root, group, pairs, skip_bad=True)
    except OSError as error:
        path = Path(error.filename or root)
        raise CohortError(not_written(path, error, "choose another folder")) from error
    people = {_place(scan).person for scan, _ in pairs}
    done = len(pairs) - len(bad)
    sys.stdout.write(
        f"{root}: {done} of {len(pairs)} scans added to group {group}"
        f" ({len(people)} people named), {len(bad)} left out\n"
    )
    for problem in bad:
        sys.stderr.write(f"left out: {problem}\n")
    return 0 if not bad else 1 if done else 2


if __name__ == "__main__":
    main()
