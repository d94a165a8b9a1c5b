"""Registration: whether every landmark lies inside the crop, whatever the pose and the scan."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from arguments import main, read_arguments
from landmarking.config import PROJECT
from landmarking.files import write_text
from landmarking.geometry import Array, apply_affine, rigid_matrix
from landmarking.imaging.pipeline import PreprocessSettings, plane_stage, register_stage
from landmarking.imaging.pipeline import slice_geometry as lay_slice
from landmarking.imaging.scan import Scan, load_scan
from landmarking.imaging.template import load_template
from landmarking.landmarks import landmark_set, read_landmarks
from landmarking.phantom.person import PhantomSettings, Subject, make_head
from msp import REAL_HEADS
from posed_heads import scanned

MARGIN_MM = 10.0
"""Distance from the crop's edge that every landmark is to keep."""

TURNS_DEG = (25.0, 20.0, 20.0)
"""Largest pitch, roll and yaw, either way."""

SHIFT_MM = 40.0

Kind = tuple[str, tuple[float, float, float], float]
KINDS: tuple[Kind, ...] = (
    ("1 mm", (1.0, 1.0, 1.0), 0.0),
    ("0.7 mm", (0.7, 0.7, 0.7), 0.0),
    ("1.5 mm", (1.5, 1.5, 1.5), 0.0),
    ("5 mm sagittal slices", (5.0, 1.0, 1.0), 0.0),
    ("5 mm axial slices", (1.0, 1.0, 5.0), 0.0),
    ("without the vertex", (1.0, 1.0, 1.0), 35.0),
)
"""Name, voxel size in mm, and mm of the field of view that are missing above."""


@dataclass
class RegistrationBenchmark:
    """What to measure.

    Attributes:
        heads: Folder with the real heads; relative to the project. Skipped where it is absent.
        poses: Scans of each head, in random poses.
        phantoms: Number of phantom heads, healthy and Down syndrome in turn.
        seed: Decides poses and phantoms.
        outputs: Folder for registration.md; relative to the project.
    """

    heads: str = "../shared/real"
    poses: int = 12
    phantoms: int = 2
    seed: int = 0
    outputs: str = "outputs/benchmarks/registration"


@dataclass(frozen=True, eq=False)
class LandmarkedHead:
    """A head whose landmarks are known.

    Attributes:
        name: Row in the table.
        scan: The head as it is.
        points_mm: Landmarks of `msp8`, world RAS mm, shape (8, 3).
    """

    name: str
    scan: Scan
    points_mm: Array


@dataclass(frozen=True)
class Outcome:
    """One posed scan.

    Attributes:
        head: Name of the head.
        kind: Name of the kind of scan.
        margin_mm: Least distance of a landmark from the crop's edge; below zero outside.
        quality: Of the registration.
        ok: Whether the registration reached its threshold.
        seconds: Processor time of the registration.
    """

    head: str
    kind: str
    margin_mm: float
    quality: float
    ok: bool
    seconds: float


def run(arguments: list[str]) -> str:
    """Measure, and write registration.md.

    Args:
        arguments: `key=value` for the fields of `RegistrationBenchmark`.

    Returns:
        Two tables in Markdown, by head and by kind of scan.

    Raises:
        ConfigError: If a key is unknown or a value has the wrong type.
    """
    chosen = read_arguments(RegistrationBenchmark, arguments, "registration")
    folder = PROJECT / chosen.heads
    outcomes = [
        measure(head, number, chosen.seed)
        for head in [*real_heads(folder), template_head(), *phantom_heads(chosen)]
        for number in range(chosen.poses)
    ]
    lines = [*table("head", outcomes, lambda one: one.head), ""]
    lines += table("scan", outcomes, lambda one: one.kind)
    if not folder.is_dir():
        lines += ["", f"Real heads: skipped, there is no folder {chosen.heads}."]
    path = PROJECT / chosen.outputs / "registration.md"
    write_text(path, "\n".join(lines) + "\n")
    return "\n".join([*lines, "", f"Written to {path}"])


def real_heads(folder: Path) -> Iterator[LandmarkedHead]:
    """The real heads with their manual landmarks; none where the folder is absent."""
    for name, (image, points) in REAL_HEADS.items() if folder.is_dir() else ():
        manual = landmark_set("msp8").arrange(read_landmarks(folder / points))
        yield LandmarkedHead(name, load_scan(folder / image), manual)


def template_head() -> LandmarkedHead:
    """The template, as a scan of a brain without a head."""
    template = load_template()
    scan = Scan(np.asarray(template.brain), template.affine, "template")
    return LandmarkedHead("template (brain only)", scan, landmark_set("msp8").template_mm)


