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
from itertools import groupby
from pathlib import Path

import numpy as np

from landmarking.cohort.records import (
    Cohort,
    Participant,
    ScanRecord,
    people_of_table,
    scans_left_out,
)
from landmarking.errors import CohortError, LandmarkError
from landmarking.files import files_below, parse_json
from landmarking.landmarks import AUTO, is_prediction, read_landmarks

SCAN_SUFFIXES = ("_T1w.nii.gz", "_T1w.nii")
LANDMARK_SUFFIXES = ("_landmarks.mrk.json", "_landmarks.fcsv", "_landmarks.json")
TISSUE_LABELS = ("GM", "WM", "CSF")

NATIVE = ("T1w", "orig", "native", "individual", "scanner")
"""Words of `space-` that stand for the scan's own world."""


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


@dataclass(frozen=True)
class Layout:
    """Where a tree departs from this project's own layout.

    Attributes:
        landmarks: Folder of the landmark files under `derivatives/`.
        suffixes: Endings of the landmark files.
        group: Group of people to whom participants.tsv gives none; empty where it must.
        predictions: Whether landmark files that a model has written count as truth where no person
            has placed any.
    """

    landmarks: str = "landmarks"
    suffixes: tuple[str, ...] = LANDMARK_SUFFIXES
    group: str = ""
    predictions: bool = False


AFIDS_LAYOUT = Layout("afids_groundtruth", ("_afids.fcsv", "_afids.mrk.json"), "HS")
"""Layout of the open AFIDs data sets such as OpenNeuro ds004470 and ds004471."""


@dataclass
class _Found:
    """What is wrong with a tree.

    Attributes:
        problems: Of the whole tree: nothing can be done.
        bad: Of single scans, people and landmark files: the others can be used.
        notes: What a person should know.
    """

    problems: list[str]
    bad: list[str]
    notes: list[str]


def read_cohort(
    root: Path, *, name: str | None = None, layout: Layout | None = None, skip_bad: bool = False
) -> Cohort:
    """Read the names and groups of a BIDS tree; images stay unread.

    Args:
        root: Folder with participants.tsv.
        name: Name of the cohort; the folder's name by default.
        layout: Where the tree departs from this project's layout.
        skip_bad: Leave out single scans and files that break the contract, and list them in the
            cohort's `bad`.

    Returns:
        The cohort, scans in the order of their ids.

    Raises:
        CohortError: If the tree breaks the contract; carries every problem found.
    """
    layout = layout or Layout()
    found = _Found([], [], [])
    people = people_of_table(root / "participants.tsv", layout.group, found.problems)
    scans = _scans(root, people, found)
    placed = _landmark_files(root, layout, scans, found)
    derivatives = sorted(root.glob("derivatives/*/"))
    scans = [
        replace(
            scan,
            landmarks=placed.get(scan.scan_id),
            tissues=_tissue_files(root, derivatives, scan.image),
        )
        for scan in scans
    ]
    _compare(people, placed, scans, found)
    if not scans and not (found.problems or found.bad):
        found.problems.append("there is no scan: sub-*/[ses-*/]anat/*_T1w.nii.gz matches nothing")
    simulated = _simulated(root / "dataset_description.json", found.problems)
    out = _left_out(root, people, scans, found)
    kept = tuple(scan for scan in scans if scan.scan_id not in out)
    left_out = [row for row in people.values() if row.exclude]
    if left_out and not kept and scans:
        found.problems.append(
            f"participants.tsv: all {len(left_out)} people with a scan are left out by the column "
            f"exclude (such as {left_out[0].participant_id}: {left_out[0].exclude!r}); state a "
            "reason for those to be left out, and n/a for the others"
        )
    elif left_out:
        found.notes.append(
            f"participants.tsv: {len(left_out)} people are left out by the column exclude"
        )
    lost = (*found.problems, *found.bad)
    if found.problems or (lost and not (skip_bad and kept)):
        raise CohortError(
            f"{root} is not a cohort that can be read; mend these (docs/data.md):", lost
        )
    name = name or root.resolve().name
    return Cohort(name, root, kept, simulated, tuple(found.bad), tuple(found.notes))


def _left_out(
    root: Path, people: Mapping[str, Participant], scans: Sequence[ScanRecord], found: _Found
) -> set[str]:
    """Ids of scans that a table leaves out, those of people who are left out among them."""
    try:
        listed = scans_left_out(root)
    except CohortError as error:
        found.problems += error.problems
        listed = {}
    alone = {scan.scan_id for scan in scans if scan.image in listed}
    whole = {scan.scan_id for scan in scans if people[scan.participant_id].exclude}
    if number := len(alone - whole):
        found.notes.append(f"{number} scan(s) are left out by the column exclude of scans.tsv")
    return alone | whole


