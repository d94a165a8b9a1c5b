"""A head about the template's brain, coarse and quick, to be put in any pose and field of view."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy import ndimage

from landmarking.geometry import apply_affine
from landmarking.imaging.scan import Scan
from landmarking.imaging.template import block_average, load_template

SPACING_MM = 3.0


@pytest.fixture(scope="session")
def whole_head() -> Scan:
    """The template in fluid, bone, bright fat and a neck; world is the common space."""
    template, spacing_mm = load_template(), SPACING_MM
    brain, affine = block_average(template.brain, template.affine, spacing_mm)
    pad = 40 // round(spacing_mm)
    brain = np.pad(brain, ((pad, pad), (pad, pad), (2 * pad, pad)))
    affine = affine.copy()
    affine[:3, 3] = apply_affine(affine, [-pad, -pad, -2 * pad])
    # Distance from a filled outline, so that the base of the brain has no dents.
    outline = ndimage.binary_closing(brain > 0.2, iterations=6)
    distance = ndimage.distance_transform_edt(~outline) * spacing_mm
    head = np.where(distance < 14, 0.1, np.where(distance < 20, 1.3, 0.0))
    x, y, z = np.moveaxis(apply_affine(affine, np.indices(brain.shape).reshape(3, -1).T), -1, 0)
    neck = (np.hypot(x, y + 40) < 55) & (z < -60)
    head = np.where(neck.reshape(brain.shape) & (distance > 6), 0.7, head)
    shells = np.where(distance > 0, head, 0.25)
    return Scan(np.maximum(brain, shells).astype(np.float32), affine, "head")


@pytest.fixture(scope="session")
def brain_only() -> Scan:
    """The template itself, in coarse voxels."""
    template = load_template()
    data, affine = block_average(template.brain, template.affine, SPACING_MM)
    return Scan(data, affine, "brain")


@pytest.fixture(scope="session")
def posed() -> Callable[..., Scan]:
    """Factory of posed heads, see `scan_again`."""
    return scan_again


def scan_again(
    scan: Scan,
    motion: np.ndarray,
    spacing_mm: tuple[float, float, float] = (3.0, 3.0, 3.0),
    size_mm: tuple[float, float, float] = (240.0, 264.0, 264.0),
    middle_mm: tuple[float, float, float] = (0.0, -18.0, -10.0),
) -> Scan:
    """Scan a head again after it has moved, in a field of view that has not."""
    spacing = np.array(spacing_mm)
    shape = np.ceil(np.array(size_mm) / spacing).astype(int)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = middle_mm - spacing * (shape - 1) / 2
    to_voxel = np.linalg.inv(motion @ scan.affine) @ affine
    data = ndimage.affine_transform(
        scan.data, to_voxel[:3, :3], to_voxel[:3, 3], output_shape=tuple(shape), order=1
    )
    return Scan(data.astype(np.float32), affine, scan.name)
