from dataclasses import replace

import numpy as np
import pytest

from landmarking.cohort.anatomy import load_atlas
from landmarking.cohort.painting import paint
from landmarking.cohort.person import anatomy
from landmarking.cohort.phantom import PhantomSettings, Subject, make_head
from landmarking.cohort.scanner import scanner_frame
from landmarking.errors import ConfigError

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
