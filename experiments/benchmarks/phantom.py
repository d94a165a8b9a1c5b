"""How good the phantom is: `python experiments/benchmark.py phantom [people=DIR] [out=DIR]`.

Statistics of landmarks beside the 60 people of the AFIDs data (with the 60 split in two halves as
the yardstick), exactness of landmarks, the smallest Jacobian, and the time a head takes. Without
`people` the shipped model stands in for the people. `pictures` draws the figures of docs/phantom.md
beside real heads: `pictures=SCAN=LANDMARKS,SCAN=LANDMARKS`.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from arguments import main, read_arguments
from landmarking.geometry import Array, apply_affine
from landmarking.landmarks import landmark_set
from landmarking.phantom.dataset import planned_scans, write_head
from landmarking.phantom.person import PhantomSettings, Subject, anatomy, make_head
from landmarking.phantom.scanner import ScannerFrame, ScannerSettings
from landmarking.phantom.shape import align_all, load_shape_model, read_people
from landmarking.processes import keep_freed_memory, one_thread


@dataclass
class PhantomBenchmark:
    """What to measure.

    Attributes:
        people: Folder with the AFIDs coordinates; empty lets the shipped model stand in for them.
        heads: Phantoms of group HS whose landmarks are measured.
        timed: Heads that are made for the time.
        voxel_mm: Voxel size of those.
        out: Folder of the pictures.
        pictures: Real heads beside which the figures are drawn instead of measuring,
            `SCAN=LANDMARKS,SCAN=LANDMARKS`.
    """

    people: str = ""
    heads: int = 200
    timed: int = 3
    voxel_mm: float = 1.0
    out: str = "outputs/benchmarks/phantom"
    pictures: str = ""


def run(arguments: list[str]) -> str:
    """Measure, or draw.

    Args:
        arguments: `key=value` for the fields of `PhantomBenchmark`.

    Returns:
        The tables, or the files drawn, as text.

    Raises:
        ConfigError: If an argument is wrong.
    """
    config = read_arguments(PhantomBenchmark, arguments)
    if config.pictures:
        from phantom_pictures import draw_pictures

        pairs = [text.partition("=")[::2] for text in config.pictures.split(",")]
        heads = [(Path(scan), Path(points)) for scan, points in pairs]
        return "\n".join(str(path) for path in draw_pictures(Path(config.out), heads))
    people = Path(config.people) if config.people else None
    return report(people, config.heads, config.timed, config.voxel_mm)


def report(people: Path | None, heads: int, timed: int, voxel_mm: float) -> str:
    """The measurements as text.

    Args:
        people: Folder with the AFIDs coordinates, or None for samples of the shipped model.
        heads: Phantoms of group HS whose landmarks are measured.
        timed: Heads that are made for the time.
        voxel_mm: Voxel size of those.
    """
    template = landmark_set("afids32").template_mm
    settings = PhantomSettings(scanner=ScannerSettings(voxel_mm=[voxel_mm, voxel_mm]))
    made, misses, jacobians, scales = [], [], [], []
    for index in range(heads):
        body = anatomy(settings, Subject("HS", index), _upright())
        made.append(apply_affine(_upright().affine, body.voxels))
        misses.append(np.abs(body.warp.at(body.voxels) - template).max())
        jacobians.append(float(body.warp.jacobian(every=1).min()))
        scales.append(body.warp_scale)
    real = read_people(people) if people else _model_people(60)
    lines = [statistics_table(real, np.stack(made), "people" if people else "model")]
    lines.append(f"landmark exactness: {max(misses):.1e} mm at most, over {heads} heads")
    lines.append(
        f"Jacobian: {min(jacobians):.2f} at least, at every voxel; variation reduced in "
        f"{sum(scale < 1 for scale in scales)} heads"
    )
    lines.append(_timing(settings, timed))
    return "\n".join(lines)


def _upright() -> ScannerFrame:
    affine = np.diag([2.5, 2.5, 2.5, 1.0])
    affine[:3, 3] = -90.0, -130.0, -100.0
    return ScannerFrame(affine, (73, 89, 81), np.eye(4), np.full(3, 2.5), "RAS")


def _model_people(count: int) -> Array:
    rng = np.random.default_rng(0)
    return np.stack([load_shape_model().sample(rng) for _ in range(count)])


def statistics_table(people: Array, phantoms: Array, source: str) -> str:
    """Table of landmark SDs and distances, Markdown.

    Args:
        people: Landmarks of people, shape (P, 32, 3).
        phantoms: Landmarks of phantoms, shape (N, 32, 3).
        source: What the column of the people is called.
    """
    names = landmark_set("msp8").names
    chosen = [landmark_set("afids32").names.index(name) for name in names]
    halves = (people[::2], people[1::2])
    columns = (people, phantoms, *halves)
    spreads = [_spread(group)[chosen] for group in columns]
    gaps = [_distances(group[:, chosen]) for group in columns]
    lines = [
        f"| | {source} ({len(people)}) | phantoms ({len(phantoms)}) | half 1 | half 2 |",
        "|---|---|---|---|---|",
    ]
    for row, name in enumerate(names):
        cells = " | ".join(f"{spread[row]:.2f}" for spread in spreads)
        lines.append(f"| {name}: SD, mm | {cells} |")
    commissures = [np.linalg.norm(group[:, 0] - group[:, 1], axis=-1) for group in columns]
    cells = " | ".join(f"{d.mean():.2f} ± {d.std(ddof=1):.2f}" for d in commissures)
    lines.append(f"| AC-PC, mm | {cells} |")
    lines.append(_compared("largest difference of a pair's mean distance, mm", gaps, np.mean))
    lines.append(_compared("RMS relative difference of a pair's SD", gaps, np.std))
    lines.append(_compared("largest relative difference of a pair's SD", gaps, np.std, worst=True))
    return "\n".join(lines) + "\n"


def _spread(people: Array) -> Array:
    """SD of each landmark, all three coordinates together, pose apart, shape (32,)."""
    aligned, _ = align_all(people, landmark_set("afids32").template_mm)
    return np.asarray(np.sqrt(aligned.var(axis=0, ddof=1).sum(-1)))


def _distances(points: Array) -> Array:
    first, second = np.triu_indices(points.shape[1], 1)
    return np.asarray(np.linalg.norm(points[:, first] - points[:, second], axis=-1))


def _compared(title: str, gaps: Sequence[Array], figure: object, *, worst: bool = False) -> str:
    """Row that compares the phantoms with the people, and one half with the other."""
    cells = []
    for one, other in ((gaps[1], gaps[0]), (gaps[2], gaps[3])):
        if figure is np.mean:
            cells.append(f"{np.abs(one.mean(0) - other.mean(0)).max():.2f}")
            continue
        ratio = np.abs(one.std(0, ddof=1) / other.std(0, ddof=1) - 1.0)
        cells.append(f"{100 * (ratio.max() if worst else np.sqrt((ratio**2).mean())):.0f} %")
    return f"| {title} | | {cells[0]} | {cells[1]} (between halves) | |"


def _timing(settings: PhantomSettings, count: int) -> str:
    if count == 0:
        return "time: not measured"
    keep_freed_memory()  # as the processes that make cohorts do
    make_head(settings, Subject("HS", 0))
    made, written, sizes = [], [], []
    scans = planned_scans(replace(settings, train=count, healthy=0, down_syndrome=0))
    with tempfile.TemporaryDirectory(prefix="landmarking-") as folder, one_thread():
        for scan in scans:
            start = time.process_time()
            sizes.append(make_head(settings, scan.subject).data.size)
            made.append(time.process_time() - start)
            written.append(write_head((Path(folder), settings, scan)))
    return (
        f"time: {_median_range(made)} of processor a head at {settings.scanner.voxel_mm[0]:g} mm "
        f"({np.mean(sizes) / 1e6:.1f} million voxels) in one thread, after the first; "
        f"{_median_range(written)} with its files"
    )


def _median_range(seconds: Sequence[float]) -> str:
    return f"{np.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"


if __name__ == "__main__":
    main(run)
