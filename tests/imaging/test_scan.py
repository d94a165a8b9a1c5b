import gzip
import itertools
import logging
import os
import re

import nibabel as nib
import numpy as np
import pytest

from landmarking.errors import ScanError
from landmarking.geometry import apply_affine, rigid_matrix
from landmarking.imaging.scan import Scan, load_scan, to_pil

# Every bad scan is refused in words; every good one keeps its values and its world.


AFFINE = np.array([[-5.0, 0, 0, 80], [0, 5, 0, -100], [0, 0, 5, -90], [0, 0, 0, 1]])
DATA = (np.arange(32 * 40 * 36).reshape(32, 40, 36) % 30_000).astype(np.int16)
NOISE = np.random.default_rng(0).integers(0, 9999, DATA.shape, dtype=np.int16)


def image_of(data=DATA, affine=AFFINE, sform=1, qform=1, kind=nib.Nifti1Image):
    image = kind(data, affine)
    image.set_sform(affine, code=sform)
    image.set_qform(affine, code=qform)
    return image


def written(folder, image, name="sub-1_T1w.nii.gz"):
    path = folder / name
    nib.save(image, path)
    return path


def with_bytes(folder, content, name="sub-1_T1w.nii"):
    path = folder / name
    path.write_bytes(content)
    return path


def patched(folder, image, offset, content):
    """A valid file with some bytes of its header replaced."""
    path = written(folder, image, "sub-1_T1w.nii")
    raw = bytearray(path.read_bytes())
    raw[offset : offset + len(content)] = content
    path.write_bytes(bytes(raw))
    return path


def truncated_gzip(folder):
    path = written(folder, image_of(NOISE))
    path.write_bytes(path.read_bytes()[:-500])
    return path


def truncated_plain(folder):
    path = written(folder, image_of(), "sub-1_T1w.nii")
    path.write_bytes(path.read_bytes()[:-500])
    return path


def corrupt_gzip(folder):
    path = written(folder, image_of(NOISE))
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2 : len(raw) // 2 + 40] = bytes(40)
    path.write_bytes(bytes(raw))
    return path


def folder_named_like_a_scan(folder):
    path = folder / "sub-1_T1w.nii.gz"
    path.mkdir()
    return path


def dangling_link(folder):
    path = folder / "sub-1_T1w.nii.gz"
    path.symlink_to(folder / "annexed.nii.gz")
    return path


def one_value(value, count=1):
    data = DATA.astype(np.float32)
    data.flat[:count] = value
    return image_of(data)


def sheared(column):
    affine = AFFINE.copy()
    affine[:3, 2] = column
    image = image_of()
    image.set_qform(None, code=0)
    image.set_sform(affine, code=1)
    return image


def sform_of(value):
    """The three rows of the sform lie at byte 280 of NIfTI-1."""
    rows = np.full(12, value, dtype="<f4").tobytes()
    return lambda folder: patched(folder, image_of(qform=0), 280, rows)


def mirrored_forms():
    image = image_of()
    image.set_sform(AFFINE @ np.diag([-1.0, 1, 1, 1]), code=1)
    return image


def forms_apart(shift_mm, angle_deg):
    """The qform is moved, or turned about the middle of the scan."""
    image = image_of()
    middle = apply_affine(AFFINE, (np.array(DATA.shape) - 1) / 2)
    turn = rigid_matrix(roll_deg=angle_deg, shift_mm=(shift_mm, 0, 0), centre_mm=middle)
    image.set_qform(turn @ AFFINE, code=1)
    return image


def stretched():
    """As in template space: the sform has another scale than the voxels."""
    image = image_of(qform=0)
    image.header["pixdim"][1:4] = 4.6
    return image


