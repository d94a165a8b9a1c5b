"""The stages from scan to slice in pictures, on Colin27 and on one phantom."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from omegaconf import OmegaConf
from scipy import ndimage

from landmarking.benchmarks.registration import (
    LandmarkedHead,
    RegistrationBenchmark,
    phantom_heads,
    real_heads,
)
from landmarking.config import PROJECT, settings
from landmarking.geometry import Array, Plane, SliceGeometry, apply_affine
from landmarking.imaging.pipeline import (
    PreprocessSettings,
    finish_slice,
    plane_stage,
    register_stage,
    slice_geometry,
)
from landmarking.imaging.resample import sample_slice
from landmarking.imaging.scan import Scan
from landmarking.storage import atomic_path

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
    values = OmegaConf.to_container(OmegaConf.from_dotlist(arguments))
    assert isinstance(values, dict)
    chosen = settings(PipelinePictures, {str(key): value for key, value in values.items()})
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
    """Draw native views with the plane, the slice before and after the crop, and matched.

    Args:
        path: Where to write the picture.
        head: Scan and landmarks.
    """
    from matplotlib.figure import Figure

    chosen = PreprocessSettings()
    registration = register_stage(head.scan, chosen)
    found = plane_stage(head.scan, registration, chosen)
    whole = PreprocessSettings(crop=[0, chosen.slice_size])
    geometries = [
        slice_geometry(found.plane, registration.world_to_common, each) for each in (whole, chosen)
    ]
    large, small = (sample_slice(head.scan, geometry) for geometry in geometries)
    figure = Figure(figsize=(15.0, 3.6), layout="constrained")
    axes = figure.subplots(1, 5)
    for panel, title, up in ((axes[0], "axial", 1), (axes[1], "coronal", 2)):
        _native(panel, head.scan, found.plane, found.centre_mm, up)
        panel.set_title(f"{title}, symmetry {found.score:.3f}")
    panels = (
        (axes[2], large, geometries[0], "slice on the plane"),
        (axes[3], small, geometries[1], "cropped"),
        (axes[4], finish_slice(small, chosen), geometries[1], "matched to the template"),
    )
    for panel, image, geometry, title in panels:
        _slice(panel, image, geometry, head.points_mm)
        panel.set_title(title)
    first, last = chosen.crop
    axes[2].plot([first, last, last, first, first], [first, first, last, last, first], color=_PLANE)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=75, format="png")


def _native(panel: Axes, scan: Scan, plane: Plane, centre_mm: Array, up: int) -> None:
    """A view of the scan's own world, right to the right, with the plane's trace."""
    steps = np.arange(-_HALF_MM, _HALF_MM + 1.0, 2.0)
    across, along = np.meshgrid(steps, steps)
    points = np.tile(centre_mm, (*across.shape, 1))
    points[..., 0] += across
    points[..., up] += along
    voxels = np.moveaxis(apply_affine(np.linalg.inv(scan.affine), points), -1, 0)
    image = ndimage.map_coordinates(scan.data, voxels, order=1)
    extent = (-_HALF_MM, _HALF_MM, -_HALF_MM, _HALF_MM)
    high = float(np.percentile(image, 99.5))
    panel.imshow(image, cmap="gray", origin="lower", extent=extent, vmin=0.0, vmax=high)
    # The centre lies on the plane: along the view, the trace is where both normal parts cancel.
    panel.plot(-steps * plane.normal[up] / plane.normal[0], steps, color=_PLANE, linewidth=1.0)
    panel.set_axis_off()


def _slice(panel: Axes, image: Array, geometry: SliceGeometry, points_mm: Array) -> None:
    high = float(np.percentile(image, 99.5))
    panel.imshow(image, cmap="gray", vmin=float(image.min()), vmax=high)
    panel.plot(*geometry.to_pixel(points_mm).T, "+", color=_POINT)
    panel.set_axis_off()
