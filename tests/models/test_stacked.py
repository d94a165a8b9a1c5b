"""A stacked ensemble learns, member by member, what runs of their own would."""

from __future__ import annotations

import copy

import pytest
import torch

from landmarking.data.batches import Batch
from landmarking.errors import ConfigError
from landmarking.models.build import build_network, network_class
from landmarking.models.coordinate_cnn import StackedEnsemble
from landmarking.models.module import LandmarkModule

MEMBER = {
    "_target_": "landmarking.models.coordinate_cnn.CoordinateCNN",
    "channels": [4, 8],
    "hidden": [16],
    "dropout": 0.3,
    "initialisation": "normal",
    "centred": True,
    "scale_px": 5.0,
}
STACKED = {"_target_": "landmarking.models.coordinate_cnn.StackedEnsemble", "member": MEMBER}
NAMES = ("AC", "PC", "ICS")
MEAN = [[10.0, 12.0], [14.0, 9.0], [3.0, 4.0]]
GENERATOR = torch.Generator().manual_seed(1)
IMAGES = torch.randn(20, 1, 24, 24, generator=GENERATOR)
POINTS = torch.rand(20, 3, 2, generator=GENERATOR) * 24
POINTS[3, 1] = float("nan")


def build(network: dict, names: tuple[str, ...], mean: list) -> LandmarkModule:
    torch.manual_seed(5)
    return LandmarkModule(
        network=network,
        landmarks=list(names),
        image_size=[24, 24],
        mean_px=mean,
        normalisation="image",
    ).train()


def fit(module: LandmarkModule, points: torch.Tensor, steps: int = 12) -> LandmarkModule:
    torch.manual_seed(9)  # the same dropout for all
    adam = torch.optim.Adam(module.parameters(), lr=3e-3)
    for step in range(steps):
        chosen = torch.arange(step, step + 8) % 20
        adam.zero_grad()
        module.loss(module(IMAGES[chosen]), points[chosen]).backward()
        adam.step()
    return module


@pytest.mark.parametrize("index", [0, 1, 2])
def test_each_member_learns_what_its_own_run_would(index):
    stacked = fit(build(STACKED, NAMES, MEAN), POINTS)
    own = fit(build(MEMBER, NAMES[index : index + 1], MEAN[index : index + 1]), POINTS[:, [index]])
    member = stacked.member(NAMES[index])
    ours, theirs = member.state_dict(), own.state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-5, msg=name)
    torch.testing.assert_close(member.eval()(IMAGES), own.eval()(IMAGES), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(stacked.eval()(IMAGES)[:, [index]], member(IMAGES))


def test_training_moves_every_member():
    before = build(STACKED, NAMES, MEAN)
    start = {name: value.clone() for name, value in before.network.named_parameters()}
    after = fit(before, POINTS, steps=2)
    for name, value in after.network.named_parameters():
        assert value.shape[0] == 3
        if value.requires_grad:
            assert ((value - start[name]).abs().flatten(1).amax(1) > 0).all(), name


def test_members_start_alike_and_the_random_state_goes_on_as_after_one():
    torch.manual_seed(2)
    ensemble = StackedEnsemble(image_size=(24, 24), mean_px=MEAN, member=MEMBER)
    after = torch.rand(1)
    first, second = ensemble.member_state(0), ensemble.member_state(1)
    assert torch.equal(first["head.0.weight"], second["head.0.weight"])
    assert second["mean_px"].tolist() == [MEAN[1]]
    torch.manual_seed(2)
    StackedEnsemble(image_size=(24, 24), mean_px=MEAN[:1], member=MEMBER)
    assert torch.equal(after, torch.rand(1))


def test_members_in_turn_are_the_mapped_network():
    """The batched computation of a GPU, on the CPU, against the members one after the other."""

    def step(network: StackedEnsemble, mapped: bool) -> torch.Tensor:
        torch.manual_seed(3)
        forward = network.mapped if mapped else network
        forward(IMAGES).pow(2).sum().backward()
        return torch.rand(1)

    torch.manual_seed(2)
    turned = StackedEnsemble(image_size=(24, 24), mean_px=MEAN, member=MEMBER)
    mapped = copy.deepcopy(turned)
    assert torch.equal(step(turned, mapped=False), step(mapped, mapped=True))
    for (name, ours), theirs in zip(turned.named_parameters(), mapped.parameters(), strict=True):
        if ours.requires_grad:
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-3, msg=name)
    for ours, theirs in zip(turned.buffers(), mapped.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)


HEATMAP = {
    "_target_": "landmarking.models.heatmap.HeatmapNetwork",
    "channels": [4, 6],
    "dropout": 0.2,
    "spread_weight": 0.5,
}


def fit_with_penalty(module: LandmarkModule, points: torch.Tensor) -> LandmarkModule:
    torch.manual_seed(9)
    adam = torch.optim.Adam(module.parameters(), lr=3e-3)
    for step in range(8):
        chosen = torch.arange(step, step + 8) % 20
        adam.zero_grad()
        module.training_step(Batch(IMAGES[chosen], points[chosen]), step).backward()
        adam.step()
    return module


@pytest.mark.parametrize("index", [0, 1, 2])
def test_members_with_heatmaps_learn_what_their_own_runs_would_penalty_and_all(index):
    spec = {**STACKED, "member": HEATMAP}
    stacked = fit_with_penalty(build(spec, NAMES, MEAN), POINTS)
    alone = build(HEATMAP, NAMES[index : index + 1], MEAN[index : index + 1])
    own = fit_with_penalty(alone, POINTS[:, [index]])
    member = stacked.member(NAMES[index])
    assert member.state_dict().keys() == own.state_dict().keys()
    for name, value in own.state_dict().items():
        torch.testing.assert_close(member.state_dict()[name], value, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(stacked.eval()(IMAGES)[:, [index]], member.eval()(IMAGES))


def test_the_penalty_of_an_ensemble_is_the_sum_of_its_members_however_they_are_run():
    torch.manual_seed(2)
    ensemble = StackedEnsemble(image_size=(24, 24), mean_px=MEAN, member=HEATMAP).eval()
    assert ensemble.penalised
    points, penalty = ensemble(IMAGES, with_penalty=True)
    mapped, same = ensemble.mapped(IMAGES, with_penalty=True)
    torch.testing.assert_close(points, mapped)
    torch.testing.assert_close(penalty, same)
    member = build_network(HEATMAP, image_size=(24, 24), mean_px=MEAN[:1]).eval()
    member.load_state_dict(ensemble.member_state(1))
    _, one = member(IMAGES, with_penalty=True)
    torch.testing.assert_close(penalty, 3 * one)
    torch.testing.assert_close(points, ensemble(IMAGES))
    assert not StackedEnsemble(image_size=(24, 24), mean_px=MEAN, member=MEMBER).penalised


def test_a_typo_in_a_member_is_refused():
    with pytest.raises(ConfigError, match=r"did you mean model\.dropout"):
        network_class({**STACKED, "member": {**MEMBER, "dropuot": 0.1}})
