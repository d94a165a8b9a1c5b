"""Accuracy and time of the mid-sagittal plane: the published search beside the fast one."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from arguments import main, read_arguments
from landmarking.config import PROJECT
from landmarking.files import write_text
from landmarking.geometry import Array, Plane
from landmarking.imaging.midsagittal import (
    MidsagittalPlane,
    MidsagittalSettings,
    find_midsagittal_plane,
)
from landmarking.imaging.pipeline import PreprocessSettings, plane_stage, register_stage
from landmarking.imaging.scan import Scan, load_scan, to_pil
from landmarking.imaging.symmetry import Level
from landmarking.landmarks import read_landmarks
from landmarking.phantom.person import PhantomSettings, Subject, make_head
from posed_heads import PosedHead, posed_heads

logger = logging.getLogger(__name__)

REAL_HEADS = {
    "Colin27": ("colin27_T1w.nii.gz", "colin27_afids.fcsv"),
    "ICBM152": ("mni152_2009cAsym_res-02_T1w.nii.gz", "mni152_2009cAsym_afids.fcsv"),
}
MIDLINE_AFIDS = ("1", "2", "3", "4", "5", "10", "11", "14", "19", "20")
"""AFIDs that lie on the midline."""

LESION_CENTRES_MM = ((38, 10, 10), (-38, 10, 10), (30, -40, 10), (-30, -40, 10), (25, 0, 35))
"""Centres of the blanked balls, from the brain's centre, in world RAS."""


@dataclass
class MspBenchmark:
    """What to measure.

    Attributes:
        heads: Folder with the real heads; relative to the project. Skipped where it is absent.
        poses: Poses of each real head, and of all phantoms together, for the fast search.
        prepare_poses: Likewise as `prepare` searches: from the registration's plane and centre.
        plain_poses: Likewise for the plain search, which takes a minute each; 0 for none.
        truth: Whether to measure against true planes and with lesions too.
        phantoms: Number of phantom heads, healthy and Down syndrome in turn; 0 for none.
        seed: Decides poses and phantoms.
        outputs: Folder for the tables; relative to the project.
    """

    heads: str = "../shared/real"
    poses: int = 30
    prepare_poses: int = 30
    plain_poses: int = 1
    truth: bool = True
    phantoms: int = 4
    seed: int = 0
    outputs: str = "outputs/benchmarks/msp"


@dataclass(frozen=True, eq=False)
class Subject3D:
    """A head to measure on.

    Attributes:
        name: Row in the tables.
        volume: Intensities, shape (I, J, K).
        affine: Voxel index to world RAS mm.
        midline_mm: Manual points of the midline, shape (N, 3), or None.
        plane: True plane, or None.
        reading_s: CPU seconds to read the file, or None.
    """

    name: str
    volume: Array
    affine: Array
    midline_mm: Array | None = None
    plane: Plane | None = None
    reading_s: float | None = None


def run(arguments: list[str]) -> str:
    """Measure, and write msp.md, poses.csv and truth.csv.

    Args:
        arguments: `key=value` for the fields of `MspBenchmark`.

    Returns:
        Tables in Markdown, with the paths of the files.

    Raises:
        ConfigError: If a key is unknown or a value has the wrong type.
    """
    chosen = read_arguments(MspBenchmark, arguments, "msp")
    groups = real_heads(PROJECT / chosen.heads)
    if chosen.phantoms > 0:
        groups.append(("phantoms", _phantoms(chosen)))
    poses: list[dict[str, str]] = []
    truths: list[dict[str, str]] = []
    counts = {"plain": chosen.plain_poses, "fast": chosen.poses, "prepare": chosen.prepare_poses}
    for name, heads in groups:
        poses += pose_rows(name, heads, counts, chosen.seed)
        if chosen.truth:
            truths.append(truth_row(name, heads))
    folder = PROJECT / chosen.outputs
    lines = ["Against the un-posed estimate:", "", *_markdown(poses)] if poses else []
    if truths:
        lines += ["", "Against the truth, and with a lesion blanked (fast search):", ""]
        lines += _markdown(truths)
    if not (PROJECT / chosen.heads).is_dir():
        lines += ["", f"Real heads: skipped, there is no folder {chosen.heads}."]
    write_text(folder / "msp.md", "\n".join(lines) + "\n")
    for name, rows in (("poses.csv", poses), ("truth.csv", truths)):
        write_text(folder / name, "\n".join(_csv(rows)) + "\n")
    return "\n".join([*lines, "", f"Written to {folder}: msp.md, poses.csv, truth.csv"])


