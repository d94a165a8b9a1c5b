"""Painted slices: exact landmarks, the pipeline's histogram, and variety."""

import numpy as np
import pytest
import torch

from landmarking.data.painting import HistogramMatcher, PaintSettings, blurred, paint, scaled
from landmarking.data.people import CHANNELS, MARGIN_PX, PeopleSettings, TemplatePeople, load_slab
from landmarking.data.warp import Chance
from landmarking.errors import ConfigError
from landmarking.imaging import intensity
from landmarking.imaging.intensity import match_histogram
from landmarking.imaging.pipeline import PreprocessSettings, histogram_reference, template_slice

STILL = PeopleSettings(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def test_the_slab_lies_on_the_pixels_of_the_pipeline_s_template_slice() -> None:
    settings = PreprocessSettings()
    slab = load_slab(settings)
    inner = slice(MARGIN_PX, -MARGIN_PX)
    t1 = slab.pairs[0, CHANNELS.index("t1"), inner, inner].numpy()
    np.testing.assert_allclose(t1[:130], template_slice(settings)[:130], atol=2e-3)


def test_people_who_do_not_differ_are_the_template() -> None:
    slab = load_slab(PreprocessSettings())
    # The mean of the 60 people stands in for the template's own points, so pull it there.
    same = TemplatePeople(
        type(slab)(slab.pairs, slab.landmarks_px, slab.landmarks_px, slab.modes_px, slab.size, 1.0),
        STILL,
    )
    people = same.draw(Chance(0, 0, torch.arange(2)))
    torch.testing.assert_close(
        people.points_px, slab.landmarks_px.expand(2, -1, -1), rtol=0, atol=1e-3
    )
    inner = slice(MARGIN_PX, -MARGIN_PX)
    for channel in range(len(CHANNELS)):
        torch.testing.assert_close(
            people.maps[0, channel], slab.pairs[0, channel, inner, inner], rtol=0, atol=5e-3
        )


def test_landmarks_are_where_the_anatomy_went() -> None:
    """Put a blob of its own in place of a map, at each landmark, and find it again."""
    slab = load_slab(PreprocessSettings())
    column, side = 0, slab.pairs.shape[-1]
    centre = slab.landmarks_px[column] + MARGIN_PX
    axis = torch.arange(side, dtype=torch.float32)
    blob = torch.exp(
        -((axis - centre[0]) ** 2)[None] / 18 - ((axis - centre[1]) ** 2)[:, None] / 18
    )
    pairs = slab.pairs.clone()
    pairs[:, 1] = blob
    pairs[:, len(CHANNELS) + 1] = blob
    marked = type(slab)(
        pairs, slab.landmarks_px, slab.mean_px, slab.modes_px, slab.size, slab.spacing_mm
    )
    people = TemplatePeople(marked, columns=(column,)).draw(Chance(0, 0, torch.arange(6)))
    seen = people.maps[:, 1].double() ** 4
    x = (seen.sum(1) @ torch.arange(150).double()) / seen.sum((1, 2))
    y = (seen.sum(2) @ torch.arange(150).double()) / seen.sum((1, 2))
    away = (torch.stack([x, y], -1) - people.points_px[:, 0]).norm(dim=-1)
    # The centre of mass of a bent blob is not quite its peak.
    assert float(away.max()) < 0.25


def test_drawn_shapes_vary_as_the_people_do() -> None:
    slab = load_slab(PreprocessSettings())
    only_shape = PeopleSettings(1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    drawn = TemplatePeople(slab, only_shape).draw(Chance(0, 0, torch.arange(150))).points_px
    distance = (drawn[:, 0] - drawn[:, 1]).norm(dim=-1)
    # AC-PC of the 60 people, in plane: 26.6 mm, SD 1.4.
    assert abs(float(distance.mean()) - 26.6) < 0.6
    assert 0.8 < float(distance.std()) < 1.8


def test_histograms_are_matched_as_the_pipeline_matches_them() -> None:
    reference = histogram_reference(PreprocessSettings())
    rng = np.random.default_rng(0)
    images = rng.gamma(2.0, 30.0, (2, 150, 150)).astype(np.float32)
    images[1, :40] = 0.0
    images[1, 120:] *= 0.01
    matched = HistogramMatcher(reference)(torch.from_numpy(images)[:, None])[:, 0].numpy()
    for ours, image in zip(matched, images, strict=True):
        expected = match_histogram(image, reference)
        assert np.abs(ours - expected).mean() < 0.002
        assert np.quantile(np.abs(ours - expected), 0.99) < 0.02


def test_slices_are_scaled_as_the_pipeline_scales_them() -> None:
    images = np.random.default_rng(0).gamma(2.0, 30.0, (2, 150, 150)).astype(np.float32)
    images[1, :40] = 0.0
    ours = scaled(torch.from_numpy(images)[:, None])[:, 0].numpy()
    for one, image in zip(ours, images, strict=True):
        assert np.abs(one - intensity.scaled(image)).max() < 1e-3


def test_painted_slices_are_finite_varied_and_the_same_again() -> None:
    slab = load_slab(PreprocessSettings())
    chance = Chance(0, 0, torch.arange(4))
    people = TemplatePeople(slab).draw(chance)
    images = paint(people.maps, chance, PaintSettings())
    assert images.shape == (4, 1, 150, 150)
    assert torch.isfinite(images).all()
    assert float(images.min()) >= 0.0
    assert float(torch.corrcoef(images.flatten(1)).fill_diagonal_(0).max()) < 0.95
    chance = Chance(0, 0, torch.arange(4))
    people = TemplatePeople(slab).draw(chance)
    torch.testing.assert_close(paint(people.maps, chance, PaintSettings()), images, rtol=0, atol=0)


def test_tissues_keep_their_order() -> None:
    slab = load_slab(PreprocessSettings())
    chance = Chance(0, 0, torch.arange(8))
    people = TemplatePeople(slab, STILL).draw(chance)
    calm = PaintSettings(folds=0.0, noise=0.0, bias=0.0, cut=0.0, blur_px=(0.3, 0.3))
    images = paint(people.maps, chance, calm)[:, 0]
    grey, white = (people.maps[:, CHANNELS.index(name)] for name in ("grey", "white"))
    inside = people.maps[:, CHANNELS.index("distance")] < -3
    for image, g, w, i in zip(images, grey, white, inside, strict=True):
        fluid = i & (g + w < 0.1) & (people.maps[0, CHANNELS.index("cortex")] < 0.1)
        assert image[w > 0.9].mean() > image[(g > 0.9) & i].mean() > image[fluid].mean()


def test_blur_keeps_the_mean_and_spreads_a_point_by_its_own_width() -> None:
    images = torch.zeros(2, 31, 31)
    images[:, 15, 15] = 1.0
    out = blurred(images, torch.tensor([[1.0, 0.6], [0.7, 1.2]]))
    torch.testing.assert_close(out.sum((1, 2)), torch.ones(2))
    axis = torch.arange(31.0) - 15
    wide = (out.sum(1) @ axis**2).sqrt(), (out.sum(2) @ axis**2).sqrt()
    torch.testing.assert_close(wide[0], torch.tensor([1.0, 0.7]), rtol=0, atol=0.03)
    torch.testing.assert_close(wide[1], torch.tensor([0.6, 1.2]), rtol=0, atol=0.03)


@pytest.mark.parametrize(
    ("values", "said"),
    [({"grey": (0.8, 0.4)}, "paint.grey is"), ({"noise": -1.0}, "paint.noise is not negative")],
)
def test_settings_out_of_range_are_refused(values: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        PaintSettings(**values)  # type: ignore[arg-type]
