"""Tissue maps on a slice: the place, the shares and the distance."""

import nibabel as nib
import numpy as np
import pytest

from landmarking.errors import ScanError
from landmarking.geometry import SliceGeometry, rigid_matrix
from landmarking.imaging.tissues import DISTANCE_LOW_MM, DISTANCE_STEP_MM, tissue_maps

SAGITTAL = np.array([[0, 0, -1, 0], [-1, 0, 0, 30], [0, -1, 0, 30], [0, 0, 0, 1]], dtype=float)
CENTRE = np.array([3.0, -4.0, 5.0])


def write_ball(folder, full=255, radius=20.0, core=8.0, affine=None):
    """A brain that is a ball with a core of fluid and a rind of grey matter, off the plane."""
    affine = np.diag([1.1, 0.9, 1.0, 1.0]) if affine is None else affine.copy()
    shape = (60, 70, 64)
    affine[:3, 3] = -affine[:3, :3] @ (np.array(shape) / 2)
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    away = np.linalg.norm(index @ affine[:3, :3].T + affine[:3, 3] - CENTRE, axis=-1)
    fluid = np.clip(core + 0.5 - away, 0, 1)
    grey = np.clip(radius + 0.5 - away, 0, 1) * np.clip(away - radius + 4.5, 0, 1)
    white = np.clip(radius + 0.5 - away, 0, 1) - fluid - grey
    paths = []
    for name, share in (("GM", grey), ("WM", white), ("CSF", fluid)):
        data = np.rint(255 * share).astype(np.uint8) if full == 255 else share.astype(np.float32)
        paths.append(folder / f"{name}.nii.gz")
        nib.save(nib.Nifti1Image(data, affine), paths[-1])
    return paths


def distances(geometry, centre=CENTRE):
    y, x = np.mgrid[: geometry.shape[0], : geometry.shape[1]]
    return np.linalg.norm(geometry.to_world(np.stack([x, y], axis=-1)) - centre, axis=-1)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("full", [255, 1])
def test_maps_lie_where_the_world_says(tmp_path, full, turned):
    turn = rigid_matrix(9.0, -6.0, 14.0, (0.0, 0.0, 0.0)) if turned else np.eye(4)
    files = write_ball(tmp_path, full, affine=turn @ np.diag([1.1, 0.9, 1.0, 1.0]))
    geometry = SliceGeometry(rigid_matrix(4.0, 5.0, -3.0, (1.0, 2.0, 0.0)) @ SAGITTAL, (61, 64))
    maps = tissue_maps(files, geometry)
    assert maps.shape == (4, 61, 64)
    away = distances(geometry)
    fluid = np.clip(8.5 - away, 0, 1)
    assert np.abs(maps[2] / 255.0 - fluid).max() < 0.25
    brain = np.clip(20.5 - away, 0, 1)
    assert np.abs(maps[:3].sum(0, dtype=int) / 255.0 - brain).max() < 0.25
    assert np.abs(maps[0] / 255.0 - brain * np.clip(away - 15.5, 0, 1)).max() < 0.25
    distance = maps[3] * DISTANCE_STEP_MM + DISTANCE_LOW_MM
    near = away < 34.0
    assert np.abs(distance - (away - 20.0))[near].max() < 1.6
    assert abs((distance - (away - 20.0))[near].mean()) < 0.4


def test_a_brain_elsewhere_leaves_nothing(tmp_path):
    far = SAGITTAL.copy()
    far[0, 3] = 300.0
    maps = tissue_maps(write_ball(tmp_path), SliceGeometry(far, (61, 64)))
    assert maps.max() == 0


def test_an_image_is_no_map(tmp_path):
    files = write_ball(tmp_path)
    data = np.random.default_rng(0).integers(0, 900, (60, 70, 64)).astype(np.int16)
    nib.save(nib.Nifti1Image(data, np.eye(4)), files[0])
    with pytest.raises(ScanError, match=r"GM.nii.gz: a tissue map holds shares from 0 to 1"):
        tissue_maps(files, SliceGeometry(SAGITTAL, (61, 64)))
