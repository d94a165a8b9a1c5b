"""Histogram matching and normalisation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.exposure import match_histograms

from landmarking.errors import ConfigError, ScanError
from landmarking.imaging.intensity import (
    BRIGHTEST,
    Reference,
    finished,
    match_histogram,
    mean_quantiles,
    normalise,
    normalise_images,
    read_reference,
    save_reference,
    scaled,
)

RNG = np.random.default_rng(0)
BRAIN = np.zeros((40, 40), dtype=bool)
BRAIN[10:30, 8:32] = True


def head(seed=0, scalp=0.0):
    """Smooth tissue in the brain, air about it, and a rim of scalp."""
    rng = np.random.default_rng(seed)
    image = np.zeros((40, 40))
    image[BRAIN] = rng.uniform(0.3, 0.8, BRAIN.sum())
    image[5:8] = scalp
    return image


def test_within_the_region_the_histogram_is_scikit_images():
    image, reference = head(1), Reference(head(2).astype(np.float32), BRAIN, "template")

    matched = match_histogram(image, reference)

    expected = match_histograms(image[BRAIN].astype(np.float32), reference.values)
    assert np.allclose(matched[BRAIN], expected, atol=1e-6)
    assert matched.dtype == np.float32


def test_scalp_and_air_do_not_change_the_brain():
    reference = Reference(head(2).astype(np.float32), BRAIN, "template")

    plain, with_scalp = (match_histogram(head(1, scalp), reference) for scalp in (0.0, 5.0))

    assert np.array_equal(plain[BRAIN], with_scalp[BRAIN])
    # Over the whole image they do: that is what the region is for.
    whole = [match_histograms(head(1, scalp), head(2)) for scalp in (0.0, 5.0)]
    assert np.abs(whole[0] - whole[1])[BRAIN].max() > 0.05


def test_air_goes_to_the_references_darkest_and_fat_to_its_brightest():
    matched = match_histogram(head(1, 5.0), Reference(head(2).astype("f4"), BRAIN, "template"))

    assert matched[0, 0] == 0.0
    assert matched[6, 6] == pytest.approx(head(2)[BRAIN].max())


def test_a_part_outside_the_field_of_view_does_not_shift_the_rest():
    image, reference = head(1), Reference(head(2).astype(np.float32), BRAIN, "template")
    cut = image.copy()
    cut[:12] = 0.0

    difference = match_histogram(cut, reference) - match_histogram(image, reference)

    assert np.abs(difference[12:]).max() < 0.05


@settings(max_examples=30)
@given(st.floats(0.4, 2.5), st.floats(0.01, 1000.0), st.floats(-1.0, 1.0))
def test_no_rising_change_of_contrast_survives(gamma, gain, offset):
    image, reference = head(1), Reference(head(2).astype(np.float32), BRAIN, "template")

    changed = match_histogram(gain * (image**gamma + offset), reference)

    assert np.allclose(changed, match_histogram(image, reference), atol=2e-3)


def test_order_is_kept():
    image = RNG.normal(size=(40, 40))

    matched = match_histogram(image, head(2), BRAIN)

    by_image = np.argsort(image.ravel())
    assert (np.diff(matched.ravel()[by_image]) >= 0).all()


def test_a_blank_image_becomes_the_darkest():
    assert (match_histogram(np.full((40, 40), 3.0), head(2)) == 0.0).all()


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (np.zeros((39, 40)), "shape"),
        (np.full((40, 40), np.nan), "finite"),
        (np.full((40, 40), np.inf), "finite"),
    ],
)
def test_images_that_cannot_be_matched_are_refused(image, says):
    with pytest.raises(ScanError, match=says):
        match_histogram(image, head(2))


def test_the_digest_knows_values_and_region():
    reference = Reference(head(2).astype(np.float32), BRAIN, "template")
    others = [
        Reference(head(3).astype(np.float32), BRAIN, "template"),
        Reference(head(2).astype(np.float32), ~BRAIN, "template"),
    ]

    assert reference.digest == Reference(head(2).astype(np.float32), BRAIN, "elsewhere").digest
    assert len({reference.digest, *(other.digest for other in others)}) == 3


def test_a_mean_reference_is_written_read_and_matched_to(tmp_path):
    quantiles = mean_quantiles([head(1), 1000 * head(2)], BRAIN, count=64)
    save_reference(tmp_path / "mean.npy", quantiles)
    again = read_reference(tmp_path / "mean.npy")

    matched = match_histogram(head(5), Reference(again, BRAIN, "mean.npy"))

    assert np.array_equal(again, quantiles)
    assert (np.diff(quantiles) >= 0).all()
    # Both scanners' units are gone: 1st and 99th percentile were brought to 0 and 1.
    assert np.interp([0.01, 0.5, 0.99], np.linspace(0, 1, 64), quantiles) == pytest.approx(
        [0, 0.5, 1], abs=0.05
    )
    levels = [0.05, 0.5, 0.95]
    assert np.quantile(matched[BRAIN], levels) == pytest.approx(
        np.quantile(quantiles, levels), abs=0.02
    )


def test_a_mean_of_nothing_is_refused():
    with pytest.raises(ScanError, match="at least one slice"):
        mean_quantiles([], BRAIN)


@pytest.mark.parametrize(
    "content",
    [b"", b"not numpy", np.zeros((2, 2, 2)), np.array([1.0, np.nan]), np.array(["a"]), None],
    ids=["empty", "text", "three axes", "NaN", "words", "missing"],
)
def test_a_bad_reference_file_is_named(content, tmp_path):
    path = tmp_path / "mean.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)

    with pytest.raises(ScanError, match=r"mean\.npy.*reference"):
        read_reference(path)


def test_normalisation_gives_mean_0_and_variance_1_without_air():
    image = head(1)

    normal = normalise(image)

    assert normal[BRAIN].mean() == pytest.approx(0.0, abs=1e-6)
    assert normal[BRAIN].std() == pytest.approx(1.0, abs=1e-6)


def test_more_air_does_not_change_the_normalised_brain():
    wider = np.pad(head(1), 100)

    assert np.allclose(normalise(wider)[100:140, 100:140], normalise(head(1)), atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 7.0, -1e6])
def test_a_constant_image_becomes_zero(value):
    assert np.array_equal(normalise(np.full((5, 5), value)), np.zeros((5, 5)))


def test_an_image_of_two_values_is_finite():
    normal = normalise(np.array([[0.0, 0.0], [0.0, 1.0]]))

    assert np.isfinite(normal).all()
    assert normal.std() == pytest.approx(1.0)


def test_per_image_knows_no_neighbours_and_per_batch_does():
    batch = np.stack([head(1), 3.0 * head(2)])

    alone = normalise_images(batch[:1], "image")[0]

    assert np.array_equal(normalise_images(batch, "image")[0], alone)
    assert not np.allclose(normalise_images(batch, "batch")[0], alone)
    assert np.array_equal(normalise_images(batch, "none"), batch.astype(np.float32))


def test_an_unknown_normalisation_is_refused():
    with pytest.raises(ConfigError, match="image, batch, none"):
        normalise_images(np.zeros((1, 2, 2)), "person")


def test_scaling_keeps_air_at_zero_and_does_not_see_the_unit():
    image = head(1, 5.0)
    done = scaled(image)
    assert np.percentile(done, [1.0, 99.0]) == pytest.approx([0.0, 1.0], abs=1e-6)
    assert done.min() == 0.0
    assert done.max() <= BRIGHTEST
    assert scaled(700.0 * image + 30.0) == pytest.approx(done, abs=1e-5)
    assert (scaled(np.full((40, 40), 3.0)) == 0.0).all()
    with pytest.raises(ScanError, match="finite"):
        scaled(np.full((4, 4), np.nan))


def test_a_slice_is_matched_or_scaled():
    reference = Reference(head(2).astype("f4"), BRAIN, "template")
    assert np.array_equal(finished(head(1), reference), match_histogram(head(1), reference))
    assert np.array_equal(finished(head(1), reference, "scaled"), scaled(head(1)))