def phantom_heads(chosen: RegistrationBenchmark) -> Iterator[LandmarkedHead]:
    """Each phantom with its neck, and again with its brain alone."""
    order = [landmark_set("afids32").index(name) for name in landmark_set("msp8").names]
    for number in range(chosen.phantoms):
        subject = Subject(("HS", "DS")[number % 2], number // 2)
        made = make_head(PhantomSettings(seed=chosen.seed), subject)
        points, whole = made.landmarks_mm[order], made.data.astype(np.float32)
        brain = ndimage.binary_dilation(made.tissues.max(axis=0) > 127, iterations=2)
        for name, data in (("phantoms", whole), ("phantoms, brain only", whole * brain)):
            yield LandmarkedHead(name, Scan(data, made.affine, name), points)


def measure(head: LandmarkedHead, number: int, seed: int) -> Outcome:
    """Put a head in a random pose, scan it, and lay its slice.

    Args:
        head: The head.
        number: Number of the pose; the kinds of scans take turns.
        seed: Decides the poses.
    """
    kind = KINDS[number % len(KINDS)]
    scan, motion = posed_scan(head.scan, kind, np.random.default_rng([seed, number]))
    chosen = PreprocessSettings()
    begin = time.process_time()
    registration = register_stage(scan, chosen)
    seconds = time.process_time() - begin
    found = plane_stage(scan, registration, chosen)
    geometry = lay_slice(found.plane, registration.world_to_common, chosen)
    points = geometry.to_pixel(apply_affine(motion, head.points_mm))
    edge = np.array(geometry.shape[::-1]) - 1.0
    margin = float(np.minimum(points, edge - points).min()) * chosen.spacing_mm
    return Outcome(head.name, kind[0], margin, registration.quality, registration.ok, seconds)


def posed_scan(scan: Scan, kind: Kind, rng: np.random.Generator) -> tuple[Scan, Array]:
    """A head after it has moved, on a grid along the world's axes, with bias field and noise.

    Args:
        scan: The head as it is.
        kind: Voxels and field of view.
        rng: Decides the pose.

    Returns:
        The scan, and the rigid map from the old world to the new, shape (4, 4).
    """
    _, voxel_mm, missing_mm = kind
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(scan.data.shape) - 1)
    box = apply_affine(scan.affine, corners)
    pitch, roll, yaw = rng.uniform(-1.0, 1.0, 3) * TURNS_DEG
    shift = rng.uniform(-SHIFT_MM, SHIFT_MM, 3)
    motion = rigid_matrix(pitch, roll, yaw, shift, box.mean(axis=0))
    # The field of view moves with the head by half: a technologist centres it, but not exactly.
    low, high = (edge + shift / 2.0 for edge in (box.min(axis=0) - 15.0, box.max(axis=0) + 15.0))
    high[2] = min(high[2], apply_affine(motion, box)[:, 2].max()) - missing_mm
    grid = np.diag([*voxel_mm, 1.0])
    grid[:3, 3] = low
    shape = tuple(((high - low) / voxel_mm).astype(int))
    matrix = np.linalg.inv(motion @ scan.affine) @ grid
    # Thick slices average what lies in them.
    thick = np.maximum(np.array(voxel_mm) - 1.0, 0.0) / 2.5
    moved = ndimage.affine_transform(scan.data, matrix, output_shape=shape, order=1)
    moved = ndimage.gaussian_filter(moved, thick / voxel_mm)
    return Scan(scanned(moved, rng), grid, scan.name), motion


def table(title: str, outcomes: Sequence[Outcome], by: Callable[[Outcome], str]) -> list[str]:
    """A Markdown table with one row for each group of scans, and one for all.

    Args:
        title: Title of the first column.
        outcomes: What was measured.
        by: Name of the group of an outcome.
    """
    titles = [
        title, "scans", "all landmarks 10 mm inside", "least margin, mm", "quality, median",
        "quality, least", "marked", "CPU s",
    ]  # fmt: skip
    groups: dict[str, list[Outcome]] = {}
    for one in outcomes:
        groups.setdefault(by(one), []).append(one)
    lines = [titles, ["---"] * len(titles)]
    lines += [_row(name, group) for name, group in (*groups.items(), ("all", list(outcomes)))]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _row(name: str, group: Sequence[Outcome]) -> list[str]:
    margins = np.array([one.margin_mm for one in group])
    qualities = [one.quality for one in group]
    return [
        name,
        str(len(group)),
        f"{100.0 * np.mean(margins >= MARGIN_MM):.0f} %",
        f"{margins.min():.1f}",
        f"{np.median(qualities):.2f}",
        f"{min(qualities):.2f}",
        str(sum(not one.ok for one in group)),
        f"{np.median([one.seconds for one in group]):.2f}",
    ]


if __name__ == "__main__":
    main(run)
