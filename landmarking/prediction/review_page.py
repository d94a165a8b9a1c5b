"""One page to check hundreds of predictions by: pictures, flags, failures, and what a person says.

The page opens from a file, without a server and without any other file but the pictures beside it,
which the browser loads when they come into view.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from landmarking.files import files_below, readable, write_text
from landmarking.prediction.batch import Outcome
from landmarking.prediction.results import read_record

PAGE = "index.html"
RECORD, PICTURE = "_prediction.json", "_qc.png"

MARK = "<!-- written by landmarking predict -->"
"""In the page, so that the next run knows it as ours; another index.html is kept."""


@dataclass(frozen=True)
class ReviewedScan:
    """One scan on the page.

    Attributes:
        name: Its place below the output folder, without endings.
        state: `fine`, `flagged` or `failed`.
        radius: Largest 90 % radius of a landmark, mm; zero where there is none.
        widest: That landmark.
        why: Flags, or why it failed.
        picture: Address of the picture from the page; empty where there is none.
    """

    name: str
    state: str
    radius: float
    widest: str
    why: tuple[str, ...]
    picture: str


def reviewed_scans(folder: Path, outcomes: Sequence[Outcome] = ()) -> list[ReviewedScan]:
    """All scans of an output folder that have results, and those of this run that failed.

    Args:
        folder: Output folder of predict.
        outcomes: What this run came to.
    """
    found = {}
    for path in sorted(files_below(folder)):
        record = read_record(path) if path.name.endswith(RECORD) else None
        if record is not None and "landmarks" in record:
            name = path.relative_to(folder).as_posix().removesuffix(RECORD)
            found[name] = _done(folder, name, record)
    for outcome in outcomes:
        if outcome.problem:
            name = outcome.target.stem
            found[name] = ReviewedScan(name, "failed", 0.0, "", (outcome.problem,), "")
    return [found[name] for name in sorted(found)]


def _done(folder: Path, name: str, record: Mapping[str, Any]) -> ReviewedScan:
    landmarks = record["landmarks"]
    why = [str(flag) for flag in record.get("flags", ())]
    why += [f"{each['name']}: {'; '.join(each['flags'])}" for each in landmarks if each["flags"]]
    radii = [(float(each.get("radius_mm") or 0.0), str(each["name"])) for each in landmarks]
    radius, widest = max(radii, default=(0.0, ""))
    picture = f"{name}{PICTURE}"
    address = quote(os.fsencode(picture)) if (folder / picture).is_file() else ""
    return ReviewedScan(name, "flagged" if why else "fine", radius, widest, tuple(why), address)


def write_review(folder: Path, outcomes: Sequence[Outcome], model: str) -> Path | None:
    """Write the page of an output folder.

    Args:
        folder: Output folder of predict.
        outcomes: What this run came to.
        model: Name of the model.

    Returns:
        Path of the page; None where an index.html of somebody else lies there, which is kept.

    Raises:
        OSError: If it cannot be written.
    """
    from jinja2 import Environment, PackageLoader

    path = folder / PAGE
    if path.exists() and MARK not in path.read_text(encoding="utf-8", errors="replace"):
        return None
    scans = reviewed_scans(folder, outcomes)
    states = [scan.state for scan in scans]
    failed, flagged = states.count("failed"), states.count("flagged")
    loader = PackageLoader("landmarking.prediction")
    page = Environment(loader=loader, autoescape=True).get_template("review.html.j2")
    text = page.render(
        title=f"Landmarks of {len(scans)} scan{'' if len(scans) == 1 else 's'}",
        summary=f"{len(scans) - failed} done, of these {flagged} flagged; {failed} failed.",
        model=model,
        scans=scans,
        width=1232,
        height=704,
        key=hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:12],
    )
    # Names that are no UTF-8 are shown as far as they can be.
    write_text(path, readable(text).replace("<html", f"{MARK}\n<html", 1))
    return path
