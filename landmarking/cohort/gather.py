"""Put scans and their landmark files into a BIDS tree.

    python -m landmarking.cohort.gather DIR --group HS SCAN=LANDMARKS [SCAN=LANDMARKS ...]

SCAN is a `.nii` or `.nii.gz` file and LANDMARKS an `.mrk.json` or `.fcsv` file; a scan without
landmarks is given alone. Run it again to add people of another group. Scans are copied byte for
byte, landmarks are written anew under the project's names.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from landmarking.cohort.bids import (
    Participant,
    landmark_path,
    read_participants,
    scan_path,
    write_description,
    write_participants,
)
from landmarking.errors import CohortError, LandmarkError, LandmarkingError
from landmarking.landmarks import landmark_set, read_landmarks, write_markups
from landmarking.storage import atomic_path


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