def native_scans(paths: Iterable[Path], notes: list[str]) -> Iterator[Path]:
    """T1 scans without what was made from them: `space-` and `desc-` files beside the raw ones.

    Args:
        paths: Scans of any people.
        notes: Where it is said what is left out.

    Yields:
        The scans; of a folder that holds derivatives alone, all of them.
    """
    for _, group in groupby(sorted(paths), key=lambda path: path.parent):
        scans = list(group)
        raw = [path for path in scans if not _made(path.name)]
        if raw and len(raw) < len(scans):
            names = ", ".join(path.name for path in scans if _made(path.name))
            notes.append(f"{names}: made from the scan beside it, left out")
        yield from raw or scans


def _made(name: str) -> bool:
    return any(part.startswith(("space-", "desc-")) for part in name.split("_"))


def _visible(paths: Iterable[Path]) -> Iterator[Path]:
    """Without what begins with a dot: files under way, and what other systems put beside files."""
    return (path for path in paths if not path.name.startswith("."))


def _scans(root: Path, people: Mapping[str, Participant], found: _Found) -> list[ScanRecord]:
    scans: dict[str, ScanRecord] = {}
    strangers: dict[str, Path] = {}
    files = _visible([*root.glob("sub-*/anat/*"), *root.glob("sub-*/ses-*/anat/*")])
    images = (path for path in files if path.name.endswith(SCAN_SUFFIXES))
    for path in native_scans(images, found.notes):
        suffix = next(end for end in SCAN_SUFFIXES if path.name.endswith(end))
        scan_id = path.name.removesuffix(suffix)
        parts = path.relative_to(root).parts
        session = parts[1] if len(parts) == 4 else None
        expected = "_".join(part for part in (parts[0], session) if part)
        if scan_id != expected and not scan_id.startswith(f"{expected}_"):
            found.bad.append(
                f"{path.relative_to(root)}: the file name must begin with {expected}; rename it"
            )
        elif scan_id in scans:
            found.bad.append(f"{scan_id}: is there as .nii and as .nii.gz; keep one")
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
            strangers.setdefault(parts[0], path)
    _name_strangers(root, people, strangers, found)
    return [scans[key] for key in sorted(scans)]


def _name_strangers(
    root: Path, people: Mapping[str, Participant], strangers: Mapping[str, Path], found: _Found
) -> None:
    """One line for ids that are written in two ways, and one for each person without a row."""
    by_core = {_core(person): person for person in people}
    twins = {folder: by_core[_core(folder)] for folder in strangers if _core(folder) in by_core}
    if twins:
        folder, person = next(iter(twins.items()))
        more = f", and {len(twins) - 1} more" if len(twins) > 1 else ""
        found.bad.append(
            f"participants.tsv: calls {person} what is called {folder} in the tree{more}; write "
            "the ids of the table as those of the folders"
        )
    found.bad += [
        f"{path.relative_to(root)}: {folder} is not in participants.tsv; add a row for it"
        for folder, path in strangers.items()
        if folder not in twins
    ]


def _core(person: str) -> str:
    """An id without case and without zeros in front."""
    return person.casefold().removeprefix("sub-").lstrip("0") or "0"


def _landmark_files(
    root: Path, layout: Layout, scans: Sequence[ScanRecord], found: _Found
) -> dict[str, Path]:
    """Landmark file by scan id; files that fit no scan stay under their own name."""
    known = [scan.scan_id for scan in scans]
    placed: dict[str, Path] = {}
    predicted: dict[str, Path] = {}
    folder = root / "derivatives" / layout.landmarks
    for path in sorted(files_below(folder), key=lambda path: _rank(path, layout)):
        suffix = _suffix(path, layout)
        if suffix is None:
            _note_near_miss(path, layout, found)
            continue
        name = path.name[: -len(suffix)]
        auto = is_prediction(path)
        if (space := _space(name)) and not any(space in scan for scan in known):
            if not auto:
                found.bad.append(
                    f"{path.name}: lies in {space} and not in the world of the scan; transform "
                    "the points back, or remove the file"
                )
            continue
        stem = _scan_of(name, known)
        if auto:
            predicted.setdefault(stem, path)
        elif stem not in placed:
            placed[stem] = path
        elif not _same_points(placed[stem], path):
            found.bad.append(
                f"{stem}: has two landmark files, {placed[stem].relative_to(root)} and "
                f"{path.relative_to(root)}; keep one"
            )
    if layout.predictions:
        return {**{key: path for key, path in predicted.items() if key in known}, **placed}
    if predicted:
        found.notes.append(
            f"{len(predicted)} landmark files were written by a model and are not read as truth, "
            f"such as {next(iter(predicted.values())).name}; save what you have checked under a "
            f"name without {AUTO}, or set cohort.predictions=true"
        )
    return placed


def _suffix(path: Path, layout: Layout) -> str | None:
    name = path.name.casefold()
    suffix = next((end for end in layout.suffixes if name.endswith(end.casefold())), None)
    if suffix == "_landmarks.json" and not _is_markups(path):
        return None
    return suffix


