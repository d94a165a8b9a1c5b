"""The two sides of a cohort: people apart, every slice once, the mean of the training side."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from landmarking.data.augment import AugmentConfig
from landmarking.data.batches import normalise_batch
from landmarking.data.datamodule import DataConfig, LandmarkDataModule
from landmarking.errors import CohortError, ConfigError, LandmarkError
from landmarking.imaging.pipeline import PreprocessSettings
from landmarking.preparation.sources import CohortConfig


def module(cohort, **changes):
    data = LandmarkDataModule(cohort, **({"batch_size": 4} | changes))
    data.setup()
    return data


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
    data = module(cohort, split_by="image")
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
    batches = list(data.train_dataloader())
    assert len(batches) == len(data.train_dataloader()) == 3
    seen = torch.cat([batch.points_px for batch in batches])
    assert seen.shape == (9, 8, 2)
    expected = data.cohort.points_px[data.train_indices]
    np.testing.assert_allclose(np.sort(seen[:, 0, 0]), np.sort(expected[:, 0, 0]), rtol=1e-6)


def test_one_landmark_is_one_column(make_cohort):
    data = module(make_cohort(), landmark="PMJ")
    batch = next(iter(data.val_dataloader()))
    assert batch.points_px.shape == (4, 1, 2)
    expected = data.cohort.points_px[data.validation_indices, 3]
    np.testing.assert_allclose(batch.points_px[:, 0], expected, rtol=1e-6)


def test_batch_normalisation_is_done_batch_by_batch(make_cohort):
    data = module(make_cohort(), preprocess=PreprocessSettings(normalisation="batch"))
    data.setup()
    for batch in data.train_dataloader():
        low, high = batch.images.min(), batch.images.max()
        head = batch.images[batch.images > low + 0.1 * (high - low)]
        assert head.mean().item() == pytest.approx(0.0, abs=1e-4)
    raw = data.tensors([0], torch.device("cpu"))[0]
    np.testing.assert_array_equal(raw[0, 0].numpy(), data.cohort.images[0])


def test_refuses(make_cohort):
    cohort = make_cohort(missing=tuple((scan, 2) for scan in range(12)))
    with pytest.raises(CohortError, match="ICS is on none of the"):
        module(cohort)
    with pytest.raises(LandmarkError, match="XY"):
        module(cohort, landmark="XY")
    with pytest.raises(CohortError, match="nobody"):
        module(cohort, train_groups=["nobody"])
    with pytest.raises(ConfigError, match="normalisation"):
        normalise_batch(torch.zeros(1, 1, 2, 2), "minmax")
    with pytest.raises(ConfigError, match=r"data\.batch_size"):
        DataConfig(batch_size=0)


def test_only_training_is_augmented(make_cohort):
    """Held-out people are seen as they are, whatever the augmentation, at every epoch."""
    plain = module(make_cohort())
    changed = module(
        make_cohort(), augment=AugmentConfig(kind="random", turn_deg=20.0, shift_px=8.0)
    )
    names = ("val_dataloader", "predict_dataloader")
    for name in names:
        for before, after in zip(getattr(plain, name)(), getattr(changed, name)(), strict=True):
            torch.testing.assert_close(after.images, before.images, rtol=0, atol=0)
            torch.testing.assert_close(after.points_px, before.points_px, equal_nan=True)
    for group, loader in changed.test_dataloader().items():
        for before, after in zip(plain.test_dataloader()[group], loader, strict=True):
            torch.testing.assert_close(after.images, before.images, rtol=0, atol=0)
    first, second = (next(iter(data.train_dataloader())).images for data in (plain, changed))
    assert not torch.equal(first, second)


def of_sites(cohort, first):
    """The cohort as of two sites, `a` (the first people) and `b`."""
    records = [
        replace(r, participant_id=f"{'a' if n < first else 'b'}_{r.participant_id}")
        for n, r in enumerate(cohort.records)
    ]
    return replace(cohort, records=tuple(records))


def mixed(cohort, tmp_path, **changes):
    config = CohortConfig("mixed", "both", str(tmp_path), parts=["a:x", "b:y"], **changes)
    data = LandmarkDataModule(config, batch_size=4)
    data.use(cohort)
    data.setup()
    return data


def test_a_site_that_is_left_out_is_tested_and_never_learnt_from(make_cohort, tmp_path):
    cohort = of_sites(make_cohort(train=12), 8)
    data = mixed(cohort, tmp_path, leave_out="b")
    learnt = [*data.train_indices, *data.validation_indices]
    sites = {data.cohort.records[i].participant_id[0] for i in learnt}
    assert sites == {"a"}
    assert data.test_groups == ("b",)
    tested = data.cohort.indices(["b"])
    assert len(tested) == len(cohort.records) - 8
    with pytest.raises(CohortError, match="nobody is of the site b"):
        mixed(of_sites(make_cohort(train=4), 99), tmp_path, leave_out="b")


def test_a_site_of_more_weight_is_drawn_more_often(make_cohort, tmp_path):
    cohort = of_sites(make_cohort(train=12), 6)
    data = mixed(cohort, tmp_path, weights=[1.0, 9.0])
    loader, drawn = data.train_dataloader(), []
    for epoch in range(60):
        loader.batch_sampler.set_epoch(epoch)
        drawn += [int(i) for i in data.train_indices[loader.batch_sampler.order().numpy()]]
    share = np.mean([i >= 6 for i in drawn])
    of_b = int((data.train_indices >= 6).sum())
    of_a = len(data.train_indices) - of_b
    assert share == pytest.approx(9 * of_b / (9 * of_b + of_a), abs=0.05)
    assert data.val_dataloader().batch_sampler.weights is None
