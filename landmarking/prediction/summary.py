"""What predict leaves for all scans of a folder: landmarks.csv, index.html, a BIDS description.

The page is to check hundreds of predictions by: pictures, flags, failures, and what a person says.
It opens from a file, without a server and without any other file but the pictures beside it, which
the browser loads when they come into view.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from landmarking.errors import ConfigError, LandmarkError
from landmarking.files import (
    file_lock,
    file_sha256,
    files_below,
    parse_json,
    readable,
    write_text,
)
from landmarking.geometry import Array, SliceGeometry
from landmarking.prediction.batch import (
    Outcome,
    Record,
    read_record,
)
from landmarking.prediction.outputs import PICTURE, RECORD, moved_by_hand
from landmarking.prediction.predict import POINT_COLUMNS
from landmarking.preparation.cache import canonical_json

TABLE, WIDE = "landmarks.csv", "landmarks_wide.csv"
"""One row a scan and landmark, and one row a scan."""

SIDECAR = "landmarks.json"

COLUMNS = {
    "scan": "Name of the scan, with its place below the folder that was given",
    **{name: text for name, text in POINT_COLUMNS.items() if name not in ("flagged", "flags")},
    "doubt_px": "Spread of the model's heatmap, pixels",
    "flagged": POINT_COLUMNS["flagged"],
    "flags": POINT_COLUMNS["flags"],
    "model": "Name of the model",
    "path": "The scan's file",
    "made_with": "Digest of model, calibration and code; rows with another one were made otherwise",
    "placed_by": "model, or hand where somebody has moved the point in our landmark file",
}
"""Columns of landmarks.csv, with what they mean."""


def check_table(folder: Path) -> None:
    """Refuse an output folder whose tables are not as we have written them.

    Args:
        folder: Output folder.

    Raises:
        ConfigError: If a person's table would be replaced.
    """
    sidecar = folder / SIDECAR
    known = _sidecar(sidecar)
    if sidecar.exists() and known is None:
        raise ConfigError(f"{sidecar}: {_KEPT}")
    for table in (folder / TABLE, folder / WIDE):
        if not table.exists():
            continue
        if known is not None and table.name in known:
            if file_sha256(table) != known[table.name]:
                raise ConfigError(
                    f"{table}: was changed since it was written and is kept; rename it, and the "
                    "command writes another one"
                )
        elif known is not None or not _of_the_first_version(table):
            raise ConfigError(f"{table}: {_KEPT}")


def _of_the_first_version(table: Path) -> bool:
    """It wrote no description beside its table."""
    with table.open("rb") as file:
        first = file.readline().decode("utf-8", "replace").strip()
    return first.split(",") == [c for c in COLUMNS if c not in ("placed_by", "made_with")]


_KEPT = "was not written by this program and is kept; move it away, or choose another -o"


def _sidecar(path: Path) -> dict[str, str] | None:
    """Digests by name of the tables that our description beside them stands for, or None."""
    try:
        made = parse_json(path.read_text(encoding="utf-8"))["GeneratedBy"]
        # Earlier versions had one table.
        return dict(made.get("Tables") or {TABLE: str(made["TableSHA256"])})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def all_records(folder: Path) -> dict[str, Record]:
    """Records of the scans of an output folder, by their place in it, without endings.

    Args:
        folder: Output folder of predict.
    """
    found = {}
    for path in sorted(files_below(folder)):
        record = read_record(path) if path.name.endswith(RECORD) else None
        if record is not None and "landmarks" in record:
            found[path.relative_to(folder).as_posix().removesuffix(RECORD)] = record
    return found


def write_table(folder: Path, records: Mapping[str, Record] | None = None) -> Path:
    """Write landmarks.csv from the records of all scans in a folder, and what its columns mean.

    Args:
        folder: Output folder.
        records: Its `all_records`; None reads them.

    Returns:
        Path of the table.

    Raises:
        ConfigError: If a person's table would be replaced.
        OSError: If it cannot be written.
    """
    rows = []
    for stem, record in all_records(folder).items() if records is None else records.items():
        rows += table_rows(stem, record, _moved(folder / stem, record))
    texts = {TABLE: _csv(rows, list(COLUMNS)), WIDE: _wide(rows)}
    # The tables and their description are three files: one process at a time.
    with file_lock(folder / f".{TABLE}.lock"):
        check_table(folder)
        for name in texts:
            (folder / name).unlink(missing_ok=True)
        write_text(folder / SIDECAR, json.dumps(_description(texts), indent=1) + "\n")
        for name, text in texts.items():
            write_text(folder / name, text)
    return folder / TABLE


def _csv(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    return readable(buffer.getvalue())


def _wide(rows: Iterable[Mapping[str, Any]]) -> str:
    """One row a scan, with columns such as `AC_x_mm`, `AC_y_mm`, `AC_z_mm` and `AC_radius_mm`."""
    scans: dict[str, dict[str, Any]] = {}
    columns = ["scan", "model", "path", "made_with", "flagged"]
    for row in rows:
        scan = scans.setdefault(row["scan"], {key: row[key] for key in columns})
        scan["flagged"] = scan["flagged"] or row["flagged"]
        for name in ("x_mm", "y_mm", "z_mm", "radius_mm"):
            scan[f"{row['landmark']}_{name}"] = row[name]
    more = dict.fromkeys(key for scan in scans.values() for key in scan if key not in columns)
    return _csv(scans.values(), [*columns, *more])


def _moved(stem: Path, record: Mapping[str, Any]) -> dict[str, Array]:
    try:
        return moved_by_hand(stem, record)
    except LandmarkError:
        # Said where the scan is done; the table then has what the model found.
        return {}


def _description(tables: Mapping[str, str]) -> dict[str, Any]:
    from landmarking import __version__

    digests = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in tables.items()}
    made = {"Name": "landmarking", "Version": __version__, "Tables": digests}
    return {**{key: {"Description": text} for key, text in COLUMNS.items()}, "GeneratedBy": made}


DATASET = "dataset_description.json"


def check_dataset(folder: Path) -> None:
    """Refuse the root of somebody's raw BIDS tree as the folder of derivatives.

    Args:
        folder: Output folder.

    Raises:
        ConfigError: If it says of itself that it is raw data, or cannot be read.
    """
    path = folder / DATASET
    if not path.exists():
        return
    try:
        body = parse_json(path.read_text(encoding="utf-8-sig"))
        kind = body.get("DatasetType", "raw")
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"{path}: is no JSON object; choose another -o") from error
    if kind != "derivative":
        raise ConfigError(
            f"{path}: says that the folder holds {kind} data, and results are derivatives; choose "
            f"-o {folder / 'derivatives' / 'landmarking'}"
        )


def write_dataset(folder: Path) -> None:
    """Say in dataset_description.json that a folder is a BIDS derivative of ours, if nothing does.

    Args:
        folder: Output folder.

    Raises:
        OSError: If it cannot be written.
    """
    from landmarking import __version__

    if (folder / DATASET).exists():
        return
    description = {
        "Name": "Landmarks on the mid-sagittal plane",
        "BIDSVersion": "1.9.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "landmarking", "Version": __version__}],
    }
    write_text(folder / DATASET, json.dumps(description, indent=1) + "\n")
    for name, text in BESIDE.items():
        if not (folder / name).exists():
            write_text(folder / name, text)


BESIDE = {
    ".bidsignore": "".join(
        f"{pattern}\n"
        for pattern in (
            *("index.html", "review.tsv", "landmarks*", "*_landmarks.*", "*_prediction.json"),
            *("*_qc.png", "*_xfm.*", "*_space-ACPC_T1w.*", "*_msp.*", "*_aligned.nii.gz"),
            *("*_slice.nii.gz", "logs/"),
        )
    ),
    "README": (
        "Anatomical landmarks on the mid-sagittal plane, predicted by landmarking; not for\n"
        "diagnosis. index.html shows every scan, landmarks.csv holds all points, world RAS mm of\n"
        "the scan. Names that BIDS does not know yet are listed in .bidsignore.\n"
    ),
}
"""What a folder of derivatives holds beside its description."""


def table_rows(
    stem: str, record: Mapping[str, Any], moved: Mapping[str, Array] | None = None
) -> list[dict[str, Any]]:
    """Rows of landmarks.csv of one scan, one a landmark, numbers unrounded.

    Args:
        stem: What the scan is called in the table.
        record: What `Prediction.record` gives.
        moved: Points that a person has moved, world RAS mm by landmark.
    """
    rows = []
    geometry = SliceGeometry.from_dict(record["slice"])
    for row in record["landmarks"]:
        point = (moved or {}).get(row["name"])
        world, pixel = row["world_mm"], row["pixel"]
        if point is not None:
            known = bool(np.isfinite(point).all())
            world = point.tolist() if known else (None, None, None)
            pixel = geometry.to_pixel(point).tolist() if known else (None, None)
        by_model = point is None
        own = row["flags"] if by_model else []
        rows.append(
            {
                "scan": text_name(stem, record["scan"]),
                "landmark": row["name"],
                **dict(zip(("x_mm", "y_mm", "z_mm"), world, strict=True)),
                **dict(zip(("x_px", "y_px"), pixel, strict=True)),
                "radius_mm": row["radius_mm"] if by_model else None,
                "doubt_px": row["doubt_px"] if by_model else None,
                "flagged": bool(own or (by_model and record["flags"])),
                "flags": "; ".join(_reasons(own, record["flags"] if by_model else ())),
                "model": record["model"],
                "path": record["scan"],
                "made_with": made_with(record),
                "placed_by": "model" if by_model else "hand",
            }
        )
    return rows


def made_with(record: Mapping[str, Any]) -> str:
    """Digest of what decided a result; empty for one of a version that did not record it."""
    known = record.get("made_with")
    return hashlib.sha256(canonical_json(known).encode()).hexdigest()[:12] if known else ""


def stale(records: Mapping[str, Record], today: Mapping[str, Any]) -> list[str]:
    """Scans whose results were made with another model, calibration or version of the code.

    Args:
        records: The `all_records` of a folder.
        today: What today's results are made with, see `LandmarkModel.made_with`.
    """
    return [name for name, record in records.items() if record.get("made_with") != today]


STALE = "made with another model or version of the program; predict it again"


def text_name(stem: str, scan: str) -> str:
    """What a scan is called in a table, so that it stays a text: its stem, or its file's name.

    Without an ending, pandas, R and spreadsheets take 007, 1e3, NA and TRUE for something else.
    """
    words = {"na", "n/a", "nan", "null", "none", "true", "false", "inf", "t", "f", ""}
    try:
        float(stem)
    except ValueError:
        if stem.casefold() not in words:
            return stem
    return Path(scan).name or f"scan-{stem}"


def _reasons(own: Iterable[str], scans: Sequence[str]) -> list[str]:
    return [*own, *(f"scan: {reason}" for reason in scans)]


PAGE = "index.html"

MARK = "<!-- written by landmarking predict -->"
"""In the page, so that the next run knows it as ours; another index.html is kept."""


@dataclass(frozen=True)
class ReviewedScan:
    """One scan on the page.

    Attributes:
        name: Its place below the output folder, without endings.
        state: `fine`, `flagged`, `failed` or `left out`.
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


