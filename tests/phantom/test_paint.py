"""One painter: a painted plane is the slice that is cut from the painted volume."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage
from scipy.interpolate import RegularGridInterpolator

from landmarking.phantom.anatomy import load_atlas
from landmarking.phantom.paint import Painter, paint
from landmarking.phantom.person import Subject, anatomy
from landmarking.phantom.scanner import scanner_frame


@pytest.fixture(scope="module", params=[("HS", 2), ("DS", 0)])
def painted(request, coarse):
    """The painter of a head in voxels of 1 mm, and its volume."""
    settings = replace(coarse, scanner=replace(coarse.scanner, voxel_mm=[1.0, 1.0]))
    frame = scanner_frame(settings.scanner, np.random.default_rng(1))
    body = anatomy(settings, Subject(*request.param), frame)
    painter = Painter.of(
        settings.paint, load_atlas(), body.warp, body.age, *map(np.random.default_rng, (3, 4))
    )
    return painter, *painter.volume(), body.voxels


def plane_through(points, tilt, reach=14.0, step=0.7):
    """Voxel indices of a plane through AC and PC, tilted about their line, shape (N, 3)."""
    ac, pc = points[0], points[1]
    along = (pc - ac) / np.linalg.norm(pc - ac)
    up = np.array([tilt, 0.0, 1.0])
    up -= (up @ along) * along
    up /= np.linalg.norm(up)
    steps = np.arange(-reach, reach + step / 2, step)
    middle = (ac + pc) / 2 + 8.0 * up  # the fornix and the callosum above it
    plane = middle + steps[:, None, None] * up + steps[None, :, None] * along
    return plane.reshape(-1, 3)


def cut_from_volume(painter, plane, step):
    """The plane, cut by linear interpolation from a volume of voxels `step` times as large."""
    low = np.floor(plane.min(axis=0)) - 1
    axes = [
        np.arange(start, end + step, step)
        for start, end in zip(low, plane.max(axis=0) + 1, strict=True)
    ]
    lattice = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    volume = painter.at(lattice.reshape(-1, 3))[0].reshape(lattice.shape[:3])
    return RegularGridInterpolator(axes, volume)(plane)


def test_a_layer_of_voxels_is_painted_as_in_the_volume(painted):
    painter, image, tissues, _ = painted
    middle = image.shape[0] // 2 // 2 * 2
    layer = np.moveaxis(np.indices((1, *image.shape[1:])), 0, -1).reshape(-1, 3)
    layer = layer + np.array([middle, 0, 0])
    found, shares = painter.at(layer)
    assert np.abs(found.reshape(image[middle].shape) - image[middle]).max() < 0.02
    apart = np.abs(shares.reshape(3, *image[middle].shape).astype(int) - tissues[:, middle])
    assert np.mean(apart > 2) < 0.001
    assert image[middle].max() > 0.9


@pytest.mark.parametrize("tilt", [0.0, 0.15])
def test_a_painted_plane_is_the_slice_of_the_painted_volume(painted, tilt):
    """What differs is the interpolation: it goes to zero with the voxels; white matter is 1."""
    painter, image, _, points = painted
    plane = plane_through(points, tilt)
    direct = painter.at(plane)[0]
    of_this_volume = ndimage.map_coordinates(image, plane.T, order=1)
    coarse_error, fine_error = (
        np.abs(direct - cut_from_volume(painter, plane, step)).mean() for step in (1.0, 0.25)
    )
    assert np.abs(of_this_volume - cut_from_volume(painter, plane, 1.0)).mean() < 0.01
    assert fine_error < 0.01
    assert fine_error < coarse_error / 2
    assert direct.std() > 0.1


def test_painting_a_volume_is_the_painters(coarse):
    frame = scanner_frame(coarse.scanner, np.random.default_rng(1))
    body = anatomy(coarse, Subject("HS", 2), frame)

    def chance():
        return map(np.random.default_rng, (3, 4))

    one = paint(coarse.paint, load_atlas(), body.warp, body.age, *chance())
    other = Painter.of(coarse.paint, load_atlas(), body.warp, body.age, *chance()).volume()
    np.testing.assert_array_equal(one[0], other[0])
    np.testing.assert_array_equal(one[1], other[1])