def rgb():
    pixels = np.zeros(DATA.shape, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    return nib.Nifti1Image(pixels, AFFINE)


def huge(folder):
    # dim[1..3] of NIfTI-1 are shorts at byte 42.
    return patched(folder, image_of(), 42, np.array([9000, 9000, 9000], "<i2").tobytes())


def analyze(folder):
    path = folder / "sub-1_T1w.img"
    nib.save(nib.AnalyzeImage(DATA, AFFINE), path)
    return path


def saved(make, *arguments):
    return lambda folder: written(folder, make(*arguments))


def raw(content, name="sub-1_T1w.nii"):
    return lambda folder: with_bytes(folder, content, name)


# What is wrong, how such a file is made, and what the message says.
BAD = {
    "missing": (lambda folder: folder / "sub-1_T1w.nii.gz", "found nothing"),
    "folder": (folder_named_like_a_scan, "found a folder"),
    "dangling link": (dangling_link, "found nothing"),
    "empty file": (raw(b""), "empty (0 bytes)"),
    "empty gzip": (raw(b"", "sub-1_T1w.nii.gz"), "empty (0 bytes)"),
    "empty stream in gzip": (raw(gzip.compress(b""), "sub-1_T1w.nii.gz"), "not NIfTI-1"),
    "text": (raw(b"subject,age\n1,30\n" * 50), "not NIfTI-1"),
    "text as gzip": (raw(b"hello" * 200, "sub-1_T1w.nii.gz"), "not NIfTI-1"),
    "header cut off": (raw(bytes(100)), "not NIfTI-1"),
    "header of zeros": (raw(bytes(2000)), "not NIfTI-1"),
    "truncated gzip": (truncated_gzip, "gzip stream is truncated"),
    "truncated": (truncated_plain, "truncated or damaged"),
    "damaged gzip": (corrupt_gzip, "gzip stream is truncated or damaged"),
    "unknown data type": (
        lambda folder: patched(folder, image_of(), 70, np.array([9999], "<i2").tobytes()),
        "header is damaged",
    ),
    "negative dimension": (
        lambda folder: patched(folder, image_of(), 42, np.array([-5], "<i2").tobytes()),
        "sub-1_T1w",
    ),
    "voxels beyond any file": (
        lambda folder: patched(folder, image_of(), 108, np.array([1e30], "<f4").tobytes()),
        "the voxels cannot be read",
    ),
    "voxels before the header ends": (
        lambda folder: patched(folder, image_of(), 108, np.array([0.0], "<f4").tobytes()),
        "vox_offset says that the voxels begin at byte 0",
    ),
    "bits of another type": (
        lambda folder: patched(folder, image_of(), 72, np.array([32], "<i2").tobytes()),
        "32 bits a voxel and the type int16",
    ),
    "fewer voxels than bytes": (
        lambda folder: patched(folder, image_of(), 42, np.array([31], "<i2").tobytes()),
        "its header is of another scan",
    ),
    "promises 729 billion voxels": (huge, "header is damaged"),
    "Analyze": (analyze, "Analyze states no left and right"),
    "DICOM name": (raw(b"x", "IM-0001.dcm"), "scans are read from .nii"),
    "MGH name": (raw(b"x", "T1.mgz"), "not NIfTI-1"),
    "time series": (saved(image_of, np.stack([DATA, DATA], axis=3)), "three dimensions"),
    "vectors": (saved(image_of, np.zeros((9, 9, 9, 1, 3), np.float32)), "three dimensions"),
    "two dimensions": (saved(image_of, DATA[:, :, 0]), "three dimensions"),
    "one slice": (saved(image_of, DATA[:, :, :1]), "not a slice or slab"),
    "slab": (saved(image_of, DATA[:8]), "not a slice or slab"),
    "constant": (saved(image_of, np.full(DATA.shape, 7, np.int16)), "every voxel has the value 7"),
    "all zero": (saved(image_of, np.zeros(DATA.shape, np.int16)), "every voxel has the value 0"),
    "NaN": (saved(one_value, np.nan, DATA.size - 9), "100.0% of the voxels are NaN or infinite"),
    "beyond float32": (saved(image_of, DATA.astype(np.float64) * 1e300), "NaN or infinite"),
    "complex": (saved(image_of, DATA.astype(np.complex64)), "complex64"),
    "colour": (saved(rgb), "colour (R, G, B)"),
    "zero affine": (sform_of(0.0), "voxel sizes must be above zero"),
    "NaN affine": (sform_of(np.nan), "affine holds NaN or Inf"),
    "axis of no length": (saved(sheared, [0, 0, 0]), "voxel sizes must be above zero"),
    "singular affine": (saved(sheared, [0, 8, 0]), "affine is singular"),
    "nearly singular affine": (saved(sheared, [0, 8, 1e-4]), "affine is singular"),
    "no orientation": (saved(image_of, DATA, AFFINE, 0, 0), "left and right are unknown"),
    "sheared": (saved(sheared, [0, 0.5, 5]), "84.3 degrees (sheared"),
    "forms apart": (saved(forms_apart, 1.5, 0.0), "differ by up to 1.5 mm and 0.0 degrees"),
    "forms turned": (saved(forms_apart, 0.0, 3.0), "and 3.0 degrees"),
    "stretched": (saved(stretched), "--allow-scaled"),
    "thick slices": (saved(image_of, DATA[:, :, :24], AFFINE), "at least 30 slices"),
    "forms mirror each other": (saved(mirrored_forms), "mirror each other"),
    "metres": (saved(image_of, DATA, np.diag([5e-3, 5e-3, 5e-3, 1])), "field of view"),
    "micrometres": (saved(image_of, DATA, np.diag([5e3, 5e3, 5e3, 1])), "header's units"),
    "a kilometre of voxels": (saved(image_of, DATA, np.diag([9, 200, 9, 1])), "at most 10 mm"),
}


@pytest.mark.parametrize("what", list(BAD))
def test_a_bad_scan_is_named_with_rule_and_way_out(what, tmp_path):
    make, says = BAD[what]
    path = make(tmp_path)

    with pytest.raises(ScanError, match=re.escape(says)) as caught:
        load_scan(path)

    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert ";" in message  # the way out follows what was found


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_scan_without_permission_is_refused(tmp_path):
    path = written(tmp_path, image_of())
    path.chmod(0)

    with pytest.raises(ScanError, match="permissions"):
        load_scan(path)


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "f4", "f8"])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "A.NII.GZ"])
def test_values_and_world_survive(dtype, name, tmp_path):
    data = (DATA % 200).astype(dtype)

    scan = load_scan(written(tmp_path, image_of(data), name))

    assert scan.data.dtype == np.float32
    assert np.array_equal(scan.data, data)
    assert np.array_equal(scan.affine, AFFINE)
    assert scan.name.casefold() == "a"
    assert scan.notes == ()