def reviewed_scans(
    folder: Path,
    records: Mapping[str, Record],
    outcomes: Sequence[Outcome] = (),
    old: Collection[str] = (),
) -> list[ReviewedScan]:
    """All scans of an output folder that have results, and those of this run that failed.

    Args:
        folder: Output folder of predict.
        records: Its `all_records`.
        outcomes: What this run came to.
        old: Names of those that are `stale`.
    """
    found = {name: _done(folder, name, record, name in old) for name, record in records.items()}
    for outcome in outcomes:
        if outcome.problem:
            name = outcome.target.stem
            found[name] = ReviewedScan(name, "failed", 0.0, "", (outcome.problem,), "")
        elif outcome.left_out:
            name = outcome.target.stem
            found[name] = ReviewedScan(name, "left out", 0.0, "", (outcome.left_out,), "")
    return [found[name] for name in sorted(found)]


def _done(folder: Path, name: str, record: Mapping[str, Any], old: bool) -> ReviewedScan:
    landmarks = record["landmarks"]
    why = [STALE] if old else []
    why += [str(flag) for flag in record.get("flags", ())]
    why += [f"{each['name']}: {'; '.join(each['flags'])}" for each in landmarks if each["flags"]]
    radii = [(float(each.get("radius_mm") or 0.0), str(each["name"])) for each in landmarks]
    radius, widest = max(radii, default=(0.0, ""))
    picture = f"{name}{PICTURE}"
    address = quote(os.fsencode(picture)) if (folder / picture).is_file() else ""
    return ReviewedScan(name, "flagged" if why else "fine", radius, widest, tuple(why), address)