def real_heads(folder: Path) -> list[tuple[str, list[Subject3D]]]:
    """Each real head by its name, with the time to read it; none where the folder is absent."""
    if not folder.is_dir():
        return []
    found = []
    for name, (image, points) in REAL_HEADS.items():
        begin = time.process_time()
        scan = load_scan(folder / image)
        reading = time.process_time() - begin
        manual = read_landmarks(folder / points)
        midline = np.array([manual[label] for label in MIDLINE_AFIDS])
        head = Subject3D(name, scan.data, scan.affine, midline, reading_s=reading)
        found.append((name, [head]))
    return found


def _phantoms(chosen: MspBenchmark) -> list[Subject3D]:
    heads = []
    for number in range(chosen.phantoms):
        subject = Subject(("HS", "DS")[number % 2], number // 2)
        made = make_head(PhantomSettings(seed=chosen.seed), subject)
        name = f"{subject.group}{subject.index}"
        heads.append(Subject3D(name, made.data.astype(np.float32), made.affine, plane=made.plane))
    return heads


def pose_rows(
    name: str, heads: Sequence[Subject3D], counts: Mapping[str, int], seed: int
) -> list[dict[str, str]]:
    """Rows of the first table, one a search: angle, offset and time over random poses.

    Args:
        name: Name of the rows.
        heads: Heads that share the poses.
        counts: Number of poses by search, `plain`, `fast` or `prepare`; the first are the same.
        seed: Decides the poses.
    """
    wanted = {search: count for search, count in counts.items() if count > 0}
    used = heads[: max(wanted.values(), default=0)]
    found: dict[str, list[_Pose]] = {search: [] for search in wanted}
    for index, head in enumerate(used):
        shares = {key: len(range(index, count, len(used))) for key, count in wanted.items()}
        expected = {search: _found(head.volume, head.affine, search)[0] for search in wanted}
        moved = posed_heads(head.volume, head.affine, max(shares.values()), seed + index)
        for number, posed in enumerate(moved):
            for search in (key for key, share in shares.items() if number < share):
                found[search].append(_measure(posed, search, expected[search]))
                logger.info("%s, pose %d, %s: %s", head.name, number, search, found[search][-1])
    return [_pose_row(name, search, poses) for search, poses in found.items()]


@dataclass(frozen=True)
class _Pose:
    angle_deg: float
    offset_mm: float
    seconds: float
    registration_seconds: float


def _measure(posed: PosedHead, search: str, expected: MidsagittalPlane) -> _Pose:
    found, seconds, registration = _found(posed.volume, posed.affine, search)
    back = found.plane.transformed(np.linalg.inv(posed.motion))
    offset = abs(float(back.distance_mm(expected.centre_mm)))
    return _Pose(back.angle_deg(expected.plane), offset, seconds, registration)


def _pose_row(name: str, search: str, poses: Sequence[_Pose]) -> dict[str, str]:
    return {
        "head": name,
        "search": search,
        "poses": str(len(poses)),
        **_spread("angle deg", [pose.angle_deg for pose in poses]),
        **_spread("offset mm", [pose.offset_mm for pose in poses]),
        "CPU s": _number(np.median, [pose.seconds for pose in poses], 2),
        "registration CPU s": _number(
            np.median, [pose.registration_seconds for pose in poses if search == "prepare"], 2
        ),
    }


def truth_row(name: str, heads: Sequence[Subject3D]) -> dict[str, str]:
    """One row of the second table: manual points or true planes, lesions, and reading time."""
    angles, offsets, midline, lesions, seconds = [], [], [], [], []
    cubes = []
    for head in heads:
        found, spent, _ = _found(head.volume, head.affine, "fast")
        seconds.append(spent)
        cubes.append(_cube_seconds(head))
        if head.plane is not None:
            angles.append(found.plane.angle_deg(head.plane))
            offsets.append(abs(float(head.plane.distance_mm(found.centre_mm))))
        if head.midline_mm is not None:
            midline.append(float(np.abs(found.plane.distance_mm(head.midline_mm)).mean()))
        for blanked in _blanked(head, found.centre_mm):
            with_lesion = _found(blanked, head.affine, "fast")[0]
            lesions.append(with_lesion.plane.angle_deg(found.plane))
    reading = [
        spent / head.reading_s
        for head, spent in zip(heads, seconds, strict=True)
        if head.reading_s is not None
    ]
    return {
        "head": name,
        "midline points, mean mm": _number(np.mean, midline, 2),
        "true plane, median deg": _number(np.median, angles, 2),
        "true plane, median mm": _number(np.median, offsets, 2),
        "40 mm lesion, median deg": _number(np.median, lesions, 2),
        "40 mm lesion, max deg": _number(np.max, lesions, 2),
        "CPU s": _number(np.median, seconds, 2),
        "CPU s, 256 voxels a side": _number(np.median, cubes, 2),
        "times the reading": _number(np.median, reading, 1),
    }


def _blanked(head: Subject3D, centre_mm: Array) -> Iterable[Array]:
    world = Level(head.volume, head.affine).centres_mm()
    for centre in LESION_CENTRES_MM if head.plane is None else LESION_CENTRES_MM[:2]:
        inside = np.linalg.norm(world - centre_mm - centre, axis=-1) < 20.0
        yield np.where(inside, np.float32(0.0), head.volume)


def _found(volume: Array, affine: Array, search: str) -> tuple[MidsagittalPlane, float, float]:
    """Plane, CPU seconds of its search, and CPU seconds of a registration before it."""
    begin = time.process_time()
    if search != "prepare":
        chosen = MidsagittalSettings(search=search)
        plane = find_midsagittal_plane(volume, affine, settings=chosen)
        return plane, time.process_time() - begin, 0.0
    stages, canonical = PreprocessSettings(), to_pil(Scan(volume, affine, "posed head"))
    registration = register_stage(canonical, stages)
    between = time.process_time()
    plane = plane_stage(canonical, registration, stages)
    return plane, time.process_time() - between, between - begin


def _cube_seconds(head: Subject3D) -> float:
    """CPU seconds of the fast search on 256 x 256 x 256 voxels of 1 mm with the head inside."""
    voxels = np.linalg.norm(head.affine[:3, :3], axis=0)
    centre = head.affine[:3, :3] @ (np.array(head.volume.shape) - 1.0) / 2.0
    grid = np.eye(4)
    grid[:3, :3] = head.affine[:3, :3] / voxels
    grid[:3, 3] = head.affine[:3, 3] + centre - grid[:3, :3] @ np.full(3, 127.5)
    matrix = np.linalg.inv(head.affine) @ grid
    cube = ndimage.affine_transform(head.volume, matrix, output_shape=(256,) * 3, order=1)
    return _found(cube, grid, "fast")[1]


def _spread(title: str, values: Sequence[float]) -> dict[str, str]:
    def p95(sample: Sequence[float]) -> object:
        return np.percentile(sample, 95)

    return {
        f"{title}, median": _number(np.median, values, 3),
        f"{title}, p95": _number(p95, values, 3),
        f"{title}, max": _number(np.max, values, 3),
    }


def _number(statistic: Callable[..., object], values: Sequence[float], digits: int) -> str:
    return f"{float(str(statistic(values))):.{digits}f}" if len(values) else "-"


def _markdown(rows: Sequence[dict[str, str]]) -> list[str]:
    titles = list(rows[0])
    lines = [titles, ["---"] * len(titles), *(list(row.values()) for row in rows)]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _csv(rows: Sequence[dict[str, str]]) -> list[str]:
    titles = [title.replace(",", "") for title in rows[0]] if rows else []
    return [",".join(titles), *(",".join(row.values()) for row in rows)]


if __name__ == "__main__":
    main(run)
