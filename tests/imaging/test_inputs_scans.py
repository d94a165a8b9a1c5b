"""Scans of other hands: a table of what is read, and of what is refused in words.

A new example is one line: its name, what makes the file from a folder, and for those that are
refused the words to look for. `-k inputs` runs all such tables.
"""

import gzip
import logging

import nibabel as nib
import numpy as np
import pytest

from landmarking.errors import ScanError
from landmarking.geometry import apply_affine, rigid_matrix
from landmarking.imaging.formats import scan_sha256
from landmarking.imaging.scan import as_scan, load_scan

SHAPE = (40, 36, 44)
DATA = np.random.default_rng(0).integers(1, 4000, SHAPE, dtype=np.int16)
DATA[:4] = 0
AFFINE = rigid_matrix(9, -6, 5) @ np.array(
    [[4.0, 0, 0, -80], [0, 4.5, 0, -80], [0, 0, 5, -100], [0, 0, 0, 1]]
)
LPS = np.diag([-1.0, -1, 1, 1]) @ AFFINE
MILLI, KILO = np.diag([1e-3, 1e-3, 1e-3, 1]), np.diag([1e3, 1e3, 1e3, 1])


def nifti(data=DATA, affine=AFFINE, sform=1, qform=1, unit="mm", **fields):
    image = nib.Nifti1Image(data, affine)
    image.set_sform(affine, code=sform)
    image.set_qform(affine, code=qform)
    image.header.set_xyzt_units(unit)
    for key, value in fields.items():
        image.header[key] = value
    return image


def saved(name="scan.nii.gz", image=None, **more):
    def make(folder):
        nib.save(nifti(**more) if image is None else image(), folder / name)
        return folder / name

    return make


def bytes_of(name, change, source="scan.nii"):
    """A file of that name with the changed bytes of a good one."""

    def make(folder):
        image = nib.MGHImage(PLAIN, AFFINE) if source.endswith(".mgh") else nifti()
        nib.save(image, folder / source)
        content = change((folder / source).read_bytes())
        (folder / source).unlink()
        (folder / name).write_bytes(content)
        return folder / name

    return make


def no_orientation(raw):
    # goodRASFlag of MGH is a short at byte 28.
    return raw[:28] + b"\0\0" + raw[30:]


def patched(at, value, dtype="<f4"):
    content = np.array([value], dtype).tobytes()
    return bytes_of("scan.nii", lambda raw: raw[:at] + content + raw[at + len(content) :])


def with_nan(value, where=DATA == 0):
    data = DATA.astype(np.float32)
    data[where] = value
    return data


def pair(kind=nib.Nifti1Pair, zipped=False, named=".img"):
    def make(folder):
        nib.save(kind(DATA, AFFINE), folder / "scan.img")
        if zipped:
            for end in (".hdr", ".img"):
                path = folder / f"scan{end}"
                (folder / f"scan{end}.gz").write_bytes(gzip.compress(path.read_bytes()))
                path.unlink()
        return folder / f"scan{named}{'.gz' if zipped else ''}"

    return make


def nrrd(space="left-posterior-superior", **more):
    def make(folder):
        library = pytest.importorskip("nrrd", reason='needs pip install "landmarking[formats]"')
        signs = {"left-posterior-superior": LPS, "RAS": AFFINE}.get(space, LPS)
        header = {"space directions": signs[:3, :3].T, "space origin": signs[:3, 3], **more}
        if space:
            header["space"] = space
        library.write(str(folder / "scan.nrrd"), DATA, header)
        return folder / "scan.nrrd"

    return make