def test_scale_factors_apply(tmp_path):
    image = image_of()
    image.header.set_slope_inter(0.5, 3.0)
    path = written(tmp_path, image)

    scaled = load_scan(path).data

    assert np.allclose(scaled, nib.load(path).get_fdata(), atol=1e-3)


@pytest.mark.parametrize("trailing", [(1,), (1, 1)])
def test_trailing_dimensions_of_one_are_dropped(trailing, tmp_path):
    scan = load_scan(written(tmp_path, image_of(DATA.reshape(*DATA.shape, *trailing))))

    assert np.array_equal(scan.data, DATA)


def test_nifti2_is_read(tmp_path):
    scan = load_scan(written(tmp_path, image_of(kind=nib.Nifti2Image), "b.nii"))

    assert np.array_equal(scan.data, DATA)


@pytest.mark.parametrize(("sform", "qform"), list(itertools.product([0, 1, 4], repeat=2)))
def test_sform_wins_over_qform_and_a_difference_is_said(sform, qform, tmp_path, caplog):
    moved = AFFINE.copy()
    moved[:3, 3] += [0, 0.3, 0.4]
    image = image_of()
    image.set_sform(moved, code=sform)
    image.set_qform(AFFINE, code=qform)
    path = written(tmp_path, image)
    if sform == qform == 0:
        with pytest.raises(ScanError, match="neither sform nor qform"):
            load_scan(path)
        return

    with caplog.at_level(logging.WARNING):
        scan = load_scan(path)

    assert np.allclose(scan.affine, moved if sform else AFFINE)
    both = bool(sform and qform)
    assert [("differ by up to 0.5 mm; the sform is used" in note) for note in scan.notes] == (
        [True] if both else []
    )
    assert ("the sform is used" in caplog.text) == both


def test_forms_that_round_differently_agree(tmp_path):
    image = image_of()
    image.set_sform(AFFINE + 1e-4 * np.eye(4)[:, :4] * [1, 1, 1, 0], code=1)

    assert load_scan(written(tmp_path, image)).notes == ()


def test_voxel_sizes_are_edge_lengths(tmp_path):
    turn = nib.eulerangles.euler2mat(0.3, 0.2, 0.1)
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([4.0, 5.0, 6.0])

    scan = load_scan(written(tmp_path, image_of(affine=affine)))

    assert np.allclose(scan.voxel_mm, [4, 5, 6], atol=1e-4)


# All 48 orientations go to PIL and back, voxel by voxel.


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
