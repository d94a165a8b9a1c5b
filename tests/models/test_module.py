"""The learning rate at every epoch, against the paper's words; what a step counts."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from landmarking.data.batches import Batch
from landmarking.errors import ConfigError
from landmarking.models.module import LandmarkModule, Schedule, decay_count, learning_rate

PAPER = Schedule()


def paper_rates(epochs: int) -> list[float]:
    return [learning_rate(epoch, epochs, 0.005, PAPER) for epoch in range(epochs)]


@pytest.mark.parametrize("epochs", [5_000, 10_000])
def test_every_epoch_of_the_paper_against_multiplying_step_by_step(epochs):
    """Walk through the run, multiply at each 46th part of it, and never go below the floor."""
    rate, decays = 0.005, 0
    for epoch, found in enumerate(paper_rates(epochs)):
        while (decays + 1) * epochs / 46 <= epoch:
            rate, decays = max(rate * 0.95, 0.0005), decays + 1
        assert found == pytest.approx(rate, rel=1e-12), epoch
    assert decays == 45


def test_the_paper_starts_at_0_005_and_ends_at_exactly_0_0005_after_45_decays():
    rates = paper_rates(5_000)
    assert rates[0] == 0.005
    assert rates[-1] == 0.0005
    assert len(set(rates)) == 46
    steps = [after / before for before, after in pairwise(rates) if after != before]
    assert steps[:-1] == pytest.approx([0.95] * 44)
    assert 0.95 < steps[-1] < 1.0  # the clamp


def test_equal_parts():
    rates = paper_rates(4_600)
    assert {rates.count(rate) for rate in set(rates)} == {100}


@pytest.mark.parametrize(
    ("initial", "final", "factor", "expected"),
    [
        (0.005, 0.0005, 0.95, 45),
        (1.0, 0.25, 0.5, 2),
        (1.0, 0.2, 0.5, 3),
        (0.1, 0.1, 0.9, 0),
        (0.1, 0.5, 0.9, 0),
    ],
)
def test_decay_count(initial, final, factor, expected):
    assert decay_count(initial, final, factor) == expected


def test_constant_as_in_the_scripts():
    schedule = Schedule(kind="constant")
    assert {learning_rate(epoch, 5_000, 0.005, schedule) for epoch in range(5_000)} == {0.005}


def test_cosine_rises_then_falls_to_the_final_rate():
    schedule = Schedule(kind="cosine", final_rate=0.001, warmup_epochs=4)
    rates = [learning_rate(epoch, 50, 0.01, schedule) for epoch in range(50)]
    assert rates[:4] == pytest.approx([0.002, 0.004, 0.006, 0.008])
    assert rates[4] == pytest.approx(0.01)
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[-1] == pytest.approx(0.001)


@pytest.mark.parametrize("epochs", [1, 2, 45, 47])
@pytest.mark.parametrize("kind", ["exponential", "cosine", "constant"])
def test_short_runs_stay_within_the_rates(epochs, kind):
    schedule = Schedule(kind=kind, warmup_epochs=1)
    for epoch in range(epochs):
        assert 0.0005 <= learning_rate(epoch, epochs, 0.005, schedule) <= 0.005


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"kind": "linear"}, "kind"),
        ({"factor": 1.0}, "factor"),
        ({"final_rate": 0.0}, "final_rate"),
        ({"warmup_epochs": -1}, "warmup"),
    ],
)
def test_refuses(values, word):
    with pytest.raises(ConfigError, match=word):
        Schedule(**values)


class Penalised(torch.nn.Module):
    """Answers the same point for every slice, and asks for a small weight."""

    penalised = True

    def __init__(self, *, image_size, mean_px):
        super().__init__()
        self.point = torch.nn.Parameter(torch.tensor(mean_px))
        self.odd = torch.nn.Parameter(torch.tensor(3.0))

    def forward(self, images, with_penalty=False):
        points = self.point.expand(len(images), -1, -1)
        return (points, self.odd.square()) if with_penalty else points


def two_landmarks(network):
    return LandmarkModule(
        network=network(image_size=[8, 8], mean_px=[[4.0, 4.0], [2.0, 2.0]]),
        landmarks=["AC", "PC"],
        image_size=[8, 8],
        mean_px=[[4.0, 4.0], [2.0, 2.0]],
    )


def batch_of(offset_px, weight=1.0):
    points = torch.tensor([[4.0 + offset_px, 4.0], [2.0 + offset_px, 2.0]]).expand(3, -1, -1)
    return Batch(torch.zeros(3, 1, 8, 8), points, weight, torch.eye(2).expand(3, -1, -1))


def test_what_a_network_adds_to_the_loss_counts_in_the_gradient_and_not_in_the_record():
    module = two_landmarks(Penalised)
    total = module.training_step(batch_of(1.0), 0)
    assert float(total.detach()) == pytest.approx(1.0 + 9.0)
    total.backward()
    assert float(module.network.odd.grad) == pytest.approx(6.0)
    assert float(module.train_loss.compute()) == pytest.approx(1.0)


def test_a_batch_that_keeps_processes_in_step_counts_nowhere():
    """Its weight is zero: the last slices of an epoch have been shared out already."""
    module = two_landmarks(Penalised)
    module.validation_step(batch_of(1.0), 0)
    module.validation_step(batch_of(7.0, weight=0.0), 1)
    assert float(module.validation_loss.compute()) == pytest.approx(1.0)
    found = module.validation_errors.compute()
    assert float(found["error_mm"]) == pytest.approx(1.0)
    assert float(found["sdr_5mm"]) == pytest.approx(100.0)
    scaled = module.training_step(batch_of(1.0, weight=0.5), 2)
    assert float(scaled.detach()) == pytest.approx(0.5 + 9.0)
