"""Write phantom heads as a BIDS tree: any number of workers, resumed where it was left."""

from __future__ import annotations

import json
import logging
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from landmarking.cohort.bids import (
    Participant,
    landmark_path,
    scan_path,
    tissue_paths,
    write_description,
    write_participants,
)
from landmarking.errors import CohortError
from landmarking.files import atomic_path, parse_json, remove_leftovers, write_text
from landmarking.landmarks import landmark_set, write_markups
from landmarking.phantom.person import Head, PhantomSettings, Subject, generator, make_head
from landmarking.processes import map_processes

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class PlannedScan:
    """A scan to be written: whose it is and what its files are called."""

    subject: Subject
    participant_id: str
    session: str | None


def planned_scans(settings: PhantomSettings) -> tuple[PlannedScan, ...]:
    """All scans of a cohort, group by group; a longer plan begins with the shorter one."""
    counts = {"train": settings.train, "HS": settings.healthy, "DS": settings.down_syndrome}
    return tuple(
        scan for group, count in counts.items() for scan in _group_plan(settings, group, count)
    )


def _group_plan(settings: PhantomSettings, group: str, count: int) -> Iterator[PlannedScan]:
    several = group == "train" and settings.scans_per_person > 1.0
    made = person = 0
    while made < count:
        visits = 1
        if several:
            # One to five scans, with the mean asked for.
            rng = generator(settings.seed, group, person, 2000)
            visits += int(rng.binomial(4, (settings.scans_per_person - 1.0) / 4.0))
        for visit in range(min(visits, count - made)):
            session = f"ses-{visit + 1:02d}" if several else None
            yield PlannedScan(
                Subject(group, person, visit), f"sub-{group}{person + 1:04d}", session
            )
            made += 1
        person += 1


def write_phantom_cohort(
    root: Path, settings: PhantomSettings, workers: int = 1, *, progress: bool = True
) -> None:
    """Make a phantom cohort, or what is missing of it.

    A head whose record bears the settings' digest is complete and stays; any other is made anew,
    and heads that are no longer asked for are removed.

    Args:
        root: Folder of the BIDS tree.
        settings: What to make.
        workers: Processes that make heads; the files do not depend on their number.
        progress: Whether a bar is shown.

    Raises:
        CohortError: If the folder holds something that is no phantom cohort.
    """
    _refuse_foreign(root)
    plan = planned_scans(settings)
    digest = settings.digest()
    missing = [scan for scan in plan if not _complete(root, scan, digest)]
    write_description(root, "Phantom heads", simulated=True)
    remove_leftovers(root)
    _remove_strangers(root, plan)
    if missing:
        (root / "participants.tsv").unlink(missing_ok=True)
        _LOGGER.info("making %d of %d phantom heads in %s", len(missing), len(plan), root)
        _make_all(root, settings, missing, workers, progress)
    _write_people(root, plan)


def _refuse_foreign(root: Path) -> None:
    description = root / "dataset_description.json"
    if root.exists() and any(root.iterdir()) and not description.exists():
        raise CohortError(
            f"{root}: is a folder with other files; choose a new folder for the phantom cohort"
        )
    if description.exists() and not _plain(description).get("Simulated", False):
        raise CohortError(
            f"{root}: is a cohort of real scans; choose a new folder for the phantom cohort"
        )


def record_path(root: Path, scan: PlannedScan) -> Path:
    """JSON file with the record of one head; it is written last."""
    image = scan_path(root, scan.participant_id, scan.session)
    name = image.name.replace("_T1w.nii.gz", "_phantom.json")
    return root / "derivatives" / "phantom" / image.parent.relative_to(root) / name


def _complete(root: Path, scan: PlannedScan, digest: str) -> bool:
    return bool(_plain(record_path(root, scan)).get("digest") == digest)


