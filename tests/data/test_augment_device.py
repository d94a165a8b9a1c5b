"""Augmentation keeps to the numbers that the training device has: Apple's GPUs lack float64."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from landmarking.config import settings
from landmarking.data import template_people, warp
from landmarking.data.augment import Augmentation, build_augmentation
from landmarking.data.augment_config import AugmentConfig
from landmarking.data.warp import SliceWarp
from landmarking.imaging.pipeline import PreprocessSettings
from landmarking.landmarks import landmark_set

CONF = Path(__file__).parents[2] / "conf" / "augment"
LIKE_MPS = "meta"  # a type of device that torch has everywhere
CACHED = (warp._pixel_basis, warp._prefilter, warp.knot_pixels, template_people._frame)


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