def dataset(series):
    """What every file of a series has, and what must not leave it."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    found = Dataset()
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    found.SOPClassUID = found.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
    found.SOPInstanceUID = found.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    found.SeriesInstanceUID, found.SeriesNumber = series, 5
    found.PatientName, found.PatientID, found.Modality = "Doe^Jane", "4711", "MR"
    found.SamplesPerPixel, found.PhotometricInterpretation = 1, "MONOCHROME2"
    found.BitsAllocated, found.BitsStored, found.HighBit, found.PixelRepresentation = 16, 16, 15, 0
    found.Rows, found.Columns = SHAPE[1], SHAPE[0]
    return found


def decimals(values):
    return [float(f"{value:.7f}") for value in values]


SIZES = np.linalg.norm(AFFINE[:3, :3], axis=0)
AXES = decimals((LPS[:3, :2] / SIZES[:2]).T.ravel())
PLACES = [decimals(apply_affine(LPS, [0, 0, k])) for k in range(SHAPE[2])]


def dicom(*, drop=(), twice=False, lean_mm=0.0, place=True, colour=False):
    """A folder of slices whose names and numbers say nothing about their order."""

    def make(folder):
        pytest.importorskip("pydicom", reason='needs pip install "landmarking[formats]"')
        root = folder / "series"
        root.mkdir()
        order = np.random.default_rng(1).permutation(SHAPE[2])
        for number, k in enumerate(order):
            if k in drop:
                continue
            for copy in range(1 + twice):
                file = dataset("1.2.3.4")
                if place:
                    file.ImagePositionPatient = [
                        *PLACES[k][:1],
                        PLACES[k][1] + lean_mm * k,
                        PLACES[k][2],
                    ]
                    file.ImageOrientationPatient = AXES
                file.PixelSpacing = [SIZES[1], SIZES[0]]
                file.PixelData = DATA[:, :, k].T.astype("<u2").tobytes()
                file.RescaleSlope, file.RescaleIntercept = "2", "10"
                file.save_as(root / f"IM{number}{copy}", enforce_file_format=True)
        (root / "DICOMDIR").write_bytes(b"x" * 200)
        return root

    return make


def frames(folder):
    """An enhanced file whose frames lie in any order."""
    pytest.importorskip("pydicom", reason='needs pip install "landmarking[formats]"')
    from pydicom.dataset import Dataset

    def group(sequence, **values):
        outer, inner = Dataset(), Dataset()
        for key, value in values.items():
            setattr(inner, key, value)
        setattr(outer, sequence, [inner])
        return outer

    order = np.random.default_rng(1).permutation(SHAPE[2])
    file = dataset("1.2.3.5")
    shared = group("PixelMeasuresSequence", PixelSpacing=[SIZES[1], SIZES[0]])
    shared.update(group("PlaneOrientationSequence", ImageOrientationPatient=AXES))
    scale = {"RescaleSlope": "2", "RescaleIntercept": "10"}
    shared.update(group("PixelValueTransformationSequence", **scale))
    file.SharedFunctionalGroupsSequence = [shared]
    file.PerFrameFunctionalGroupsSequence = [
        group("PlanePositionSequence", ImagePositionPatient=PLACES[k]) for k in order
    ]
    file.NumberOfFrames = SHAPE[2]
    file.PixelData = DATA.transpose(2, 1, 0)[order].astype("<u2").tobytes()
    file.save_as(folder / "scan.dcm", enforce_file_format=True)
    return folder / "scan.dcm"


PLAIN = DATA.astype(np.float32)
RESCALED = 2 * PLAIN + 10

# What the file is, how it is made, and the intensities that come out of it.
READ = {
    "NIfTI": (saved(), PLAIN),
    "plain NIfTI called .nii.gz": (bytes_of("scan.nii.gz", lambda raw: raw), PLAIN),
    "gzip called .nii": (bytes_of("scan.nii", gzip.compress), PLAIN),
    "gzip in several members": (
        bytes_of("a.nii.gz", lambda raw: gzip.compress(raw[:999]) + gzip.compress(raw[999:])),
        PLAIN,
    ),
    "bytes after gzip": (
        bytes_of("a.nii.gz", lambda raw: gzip.compress(raw) + b"signature" * 99),
        PLAIN,
    ),
    "zeros after gzip": (bytes_of("a.nii.gz", lambda raw: gzip.compress(raw) + bytes(512)), PLAIN),
    "a few bytes after the voxels": (bytes_of("a.nii", lambda raw: raw + bytes(16)), PLAIN),
    "qform alone": (saved(sform=0), PLAIN),
    "sform alone": (saved(qform=0), PLAIN),
    "metres": (saved(affine=MILLI @ AFFINE, unit="meter"), PLAIN),
    "microns": (saved(affine=KILO @ AFFINE, unit="micron"), PLAIN),
    "one volume of four dimensions": (saved(data=DATA[..., None]), PLAIN),
    "NIfTI-2": (saved(image=lambda: nib.Nifti2Image(DATA, AFFINE)), PLAIN),
    "pair, by its image": (pair(), PLAIN),
    "pair, by its header": (pair(named=".hdr"), PLAIN),
    "pair, packed": (pair(zipped=True), PLAIN),
    "MGH": (saved("scan.mgh", lambda: nib.MGHImage(PLAIN, AFFINE)), PLAIN),
    "MGZ": (saved("scan.mgz", lambda: nib.MGHImage(PLAIN, AFFINE)), PLAIN),
    "NRRD of Slicer": (nrrd(), PLAIN),
    "NRRD in RAS": (nrrd("RAS"), PLAIN),
    "DICOM folder": (dicom(), RESCALED),
    "DICOM of many frames": (frames, RESCALED),
    "NaN background": (saved(data=with_nan(np.nan)), PLAIN),
    "infinite background": (saved(data=with_nan(-np.inf)), PLAIN),
    "CT numbers, air at -1024": (saved(data=(DATA - 1024).astype(np.int16)), PLAIN),
    "all below zero": (saved(data=(DATA - 9000).astype(np.int16)), PLAIN),
}

# What is wrong, how it is made, and words of the message.
REFUSED = {
    "sheared": (
        saved(affine=AFFINE @ (np.eye(4) + 0.05 * np.eye(4, k=1)), qform=0),
        "at right angles",
    ),
    "voxels said to begin at byte 0": (patched(108, 0.0), "vox_offset"),
    "voxels said to begin behind a half byte": (patched(108, 352.5), "vox_offset"),
    "NaN where voxels begin": (patched(108, np.nan), "vox_offset"),
    "sform of another scale": (saved(qform=0, pixdim=[1, 4.4, 4.9, 5.5, 0, 0, 0, 0]), "stretches"),
    "sform moved by 3 mm": (patched(292, AFFINE[0, 3] + 3), "differ by up to 3.0 mm"),
    "no orientation": (saved(sform=0, qform=0), "left and right are unknown"),
    "MGH without orientation": (bytes_of("a.mgh", no_orientation, "scan.mgh"), "left and right"),
    "MGH of zeros": (bytes_of("a.mgh", lambda _: b"\0\0\0\1" + bytes(9999)), "MGH header"),
    "NRRD without space": (nrrd(""), "left and right are unknown"),
    "thick slices": (
        saved(data=DATA[:, :, :24], affine=AFFINE),
        "at least 30 slices along each axis",
    ),
    "zeros": (saved(data=DATA * 0), "every voxel has the value 0"),
    "almost all NaN": (saved(data=with_nan(np.nan, DATA != 7)), "of the voxels are NaN"),
    "colour": (saved(data=np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])), "colour"),
    "time series": (saved(data=np.stack([DATA, DATA], -1)), "three dimensions"),
    "git LFS": (
        bytes_of("a.nii.gz", lambda _: b"version https://git-lfs.github.com/spec/v1\nsize 9\n"),
        "git lfs pull",
    ),
    "git-annex file": (
        bytes_of("a.nii.gz", lambda _: b"/annex/objects/MD5E-s9--00.nii.gz\n"),
        "datalad get",
    ),
    "a web page": (bytes_of("a.nii.gz", lambda _: b"<!DOCTYPE html><html>"), "web page"),
    "truncated": (bytes_of("a.nii", lambda raw: raw[:-999]), "truncated or damaged"),
    "truncated gzip": (bytes_of("a.nii.gz", lambda raw: gzip.compress(raw)[:-99]), "truncated"),
    "image of a pair alone": (bytes_of("a.img", lambda raw: raw), "found no a.hdr"),
    "DICOM without two slices": (dicom(drop=(20, 21)), "2 or more are missing"),
    "DICOM of two echoes": (dicom(twice=True), "two slices lie at one place"),
    "DICOM that leans": (dicom(lean_mm=0.5), "leans"),
    "DICOM without places": (dicom(place=False), "states no position"),
}


@pytest.fixture(autouse=True)
def quiet(caplog):
    caplog.set_level(logging.ERROR)


@pytest.mark.parametrize("example", READ)
def test_inputs_that_are_fine_are_read(tmp_path, example):
    make, expected = READ[example]
    scan = load_scan(make(tmp_path))
    assert scan.data.shape == SHAPE
    np.testing.assert_allclose(scan.data, expected, atol=1e-3)
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(SHAPE) - 1)
    moved = apply_affine(scan.affine, corners) - apply_affine(AFFINE, corners)
    assert np.abs(moved).max() < 0.01
    assert scan.notes == ()


@pytest.mark.parametrize("example", REFUSED)
def test_inputs_that_are_not_are_refused_in_words(tmp_path, example):
    make, words = REFUSED[example]
    path = make(tmp_path)
    with pytest.raises(ScanError) as caught:
        load_scan(path)
    message = str(caught.value)
    assert words in message
    assert str(path) in message
    assert ";" in message
    for secret in ("Error", "Exception", "Doe", "4711"):
        assert secret not in message


def test_inputs_from_an_annex_that_are_not_there_name_the_command(tmp_path):
    path = tmp_path / "sub-01_T1w.nii.gz"
    path.symlink_to("../../.git/annex/objects/aa/bb/MD5E-s9--00/MD5E-s9--00.nii.gz")
    with pytest.raises(ScanError, match=r"run `datalad get .*sub-01_T1w.nii.gz`"):
        load_scan(path)


def test_inputs_in_template_space_are_read_on_request(tmp_path):
    path = REFUSED["sform of another scale"][0](tmp_path)
    scan = load_scan(path, allow_scaled=True)
    np.testing.assert_allclose(scan.affine, AFFINE, atol=1e-4)
    assert "stretches the voxels" in scan.notes[0]


def test_inputs_with_doubts_are_noted(tmp_path):
    near = AFFINE.copy()
    near[0, 3] += 0.4
    image = nifti()
    image.set_sform(near, 1)
    nib.save(image, tmp_path / "near.nii")
    assert "differ by up to 0.4 mm" in load_scan(tmp_path / "near.nii").notes[0]
    nib.save(nifti(unit="meter"), tmp_path / "unit.nii")
    assert "those of a head in mm" in load_scan(tmp_path / "unit.nii").notes[0]
    nib.save(nifti(data=with_nan(np.nan, DATA == 77)), tmp_path / "holes.nii")
    assert "NaN or infinite" in load_scan(tmp_path / "holes.nii").notes[0]


def itk_image():
    itk = pytest.importorskip("SimpleITK")
    image = itk.GetImageFromArray(DATA.T.copy())
    image.SetSpacing(SIZES.tolist())
    image.SetDirection((LPS[:3, :3] / SIZES).ravel().tolist())
    image.SetOrigin(LPS[:3, 3].tolist())
    return image


@pytest.mark.parametrize(
    "make",
    [
        lambda: (nifti(),),
        lambda: (nib.MGHImage(PLAIN, AFFINE),),
        lambda: (nib.Spm99AnalyzeImage(DATA, AFFINE),),
        lambda: (itk_image(),),
        lambda: (DATA, AFFINE),
        lambda: (DATA.astype(np.float64), AFFINE.tolist()),
    ],
    ids=["nibabel NIfTI", "nibabel MGH", "nibabel other", "SimpleITK", "array", "list as affine"],
)
def test_inputs_in_memory_are_read_like_files(make):
    scan = as_scan(*make())
    np.testing.assert_allclose(scan.data, DATA)
    np.testing.assert_allclose(scan.affine, AFFINE, atol=1e-3)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ((DATA,), "an array needs affine="),
        ((DATA, np.eye(3)), "shape (4, 4)"),
        ((DATA, np.diag([0.1, 0.1, 0.1, 1])), "field of view"),
        ((DATA.astype(complex), AFFINE), "complex128"),
        ((nifti(affine=AFFINE @ (np.eye(4) + 0.1 * np.eye(4, k=1)), qform=0),), "right angles"),
        (({"data": 1},), "found dict"),
    ],
)
def test_inputs_in_memory_obey_the_rules_of_files(source, words):
    with pytest.raises(ScanError) as caught:
        as_scan(*source)
    assert words in str(caught.value)


def test_inputs_of_several_files_have_one_digest_of_all_their_bytes(tmp_path):
    path = pair()(tmp_path)
    before = scan_sha256(path)
    assert scan_sha256(path.with_suffix(".hdr")) == before
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert scan_sha256(path) != before
