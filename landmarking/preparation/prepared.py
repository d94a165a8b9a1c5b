"""A prepared cohort: slices, landmarks, geometry and people as arrays, and their files."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from landmarking.errors import CacheError, CohortError
from landmarking.files import atomic_folder, file_sha256, parse_json
from landmarking.geometry import Array, SliceGeometry
from landmarking.landmarks import Landmark, LandmarkSet
from landmarking.preparation.cache import canonical_json, stage_key

FORMAT = 1
"""Version of the folder's layout; readers refuse others."""

INDEX = "index.json"
AGAIN = "remove the folder and run landmarking prepare again"
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
            f"{folder}: not a prepared cohort (no {INDEX}); make one with landmarking prepare"
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


# A cohort as arrays: slices, landmarks, geometry and people, in one folder or one file.
#
# The folder holds `images.npy` (mapped into memory, so that 2,000 slices open at once) and
# `index.json` (records, geometry, points, settings and checksums). It is written beside its final
# name and renamed, so it exists whole or not at all.


IMAGES = "images.npy"
TISSUES = "tissues.npy"


@dataclass(frozen=True)
class SliceRecord:
    """Whose slice it is.

    Attributes:
        scan_id: Name of the scan, unique in its cohort.
        participant_id: Person; all scans of one person stay on one side of a split.
        session: Session label, or None.
        group: Group of the person, such as `train`, `HS` or `DS`.
        age: Age in years, or None.
        sex: As participants.tsv has it, or None.
    """

    scan_id: str
    participant_id: str
    session: str | None
    group: str
    age: float | None = None
    sex: str | None = None


@dataclass(frozen=True, eq=False)
class PreparedCohort:
    """Slices of a cohort with everything that training and evaluation ask about them.

    Attributes:
        folder: Where it lies.
        name: Name of the cohort.
        simulated: Whether the heads are simulated; tables say so.
        digest: SHA-256 of all that decides the content: scan and landmark bytes, people,
            landmark set, settings, versions of the stages.
        landmarks: The landmark set; the order of axis L.
        images: Histogram-matched slices, not normalised, float32, shape (N, H, W).
        points_px: Landmarks (x, y) on the slices, shape (N, L, 2); NaN where missing.
        points_mm: Landmarks in the scan's own world RAS mm, shape (N, L, 3); NaN where missing.
        pixel_to_world: One matrix a slice, shape (N, 4, 4); see `SliceGeometry`.
        records: Whose slices they are, N of them.
        settings: What the slices were made with, as plain values.
        tissues: Tissue maps on the slices (`landmarking.imaging.pipeline`), uint8, shape
            (N, 4, H, W), all zero where a scan has none; None where no scan has any.
    """

    folder: Path
    name: str
    simulated: bool
    digest: str
    landmarks: LandmarkSet
    images: NDArray[np.float32]
    points_px: Array
    points_mm: Array
    pixel_to_world: Array
    records: tuple[SliceRecord, ...]
    settings: Mapping[str, Any]
    tissues: NDArray[np.uint8] | None = None

    def content(self) -> dict[str, Any]:
        """All that `save_prepared` takes to write the same cohort again."""
        names = {item.name for item in fields(self)} - {"folder", "points_px"}
        return {name: getattr(self, name) for name in names}

    def __len__(self) -> int:
        return len(self.records)

    @property
    def groups(self) -> tuple[str, ...]:
        """Groups in the order of their first slice."""
        return tuple(dict.fromkeys(record.group for record in self.records))

    def geometry(self, index: int) -> SliceGeometry:
        """Where slice `index` lies in the world of its scan."""
        rows, columns = self.images.shape[1:]
        return SliceGeometry(self.pixel_to_world[index], (rows, columns))

    def indices(self, groups: Iterable[str]) -> NDArray[np.int64]:
        """Positions of the slices of some groups, in order, shape (n,).

        Raises:
            CohortError: If a group has no slice here.
        """
        wanted = tuple(groups)
        unknown = [group for group in wanted if group not in self.groups]
        if unknown:
            raise CohortError(
                f"cohort {self.name}: no slices of group {', '.join(unknown)}; "
                f"it has {', '.join(self.groups)}"
            )
        chosen = [index for index, record in enumerate(self.records) if record.group in wanted]
        return np.array(chosen, dtype=np.int64)


