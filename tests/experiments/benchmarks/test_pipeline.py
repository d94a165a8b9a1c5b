"""What the pictures of the pipeline show is where they say it is."""

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure

import pipeline
from landmarking.geometry import Plane, SliceGeometry, apply_affine
from landmarking.imaging.scan import Scan
from registration import LandmarkedHead

AFFINE = np.array([[-2.0, 0, 0, 90], [0, 0, 2.0, -80], [0, 2.0, 0, -70], [0, 0, 0, 1]])


@pytest.mark.parametrize("up", [1, 2])
def test_a_view_shows_the_world_right_to_the_right_and_its_axis_up(up):
    voxels = np.stack(np.indices((90, 80, 85)), axis=-1)
    world = apply_affine(AFFINE, voxels)
    centre = np.array([1.0, 7.5, -3.25])
    for axis in range(3):
        seen = pipeline._sampled(world[..., axis], AFFINE, pipeline._view(centre, up))
        middle, reach = pipeline._HALF_MM, slice(pipeline._HALF_MM - 30, pipeline._HALF_MM + 31)
        steps = np.arange(-30.0, 31.0)
        expected = np.full((61, 61), centre[axis])
        expected += steps[None, :] * (axis == 0) + steps[:, None] * (axis == up)
        assert seen[reach, reach] == pytest.approx(expected, abs=1e-9)
        assert seen[middle, middle] == pytest.approx(centre[axis])


@pytest.mark.parametrize("up", [1, 2])
def test_the_trace_of_the_plane_lies_on_it(up):
    centre = np.array([2.0, -10.0, 5.0])
    plane = Plane.from_normal(np.array([1.0, 0.1, -0.2]), centre)
    panel = Figure().subplots()
    pipeline._trace(panel, plane, up)
    across, along = panel.lines[0].get_data()
    points = np.tile(centre, (2, 1))
    points[:, 0] += across
    points[:, up] += along
    assert points @ plane.normal == pytest.approx(centre @ plane.normal)
    assert np.ptp(along) == 2 * pipeline._HALF_MM


def test_landmarks_are_drawn_on_their_pixels():
    matrix = np.array([[0.0, 0, -1, 3], [-1, 0, 0, 90], [0, -1, 0, 60], [0, 0, 0, 1]])
    geometry = SliceGeometry(matrix, (100, 120))
    pixels = np.array([[10.0, 20.0], [55.5, 33.25]])
    panel = Figure().subplots()
    image = np.random.default_rng(0).random((100, 120))
    pipeline._slice(panel, image, geometry, geometry.to_world(pixels))
    assert np.column_stack(panel.lines[0].get_data()) == pytest.approx(pixels)


def test_six_panels_are_written_whole(tmp_path, monkeypatch):
    """The stages themselves are tested elsewhere; a head on its template needs none of them."""
    template = pipeline.load_template()
    head = LandmarkedHead("template", Scan(template.brain, template.affine, "t"), np.zeros((8, 3)))
    identity = type("Registered", (), {"world_to_common": np.eye(4), "quality": 1.0})()
    plane = Plane.from_normal(np.array([-1.0, 0.0, 0.0]), np.zeros(3))
    found = type("Found", (), {"plane": plane, "score": 0.9, "centre_mm": np.zeros(3)})()
    monkeypatch.setattr(pipeline, "register_stage", lambda *_: identity)
    monkeypatch.setattr(pipeline, "plane_stage", lambda *_: found)
    pipeline.draw(tmp_path / "new" / "picture.png", head)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["picture.png"]
    drawn = matplotlib.image.imread(tmp_path / "new" / "picture.png")[..., :3].mean(-1)
    rows = drawn.shape[0] // 2
    for row in (0, rows):
        for column in np.linspace(0, drawn.shape[1], 3, endpoint=False, dtype=int):
            panel = drawn[row : row + rows, column : column + drawn.shape[1] // 3]
            assert 0.05 < (panel < 0.5).mean() < 0.95
