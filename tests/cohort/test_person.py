from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from landmarking.cohort.anatomy import load_atlas
from landmarking.cohort.deformity import DownSyndromeSettings
from landmarking.cohort.person import anatomy
from landmarking.cohort.phantom import Subject
from landmarking.cohort.scanner import scanner_frame
from landmarking.geometry import apply_affine
from landmarking.landmarks import landmark_set


def test_landmarks_are_where_the_warp_meets_the_template(coarse):
    template = landmark_set("afids32").template_mm
    for group in ("train", "DS"):
        frame = scanner_frame(coarse.scanner, np.random.default_rng(0))
        body = anatomy(coarse, Subject(group, 0), frame)
        assert np.abs(body.warp.at(body.voxels) - template).max() < 1e-5
        assert body.jacobian_min > 0.0
        assert body.warp.jacobian(every=1).min() > 0.0


def test_a_landmark_is_found_again_in_the_image(coarse):
    """A blob painted at the template's AC appears in the head at the AC that is recorded."""
    scanner = replace(coarse.scanner, voxel_mm=[1.5, 1.5])
    frame = scanner_frame(scanner, np.random.default_rng(1))
    body = anatomy(coarse, Subject("train", 2), frame)
    goal = landmark_set("afids32").template_mm[0]
    offset = body.warp.grid() - goal.astype(np.float32)[:, None, None, None]
    blob = np.exp(-0.5 * (offset**2).sum(0) / 1.5**2)
    centre = ndimage.center_of_mass(blob)
    assert centre == pytest.approx(body.voxels[0], abs=0.1)


def test_hemispheres_differ_as_in_people(coarse):
    gaps = []
    for index in range(3):
        frame = scanner_frame(coarse.scanner, np.random.default_rng(index))
        points = apply_affine(frame.affine, anatomy(coarse, Subject("HS", index), frame).voxels)
        pairs = points[[5, 7, 14, 16, 20, 22]], points[[6, 8, 15, 17, 21, 23]]
        lengths = [np.linalg.norm(side - points[0], axis=-1) for side in pairs]
        gaps.append(np.abs(lengths[0] - lengths[1]).mean())
    assert min(gaps) > 0.2


def test_ds_heads_are_shorter_with_a_small_cerebellum(coarse):
    plain = {name: 1.0 for name in DownSyndromeSettings.__dataclass_fields__ if name != "spread"}
    without = replace(coarse, syndrome=DownSyndromeSettings(**plain, spread=0.0))
    typical = replace(coarse, syndrome=DownSyndromeSettings(spread=0.0))
    frame = scanner_frame(coarse.scanner, np.random.default_rng(0))
    atlas = load_atlas()

    def volumes(settings):
        body = anatomy(settings, Subject("DS", 0), frame)
        points = body.warp.grid().reshape(3, -1)
        brain = points[:, atlas.smooth.at(points)[0] < 0.0]
        cerebellum = (brain[2] < -20.0) & (brain[1] < -45.0) & (np.abs(brain[0]) < 40.0)
        return brain.shape[1], cerebellum.sum()

    whole, cerebellum = volumes(without)
    whole_ds, cerebellum_ds = volumes(typical)
    assert whole_ds < 0.95 * whole
    assert cerebellum_ds / whole_ds < 0.9 * cerebellum / whole