def _plain(path: Path) -> dict[str, Any]:
    """What a JSON file holds; nothing where it is missing or damaged."""
    try:
        values = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _remove_strangers(root: Path, plan: Sequence[PlannedScan]) -> None:
    planned = {record_path(root, scan).name for scan in plan}
    for record in (root / "derivatives" / "phantom").rglob("*_phantom.json"):
        if record.name not in planned:
            stem = record.name.removesuffix("_phantom.json")
            for path in (*root.rglob(f"{stem}_T1w.nii.gz"), *root.rglob(f"{stem}_l*")):
                path.unlink()
            record.unlink()


def _make_all(
    root: Path,
    settings: PhantomSettings,
    scans: Sequence[PlannedScan],
    workers: int,
    progress: bool,
) -> None:
    from rich.console import Console
    from rich.progress import track

    jobs = [(root, settings, scan) for scan in scans]
    console, start = Console(stderr=True, quiet=not progress), time.perf_counter()
    bar = track(
        map_processes(write_head, jobs, workers),
        "phantom heads",
        total=len(jobs),
        console=console,
        disable=not progress,
    )
    seconds = sum(bar) / len(jobs)
    console.print(
        f"made {len(jobs)} phantom heads in {time.perf_counter() - start:.0f} s: "
        f"{seconds:.2f} s of one core a head, with its files",
        highlight=False,
        soft_wrap=True,
    )


def write_head(job: tuple[Path, PhantomSettings, PlannedScan]) -> float:
    """Make one head and write its scan, landmarks, tissues and, last, its record.

    Args:
        job: Root of the tree, settings, and which scan.

    Returns:
        Seconds of processor that it took.
    """
    start = time.process_time()
    root, settings, scan = job
    record_path(root, scan).unlink(missing_ok=True)
    head = make_head(settings, scan.subject)
    image = scan_path(root, scan.participant_id, scan.session)
    write_nifti(image, head.data, head.affine)
    names = landmark_set("afids32").names
    markups = landmark_path(root, scan.participant_id, scan.session)
    write_markups(markups, dict(zip(names, head.landmarks_mm, strict=True)))
    if settings.keep_tissues:
        _write_tissues(root, image, head)
    record = {"digest": settings.digest(), **head.record}
    write_text(record_path(root, scan), json.dumps(record, indent=1) + "\n")
    return time.process_time() - start


def _write_tissues(root: Path, image: Path, head: Head) -> None:
    paths = tissue_paths(root / "derivatives" / "tissues", image, root)
    for path, share in zip(paths, head.tissues, strict=True):
        write_nifti(path, share, head.affine)


def write_nifti(path: Path, data: np.ndarray[Any, Any], affine: np.ndarray[Any, Any]) -> None:
    """Write a NIfTI file whose bytes depend on the arguments only, as a whole.

    Args:
        path: `.nii.gz` file.
        data: int16 or uint8, shape (I, J, K).
        affine: Voxel to world RAS mm, shape (4, 4).
    """
    import nibabel as nib

    image: Any = nib.Nifti1Image(np.asfortranarray(data), affine)  # type: ignore[no-untyped-call]
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code="scanner")
    image.set_qform(affine, code="scanner")
    buffer = BytesIO()
    image.to_stream(buffer)
    # Looking for runs only takes half the time: noise has no patterns, and maps are mostly empty.
    # The gzip header that zlib itself writes holds neither time nor name.
    packer = zlib.compressobj(1, zlib.DEFLATED, 16 + zlib.MAX_WBITS, 9, zlib.Z_RLE)
    with atomic_path(path) as temporary, temporary.open("wb") as packed:
        packed.write(packer.compress(buffer.getbuffer()))
        packed.write(packer.flush())


def _write_people(root: Path, plan: Sequence[PlannedScan]) -> None:
    people: dict[str, Participant] = {}
    for scan in plan:
        record = parse_json(record_path(root, scan).read_text(encoding="utf-8"))
        people.setdefault(
            scan.participant_id,
            Participant(scan.participant_id, scan.subject.group, record["age"]),
        )
    write_participants(root, people.values())
