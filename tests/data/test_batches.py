"""Batches: every slice once, the same order for the same seed and epoch, three normalisations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from landmarking.data.batches import Batch, DeviceBatches, EpochOrder, normalise_batch
from landmarking.imaging.intensity import normalise_images


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
    [
        (10, 4, False, [4, 4, 2]),
        (10, 4, True, [4, 4]),
        (8, 4, False, [4, 4]),
        (3, 4, True, [3]),
        (4, 4, True, [4]),
        (1, 4, False, [1]),
    ],
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


def test_a_constant_slice_becomes_zero():
    assert torch.equal(
        normalise_batch(torch.full((1, 1, 3, 3), 7.0), "image"), torch.zeros(1, 1, 3, 3)
    )


@pytest.mark.parametrize("normalisation", ["image", "batch"])
@pytest.mark.parametrize("world", [2, 3])
def test_shares_of_processes_make_up_every_batch_and_its_gradient(normalisation, world):
    images = torch.randn(7, 1, 4, 4)
    points = torch.randn(7, 3, 2)
    points[2, 1] = float("nan")

    def batches(rank, world):
        order = EpochOrder(7, shuffle=True, seed=0)
        how = {"size": 3, "normalisation": normalisation}
        return list(DeviceBatches(images, points, order, **how, rank=rank, world=world))

    whole, shares = batches(0, 1), [batches(rank, world) for rank in range(world)]
    for number, batch in enumerate(whole):
        parts = [share[number] for share in shares]
        kept = [part for part in parts if part.weight]
        assert sum(len(part.images) for part in kept) == len(batch.images)
        assert sorted(torch.cat([part.images for part in kept]).sum((1, 2, 3)).tolist()) == (
            pytest.approx(sorted(batch.images.sum((1, 2, 3)).tolist()), abs=1e-5)
        )
        # The mean over processes of each one's weighted mean is the mean over the batch.
        means = [part.points_px.nanmean() * part.weight for part in parts]
        assert torch.stack(means).mean() == pytest.approx(
            batch.points_px.nanmean().item(), abs=1e-5
        )


def test_a_batch_counts_once_unless_processes_share_it():
    assert Batch(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2)).weight == 1.0


def test_rows_are_those_of_the_cohort_where_they_are_given():
    def rows(subjects):
        batches = DeviceBatches(
            torch.zeros(3, 1, 2, 2),
            torch.zeros(3, 1, 2),
            EpochOrder(3, shuffle=False, seed=0),
            size=2,
            normalisation="none",
            subjects=subjects,
            px_to_mm=torch.eye(2).expand(3, -1, -1),
        )
        return torch.cat([batch.rows for batch in batches]).tolist()

    assert rows(torch.tensor([7, 9, 11])) == [7, 9, 11]
    assert rows(None) == [0, 1, 2]


def test_weights_say_how_often_a_slice_is_drawn_and_the_epoch_decides():
    weights = np.array([1.0, 1.0, 6.0, 0.0])
    order = EpochOrder(4, shuffle=True, seed=3, weights=weights)
    counts = np.zeros(4)
    for epoch in range(600):
        order.set_epoch(epoch)
        drawn = order.order()
        assert len(drawn) == 4
        counts += np.bincount(drawn.numpy(), minlength=4)
    np.testing.assert_allclose(counts / counts.sum(), weights / 8, atol=0.03)
    order.set_epoch(5)
    first = order.order().tolist()
    order.set_epoch(6)
    order.set_epoch(5)
    assert order.order().tolist() == first
