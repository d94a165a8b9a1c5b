"""Files of a prepared cohort: the index as JSON, slices and maps as arrays."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from landmarking.data.cache import stage_key
from landmarking.errors import CacheError
from landmarking.geometry import Array
from landmarking.landmarks import Landmark, LandmarkSet
from landmarking.storage import file_sha256, parse_json

FORMAT = 1
"""Version of the folder's layout; readers refuse others."""

INDEX = "index.json"
AGAIN = "remove the folder and run experiments/prepare.py again"
"""What to do about a folder that cannot be read."""


def write_index(folder: Path, body: Mapping[str, Any]) -> None:
    """Write index.json with its checksum.

    Raises:
        OSError: If the folder cannot be written.
    """
    content = {"format": FORMAT, **body}
    content["index_sha256"] = stage_key("index", FORMAT, content)
    (folder / INDEX).write_text(json.dumps(content, indent=0) + "\n", encoding="utf-8")


def read_index(folder: Path) -> dict[str, Any]:
    """Content of index.json, without its checksum.

    Raises:
        CacheError: If it is missing, damaged or of another version.
    """
    path = folder / INDEX
    try:
        body = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CacheError(
            f"{folder}: not a prepared cohort (no {INDEX}); make one with experiments/prepare.py"
        ) from error
    except (OSError, ValueError) as error:
        raise CacheError(f"{path}: cannot be read ({error}); {AGAIN}") from error
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        found = body.get("format") if isinstance(body, dict) else type(body).__name__
        raise CacheError(f"{path}: its format is {found!r}, this version reads {FORMAT}; {AGAIN}")
    checksum = body.pop("index_sha256", None)
    if checksum != stage_key("index", FORMAT, body):
        raise CacheError(f"{path}: the index does not have its checksum; {AGAIN}")
    return body


def landmarks_to_json(landmarks: LandmarkSet) -> dict[str, Any]:
    """A landmark set as plain values."""
    return {
        "name": landmarks.name,
        "landmarks": [asdict(landmark) for landmark in landmarks.landmarks],
    }


def landmarks_from_json(data: Mapping[str, Any]) -> LandmarkSet:
    """Inverse of `landmarks_to_json`."""
    return LandmarkSet(
        data["name"],
        tuple(
            Landmark(
                **{
                    **row,
                    "aliases": tuple(row["aliases"]),
                    "template_mm": tuple(row["template_mm"]),
                }
            )
            for row in data["landmarks"]
        ),
    )


def points_to_json(points: Array) -> list[list[float | None]]:
    """Points, shape (L, 3), with None for NaN, which JSON does not have."""
    return [[None if math.isnan(value) else value for value in row] for row in points.tolist()]


def mapped(path: Path, sha256: str | None, what: str) -> NDArray[Any]:
    """An array, mapped into memory.

    Args:
        path: `.npy` file.
        sha256: Its checksum; None does not look.
        what: What it holds, for messages.

    Raises:
        CacheError: If it cannot be read or does not have its checksum.
    """
    try:
        if sha256 is not None and file_sha256(path) != sha256:
            raise CacheError(f"{path}: the {what} do not have their checksum; {AGAIN}")
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise CacheError(f"{path}: cannot be read ({error}); {AGAIN}") from error
    return array


def write_images(
    path: Path,
    images: NDArray[np.float32] | Sequence[NDArray[np.float32]],
    dtype: Literal["float32", "uint8"],
    rows: Sequence[dict[str, Any]],
) -> None:
    """Write slices as one array.

    Args:
        path: `.npy` file.
        images: Slices of one shape (H, W).
        dtype: `uint8` stores every slice on its own 8-bit scale.
        rows: Rows of the index, which take the scales as `scale`.
    """
    # One by one into the file: 100,000 slices take 9 GB, and once in memory is enough.
    shape = (len(images), *np.shape(images[0]))
    stored = np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape)
    for index, image in enumerate(images):
        one = np.asarray(image, dtype=np.float32)
        if dtype == "uint8":
            levels, scales = to_bytes(one[None])
            stored[index], rows[index]["scale"] = levels[0], scales[0].tolist()
        else:
            stored[index] = one
    stored.flush()


def to_bytes(images: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Slices, each on its own 8-bit scale, and the scales (lowest, step), shape (N, 2)."""
    low = images.min(axis=(1, 2))
    step = (images.max(axis=(1, 2)) - low) / np.float32(255)
    scale = np.stack([low, step], axis=1).astype(np.float32)
    divisor = np.where(step > 0, step, np.float32(1))
    levels = np.rint((images - low[:, None, None]) / divisor[:, None, None])
    return np.clip(levels, 0, 255).astype(np.uint8), scale


def from_bytes(images: NDArray[np.uint8], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """Inverse of `to_bytes`, to half a step."""
    return np.asarray(images * scale[:, 1, None, None] + scale[:, 0, None, None], dtype=np.float32)
