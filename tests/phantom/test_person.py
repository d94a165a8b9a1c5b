from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from landmarking.errors import ConfigError
from landmarking.geometry import apply_affine
from landmarking.landmarks import landmark_set
from landmarking.phantom.anatomy import load_atlas
from landmarking.phantom.paint import paint
from landmarking.phantom.person import PhantomSettings, Subject, anatomy, make_head
from landmarking.phantom.scanner import scanner_frame
from landmarking.phantom.shape import DownSyndromeSettings


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


MIDLINE = [0, 1, 2, 3, 4, 9, 10, 13, 18, 19]


def test_a_head_is_the_same_whenever_it_is_made(coarse, head):
    make_head(coarse, Subject("HS", 5))
    again = make_head(coarse, Subject("train", 0))
    assert np.array_equal(again.data, head.data)
    assert np.array_equal(again.landmarks_mm, head.landmarks_mm)
    assert again.record == head.record


def test_heads_of_other_subjects_seeds_and_groups_differ(coarse, head):
    others = (
        make_head(coarse, Subject("train", 1)),
        make_head(coarse, Subject("HS", 0)),
        make_head(replace(coarse, seed=1), Subject("train", 0)),
    )
    for other in others:
        assert np.abs(other.landmarks_mm - head.landmarks_mm).max() > 1.0


def test_scans_of_one_person_share_the_anatomy(coarse, head):
    later = make_head(coarse, Subject("train", 0, scan=1))

    def distances(points):
        return np.linalg.norm(points[:, None] - points[None], axis=-1)

    assert np.abs(distances(later.landmarks_mm) - distances(head.landmarks_mm)).max() < 1.0
    assert np.abs(later.landmarks_mm - head.landmarks_mm).max() > 1.0
    assert later.record["age"] == head.record["age"] + 1


def test_white_matter_and_ventricles_are_painted_where_the_template_has_them(coarse):
    frame = scanner_frame(coarse.scanner, np.random.default_rng(1))
    body = anatomy(coarse, Subject("HS", 2), frame)
    chance = np.random.default_rng(0)
    image, tissues = paint(coarse.paint, load_atlas(), body.warp, body.age, chance, chance)
    # Inside of the splenium, body of a lateral ventricle, centrum semiovale.
    places = np.array([[0.0, -36.0, 10.0], [-8.0, 0.0, 19.0], [28.0, -20.0, 32.0]])
    i, j, k = np.rint(body.warp.inverse(places)).astype(int).T
    splenium, ventricle, white = image[i, j, k]
    assert ventricle < 0.6 * splenium
    assert white == pytest.approx(1.0, abs=0.25)
    assert tissues[1, i[2], j[2], k[2]] > 150 > tissues[2, i[2], j[2], k[2]]


def test_the_true_plane_holds_the_midline_landmarks(head):
    distance = head.plane.distance_mm(head.landmarks_mm[MIDLINE])
    assert np.abs(distance).max() < 3.0
    right, left = head.landmarks_mm[20], head.landmarks_mm[21]
    assert head.plane.distance_mm(left) > 20.0
    assert head.plane.distance_mm(right) < -20.0


def test_tissues_are_shares_of_the_brain(head):
    total = head.tissues.astype(int).sum(0)
    inside = total > 0
    assert np.abs(total[inside] - 255).max() <= 2
    litres = (
        head.tissues.sum(axis=(1, 2, 3)) / 255.0 * abs(np.linalg.det(head.affine[:3, :3])) / 1e6
    )
    assert 0.4 < litres[0] < 1.2
    assert 0.3 < litres[1] < 0.9


@pytest.mark.parametrize(
    "values",
    [{"train": -1}, {"train": 0, "healthy": 0, "down_syndrome": 0}, {"scans_per_person": 9}],
)
def test_counts_that_make_no_cohort_are_refused(values):
    with pytest.raises(ConfigError, match="phantom"):
        PhantomSettings(**values)


def test_the_digest_follows_what_decides_a_head_and_not_how_many(coarse):
    assert replace(coarse, train=99, label="other").digest() == coarse.digest()
    assert replace(coarse, seed=4).digest() != coarse.digest()
