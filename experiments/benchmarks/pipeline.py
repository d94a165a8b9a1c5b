"""The stages from scan to slice in pictures, on Colin27 and on one phantom."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from arguments import main, read_arguments
from landmarking.config import PROJECT
from landmarking.files import atomic_path
from landmarking.geometry import Array, Plane, SliceGeometry, apply_affine
from landmarking.imaging.pipeline import (
    PreprocessSettings,
    finish_slice,
    plane_stage,
    register_stage,
    sample_slice,
    slice_geometry,
)
from landmarking.imaging.scan import Scan
from landmarking.imaging.template import load_template
from landmarking.landmarks import landmark_set
from registration import (
    LandmarkedHead,
    RegistrationBenchmark,
    phantom_heads,
    real_heads,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_PLANE, _POINT = "#56b4e9", "#d55e00"
_HALF_MM = 128


@dataclass
class PipelinePictures:
    """What to draw.

    Attributes:
        heads: Folder with the real heads; relative to the project. Skipped where it is absent.
        outputs: Folder for pipeline-colin27.png and pipeline-phantom.png.
    """

    heads: str = "../shared/real"
    outputs: str = "docs/images"


def run(arguments: list[str]) -> str:
    """Draw one picture for each head.

    Args:
        arguments: `key=value` for the fields of `PipelinePictures`.

    Returns:
        The pictures' paths.

    Raises:
        ConfigError: If a key is unknown or a value has the wrong type.
    """
    chosen = read_arguments(PipelinePictures, arguments)
    paths = []
    for name, head in _heads(PROJECT / chosen.heads):
        path = PROJECT / chosen.outputs / f"pipeline-{name}.png"
        draw(path, head)
        paths.append(str(path))
    return "\n".join(paths)


def _heads(folder: Path) -> Iterator[tuple[str, LandmarkedHead]]:
    for head in real_heads(folder):
        if head.name == "Colin27":
            yield "colin27", head
    yield "phantom", next(phantom_heads(RegistrationBenchmark(phantoms=1)))


def draw(path: Path, head: LandmarkedHead) -> None:
    """Draw the registration, the plane, the slice before and after the crop, and matched.

    Args:
        path: Where to write the picture.
        head: Scan and landmarks.
    """
    from matplotlib.figure import Figure

    chosen = PreprocessSettings()
    whole = PreprocessSettings(crop=[0, chosen.slice_size])
    registration = register_stage(head.scan, chosen)
    found = plane_stage(head.scan, registration, chosen)
    large, small = (
        slice_geometry(found.plane, registration.world_to_common, each) for each in (whole, chosen)
    )
    cropped = sample_slice(head.scan, small)
    figure = Figure(figsize=(10.5, 7.4), layout="constrained")
    axes = figure.subplots(2, 3).ravel()
    _native(axes[0], head.scan, found.centre_mm, 1)
    _native(axes[1], head.scan, found.centre_mm, 1)
    _outline(axes[1], registration.world_to_common, found.centre_mm, 1)
    _native(axes[2], head.scan, found.centre_mm, 2)
    _trace(axes[2], found.plane, 2)
    _slice(axes[3], sample_slice(head.scan, large), large, head.points_mm)
    first, last = chosen.crop
    axes[3].plot([first, last, last, first, first], [first, first, last, last, first], color=_PLANE)
    _slice(axes[4], cropped, small, head.points_mm)
    _names(axes[4], small.to_pixel(head.points_mm))
    _slice(axes[5], finish_slice(cropped, chosen), small, head.points_mm)
    titles = (
        "1  scan, seen from above",
        f"2  template's brain laid on it (quality {registration.quality:.2f})",
        f"3  mid-sagittal plane (symmetry {found.score:.2f})",
        "4  slice on the plane, and the crop",
        "5  cropped",
        "6  histogram matched",
    )
    for panel, title in zip(axes, titles, strict=True):
        panel.set_title(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=80, format="png")


def _view(centre_mm: Array, up: int) -> Array:
    """World points (N, N, 3) of a view through a point: right to the right, axis `up` upwards."""
    steps = np.arange(-_HALF_MM, _HALF_MM + 1.0, 1.0)
    across, along = np.meshgrid(steps, steps)
    points = np.tile(centre_mm, (*across.shape, 1))
    points[..., 0] += across
    points[..., up] += along
    return points


def _native(panel: Axes, scan: Scan, centre_mm: Array, up: int) -> None:
    """A view of the scan's own world."""
    image = _sampled(scan.data, scan.affine, _view(centre_mm, up))
    extent = (-_HALF_MM, _HALF_MM, -_HALF_MM, _HALF_MM)
    high = float(np.percentile(image, 99.5))
    panel.imshow(image, cmap="gray", origin="lower", extent=extent, vmin=0.0, vmax=high)
    for letter, side in (("L", 0.05), ("R", 0.95)):
        panel.text(side, 0.5, letter, color="white", ha="center", transform=panel.transAxes)
    panel.set_axis_off()


def _outline(panel: Axes, world_to_common: Array, centre_mm: Array, up: int) -> None:
    """The rim of the template's brain, where the registration lays it."""
    template = load_template()
    points = apply_affine(world_to_common, _view(centre_mm, up))
    mask = _sampled(template.brain_mask.astype(np.float32), template.affine, points)
    extent = (-_HALF_MM, _HALF_MM, -_HALF_MM, _HALF_MM)
    panel.contour(mask, levels=[0.5], colors=_PLANE, linewidths=1.2, extent=extent)


def _sampled(data: Array, affine: Array, points_mm: Array) -> Array:
    voxels = np.moveaxis(apply_affine(np.linalg.inv(affine), points_mm), -1, 0)
    return np.asarray(ndimage.map_coordinates(data, voxels, order=1))


def _trace(panel: Axes, plane: Plane, up: int) -> None:
    steps = np.array([-_HALF_MM, _HALF_MM])
    # The centre lies on the plane: along the view, the trace is where both normal parts cancel.
    panel.plot(-steps * plane.normal[up] / plane.normal[0], steps, color=_PLANE, linewidth=1.2)


def _slice(panel: Axes, image: Array, geometry: SliceGeometry, points_mm: Array) -> None:
    high = float(np.percentile(image, 99.5))
    panel.imshow(image, cmap="gray", vmin=float(image.min()), vmax=high)
    panel.plot(
        *geometry.to_pixel(points_mm).T, "+", color=_POINT, markersize=9, markeredgewidth=1.5
    )
    panel.set_axis_off()


def _names(panel: Axes, points_px: Array) -> None:
    middle = points_px.mean(axis=0)
    for name, point in zip(landmark_set("msp8").names, points_px, strict=True):
        away = point + 9.0 * (point - middle) / max(float(np.linalg.norm(point - middle)), 1.0)
        panel.text(
            float(away[0]), float(away[1]), name, color="white", fontsize=8, ha="center",
            va="center", bbox={"boxstyle": "square,pad=0.1", "color": "black", "alpha": 0.6},
        )  # fmt: skip


if __name__ == "__main__":
    main(run)