def write_review(
    folder: Path,
    records: Mapping[str, Record],
    outcomes: Sequence[Outcome],
    model: str,
    old: Collection[str] = (),
) -> Path | None:
    """Write the page of an output folder.

    Args:
        folder: Output folder of predict.
        records: Its `all_records`.
        outcomes: What this run came to.
        model: Name of the model.
        old: Names of those that are `stale`.

    Returns:
        Path of the page; None where an index.html of somebody else lies there, which is kept.

    Raises:
        OSError: If it cannot be written.
    """
    from jinja2 import Environment, PackageLoader

    path = folder / PAGE
    if path.exists() and MARK not in path.read_text(encoding="utf-8", errors="replace"):
        return None
    scans = reviewed_scans(folder, records, outcomes, old)
    states = [scan.state for scan in scans]
    failed, flagged, out = (states.count(each) for each in ("failed", "flagged", "left out"))
    loader = PackageLoader("landmarking.prediction")
    page = Environment(loader=loader, autoescape=True).get_template("review.html.j2")
    text = page.render(
        title=f"Landmarks of {len(scans)} scan{'' if len(scans) == 1 else 's'}",
        summary=f"{len(scans) - failed - out} done, of these {flagged} flagged; {failed} failed"
        + (f"; {out} left out by the tree's tables." if out else "."),
        model=model,
        scans=scans,
        width=1232,
        height=704,
        key=hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:12],
    )
    # Names that are no UTF-8 are shown as far as they can be.
    write_text(path, readable(text).replace("<html", f"{MARK}\n<html", 1))
    return path


