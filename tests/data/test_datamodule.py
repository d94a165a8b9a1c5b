"""Batches: every slice once, the same order for the same seed and epoch, three normalisations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from landmarking.data.datamodule import (
    BatchConfig,
    DeviceBatches,
    EpochOrder,
    LandmarkDataModule,
    normalise_batch,
)
from landmarking.errors import CohortError, ConfigError, LandmarkError
from landmarking.imaging.intensity import normalise_images


def module(cohort, **changes):
    arguments = {
        "landmarks": cohort.landmarks.names,
        "train_groups": ["train"],
        "batches": BatchConfig(size=4),
        "normalisation": "image",
        "seed": 0,
    } | changes
    return LandmarkDataModule(cohort, **arguments)


def test_no_person_is_on_both_sides(make_cohort):
    cohort = make_cohort(train=12, scans_per_person=3)
    data = module(cohort)
    sides = [
        {cohort.records[i].participant_id for i in side}
        for side in (data.train_indices, data.validation_indices)
    ]
    assert not sides[0] & sides[1]
    assert len(data.train_indices) + len(data.validation_indices) == 12
    assert {cohort.records[i].group for i in data.train_indices} == {"train"}


def test_a_split_by_image_may_tear_people_apart(make_cohort):
    cohort = make_cohort(train=12, scans_per_person=6)
    data = module(cohort, batches=BatchConfig(size=4, split_by="image"))
    sides = [
        {cohort.records[i].participant_id for i in side}
        for side in (data.train_indices, data.validation_indices)
    ]
    assert sides[0] & sides[1]
    assert len(data.validation_indices) == 4


def test_the_mean_position_is_that_of_the_training_side_alone(make_cohort):
    cohort = make_cohort(missing=((0, 0), (1, 0)))
    data = module(cohort)
    expected = np.nanmean(cohort.points_px[data.train_indices], axis=0)
    np.testing.assert_allclose(data.mean_px, expected)
    assert not np.allclose(data.mean_px, np.nanmean(cohort.points_px, axis=0))


def test_an_epoch_has_every_training_slice_once(make_cohort):
    data = module(make_cohort(train=13))
    data.setup()
    batches = list(data.train_dataloader())
    assert len(batches) == len(data.train_dataloader()) == 3
    seen = torch.cat([batch.points_px for batch in batches])
    assert seen.shape == (9, 8, 2)
    expected = data.cohort.points_px[data.train_indices]
    np.testing.assert_allclose(np.sort(seen[:, 0, 0]), np.sort(expected[:, 0, 0]), rtol=1e-6)


def test_one_landmark_is_one_column(make_cohort):
    data = module(make_cohort(), landmarks=("PMJ",))
    data.setup()
    batch = next(iter(data.val_dataloader()))
    assert batch.points_px.shape == (4, 1, 2)
    expected = data.cohort.points_px[data.validation_indices, 3]
    np.testing.assert_allclose(batch.points_px[:, 0], expected, rtol=1e-6)


def test_the_order_depends_on_seed_and_epoch_alone():
    orders = {}
    for seed in (0, 1):
        for epoch in (0, 1):
            order = EpochOrder(50, shuffle=True, seed=seed)
            order.set_epoch(epoch)
            torch.rand(epoch + 1)  # the global random state has no say
            assert torch.equal(order.order(), order.order())
            orders[seed, epoch] = tuple(order.order().tolist())
    assert len(set(orders.values())) == 4
    assert all(sorted(order) == list(range(50)) for order in orders.values())


def test_without_shuffling_the_order_is_that_of_the_cohort():
    assert EpochOrder(4, shuffle=False, seed=0).order().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("count", "size", "drop_last", "expected"),
    [(10, 4, False, [4, 4, 2]), (10, 4, True, [4, 4]), (8, 4, False, [4, 4]), (3, 4, True, [3])],
)
def test_batch_sizes(count, size, drop_last, expected):
    batches = DeviceBatches(
        torch.zeros(count, 1, 2, 2),
        torch.zeros(count, 1, 2),
        EpochOrder(count, shuffle=True, seed=0),
        size=size,
        normalisation="image",
        drop_last=drop_last,
    )
    assert [len(batch.images) for batch in batches] == expected
    assert len(batches) == len(expected)


@pytest.mark.parametrize("how", ["image", "batch", "none"])
def test_normalisation_is_that_of_the_imaging_room(how):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(5, 1, 9, 7, generator=generator) ** 3
    images = images * torch.tensor([1.0, 20.0, 300.0, 0.0, 1.0])[:, None, None, None]
    images[4] = (images[4] > 0.5).float()  # air and one level
    expected = normalise_images(images[:, 0].numpy(), how)
    ours = normalise_batch(images, how)[:, 0].numpy()
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)


def test_normalisation_by_batch_depends_on_the_neighbours():
    images = torch.randn(4, 1, 5, 5) + torch.arange(4.0)[:, None, None, None]
    alone = normalise_batch(images[:1], "batch")
    assert not torch.allclose(normalise_batch(images, "batch")[:1], alone)
    torch.testing.assert_close(normalise_batch(images, "image")[:1], alone)


def span(images):
    return images.max() - images.min()


def test_batch_normalisation_is_done_batch_by_batch(make_cohort):
    data = module(make_cohort(), normalisation="batch")
    data.setup()
    for batch in data.train_dataloader():
        head = batch.images[batch.images > batch.images.min() + 0.1 * span(batch.images)]
        assert head.mean().item() == pytest.approx(0.0, abs=1e-4)
    raw = data.tensors([0], torch.device("cpu"))[0]
    np.testing.assert_array_equal(raw[0, 0].numpy(), data.cohort.images[0])


def test_a_constant_slice_becomes_zero():
    assert torch.equal(
        normalise_batch(torch.full((1, 1, 3, 3), 7.0), "image"), torch.zeros(1, 1, 3, 3)
    )


def test_refuses(make_cohort):
    cohort = make_cohort(missing=tuple((scan, 2) for scan in range(12)))
    with pytest.raises(CohortError, match="ICS is on none of the"):
        module(cohort)
    with pytest.raises(LandmarkError, match="XY"):
        module(cohort, landmarks=("XY",))
    with pytest.raises(CohortError, match="nobody"):
        module(cohort, train_groups=["nobody"])
    with pytest.raises(ConfigError, match="normalisation"):
        normalise_batch(torch.zeros(1, 1, 2, 2), "minmax")
    with pytest.raises(ConfigError, match=r"batches\.size"):
        BatchConfig(size=0)
