from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from landmarking.config import settings
from landmarking.data import people, warp
from landmarking.data.augment import (
    Augmentation,
    AugmentConfig,
    build_augmentation,
    change,
    random_warp,
    with_artery,
)
from landmarking.data.warp import Chance, SliceWarp
from landmarking.errors import ConfigError
from landmarking.imaging.pipeline import PreprocessSettings
from landmarking.landmarks import landmark_set

# Augmentation: image and points together, by seed, epoch and slice.


STRONG = AugmentConfig(
    kind="random",
    turn_deg=8.0,
    scale=0.08,
    shift_px=5.0,
    warp_px=2.5,
    contrast=0.6,
    gamma=0.25,
    bias=0.3,
    blur_px=1.2,
    noise=0.05,
    occlusion=0.3,
)
SIZE = 64


def batch(count: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, 1, SIZE, SIZE, generator=generator) * 5.0 - 2.0
    points = 16.0 + 32.0 * torch.rand(count, 3, 2, generator=generator)
    return images, points, torch.arange(10, 10 + count)


def test_a_slice_is_changed_the_same_way_in_any_batch() -> None:
    augment = Augmentation(STRONG, seed=1, painter=None)
    images, points, subjects = batch()
    together = augment(images, points, subjects, epoch=3)
    alone = augment(images[2:3], points[2:3], subjects[2:3], epoch=3)
    torch.testing.assert_close(together[0][2:3], alone[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(together[1][2:3], alone[1], rtol=0, atol=1e-4)


@pytest.mark.parametrize(("seed", "epoch"), [(2, 3), (1, 4)])
def test_another_seed_or_epoch_changes_it_differently(seed: int, epoch: int) -> None:
    images, points, subjects = batch()
    _, first = Augmentation(STRONG, seed=1, painter=None)(images, points, subjects, 3)
    _, other = Augmentation(STRONG, seed=seed, painter=None)(images, points, subjects, epoch)
    assert float((first - other).abs().nanmedian()) > 0.5


def test_nothing_asked_for_is_nothing_done() -> None:
    images, points, subjects = batch()
    changed, moved = Augmentation(AugmentConfig(kind="random"), seed=0, painter=None)(
        images, points, subjects, 0
    )
    torch.testing.assert_close(changed, images, rtol=0, atol=2e-3)
    torch.testing.assert_close(moved, points, rtol=0, atol=1e-4)


def test_missing_points_stay_missing_and_points_that_leave_become_missing() -> None:
    images, points, subjects = batch()
    points[0, 1] = torch.nan
    points[1, 0] = torch.tensor([1.0, 1.0])
    far = AugmentConfig(kind="random", shift_px=0.001)
    _, moved = Augmentation(far, seed=0, painter=None)(images, points, subjects, 0)
    assert torch.isnan(moved[0, 1]).all()
    assert torch.isfinite(moved[0, [0, 2]]).all()
    points[1, 0] = torch.tensor([-3.0, 1.0])
    _, moved = Augmentation(far, seed=0, painter=None)(images, points, subjects, 0)
    assert torch.isnan(moved[1, 0]).all()


def test_no_warp_folds_or_mirrors_a_slice() -> None:
    warp = random_warp(Chance(0, 0, torch.arange(200)), STRONG, (150, 150))
    places = torch.cartesian_prod(torch.arange(0.0, 150, 10), torch.arange(0.0, 150, 10))
    volume = torch.linalg.det(warp.slope(places.expand(200, -1, -1)))
    assert float(volume.min()) > 0.1


@pytest.mark.parametrize("name", ["contrast", "gamma", "bias", "blur_px", "noise", "occlusion"])
def test_each_intensity_setting_acts_by_itself_and_moves_no_point(name: str) -> None:
    images, points, subjects = batch()
    config = replace(AugmentConfig(kind="random"), **{name: getattr(STRONG, name)})
    if name == "occlusion":
        config = replace(config, occlusion=1.0)
    changed, moved = Augmentation(config, seed=0, painter=None)(images, points, subjects, 0)
    assert float((changed - images).abs().max()) > 0.05
    torch.testing.assert_close(moved, points, rtol=0, atol=1e-4)


def test_a_constant_slice_survives() -> None:
    _, points, subjects = batch()
    images = torch.full((4, 1, SIZE, SIZE), 3.0)
    changed, _ = Augmentation(STRONG, seed=0, painter=None)(images, points, subjects, 0)
    assert torch.isfinite(changed).all()


def test_synth_paints_other_people_every_epoch_with_points_for_the_names_asked() -> None:
    augment = build_augmentation(
        AugmentConfig(kind="synth"),
        seed=0,
        landmarks=landmark_set("msp8"),
        names=["PC", "AC"],
        preprocess=PreprocessSettings(),
        image_size=(150, 150),
    )
    assert augment is not None
    blank, points = torch.zeros(2, 1, 150, 150), torch.zeros(2, 2, 2)
    first = augment(blank, points, torch.arange(2), 0)
    again = augment(blank, points, torch.arange(2), 0)
    later = augment(blank, points, torch.arange(2), 1)
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert float((first[1] - later[1]).norm(dim=-1).min()) > 0.1
    # PC lies behind AC by about 26 mm, in slices of 1 mm.
    behind = first[1][:, 0, 0] - first[1][:, 1, 0]
    assert bool(((behind > 18) & (behind < 36)).all())


def test_a_share_of_synth_keeps_the_rest() -> None:
    config = AugmentConfig(kind="synth", share=0.5)
    augment = build_augmentation(
        config,
        seed=0,
        landmarks=landmark_set("msp8"),
        names=["AC"],
        preprocess=PreprocessSettings(),
        image_size=(150, 150),
    )
    assert augment is not None
    images = torch.full((12, 1, 150, 150), 7.0)
    points = torch.full((12, 1, 2), 75.0)
    changed, moved = augment(images, points, torch.arange(12), 0)
    kept = (changed - 7.0).abs().amax((1, 2, 3)) < 1e-3
    assert 2 <= int(kept.sum()) <= 10
    torch.testing.assert_close(moved[kept], points[kept], rtol=0, atol=1e-3)


def test_none_is_no_augmentation() -> None:
    preprocess = PreprocessSettings()
    landmarks = landmark_set("msp8")
    assert (
        build_augmentation(
            AugmentConfig(),
            seed=0,
            landmarks=landmarks,
            names=["AC"],
            preprocess=preprocess,
            image_size=(24, 24),
        )
        is None
    )


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"kind": "strong"}, "augment.kind is one of none, random, synth"),
        ({"source": "scans"}, "augment.source is one of people, cohort, both"),
        ({"noise": -0.1}, "augment.noise is not negative"),
        ({"contrast": 1.0}, "augment.contrast lies below 1"),
        ({"warp_px": 6.0}, "augment.warp_knot_px is at least six times"),
    ],
)
def test_settings_out_of_range_are_refused(values: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        AugmentConfig(**values)  # type: ignore[arg-type]


# Augmentation keeps to the numbers that the training device has: Apple's GPUs lack float64.


CONF = Path(__file__).parents[2] / "conf" / "augment"
LIKE_MPS = "meta"  # a type of device that torch has everywhere
CACHED = (warp._pixel_basis, warp._prefilter, warp.knot_pixels, people._frame)


class NoFloat64(TorchDispatchMode):
    """Refuses what an Apple GPU refuses."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(found):
            if isinstance(leaf, torch.Tensor) and leaf.device.type == LIKE_MPS:
                assert leaf.dtype not in (torch.float64, torch.complex128), func
        return found


@pytest.fixture
def mps(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """A device without storage or float64."""
    assert warp.WITHOUT_FLOAT64 == ("mps",)
    monkeypatch.setattr(warp, "WITHOUT_FLOAT64", (LIKE_MPS,))
    with FakeTensorMode(allow_non_fake_inputs=True), NoFloat64():
        yield torch.device(LIKE_MPS)
    for cached in CACHED:
        cached.cache_clear()


def augmentation(name: str) -> Augmentation:
    values = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    augment = build_augmentation(
        settings(AugmentConfig, values, "augment"),
        seed=0,
        landmarks=landmark_set("msp8"),
        names=["AC", "PC"],
        preprocess=PreprocessSettings(),
        image_size=(150, 150),
    )
    assert augment is not None
    return augment


def run(augment: Augmentation, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.ones(2, 1, 150, 150, device=device)
    points = torch.full((2, 2, 2), 70.0, device=device)
    return augment(images, points, torch.arange(2, device=device), 3)


@pytest.fixture(params=["light", "strong", "synth"])
def augment(request: pytest.FixtureRequest) -> Augmentation:
    made = augmentation(request.param)
    # Numbers that are worked out once, on the CPU, are there before the device has no storage.
    run(augmentation(request.param), torch.device("cpu"))
    return made


def test_no_float64_reaches_a_device_without_it(augment: Augmentation, mps: torch.device) -> None:
    images, points = run(augment, mps)
    assert images.device.type == points.device.type == LIKE_MPS
    assert images.dtype == points.dtype == torch.float32
    assert images.shape == (2, 1, 150, 150)
    assert points.shape == (2, 2, 2)


def test_the_guard_sees_float64(mps: torch.device) -> None:
    with pytest.raises(AssertionError):
        torch.ones(1, device=mps).double()


def test_points_are_carried_with_the_device_s_type(mps: torch.device) -> None:
    zero = torch.zeros(1, 2, 7, 7, device=mps)
    bent = SliceWarp(torch.ones(1, 2, 2, device=mps), zero[:, :, 0, 0], zero, 5.0, (20, 20))
    carried = bent.carry(torch.ones(1, 3, 2, device=mps))
    assert carried.device.type == LIKE_MPS
    assert carried.dtype == torch.float32


def test_an_artery_is_bright_and_lies_in_front_of_the_genu_and_nowhere_else() -> None:
    images = torch.full((40, 60, 80), 0.3)
    genu = torch.tensor([[30.0, 30.0]]).repeat(40, 1)
    chance = Chance(0, 0, torch.arange(40))
    drawn = with_artery(images, genu, chance, 1.0)
    assert (drawn >= images).all()
    brightest = drawn.flatten(1).argmax(dim=1) % 80
    assert (drawn.amax((1, 2)) > 0.5).all()
    assert float(brightest.float().mean()) < 30.0
    # Behind the centre of the arc's largest circle nothing is drawn, nor below or above it.
    assert torch.equal(drawn[:, :, 56:], images[:, :, 56:])
    changed = (drawn - images) > 0.1
    rows, columns = changed.any(2).any(0).nonzero(), changed.any(1).any(0).nonzero()
    assert 12 <= int(rows.min()) < int(rows.max()) <= 48
    assert 24 <= int(columns.min()) < int(columns.max()) <= 50
    # What lies behind the foremost point is seen as it was, along the genu's own row.
    assert torch.allclose(drawn[:, 30, 31:44], images[:, 30, 31:44], atol=0.05)


def test_an_artery_comes_by_chance_and_not_without_a_genu() -> None:
    images = torch.full((200, 40, 40), 0.3)
    genu = torch.full((200, 2), 15.0)
    genu[:50] = torch.nan
    drawn = with_artery(images, genu, Chance(1, 0, torch.arange(200)), 0.4)
    touched = (drawn != images).flatten(1).any(dim=1)
    assert not touched[:50].any()
    assert 0.25 < float(touched[50:].float().mean()) < 0.55
    points = torch.full((200, 3, 2), 15.0)
    config = AugmentConfig(kind="random", artery=1.0)
    chances = [Chance(1, 0, torch.arange(200)) for _ in range(2)]
    without, _ = change(images[:, None], points, chances[0], config)
    assert torch.equal(without, images[:, None]), "no landmark is the genu"
    with_one, _ = change(images[:, None] * torch.linspace(0, 1, 40), points, chances[1], config, 1)
    assert not torch.equal(with_one, images[:, None] * torch.linspace(0, 1, 40))
