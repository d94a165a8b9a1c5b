"""Alignment against scipy, exact recoveries, and tests that hold their level."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import procrustes
from scipy.spatial.transform import Rotation

from landmarking.errors import ConfigError, LandmarkError
from landmarking.shape.procrustes import (
    KINDS,
    align,
    align_to,
    bent_grid,
    components,
    distance,
    mean_shape_test,
    procrustes_anova,
)

RNG = np.random.default_rng(0)


def turned(shape, rng, scale=True):
    """The same shape, moved, turned and scaled at random."""
    if shape.shape[1] == 3:
        matrix = Rotation.random(random_state=int(rng.integers(1 << 30))).as_matrix()
    else:
        angle = rng.uniform(0, 2 * np.pi)
        matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    factor = rng.uniform(0.5, 2.0) if scale else 1.0
    return factor * shape @ matrix.T + rng.normal(size=shape.shape[1]) * 10


def people(count, dimensions, rng, sd=0.05, landmarks=7):
    base = rng.normal(size=(landmarks, dimensions))
    return np.array([turned(base + sd * rng.normal(size=base.shape), rng) for _ in range(count)])


@pytest.mark.parametrize("dimensions", [2, 3])
def test_two_configurations_are_as_far_apart_as_scipy_says(dimensions):
    one, other = people(2, dimensions, RNG, sd=0.3)
    # scipy mirrors where that fits better, and gives the squared distance of the full fit.
    assert distance(one, other, reflect=True) ** 2 == pytest.approx(procrustes(one, other)[2])
    assert distance(one, other) >= distance(one, other, reflect=True) - 1e-12


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("kind", ["full", "partial"])
def test_the_same_shape_anywhere_is_the_same_shape(dimensions, kind):
    base = RNG.normal(size=(6, dimensions))
    points = np.array([turned(base, RNG) for _ in range(9)])
    aligned = align(points, kind=kind)
    assert np.ptp(aligned.points, axis=0).max() < 1e-9
    sizes = np.linalg.norm(points - points.mean(axis=1, keepdims=True), axis=(1, 2))
    np.testing.assert_allclose(aligned.size, sizes)
    assert np.linalg.norm(aligned.mean) == pytest.approx(1.0)


def test_form_keeps_the_size():
    base = RNG.normal(size=(5, 2))
    points = np.array([turned(base * s, RNG, scale=False) for s in (1.0, 1.0, 2.0)])
    aligned = align(points, kind="form")
    sizes = np.linalg.norm(aligned.points - aligned.points.mean(axis=1, keepdims=True), axis=(1, 2))
    assert sizes[2] == pytest.approx(2 * sizes[0])


def test_a_mirrored_shape_is_another_one_unless_reflections_are_allowed():
    base = RNG.normal(size=(6, 3))
    mirrored = base * [-1, 1, 1]
    assert distance(base, mirrored) > 0.1
    assert distance(base, mirrored, reflect=True) < 1e-9
    for one in align(np.array([base, mirrored, base])).points:
        volume = np.linalg.det(one[1:4] - one[0])
        assert np.sign(volume) == np.sign(np.linalg.det(one[1:4] - one[0]))


def test_missing_points_take_the_means_place_and_change_no_other():
    points = people(20, 2, RNG, sd=0.02)
    whole = align(points)
    gap = points.copy()
    gap[3, 2] = np.nan
    aligned = align(gap)
    assert aligned.filled == 1
    assert np.isfinite(aligned.points).all()
    np.testing.assert_allclose(aligned.points[3, 2], aligned.mean[2], atol=1e-6)
    # As a whole the shape may turn; distances between people stay.
    others = [n for n in range(20) if n != 3]
    for one, other in ((0, 1), (5, 9)):
        before = np.linalg.norm(whole.points[one] - whole.points[other])
        after = np.linalg.norm(aligned.points[one] - aligned.points[other])
        assert after == pytest.approx(before, rel=0.02)
    assert aligned.size[3] == pytest.approx(whole.size[3], rel=0.05)
    assert others


def test_who_lacks_too_much_is_left_out_and_nobody_left_is_refused():
    points = people(6, 2, RNG)
    points[0, :4] = np.nan
    points[1:, 6] = np.nan
    aligned = align(points)
    assert list(aligned.people) == [1, 2, 3, 4, 5]
    assert list(aligned.landmarks) == [0, 1, 2, 3, 4, 5]
    points[:, 2:] = np.nan
    with pytest.raises(LandmarkError, match="two people with 3 landmarks in common"):
        align(points)
    with pytest.raises(ConfigError, match=", ".join(KINDS)):
        align(points, kind="fool")


def test_others_are_aligned_to_a_mean_without_touching_it():
    points = people(12, 2, RNG)
    mean = align(points[:8]).mean
    placed, size = align_to(points[8:], mean)
    again, _ = align_to(points[8:] * 3 + 5, mean)
    np.testing.assert_allclose(placed, again, atol=1e-9)
    assert size == pytest.approx(
        np.linalg.norm(points[8:] - points[8:].mean(axis=1, keepdims=True), axis=(1, 2))
    )


def test_tangent_coordinates_are_at_right_angles_to_the_mean():
    aligned = align(people(10, 2, RNG))
    assert np.abs(aligned.tangent @ aligned.mean.ravel()).max() < 1e-12


def test_groups_that_differ_are_found_and_chance_is_not():
    rng = np.random.default_rng(5)
    base = rng.normal(size=(6, 2))
    moved = base + np.array([[0.15, 0.0], *[[0, 0]] * 5])
    label = ["a"] * 12 + ["b"] * 12

    def drawn(second):
        return np.array(
            [
                turned(mean + 0.04 * rng.normal(size=base.shape), rng)
                for mean in [base] * 12 + [second] * 12
            ]
        )

    assert mean_shape_test(align(drawn(moved)), label, permutations=199)["p"] == 1 / 200
    p = [mean_shape_test(align(drawn(base)), label, permutations=99)["p"] for _ in range(60)]
    assert 0.0 <= np.mean(np.array(p) <= 0.05) <= 0.15
    assert np.mean(p) == pytest.approx(0.5, abs=0.12)
    with pytest.raises(ConfigError, match="two groups are compared"):
        mean_shape_test(align(drawn(base)), ["a"] * 24)


def test_anova_adds_up_and_tells_group_from_size():
    rng = np.random.default_rng(6)
    base = rng.normal(size=(6, 2))
    growth = rng.normal(size=base.shape)
    group = np.repeat(["a", "b"], 20)
    log_size = rng.normal(0, 0.2, 40)
    points = np.array(
        [
            np.exp(s) * (base + 0.3 * s * growth + 0.02 * rng.normal(size=base.shape))
            for s in log_size
        ]
    )
    table = procrustes_anova(
        align(points), {"group": group, "size": []}, permutations=99
    ).set_index("factor")
    assert table["ss"].sum() == pytest.approx(table["ss"].sum() / table["r2"].sum())
    assert table["r2"].sum() == pytest.approx(1.0)
    assert table.loc["size", "p"] == 0.01
    assert table.loc["group", "p"] > 0.05
    assert table["df"].tolist() == [1, 1, 37]


def test_the_grid_is_straight_for_an_affine_change_and_goes_through_the_landmarks():
    mean = RNG.normal(size=(6, 2))
    matrix = np.array([[1.2, 0.3], [-0.1, 0.9]])
    for line in bent_grid(mean, mean @ matrix.T + 2):
        steps = np.diff(line, axis=0)
        assert np.ptp(steps, axis=0).max() < 1e-6
    assert len(bent_grid(mean, mean, lines=4)) == 8


def test_components_are_those_of_a_plain_decomposition():
    rng = np.random.default_rng(9)
    base = rng.normal(size=(6, 2))
    along = rng.normal(size=base.shape)
    points = np.array([turned(base + 0.2 * rng.normal() * along, rng) for _ in range(30)])
    aligned = align(points)
    found = components(aligned, 3)
    assert found.share[0] > 0.95  # people vary in one direction alone
    values = np.linalg.eigvalsh(np.cov(aligned.tangent.T))[::-1]
    np.testing.assert_allclose(found.share, values[:3] / values.sum(), atol=1e-9)
    spread = np.linalg.norm(found.shapes[0, 1] - aligned.mean)
    assert spread == pytest.approx(2 * np.sqrt(values[0]))
    np.testing.assert_allclose(found.shapes.mean(axis=1), np.stack([aligned.mean] * 3), atol=1e-12)
    np.testing.assert_allclose(found.scores.var(axis=0, ddof=1), values[:3], atol=1e-12)
