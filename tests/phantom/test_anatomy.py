import numpy as np
import pytest

from landmarking.phantom.anatomy import Volume, load_atlas


@pytest.fixture(scope="module")
def volume():
    data = np.random.default_rng(0).integers(1, 9, (6, 7, 8)).astype(np.float32)
    return Volume(data, np.array([-4.0, 10.0, 3.0]), 1.5)


def test_volumes_are_linear_between_voxels_and_go_on_at_their_edges(volume):
    index = np.array([[2.0, 3.0, 4.0], [2.5, 3.0, 4.0], [-9.0, 3.0, 4.0]]).T
    at = (volume.origin_mm[:, None] + 1.5 * index).astype(np.float32)
    data = volume.data
    expected = [data[2, 3, 4], 0.5 * (data[2, 3, 4] + data[3, 3, 4]), data[0, 3, 4]]
    assert volume.at(at) == pytest.approx(expected, abs=1e-4)


def test_the_nearest_voxel_is_found_and_nothing_beyond_the_grid(volume):
    index = np.stack(np.meshgrid(*(np.arange(-2, size + 2) for size in volume.data.shape)))
    index = index.reshape(3, -1)
    off = np.random.default_rng(1).uniform(-0.45, 0.45, index.shape)
    at = (volume.origin_mm[:, None] + 1.5 * (index + off)).astype(np.float32)
    within = ((index >= 0) & (index < np.array(volume.data.shape)[:, None])).all(0)
    expected = np.where(within, volume.data[tuple(np.where(within, index, 0))], 0)
    np.testing.assert_array_equal(volume.nearest(at), expected)


def test_the_atlas_knows_brain_face_and_cortex():
    atlas = load_atlas()
    # Thalamus, parietal cortex, nose and air above the head.
    places = np.array([[8.0, -18, 8], [30, -40, 58], [0, 85, -45], [0, 0, 105]]).T
    outside, body, cortex = atlas.smooth.at(places.astype(np.float32))
    assert (outside[:2] < 0.0).all()
    assert (outside[2:] > 10.0).all()
    assert (body[2], body[3]) == (1.0, 0.0)
    assert cortex[0] < 0.05 < 0.9 < cortex[1]
