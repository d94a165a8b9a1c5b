from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest

from landmarking.phantom.scanner import (
    ScannerFrame,
    ScannerSettings,
    acquire,
    reoriented,
    scanner_frame,
)

CODES = ["".join(c) for o in permutations(("LR", "PA", "IS")) for c in product(*o)]


@pytest.mark.parametrize("codes", CODES)
def test_any_orientation_keeps_the_world(codes):
    affine = np.diag([1.0, 1.2, 1.5, 1.0])
    affine[:3, 3] = -3.0, 7.0, -11.0
    data = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)
    frame = ScannerFrame(affine, (2, 3, 4), np.eye(4), np.array([1.0, 1.2, 1.5]), codes)
    turned, tissues, new_affine = reoriented(data, data[None].astype(np.uint8), frame)
    assert "".join(nib.aff2axcodes(new_affine)) == codes
    assert np.array_equal(tissues[0], turned)
    back = np.linalg.inv(affine) @ new_affine
    for index in np.ndindex(turned.shape):
        old = tuple(np.rint(back @ [*index, 1.0])[:3].astype(int))
        assert turned[index] == data[old]


def test_frames_vary_within_their_settings():
    settings = ScannerSettings(orientations=["PIL", "RAS"])
    frames = [scanner_frame(settings, np.random.default_rng(n)) for n in range(200)]
    voxels = np.stack([frame.voxel_mm for frame in frames])
    assert voxels.min() >= 0.8
    assert voxels.max() <= 1.3
    unequal = np.ptp(voxels, axis=1) > 0
    assert 0.15 < unequal.mean() < 0.45
    assert {frame.codes for frame in frames} == {"PIL", "RAS"}
    turns = [np.rad2deg(np.arccos((np.trace(f.pose[:3, :3]) - 1) / 2)) for f in frames]
    assert 2.0 < np.median(turns) < 15.0
    for frame in frames:
        assert np.linalg.det(frame.pose[:3, :3]) == pytest.approx(1.0)


def test_noise_is_rician_and_of_the_size_asked_for():
    settings = ScannerSettings(
        bias=0.0, noise=[0.05, 0.05], ghosts=0.0, ringing=0.0, blur_mm=0.31, gamma=0.0
    )
    settings.field_mm = [110.0, 90.0, 90.0]
    frame = scanner_frame(settings, np.random.default_rng(0))
    image = np.zeros(frame.shape, dtype=np.float32)
    image[: frame.shape[0] // 2] = 1.0
    data = acquire(settings, image, frame, np.random.default_rng(1)).astype(float)
    head, air = data[:40].ravel(), data[-40:].ravel()
    assert head.std() / head.mean() == pytest.approx(0.05, rel=0.05)
    # In air a Rician becomes a Rayleigh: its mean is 1.253 SD of the noise.
    assert air.mean() / head.mean() == pytest.approx(1.253 * 0.05, rel=0.05)


def test_ghosts_repeat_the_head_and_ringing_overshoots_its_edges():
    plain = {"bias": 0.0, "noise": [0.0, 0.0], "blur_mm": 0.31, "gamma": 0.0}
    frame = scanner_frame(ScannerSettings(field_mm=[60.0] * 3), np.random.default_rng(0))
    image = np.zeros(frame.shape, dtype=np.float32)
    middle = tuple(slice(size // 2 - 10, size // 2 + 10) for size in frame.shape)
    image[middle] = 1.0

    def made(**values):
        settings = ScannerSettings(**{"ghosts": 0.0, "ringing": 0.0, **plain, **values})
        data = acquire(settings, image, frame, np.random.default_rng(5)).astype(float)
        return data / data[tuple(size // 2 for size in frame.shape)]

    assert made()[:8].max() == made()[-8:].max() == 0.0
    assert made(ghosts=0.5).sum() > 1.05 * made().sum()
    assert made().max() < 1.02 < made(ringing=0.8).max()
