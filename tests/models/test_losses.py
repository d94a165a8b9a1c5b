"""Eq. 2 and Eq. 3 against a loop written from the paper, and masks."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from landmarking.models.losses import ensemble_loss, euclidean_distance, multi_landmark_loss

MISSING = float("nan")


def by_hand(predicted: list, true: list) -> float:
    """Mean of sqrt((x' - x)^2 + (y' - y)^2) over everything that has a truth, in plain Python."""
    distances = [
        math.sqrt((px - tx) ** 2 + (py - ty) ** 2)
        for row, truth in zip(predicted, true, strict=True)
        for (px, py), (tx, ty) in zip(row, truth, strict=True)
        if not (math.isnan(tx) or math.isnan(ty))
    ]
    return sum(distances) / len(distances) if distances else 0.0


def test_equation_2_is_the_distance_of_one_landmark():
    predicted, true = torch.tensor([[[3.0, 4.0]]]), torch.tensor([[[0.0, 0.0]]])
    assert multi_landmark_loss(predicted, true).item() == 5.0


def test_equation_3_is_the_mean_of_the_distances_not_the_distance_of_the_means():
    predicted = torch.tensor([[[3.0, 4.0], [-3.0, -4.0]]])
    assert multi_landmark_loss(predicted, torch.zeros(1, 2, 2)).item() == 5.0


coordinates = st.floats(-200, 200, allow_nan=False, width=32)
points = st.tuples(coordinates, coordinates)
truths = st.one_of(points, st.just((MISSING, MISSING)), st.tuples(coordinates, st.just(MISSING)))


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.lists(st.tuples(points, truths), min_size=3, max_size=3), min_size=1, max_size=4)
)
def test_the_loss_is_that_of_a_plain_loop_whatever_is_missing(rows):
    predicted = [[p for p, _ in row] for row in rows]
    true = [[t for _, t in row] for row in rows]
    ours = multi_landmark_loss(torch.tensor(predicted), torch.tensor(true))
    assert ours.item() == pytest.approx(by_hand(predicted, true), rel=1e-5, abs=1e-5)


def test_missing_landmarks_have_no_gradient_and_no_nan():
    predicted = torch.tensor([[[1.0, 2.0], [5.0, 5.0]]], requires_grad=True)
    true = torch.tensor([[[4.0, 6.0], [MISSING, MISSING]]])
    multi_landmark_loss(predicted, true).backward()
    assert predicted.grad is not None
    torch.testing.assert_close(predicted.grad, torch.tensor([[[-0.6, -0.8], [0.0, 0.0]]]))


def test_a_perfect_prediction_has_a_finite_gradient():
    predicted = torch.zeros(1, 1, 2, requires_grad=True)
    multi_landmark_loss(predicted, torch.zeros(1, 1, 2)).backward()
    assert predicted.grad is not None
    assert torch.equal(predicted.grad, torch.zeros(1, 1, 2))


def test_a_batch_without_any_truth_costs_nothing():
    predicted = torch.ones(2, 3, 2, requires_grad=True)
    loss = multi_landmark_loss(predicted, torch.full((2, 3, 2), MISSING))
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(predicted.grad, torch.zeros(2, 3, 2))


def test_distances_come_with_their_mask():
    true = torch.tensor([[[0.0, 0.0], [MISSING, 1.0]]])
    distance, known = euclidean_distance(torch.tensor([[[0.0, 2.0], [1.0, 1.0]]]), true)
    assert distance.tolist() == [[2.0, 0.0]]
    assert known.tolist() == [[True, False]]


def test_the_ensemble_loss_gives_each_member_the_gradient_of_its_own_run():
    generator = torch.Generator().manual_seed(3)
    predicted = torch.randn(5, 4, 2, generator=generator).requires_grad_()
    true = torch.randn(5, 4, 2, generator=generator)
    true[1, 2] = MISSING
    true[:, 3] = MISSING
    ensemble_loss(predicted, true).backward()
    for member in range(4):
        alone = predicted.detach()[:, member : member + 1].requires_grad_()
        multi_landmark_loss(alone, true[:, member : member + 1]).backward()
        torch.testing.assert_close(predicted.grad[:, member : member + 1], alone.grad)