def _is_markups(path: Path) -> bool:
    try:
        body = parse_json(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return False
    return isinstance(body, dict) and "markups" in body


def _rank(path: Path, layout: Layout) -> tuple[int, Path]:
    """Files in the order of the layout's endings: the first of a scan is the one that is read."""
    name = path.name.casefold()
    ends = [number for number, end in enumerate(layout.suffixes) if name.endswith(end.casefold())]
    return (min(ends, default=len(layout.suffixes)), path)


def _note_near_miss(path: Path, layout: Layout, found: _Found) -> None:
    # What our own commands and BIDS put beside landmark files.
    ours = (
        *("_prediction.json", "_qc.png", "dataset_description.json", "_landmarks.json"),
        *("_landmarks.tsv", "_dseg.tsv"),
    )
    table = path.name in ("landmarks.csv", "landmarks_wide.csv", "landmarks.json")
    words = (".fcsv", ".mrk.json", "landmark", "fiducial", "afids")
    if not table and not path.name.endswith(ours) and any(w in path.name.casefold() for w in words):
        found.notes.append(
            f"{path.name}: is not read; the names of landmark files end in "
            f"{' or '.join(layout.suffixes[:2])}"
        )


def _space(name: str) -> str:
    """`space-X` of a file's name where X is not the scan's own world, else empty."""
    space = next((part for part in name.split("_") if part.startswith("space-")), "")
    native = {f"space-{word}".casefold() for word in NATIVE}
    return "" if space.casefold() in native else space


def _same_points(first: Path, second: Path) -> bool:
    try:
        one, other = read_landmarks(first), read_landmarks(second)
    except LandmarkError:
        return False
    return one.keys() == other.keys() and all(
        np.allclose(one[label], other[label], rtol=0.0, atol=0.01) for label in one
    )


def _scan_of(stem: str, known: Sequence[str]) -> str:
    """Scan id that a landmark file's name stands for, or the name itself where it fits none."""
    if stem in known:
        return stem
    # Raters' files may say desc-groundtruth, and may leave out the entities of the only scan.
    parts = [part for part in stem.split("_") if not part.startswith(("desc-", "space-"))]
    if parts[-1:] == ["T1w"]:
        parts = parts[:-1]
    if "_".join(parts) in known:
        return "_".join(parts)
    matches = [scan for scan in known if set(parts) <= set(scan.split("_"))]
    return matches[0] if len(matches) == 1 else stem


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
    found: _Found,
) -> None:
    # Ids that are written in two ways are one problem, and said already.
    twins = [line for line in found.bad if line.startswith("participants.tsv: calls ")]
    scanned = {scan.participant_id for scan in scans}
    if not twins:
        found.bad += [
            f"participants.tsv: {person} has no scan sub-*/[ses-*/]anat/*_T1w.nii.gz; "
            "add it, or state a reason in a column named exclude"
            for person, row in people.items()
            if person not in scanned and not row.exclude
        ]
    known = {scan.scan_id for scan in scans}
    if people and not twins:
        found.bad += [
            f"{path.name}: belongs to no scan; landmark files are named after their scan"
            for stem, path in placed.items()
            if stem not in known
        ]


def _simulated(path: Path, problems: list[str]) -> bool:
    if not path.exists():
        return False
    try:
        return bool(parse_json(path.read_text(encoding="utf-8-sig")).get("Simulated", False))
    except (OSError, ValueError, AttributeError) as error:
        problems.append(f"{path.name}: is not a JSON object ({error}); correct or remove it")
        return False


PEOPLE_FOLDER = Path(__file__).with_name("real_people")
"""One `.fcsv` a person below the folder of each group; its README says how they were placed."""

PEOPLE_GROUPS = ("people", "ten")
"""47 people to learn from, and ten to measure by."""

HOW_TO_GET_PEOPLE = (
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
    tables = {
        table.parent.name: people_of_table(table, "people", problems)
        for table in sorted(root.glob("ds*/participants.tsv"))
    }
    for group in PEOPLE_GROUPS:
        for landmarks in sorted((PEOPLE_FOLDER / group).glob("*.fcsv")):
            dataset, _, person = landmarks.stem.partition("_")
            image = root / dataset / person / "anat" / f"{person}_T1w.nii.gz"
            if not image.exists():
                problems.append(f"{image}: is not there")
            known = tables.get(dataset, {}).get(person, Participant(person, group))
            sex = None if known.sex is None else known.sex.upper()
            scans.append(
                ScanRecord(
                    landmarks.stem, landmarks.stem, None, group, image, landmarks, known.age, sex
                )
            )
    if problems:
        raise CohortError(
            f"{root}: lacks scans of the cohort of people; {HOW_TO_GET_PEOPLE}", tuple(problems)
        )
    return Cohort(name, root, tuple(scans))


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
