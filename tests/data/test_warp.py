import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from landmarking.data.warp import (
    Chance,
    SliceWarp,
    interpolating,
    knot_count,
    knot_pixels,
    pose,
    random_field,
    spline_grid,
    thin_plate,
)

# Warps that move image and points together.


SIZE = (90, 110)


def random_warp(seed: int, batch: int = 3, displacement_px: float = 2.0) -> SliceWarp:
    chance = Chance(seed, 0, torch.arange(batch))
    matrix, shift = pose(
        0.3 * chance.normal().clamp(-2, 2),
        torch.exp(0.15 * chance.normal(2).clamp(-2, 2)),
        6.0 * chance.normal(2),
        (54.5, 44.5),
    )
    knots = (knot_count(SIZE[0], 25.0), knot_count(SIZE[1], 25.0))
    coefficients = displacement_px * chance.normal(2, *knots).clamp(-2, 2)
    return SliceWarp(matrix, shift, coefficients, 25.0, SIZE)


def blob(centres_px: torch.Tensor, sd_px: float = 4.0) -> torch.Tensor:
    """Gaussians at (x, y), shape (B, 2) to (B, 1, H, W), written out from their formula."""
    y, x = torch.meshgrid(*(torch.arange(side).double() for side in SIZE), indexing="ij")
    away = (x - centres_px[:, 0, None, None]) ** 2 + (y - centres_px[:, 1, None, None]) ** 2
    return torch.exp(-away / (2 * sd_px**2)).float()[:, None]


def peak(image: torch.Tensor) -> torch.Tensor:
    """Brightest place (x, y) of an image (H, W), between pixels by a parabola of logarithms."""
    row, column = divmod(int(image.argmax()), image.shape[1])
    # The logarithm of a Gaussian is a parabola, also after a map that is nearly affine nearby.
    log = image.double()[row - 2 : row + 3, column - 2 : column + 3].log()
    y, x = torch.meshgrid(torch.arange(-2.0, 3), torch.arange(-2.0, 3), indexing="ij")
    terms = torch.stack([x * 0 + 1, x, y, x * x, x * y, y * y], -1).reshape(25, 6).double()
    _, bx, by, axx, axy, ayy = torch.linalg.lstsq(terms, log.reshape(25, 1)).solution[:, 0]
    hessian = torch.tensor([[2 * axx, axy], [axy, 2 * ayy]])
    top = torch.linalg.solve(hessian, -torch.tensor([bx, by]))
    return torch.tensor([column, row]) + top


@pytest.mark.parametrize("seed", range(6))
def test_a_rendered_blob_is_found_again_where_its_point_was_carried(seed: int) -> None:
    warp = random_warp(seed)
    centres = torch.tensor([[40.3, 33.8], [66.6, 51.2], [52.0, 40.5]], dtype=torch.float64)
    carried = warp.carry(centres[:, None].float())[:, 0]
    seen = warp.sample(blob(centres), mode="bicubic")
    for image, expected in zip(seen[:, 0], carried, strict=True):
        assert float((peak(image) - expected).norm()) < 0.06


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_carried_points_look_back_at_where_they_came_from(seed: int) -> None:
    warp = random_warp(seed)
    goal = torch.rand(3, 8, 2, generator=torch.Generator().manual_seed(seed)) * 90.0
    back = warp.double().at(warp.carry(goal.double()))
    torch.testing.assert_close(back, goal.double(), rtol=0, atol=1e-6)


def test_grid_and_points_are_the_same_function() -> None:
    warp = random_warp(1)
    rows, columns = torch.tensor([0, 17, 89]), torch.tensor([0, 63, 109])
    at_pixels = warp.grid()[:, rows, columns]
    points = torch.stack([columns, rows], -1).float().expand(3, -1, -1)
    torch.testing.assert_close(warp.at(points), at_pixels, rtol=0, atol=1e-4)


def test_the_slope_is_the_derivative() -> None:
    warp = random_warp(2).double()
    points = torch.tensor([[[31.0, 12.5], [70.2, 80.9]]], dtype=torch.float64).expand(3, -1, -1)
    step = 1e-5
    for axis in range(2):
        move = step * torch.eye(2, dtype=torch.float64)[axis]
        difference = (warp.at(points + move) - warp.at(points - move)) / (2 * step)
        torch.testing.assert_close(warp.slope(points)[..., axis], difference, rtol=0, atol=1e-7)


def test_missing_points_stay_missing_and_leave_the_others_alone() -> None:
    warp = random_warp(3)
    points = torch.full((3, 2, 2), 40.0)
    points[1, 0, 0] = torch.nan
    carried = warp.carry(points)
    assert torch.isnan(carried[1, 0]).all()
    assert torch.isfinite(carried[1, 1]).all()
    assert int(torch.isnan(carried).sum()) == 2


def test_a_pose_turns_posterior_towards_inferior_scales_and_shifts() -> None:
    matrix, shift = pose(
        torch.tensor([math.pi / 2]),
        torch.tensor([[2.0, 2.0]]),
        torch.tensor([[5.0, -3.0]]),
        (10, 20),
    )
    warp = SliceWarp(matrix, shift, None, 1.0, SIZE)
    seen = warp.carry(torch.tensor([[[10.0, 20.0], [11.0, 20.0]]]))
    # The centre goes by the shift; one pixel behind it becomes two pixels below it.
    torch.testing.assert_close(seen, torch.tensor([[[15.0, 17.0], [15.0, 19.0]]]))


def test_a_thin_plate_meets_its_points_when_it_is_not_stiff() -> None:
    generator = torch.Generator().manual_seed(0)
    source = torch.rand(2, 9, 2, generator=generator) * 100
    target = source + torch.randn(2, 9, 2, generator=generator)
    moved = thin_plate(source, target, source, stiffness=0.0)
    torch.testing.assert_close(moved, target, rtol=0, atol=2e-3)
    # An affine map costs no bending, however stiff the plate.
    affine = source @ torch.tensor([[1.1, 0.1], [-0.2, 0.9]]) + 3.0
    moved = thin_plate(source, affine, source + 7.0, stiffness=100.0)
    wanted = (source + 7.0) @ torch.tensor([[1.1, 0.1], [-0.2, 0.9]]) + 3.0
    torch.testing.assert_close(moved, wanted, rtol=0, atol=2e-3)


def test_interpolating_coefficients_meet_their_values_at_the_knots() -> None:
    counts = (knot_count(SIZE[0], 10.0), knot_count(SIZE[1], 10.0))
    values = torch.randn(1, 2, *counts, generator=torch.Generator().manual_seed(0))
    grid = spline_grid(interpolating(values), 10.0, SIZE)
    x, y = knot_pixels(counts, 10.0, torch.device("cpu")).reshape(*counts, 2)[2, 3].int().tolist()
    torch.testing.assert_close(grid[:, :, y, x], values[:, :, 2, 3], rtol=0, atol=1e-4)


@pytest.mark.parametrize("step", [3.0, 12.0])
def test_random_fields_have_mean_zero_and_variance_one(step: float) -> None:
    fields = random_field(Chance(0, 0, torch.arange(100)), step, (120, 120))
    assert fields.shape == (100, 120, 120)
    assert abs(float(fields.mean())) < 0.02
    assert abs(float(fields.var()) - 1.0) < 0.06


# Random numbers by seed, epoch and subject.


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