REVIEW = "review.tsv"
"""What the page saves, once it has been put beside it."""


def results_state(folder: Path, outcomes: Sequence[Outcome] = ()) -> dict[str, Any]:
    """How a folder of results stands; its page is written anew.

    Args:
        folder: Output folder of predict.
        outcomes: Of scans that have no results.

    Returns:
        Counts, what the review says where review.tsv lies beside the page, and by scan what to
        look at.

    Raises:
        ConfigError: If there are no results in it, or review.tsv is not one of ours.
    """
    records = all_records(folder) if folder.is_dir() else {}
    if not records:
        raise ConfigError(
            f"{folder}: holds no results of predict and no prepared cohort; name the -o of "
            "predict, or a folder of outputs/prepared"
        )
    reviews = _reviews(folder / REVIEW)
    models = sorted({str(record["model"]) for record in records.values()})
    scans = reviewed_scans(folder, records, outcomes)
    open_ones = [scan.name for scan in scans if scan.name not in reviews]
    page = write_review(folder, records, outcomes, ", ".join(models))
    states = list(reviews.values())
    return {
        "scans": len(records),
        "flagged": sum(scan.state == "flagged" for scan in scans),
        "accepted": states.count("accept"),
        "rejected": states.count("reject"),
        "not decided": len(open_ones),
        "page": str(page or f"{folder / PAGE} is somebody else's, and kept"),
        "look at": {
            scan.name: "; ".join(scan.why)
            for scan in scans
            if scan.state == "flagged" and scan.name in open_ones
        },
    }


def _reviews(path: Path) -> dict[str, str]:
    """`accept` or `reject` by scan, as the page has saved it."""
    if not path.exists():
        return {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t")
            if not {"scan", "review"} <= set(reader.fieldnames or ()):
                raise ValueError(reader.fieldnames)
            decided = (row for row in reader if row["review"] in ("accept", "reject"))
            return {row["scan"]: row["review"] for row in decided}
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path}: is no review of the page, which has the columns scan, state, review and "
            "note; save it again from the page"
        ) from error


def checked(folder: Path, *, accepted: bool = False) -> list[tuple[Path, dict[str, Array]]]:
    """Scans of a folder whose landmarks a person has checked, with these landmarks.

    Args:
        folder: Output folder of predict.
        accepted: Also those that review.tsv accepts, and not only those whose points were moved.

    Returns:
        The scans' files, each with world RAS mm by landmark: the model's, the moved ones as they
        were moved, without those that were taken out.

    Raises:
        ConfigError: If review.tsv is not one of ours, or nothing was checked.
        LandmarkError: If a moved file cannot be read.
    """
    reviews = _reviews(folder / REVIEW)
    found = []
    for name, record in all_records(folder).items():
        moved = moved_by_hand(folder / name, record)
        if reviews.get(name) == "reject" or not (
            moved or (accepted and reviews.get(name) == "accept")
        ):
            continue
        points = {row["name"]: np.asarray(row["world_mm"]) for row in record["landmarks"]} | moved
        known = {label: point for label, point in points.items() if np.isfinite(point).all()}
        found.append((Path(record["scan"]), known))
    if not found:
        ways = "move points in the .mrk.json files and save them"
        raise ConfigError(
            f"{folder}: nobody has checked anything in it; {ways}, or accept scans on the page, "
            f"put its {REVIEW} beside it, and add --accepted"
        )
    return found
