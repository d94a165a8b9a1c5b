"""Random numbers by seed, epoch and subject."""

import torch

from landmarking.data.chance import Chance


def test_a_subject_draws_the_same_in_any_batch() -> None:
    alone = Chance(3, 7, torch.tensor([5]))
    among = Chance(3, 7, torch.tensor([9, 2, 5]))
    for draw in ("uniform", "normal"):
        torch.testing.assert_close(
            getattr(among, draw)(4, 6)[2], getattr(alone, draw)(4, 6)[0], rtol=0, atol=0
        )


def test_seed_epoch_subject_and_call_each_change_the_numbers() -> None:
    base = Chance(0, 0, torch.tensor([0]))
    first, second = base.uniform(50), base.uniform(50)
    others = [Chance(*key, torch.tensor([s])).uniform(50) for *key, s in ((1, 0, 0), (0, 1, 0))]
    others.append(Chance(0, 0, torch.tensor([1])).uniform(50))
    for other in (second, *others):
        assert (first - other).abs().max() > 0.1


def test_numbers_have_the_moments_and_no_correlation() -> None:
    chance = Chance(0, 0, torch.arange(64))
    uniform, normal = chance.uniform(5000).double(), chance.normal(5000).double()
    assert float(uniform.min()) > 0.0
    assert float(uniform.max()) < 1.0
    assert abs(float(uniform.mean()) - 0.5) < 0.002
    assert abs(float(uniform.var()) - 1 / 12) < 0.001
    assert abs(float(normal.mean())) < 0.006
    assert abs(float(normal.var()) - 1.0) < 0.01
    assert abs(float((normal**4).mean()) - 3.0) < 0.1
    between = torch.corrcoef(normal) - torch.eye(64)
    # 2,016 pairs of 5,000 numbers: an SD of 0.014 each, and 5 of them are never reached by chance.
    assert float(between.abs().max()) < 5 / 5000**0.5
    ahead = torch.corrcoef(torch.stack([normal[:, :-1].flatten(), normal[:, 1:].flatten()]))
    assert abs(float(ahead[0, 1])) < 0.01


def test_events_happen_as_often_as_asked() -> None:
    happened = Chance(1, 0, torch.arange(20_000)).happens(0.3)
    assert abs(float(happened.mean()) - 0.3) < 0.015
