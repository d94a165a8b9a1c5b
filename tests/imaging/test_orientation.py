"""All 48 orientations go to PIL and back, voxel by voxel."""

import itertools

import nibabel as nib
import numpy as np
import pytest

from landmarking.geometry import apply_affine, rigid_matrix
from landmarking.imaging.orientation import to_pil
from landmarking.imaging.scan import Scan

SHAPE = (4, 5, 6)
ORIENTATIONS = [
    (order, signs)
    for order in itertools.permutations(range(3))
    for signs in itertools.product((-1.0, 1.0), repeat=3)
]


def scan_in(order, signs, pose):
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3)[list(order)] * signs * [[0.7], [1.0], [3.0]]).T
    affine[:3, 3] = [11, -7, 3]
    data = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    return Scan(data, pose @ affine, "sub-1", ("a note",))


@pytest.mark.parametrize("pose", [np.eye(4), rigid_matrix(20, -15, 12)], ids=["axial", "oblique"])
@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_every_voxel_keeps_its_world_position(order, signs, pose):
    scan = scan_in(order, signs, pose)

    pil = to_pil(scan)

    assert nib.aff2axcodes(pil.affine) == ("P", "I", "L")
    assert pil.notes == scan.notes
    assert pil.data.flags.c_contiguous
    # Each value occurs once, so it tells where its voxel went.
    was = {float(scan.data[v]): apply_affine(scan.affine, v) for v in np.ndindex(*scan.data.shape)}
    for voxel in np.ndindex(*pil.data.shape):
        world = apply_affine(pil.affine, voxel)
        assert np.abs(world - was[float(pil.data[voxel])]).max() < 1e-9


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_one_head_in_any_orientation_gives_the_same_pil_volume(order, signs):
    pil = to_pil(scan_in((0, 1, 2), (1.0, 1.0, 1.0), np.eye(4)))
    stored_as = nib.orientations.axcodes2ornt(("R", "A", "S"))
    stored_as[:, 0] = order
    stored_as[:, 1] = signs
    stored = Scan(
        nib.orientations.apply_orientation(pil.data, stored_as),
        pil.affine @ nib.orientations.inv_ornt_aff(stored_as, pil.data.shape),
        "sub-1",
    )

    again = to_pil(stored)

    assert np.array_equal(again.data, pil.data)
    assert np.abs(again.affine - pil.affine).max() < 1e-9
