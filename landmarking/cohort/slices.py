"""Slices that another tool has cut already: PNG images and text files with landmarks.

    slices.tsv             slice_id, participant_id, group, and where known session, age, sex
    images/SLICE_ID.png    grey, posterior to the right and inferior down, 1 mm pixels
    landmarks/SLICE_ID.txt one landmark a line, in pixels of the image: `x y`, or `NAME x y`

Lines without names are in the order of the landmark set; `nan nan` stands for a missing one. A
slice without a text file has no landmarks.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from landmarking.cohort.records import Cohort, ScanRecord, read_table
from landmarking.errors import CohortError, LandmarkError
from landmarking.geometry import Array, SliceGeometry
from landmarking.landmarks import LandmarkSet


def read_slices(root: Path, *, name: str | None = None) -> Cohort:
    """Read the table of a folder of slices; images and landmarks stay unread.

    Args:
        root: Folder with slices.tsv.
        name: Name of the cohort; the folder's name by default.

    Raises:
        CohortError: If the table or a file is missing; carries every problem found.
    """
    problems: list[str] = []
    scans: dict[str, ScanRecord] = {}
    table = root / "slices.tsv"
    for row in read_table(table, ("slice_id", "participant_id", "group"), problems):
        slice_id = row["slice_id"]
        image, points = root / "images" / f"{slice_id}.png", root / "landmarks" / f"{slice_id}.txt"
        if slice_id in scans:
            problems.append(f"{table.name}: {slice_id} comes twice")
        if not row["participant_id"] or not row["group"]:
            problems.append(f"{table.name}: {slice_id} needs a participant_id and a group")
        if not image.is_file():
            problems.append(f"{slice_id}: there is no {image.relative_to(root)}")
        scans[slice_id] = ScanRecord(
            slice_id,
            row["participant_id"],
            _known(row.get("session", "")),
            row["group"],
            image,
            points if points.is_file() else None,
            _number(row.get("age", "")),
            _known(row.get("sex", "")),
        )
    if not scans and not problems:
        problems.append(f"{table.name}: has no rows")
    if problems:
        raise CohortError(
            f"{root} is not a folder of slices that can be read; correct these (docs/data.md):",
            tuple(problems),
        )
    ordered = tuple(scans[key] for key in sorted(scans))
    return Cohort(name or root.resolve().name, root, ordered)


def _known(text: str) -> str | None:
    return None if text.casefold() in {"", "n/a", "nan"} else text


def _number(text: str) -> float | None:
    value = float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else math.nan
    return value if math.isfinite(value) else None


def read_slice_image(path: Path, size: int) -> NDArray[np.float32]:
    """Read one slice.

    Args:
        path: PNG file; colours are averaged.
        size: Rows and columns that it has to have.

    Returns:
        Intensities, shape (size, size).

    Raises:
        CohortError: If it cannot be read or has another size.
    """
    from matplotlib.image import imread

    try:
        image = np.asarray(imread(path), dtype=np.float32)
    except (OSError, ValueError, SyntaxError) as error:
        raise CohortError(
            f"{path}: cannot be read as a PNG image ({error}); export it again"
        ) from error
    if image.ndim == 3:
        image = image[..., :3].mean(axis=-1)
    if image.shape != (size, size):
        raise CohortError(
            f"{path}: a slice has {size} x {size} pixels of 1 mm, found "
            f"{image.shape[1]} x {image.shape[0]}; resample it, or set preprocess.slice_size"
        )
    return image


def read_slice_points(path: Path, landmarks: LandmarkSet) -> Array:
    """Read the landmarks of one slice.

    Args:
        path: Text file; numbers are separated by blanks, tabs, commas or semicolons.
        landmarks: Landmarks wanted; unnamed lines are in its order.

    Returns:
        Pixels (x, y) of the whole slice, shape (L, 2); NaN where missing.

    Raises:
        LandmarkError: If a line is not two numbers or a name and two numbers, or unnamed lines are
            not as many as landmarks.
    """
    points: dict[str, Array] = {}
    unnamed: list[Array] = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LandmarkError(
            f"{path}: cannot be read as text ({error}); save it again as UTF-8"
        ) from error
    for number, line in enumerate(lines, start=1):
        cells = [cell for cell in re.split(r"[\s,;]+", line.strip()) if cell]
        if not cells or cells[0].startswith("#"):
            continue
        try:
            point = np.array([float(cells[-2]), float(cells[-1]), 0.0])
        except (ValueError, IndexError) as error:
            raise LandmarkError(
                f"{path} line {number}: x and y, or a name, x and y are needed, found {line!r}; "
                "correct the line"
            ) from error
        if len(cells) == 2:
            unnamed.append(point)
        else:
            points[" ".join(cells[:-2])] = point
    if unnamed and (points or len(unnamed) != len(landmarks)):
        raise LandmarkError(
            f"{path}: {len(landmarks)} lines without names are needed, in the order "
            f"{', '.join(landmarks.names)}; found {len(unnamed)} and {len(points)} with names; "
            "name every line, or none"
        )
    return np.array(unnamed)[:, :2] if unnamed else landmarks.arrange(points)[:, :2]


def cut_geometry(size: int) -> SliceGeometry:
    """Geometry of a whole slice whose scan is unknown: the common space's own grid, 1 mm."""
    matrix = np.array(
        [[0.0, 0.0, -1.0, 0.0], [-1.0, 0.0, 0.0, 112.0], [0.0, -1.0, 0.0, 120.0], [0, 0, 0, 1.0]]
    )
    return SliceGeometry(matrix, (size, size))