def save_prepared(
    folder: Path,
    *,
    name: str,
    simulated: bool,
    digest: str,
    landmarks: LandmarkSet,
    images: NDArray[np.float32] | Sequence[NDArray[np.float32]],
    points_mm: Array,
    pixel_to_world: Array,
    records: Sequence[SliceRecord],
    settings: Mapping[str, Any],
    tissues: NDArray[np.uint8] | None = None,
    dtype: Literal["float32", "uint8"] = "float32",
    add_files: Callable[[Path], None] | None = None,
) -> PreparedCohort:
    """Write a prepared cohort as a whole and open it.

    Args:
        folder: Folder to make or replace.
        name: Name of the cohort.
        simulated: Whether its heads are simulated.
        digest: What `PreparedCohort.digest` says.
        landmarks: The landmark set.
        images: Slices of one shape (H, W).
        points_mm: World RAS mm, shape (N, L, 3), NaN where missing.
        pixel_to_world: Shape (N, 4, 4).
        records: N records.
        settings: Plain values.
        tissues: Tissue maps, shape (N, 4, H, W), or None.
        dtype: `uint8` stores every slice on its own 8-bit scale, a quarter of the size.
        add_files: Called with the unfinished folder, to write further files such as qc.csv there.

    Raises:
        CohortError: If there are no slices, or the numbers of slices, points and records differ.
        OSError: If the folder cannot be written.
    """
    counts = {len(images), len(points_mm), len(pixel_to_world), len(records)}
    if counts == {0} or len(counts) != 1:
        raise CohortError(
            f"cohort {name}: as many slices as points, matrices and records are needed, at least "
            f"one; got {len(images)}, {len(points_mm)}, {len(pixel_to_world)}, {len(records)}"
        )
    rows: list[dict[str, Any]] = [
        {
            **asdict(record),
            "pixel_to_world": pixel_to_world[index].tolist(),
            "points_mm": points_to_json(points_mm[index]),
            "scale": None,
        }
        for index, record in enumerate(records)
    ]
    body = {
        "name": name,
        "simulated": simulated,
        "digest": digest,
        "dtype": dtype,
        "landmark_set": landmarks_to_json(landmarks),
        "settings": json.loads(canonical_json(settings)),
        "slices": rows,
    }
    with atomic_folder(folder) as temporary:
        write_images(temporary / IMAGES, images, dtype, rows)
        body["images_sha256"] = file_sha256(temporary / IMAGES)
        if tissues is not None:
            np.save(temporary / TISSUES, tissues, allow_pickle=False)
            body["tissues_sha256"] = file_sha256(temporary / TISSUES)
        if add_files is not None:
            add_files(temporary)
        body["others_sha256"] = {
            path.name: file_sha256(path)
            for path in sorted(temporary.iterdir())
            if path.is_file() and path.name not in (IMAGES, TISSUES)
        }
        write_index(temporary, body)
    return load_prepared(folder)


def load_prepared(folder: Path, *, verify: bool = True, others: bool = False) -> PreparedCohort:
    """Open a prepared cohort; float32 slices are mapped into memory, not read.

    Args:
        folder: Folder that `save_prepared` made.
        verify: Compare the bytes of the slices with their checksum (0.1 s for 2,000 slices).
        others: Compare the files for people beside them too; earlier versions wrote no checksums
            of these.

    Raises:
        CacheError: If it is missing, damaged, or of another version.
    """
    body = read_index(folder)
    if others:
        _check_others(folder, body.get("others_sha256", {}))
    try:
        return _opened(folder, body, verify)
    except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
        # A checksum vouches for bytes, not for who wrote them.
        raise CacheError(f"{folder / INDEX}: is no index of slices; {AGAIN}") from error


def _check_others(folder: Path, others: object) -> None:
    for name, sha256 in others.items() if isinstance(others, dict) else ():
        path = folder / name
        if not path.is_file() or file_sha256(path) != sha256:
            raise CacheError(f"{path}: is not what was written; {AGAIN}")


def _opened(folder: Path, body: Mapping[str, Any], verify: bool) -> PreparedCohort:
    images = mapped(folder / IMAGES, body["images_sha256"] if verify else None, "slices")
    rows = body["slices"]
    if body["dtype"] == "uint8":
        images = from_bytes(images, np.array([row["scale"] for row in rows], dtype=np.float32))
    pixel_to_world = np.array([row["pixel_to_world"] for row in rows], dtype=np.float64)
    points_mm = np.array([row["points_mm"] for row in rows], dtype=np.float64)
    landmarks = landmarks_from_json(body["landmark_set"])
    shapes = (images.shape[:1], pixel_to_world.shape, points_mm.shape)
    count = len(rows)
    if images.ndim != 3 or shapes != ((count,), (count, 4, 4), (count, len(landmarks), 3)):
        raise ValueError(f"shapes {images.shape}, {shapes[1]} and {shapes[2]} of {count} slices")
    tissues = None
    if "tissues_sha256" in body:
        sha256 = body["tissues_sha256"] if verify else None
        tissues = mapped(folder / TISSUES, sha256, "tissue maps")
        if tissues.shape != (count, 4, *images.shape[1:]):
            raise ValueError(f"tissue maps of shape {tissues.shape} of {count} slices")
    return PreparedCohort(
        folder=folder,
        name=body["name"],
        simulated=body["simulated"],
        digest=body["digest"],
        landmarks=landmarks,
        images=images,
        points_px=_to_pixels(pixel_to_world, points_mm),
        points_mm=points_mm,
        pixel_to_world=pixel_to_world,
        records=tuple(
            SliceRecord(**{key: row[key] for key in SliceRecord.__dataclass_fields__ if key in row})
            for row in rows
        ),
        settings=body["settings"],
        tissues=tissues,
    )


def _to_pixels(pixel_to_world: Array, points_mm: Array) -> Array:
    # One inverse and one product a slice, written as a whole: (N, 4, 4) with (N, L, 3).
    inverse = np.linalg.inv(pixel_to_world)
    mapped = np.einsum("nij,nlj->nli", inverse[:, :2, :3], points_mm)
    return np.asarray(mapped + inverse[:, None, :2, 3])
