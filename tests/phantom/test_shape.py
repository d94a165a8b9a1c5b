from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landmarking.errors import CohortError
from landmarking.geometry import apply_affine, rigid_matrix
from landmarking.landmarks import landmark_set, write_fcsv
from landmarking.phantom.shape import (
    AgeingSettings,
    DownSyndromeSettings,
    LocalScaling,
    ageing,
    align,
    align_all,
    down_syndrome,
    fit_shape_model,
    load_shape_model,
    main,
    read_people,
    scaled,
)


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


SHARED = Path(__file__).parents[2].parent / "shared" / "afids"
TEMPLATE = landmark_set("afids32").template_mm
ANGLES = st.floats(-40.0, 40.0)


@pytest.fixture(scope="module")
def people():
    rng = np.random.default_rng(5)
    model = load_shape_model()
    poses = [rigid_matrix(*rng.normal(0, 8, 3), rng.normal(0, 10, 3)) for _ in range(40)]
    return np.stack([apply_affine(pose, model.sample(rng)) for pose in poses])


@given(ANGLES, ANGLES, ANGLES)
@settings(max_examples=25, deadline=None)
def test_alignment_takes_any_pose_away(pitch, roll, yaw):
    moved = apply_affine(rigid_matrix(pitch, roll, yaw, (5.0, -9.0, 30.0)), TEMPLATE)
    assert np.abs(align(moved, TEMPLATE) - TEMPLATE).max() < 1e-9


def test_alignment_does_not_mirror():
    mirrored = TEMPLATE * [-1.0, 1.0, 1.0]
    assert np.linalg.norm(align(mirrored, TEMPLATE) - TEMPLATE, axis=1).max() > 10.0


def test_samples_have_the_statistics_of_the_model():
    model = load_shape_model()
    rng = np.random.default_rng(0)
    samples = np.stack([model.sample(rng) for _ in range(3000)])
    sd = np.sqrt((model.modes_mm**2).sum(0))
    assert np.abs(samples.mean(0) - model.mean_mm).max() < 0.6
    assert np.abs(samples.std(0) / sd - 1.0).max() < 0.06
    distance = np.linalg.norm(samples[:, 0] - samples[:, 1], axis=-1)
    assert (distance.mean(), distance.std()) == pytest.approx((26.6, 1.4), abs=0.15)


def test_no_sample_goes_beyond_the_limit():
    model, rng = load_shape_model(), np.random.default_rng(0)
    basis = model.modes_mm.reshape(len(model.modes_mm), -1)
    for _ in range(200):
        amounts = np.linalg.lstsq(
            basis.T, (model.sample(rng, limit_sd=1.0) - model.mean_mm).ravel(), rcond=None
        )[0]
        assert np.abs(amounts).max() < 1.0 + 1e-6


def test_a_fit_finds_the_model_that_made_the_people(people):
    fitted = fit_shape_model(people)
    aligned, mean = align_all(people, TEMPLATE)
    assert np.abs(mean - load_shape_model().mean_mm).max() < 6.0
    spread = np.sqrt((fitted.modes_mm**2).sum(0))
    assert spread == pytest.approx(aligned.std(0, ddof=1), rel=0.02, abs=0.02)


def test_the_order_of_people_does_not_matter(people):
    forward, backward = fit_shape_model(people), fit_shape_model(people[::-1])
    assert np.abs(forward.modes_mm - backward.modes_mm).max() < 1e-6


def test_people_are_read_and_other_frames_named(tmp_path, people):
    names = landmark_set("afids32").names
    for index, points in enumerate(people[:4]):
        file = tmp_path / f"set/sub-{index}_afids.fcsv"
        write_fcsv(file, dict(zip(names, points, strict=True)))
    assert np.abs(read_people(tmp_path) - people[:4]).max() < 1e-6
    wrong = dict(zip(names, people[4] * [-1.0, -1.0, 1.0] * 1.5, strict=True))
    write_fcsv(tmp_path / "sub-4_afids.fcsv", wrong)
    del wrong["AC"]
    write_fcsv(tmp_path / "sub-5_afids.fcsv", wrong)
    with pytest.raises(CohortError) as caught:
        read_people(tmp_path)
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        "sub-4_afids.fcsv",
        "sub-5_afids.fcsv",
    ]
    with pytest.raises(CohortError, match="at least three people"):
        read_people(tmp_path / "nothing")


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the AFIDs coordinates in ../shared")
def test_the_shipped_figures_are_those_that_the_command_gives(tmp_path):
    main([str(SHARED), "--out", str(tmp_path / "model.json")])
    shipped = Path(__file__).parents[2] / "landmarking/phantom/shape_model.json"
    assert (tmp_path / "model.json").read_text() == shipped.read_text()
