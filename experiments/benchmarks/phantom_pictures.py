"""Pictures that judge the phantom: mid slices beside real heads, histograms, gradient spectra."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from landmarking.files import atomic_path
from landmarking.geometry import Array, apply_affine
from landmarking.imaging.scan import load_scan
from landmarking.imaging.template import load_template
from landmarking.landmarks import landmark_set, read_landmarks
from landmarking.phantom.person import PhantomSettings, Subject, make_head
from landmarking.phantom.scanner import ScannerSettings

_MIDLINE = ("AC", "PC", "ICS", "PMJ", "SIPF", "CUL", "IMS", "PG", "GENU", "SPLE")
_SUBJECTS = (
    Subject("train", 0),
    Subject("train", 1),
    Subject("train", 4),
    Subject("HS", 1),
    Subject("DS", 0),
    Subject("DS", 2),
)


@dataclass(frozen=True, eq=False)
class Shown:
    """One head, real or not.

    Attributes:
        name: Title.
        real: Whether it is a real head.
        middle: Mid slice, 1 mm, white matter near 1, shape (190, 210).
        coronal: Slice across the brain through the commissures' midpoint, same grid.
        points: Landmarks of `msp8` on the mid slice, (x, y), shape (8, 2).
    """

    name: str
    real: bool
    middle: NDArray[np.float64]
    coronal: NDArray[np.float64]
    points: Array


def draw_pictures(folder: Path, real: Sequence[tuple[Path, Path]]) -> list[Path]:
    """Draw all pictures of docs/phantom.md and docs/landmarks.md.

    Args:
        folder: Where the PNG files go.
        real: Real heads, each a scan and its landmark file.

    Returns:
        The files.
    """
    settings = PhantomSettings(scanner=ScannerSettings(voxel_mm=[1.0, 1.0]))
    names = landmark_set("afids32").names
    heads = []
    for scan_file, points_file in real:
        scan = load_scan(scan_file)
        title = scan_file.name.split("_")[0]
        heads.append(_shown(title, True, scan.data, scan.affine, read_named(points_file)))
    for subject in _SUBJECTS:
        head = make_head(settings, subject)
        points = dict(zip(names, head.landmarks_mm, strict=True))
        title = f"phantom {subject.group} {subject.index}"
        heads.append(_shown(title, False, head.data.astype(float), head.affine, points))
    return [
        _save(folder / "phantom-mid-slices.png", _slices(heads, "middle")),
        _save(folder / "phantom-coronal.png", _slices(heads, "coronal")),
        _save(folder / "phantom-statistics.png", _statistics(heads)),
        _save(folder / "landmarks-on-template.png", _on_template()),
    ]


def read_named(path: Path) -> dict[str, Array]:
    """Landmarks of a file by the project's short names."""
    landmarks = landmark_set("afids32")
    return dict(zip(landmarks.names, landmarks.arrange(read_landmarks(path)), strict=True))


def _shown(
    name: str, real: bool, data: NDArray[Any], affine: Array, points: dict[str, Array]
) -> Shown:
    centre, left, front, up = _frame(points)
    down = np.arange(90.0, -100.0, -1.0)
    ahead, across = np.arange(100.0, -110.0, -1.0), np.arange(105.0, -105.0, -1.0)
    middle = _cut(data, affine, centre, front, up, ahead, down)
    coronal = _cut(data, affine, centre - 5.0 * front, left, up, -across, down)
    brain = middle[60:110, 60:150]
    scale = float(np.percentile(brain, 97))
    chosen = np.stack([points[key] for key in landmark_set("msp8").names]) - centre
    pixels = np.stack([100.0 - chosen @ front, 90.0 - chosen @ up], axis=-1)
    return Shown(name, real, middle / scale, coronal / scale, pixels)


def _frame(points: dict[str, Array]) -> tuple[Array, Array, Array, Array]:
    """Origin between the commissures, and unit vectors to the left, front and top."""
    placed = np.stack([points[name] for name in _MIDLINE])
    _, _, rows = np.linalg.svd(placed - placed.mean(0))
    left = rows[2] * -np.sign(rows[2][0])
    front = points["AC"] - points["PC"]
    front = front - (front @ left) * left
    front /= np.linalg.norm(front)
    return 0.5 * (points["AC"] + points["PC"]), left, front, np.cross(front, left)


