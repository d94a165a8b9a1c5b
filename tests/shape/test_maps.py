"""Deformations with a known answer, tests with a known level, landmarks that the data find."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from landmarking.errors import ConfigError, LandmarkError, ScanError
from landmarking.imaging.scan import Scan
from landmarking.imaging.template import block_average, load_template
from landmarking.landmarks import landmark_set
from landmarking.shape import maps
from landmarking.shape.data_driven import find_landmarks, hotelling_t2, write_set
from landmarking.shape.maps import Deformation, DeformJob, compare_maps, deform, template_grid


@pytest.fixture(scope="module")
def bent():
    """The template, larger by 10 % about the cerebellum, as a scan; the grid, and that bend."""
    template = load_template()
    data, affine = block_average(template.brain, template.affine, 2.0)
    world = np.moveaxis(np.indices(data.shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
    offset = world - [0.0, -60.0, -35.0]
    pull = np.exp(-(offset**2).sum(-1) / (2 * 25.0**2))[..., None] * 0.12 * offset
    # What lies at x in the template lies further out in the scan, so the scan looks further in.
    voxels = (world - pull - affine[:3, 3]) / np.diag(affine)[:3]
    moved = ndimage.map_coordinates(data, np.moveaxis(voxels, -1, 0), order=1)
    return Scan(moved.astype(np.float32), affine, "bent")


@pytest.mark.parametrize("method", ["demons", "affine"])
def test_a_known_bend_is_found_by_what_can_bend(bent, method):
    grid = template_grid(4.0)
    found = deform(bent, 4.0, method)
    point = np.array([[0.0, -60.0, -35.0]])
    index = tuple(np.rint((point[0] - grid.affine[:3, 3]) / 4.0).astype(int))
    volume = float(ndimage.gaussian_filter(found.log_jacobian, 1.5)[index])
    if method == "demons":
        assert volume > 0.1
        assert found.correlation > 0.93
    else:
        assert abs(volume) < 1e-6
    assert found.method == method
    # Far from the bend the template's points are where they were.
    far = np.array([[0.0, 45.0, 20.0], [30.0, 0.0, 40.0]])
    assert np.linalg.norm(found.carried(far) - far, axis=1).max() < 2.5


def test_the_jacobian_of_a_known_field_is_exact():
    x, y, z = np.meshgrid(*[4.0 * np.arange(8)] * 3, indexing="ij")
    move = np.stack([0.1 * x + 0.05 * y, -0.2 * y, 0.0 * z]).astype(np.float32)
    np.testing.assert_allclose(maps.log_jacobian(move, 4.0), np.log(1.1 * 0.8), atol=1e-5)


def test_points_are_carried_by_field_and_affine_part():
    grid = template_grid(4.0)
    shift = np.broadcast_to(
        np.array([1.0, -2.0, 3.0], np.float32)[:, None, None, None], (3, *grid.mask.shape)
    )
    to_common = np.diag([2.0, 2.0, 2.0, 1.0])
    to_common[:3, 3] = 5.0, 0.0, 0.0
    found = Deformation(shift, to_common, np.zeros(grid.mask.shape), 1.0, "demons", 4.0)
    points = np.array([[0.0, -10.0, 5.0], [7.0, 20.0, -30.0]])
    np.testing.assert_allclose(
        found.carried(points), (points + np.array([-4.0, -2.0, 3.0])) / 2, atol=1e-5
    )
    assert found.head_size == pytest.approx(0.5)


def test_a_deformation_is_kept_and_found_again(bent, tmp_path, monkeypatch):
    path = tmp_path / "bent.nii.gz"
    nib.save(nib.Nifti1Image(bent.data, bent.affine), path)
    job = DeformJob(path, "digest", tmp_path / "kept", 8.0, "affine")
    job.folder.mkdir()
    first, problem = maps.deformed(job)
    assert problem == ""
    monkeypatch.setattr(maps, "deform", None)
    again, _ = maps.deformed(job)
    np.testing.assert_array_equal(first.grey, again.grey)
    other = DeformJob(path, "digest", tmp_path / "kept", 8.0, "demons")
    assert other.path != job.path


def test_what_is_no_head_comes_back_as_words(tmp_path):
    noise = np.random.default_rng(0).normal(100, 10, (60, 60, 60)).astype(np.float32)
    path = tmp_path / "noise.nii.gz"
    nib.save(nib.Nifti1Image(noise, np.diag([3.0, 3.0, 3.0, 1.0])), path)
    job = DeformJob(path, "d", tmp_path, 8.0, "affine")
    found, problem = maps.deformed(job)
    assert found is None
    assert "noise" in problem
    assert not job.path.exists()
    with pytest.raises(ScanError):
        deform(Scan(noise, np.diag([3.0, 3.0, 3.0, 1.0]), "noise"))


def test_methods_that_are_not_there_are_refused(monkeypatch):
    with pytest.raises(ConfigError, match="auto, syn, demons, affine"):
        maps.method_here("spm")
    monkeypatch.setattr(maps, "find_spec", lambda _: None)
    assert maps.method_here("auto") == "affine"
    with pytest.raises(ConfigError, match=r"landmarking\[framework\]"):
        maps.method_here("syn")
    monkeypatch.setattr(maps, "find_spec", lambda name: name == "SimpleITK" or None)
    assert maps.method_here("auto") == "demons"


def test_a_difference_is_found_where_it_is_and_a_covariate_takes_its_own():
    rng = np.random.default_rng(0)
    second = np.arange(40) % 2 == 1
    age = rng.normal(70, 5, 40)
    values = rng.normal(size=(40, 60))
    values[:, 10] += 3.0 * second
    values[:, 20] += age
    found = compare_maps(values, second, {"age": age, "constant": np.ones(40)}, permutations=200)
    assert found.p[10] < 0.05
    assert found.t[10] > 4
    assert found.difference[10] == pytest.approx(3.0, abs=1.2)
    assert (np.delete(found.p, 10) > 0.05).all()


def test_under_exchanged_labels_the_family_wise_error_is_about_five_percent():
    rng = np.random.default_rng(1)
    hits = []
    for seed in range(40):
        values = rng.normal(size=(24, 50))
        second = rng.permutation(np.arange(24) < 12)
        found = compare_maps(values, second, {}, permutations=100, seed=seed)
        hits.append((found.p < 0.05).any())
    assert np.mean(hits) <= 0.15


def deformations(moves, grid):
    still = np.zeros(grid.mask.shape, np.float32)
    return [Deformation(move, np.eye(4), still, 1.0, "demons", grid.spacing_mm) for move in moves]


def test_hotelling_is_students_t_squared_in_one_dimension():
    from scipy.stats import ttest_ind

    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(9, 5, 1)), rng.normal(size=(12, 5, 1))
    expected = ttest_ind(a[..., 0], b[..., 0]).statistic ** 2
    np.testing.assert_allclose(hotelling_t2(a, b), expected, rtol=1e-5)


def test_landmarks_are_found_where_the_groups_differ_and_nowhere_else(tmp_path):
    grid = template_grid(4.0)
    rng = np.random.default_rng(4)
    world = np.moveaxis(np.indices(grid.mask.shape), 0, -1) * 4.0 + grid.affine[:3, 3]
    places = [np.array([0.0, -50.0, -20.0]), np.array([0.0, 30.0, 10.0])]
    moves, alike = [], []
    second = np.arange(24) % 2 == 1
    for side in second:
        noise = rng.normal(size=(3, *grid.mask.shape)).astype(np.float32)
        move = np.stack([ndimage.gaussian_filter(each, 2.0) for each in noise]) * 8
        alike.append(move.astype(np.float32))
        for place in places:
            if side:
                move[1] += 4.0 * np.exp(-((world - place) ** 2).sum(-1) / (2 * 8.0**2))
        moves.append(move.astype(np.float32))
    found = find_landmarks(deformations(moves, grid), second, grid, draws=60)
    nearest = [np.linalg.norm(found.points_mm - place, axis=1).min() for place in places]
    assert max(nearest) <= 8.0
    assert len(found.points_mm) <= 4
    apart = np.linalg.norm(found.points_mm[:, None] - found.points_mm, axis=-1)
    assert (apart[~np.eye(len(apart), dtype=bool)] >= 10.0).all()
    write_set(tmp_path / "found.json", found.landmark_set())
    again = landmark_set(str(tmp_path / "found.json"))
    assert again.names == tuple(f"D{n}" for n in range(1, len(found.points_mm) + 1))
    np.testing.assert_allclose(again.template_mm, found.points_mm)
    with pytest.raises(LandmarkError, match="beyond chance"):
        find_landmarks(deformations(alike, grid), second, grid, draws=60)


@pytest.mark.parametrize(
    ("body", "says"),
    [(None, "cannot be read"), ({"name": "x"}, "is no landmark set"),
     ({"name": "x", "landmarks": []}, "needs landmarks")],
)  # fmt: skip
def test_a_file_that_is_no_landmark_set_is_refused(tmp_path, body, says):
    path = tmp_path / "set.json"
    if body is not None:
        path.write_text(json.dumps(body))
    with pytest.raises(LandmarkError, match=says):
        landmark_set(str(path))


def test_the_phantoms_truth_is_its_own_warp(coarse):
    from landmarking.phantom.person import Subject

    grid = template_grid(8.0)
    one = maps.true_deformation(coarse, Subject("HS", 0), grid)
    again = maps.true_deformation(coarse, Subject("HS", 0), grid)
    other = maps.true_deformation(coarse, Subject("HS", 1), grid)
    np.testing.assert_array_equal(one, again)
    inside = one[:, grid.mask]
    assert 0.5 < np.linalg.norm(inside, axis=0).mean() < 8.0
    assert np.abs(inside.mean(axis=1)).max() < 1e-6  # the affine part is apart
    assert np.abs(one - other)[:, grid.mask].max() > 1.0
