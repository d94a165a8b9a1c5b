"""A cohort as arrays: slices, landmarks, geometry and people, in one folder or one file.

The folder holds `images.npy` (mapped into memory, so that 2,000 slices open at once) and
`index.json` (records, geometry, points, settings and checksums). It is written beside its final
name and renamed, so it exists whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from landmarking.data.cache import canonical_json
from landmarking.data.prepared_files import (
    AGAIN,
    INDEX,
    from_bytes,
    landmarks_from_json,
    landmarks_to_json,
    mapped,
    points_to_json,
    read_index,
    write_images,
    write_index,
)
from landmarking.errors import CacheError, CohortError
from landmarking.geometry import Array, SliceGeometry
from landmarking.landmarks import LandmarkSet
from landmarking.storage import atomic_folder, file_sha256

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
        tissues: Tissue maps on the slices (`landmarking.imaging.tissues`), uint8, shape
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
        raise CacheError(f"{folder / INDEX}: is no index of slices ({error!r}); {AGAIN}") from error


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