def _cut(
    data: NDArray[Any],
    affine: Array,
    centre: Array,
    first: Array,
    second: Array,
    columns: Array,
    rows: Array,
) -> NDArray[np.float64]:
    grid = centre + columns[None, :, None] * first + rows[:, None, None] * second
    voxels = apply_affine(np.linalg.inv(affine), grid)
    return np.asarray(
        ndimage.map_coordinates(np.asarray(data, dtype=np.float64), voxels.T, order=1).T
    )


def _slices(heads: Sequence[Shown], view: str) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(16, 7.6), layout="constrained")
    for axes, head in zip(figure.subplots(2, 4).ravel(), heads, strict=False):
        axes.imshow(getattr(head, view), cmap="gray", vmin=0.0, vmax=1.35)
        if view == "middle":
            axes.plot(*head.points.T, "+", color="tab:orange", markersize=6)
        axes.set_title(head.name)
        axes.axis("off")
    return figure


def _statistics(heads: Sequence[Shown]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for head in heads:
        style = {"linewidth": 2.5} if head.real else {"linewidth": 1.0, "alpha": 0.7}
        crop = head.middle[20:170, 38:188]
        counts, edges = np.histogram(crop, bins=60, range=(0.0, 1.6), density=True)
        left.plot(0.5 * (edges[1:] + edges[:-1]), counts, label=head.name, **style)
        frequency, power = gradient_spectrum(crop)
        right.loglog(frequency, power, **style)
    left.set(xlabel="intensity over white matter", ylabel="density", ylim=(0, 4))
    left.legend(fontsize=7)
    right.set(xlabel="spatial frequency, 1/mm", ylabel="power of the gradient, relative")
    right.set_xticks([0.02, 0.05, 0.1, 0.2, 0.4], ["0.02", "0.05", "0.1", "0.2", "0.4"])
    right.set_xticks([], minor=True)
    return figure


def gradient_spectrum(image: Array) -> tuple[Array, Array]:
    """Power of a slice's gradient by spatial frequency, averaged over directions.

    Args:
        image: Square slice of 1 mm pixels.

    Returns:
        Frequencies in 1/mm and relative power, shape (n,) each.
    """
    size = len(image)
    window = np.hanning(size)[:, None] * np.hanning(size)
    spectrum = np.abs(np.fft.fft2((image - image.mean()) * window)) ** 2
    frequency = np.fft.fftfreq(size)
    radius = np.hypot(frequency[:, None], frequency)
    power = spectrum * (2.0 * np.pi * radius) ** 2
    ring = np.rint(radius * size).astype(int).ravel()
    means = np.bincount(ring, power.ravel()) / np.maximum(np.bincount(ring), 1)
    kept = np.arange(2, size // 2)
    return kept / size, means[kept] / means[kept].sum()


def _on_template() -> Any:
    from matplotlib.figure import Figure

    template = load_template()
    column = round(-float(template.affine[0, 3]))
    image = template.brain[column].T[::-1]
    top = template.affine[2, 3] + template.brain.shape[2] - 1
    figure = Figure(figsize=(11, 8.6), layout="constrained")
    axes = figure.subplots()
    axes.imshow(image[:, ::-1], cmap="gray")
    front = template.affine[1, 3] + template.brain.shape[1] - 1
    offsets = {
        "AC": (-14, 14),
        "PG": (34, 14),
        "SPLE": (14, -16),
        "PC": (-2, -22),
        "SIPF": (-30, 2),
        "IMS": (-30, 12),
    }
    for landmark in landmark_set("msp10").landmarks:
        x, y = front - landmark.template_mm[1], top - landmark.template_mm[2]
        axes.plot(x, y, "o", color="tab:orange", markersize=4)
        dx, dy = offsets.get(landmark.name, (10, -8))
        axes.annotate(
            landmark.name,
            (x, y),
            (x + dx, y + dy),
            color="white",
            arrowprops={"arrowstyle": "-", "color": "tab:orange"},
        )
    axes.set(xlim=(20, 200), ylim=(190, 20))
    axes.axis("off")
    return figure


def _save(path: Path, figure: Any) -> Path:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=80, metadata={"Software": None})
    return path
