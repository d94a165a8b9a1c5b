import numpy as np
import pytest

from landmarking.cohort.deformity import (
    AgeingSettings,
    DownSyndromeSettings,
    LocalScaling,
    ageing,
    down_syndrome,
    scaled,
)
from landmarking.landmarks import landmark_set


def test_a_scaling_of_the_whole_head_is_a_scaling():
    change = LocalScaling((1.0, 2.0, 3.0), (np.inf,) * 3, (1.0, 0.8, 1.25))
    before = np.array([[10.0, -20.0, 30.0]])
    after = (before - [1.0, 2.0, 3.0]) * [1.0, 0.8, 1.25] + [1.0, 2.0, 3.0]
    assert scaled(after, [change]) == pytest.approx(before)


def test_a_local_scaling_ends_with_its_reach():
    change = LocalScaling((0.0, 0.0, 0.0), (10.0, 10.0, 10.0), (0.8, 0.8, 0.8))
    near, far = np.array([[1.0, 0.0, 0.0]]), np.array([[60.0, 0.0, 0.0]])
    # Looking back from a shrunk region leads outwards.
    assert scaled(near, [change])[0, 0] == pytest.approx(1.25, abs=0.01)
    assert scaled(far, [change]) == pytest.approx(far, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "size", "first", "second", "axis"),
    [
        ("head_length", 0.9, (0, 70, 0), (0, -100, 0), 1),
        ("callosum_front", 0.7, (0, 33, 8), (0, 27, 8), 1),
        ("callosum_length", 0.9, (0, 30, 10), (0, -30, 10), 1),
        ("pons", 0.85, (0, -18, -34), (0, -28, -34), 1),
        ("cerebellum", 0.8, (0, -60, -20), (0, -60, -45), 2),
        ("frontal", 0.9, (0, 60, 10), (0, 35, 10), 1),
        ("ventricles", 1.2, (18, -10, 18), (8, -10, 18), 0),
    ],
)
def test_each_parameter_alone_changes_its_structure(name, size, first, second, axis):
    ones = {key: 1.0 for key in DownSyndromeSettings.__dataclass_fields__ if key != "spread"}
    changes = down_syndrome(
        DownSyndromeSettings(**{**ones, name: size, "spread": 0.0}), np.random.default_rng(0)
    )
    ends = np.array([first, second], dtype=float)
    seen = np.diff(scaled(ends, changes)[:, axis])[0]
    # A structure that shrinks by `size` shows more of the template between two fixed points.
    ratio = np.diff(ends[:, axis])[0] / seen
    assert (ratio < 0.97) if size < 1 else (ratio > 1.03)
    neutral = down_syndrome(DownSyndromeSettings(**ones, spread=0.0), np.random.default_rng(0))
    assert scaled(ends, neutral) == pytest.approx(ends)


def test_subjects_differ_but_keep_the_direction():
    rng = np.random.default_rng(0)
    amounts = [down_syndrome(DownSyndromeSettings(), rng)[3].factor[0] for _ in range(300)]
    assert np.mean(amounts) == pytest.approx(0.87, abs=0.01)
    assert np.std(amounts) > 0.02
    assert max(amounts) < 1.0


def test_atrophy_grows_from_scan_to_scan_and_spares_the_young():
    settings = AgeingSettings(share=1.0)
    visits = [ageing(settings, np.random.default_rng(7), "train", scan) for scan in range(3)]
    assert [visit.years - visits[0].years for visit in visits] == pytest.approx([0, 1, 2])
    assert visits[0].atrophy < visits[1].atrophy < visits[2].atrophy
    assert visits[0].sulci_mm < visits[2].sulci_mm
    healthy = [ageing(settings, np.random.default_rng(n), "HS", 0).atrophy for n in range(50)]
    ill = [ageing(settings, np.random.default_rng(n), "train", 0).atrophy for n in range(50)]
    assert max(healthy) < 0.26 < np.mean(ill)


def test_ageing_widens_ventricles_and_thins_the_callosum():
    old = ageing(AgeingSettings(share=1.0), np.random.default_rng(7), "train", 5)
    wall = np.array([[8.0, -10.0, 18.0], [18.0, -10.0, 18.0]])
    assert np.diff(scaled(wall, old.changes)[:, 0])[0] < 10.0
    body = np.array([[0.0, 5.0, 20.0], [0.0, 5.0, 26.0]])
    assert np.diff(scaled(body, old.changes)[:, 2])[0] > 6.0
    # The commissures themselves hardly move.
    commissures = landmark_set("afids32").template_mm[:2]
    assert np.abs(scaled(commissures, old.changes) - commissures).max() < 1.5
