from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest

from landmarking.landmarks import landmark_set
from landmarking.phantom.person import PhantomSettings, Subject, make_head
from landmarking.phantom.scanner import ScannerSettings
from landmarking.preparation.prepared import PreparedCohort, SliceRecord, save_prepared

# A small synthetic prepared cohort, and a small training configuration, for many test files.


# A busy machine is no defect: examples have no deadline.
hypothesis.settings.register_profile("landmarking", deadline=None)
hypothesis.settings.load_profile("landmarking")


@pytest.fixture(autouse=True)
def no_command_line_left() -> Iterator[None]:
    """A run that a test starts in this process leaves no Hydra job behind for the next test."""
    yield
    if (hydra_config := sys.modules.get("hydra.core.hydra_config")) is not None:
        hydra_config.HydraConfig.instance().cfg = None


PIXEL_TO_WORLD = np.array(
    [[0.0, 0.0, -1.0, 1.5], [-1.0, 0.0, 0.0, 60.0], [0.0, -1.0, 0.0, 50.0], [0.0, 0.0, 0.0, 1.0]]
)


def synthetic_arrays(
    train: int, test: int, size: int, seed: int, scans_per_person: int = 1
) -> dict[str, Any]:
    """One bright or dark blob a landmark, on slices of a plain geometry."""
    rng = np.random.default_rng(seed)
    landmarks = landmark_set("msp8")
    count, count_landmarks = train + 2 * test, len(landmarks)
    base = rng.uniform(0.25 * size, 0.75 * size, (count_landmarks, 2))
    shift = rng.normal(0.0, 2.0, (count, 1, 2)) + rng.normal(0.0, 1.0, (count, count_landmarks, 2))
    points = base + shift
    y, x = np.mgrid[:size, :size]
    images = rng.normal(0.0, 0.05, (count, size, size))
    for index in range(count_landmarks):
        distance2 = (x - points[:, index, 0, None, None]) ** 2
        distance2 = distance2 + (y - points[:, index, 1, None, None]) ** 2
        images += (1.0 + index) * (-1) ** index * np.exp(-distance2 / 8.0)
    flat = np.concatenate([points, np.zeros_like(points[..., :1])], axis=-1)
    points_mm = flat @ PIXEL_TO_WORLD[:3, :3].T + PIXEL_TO_WORLD[:3, 3]
    groups = ["train"] * train + ["HS"] * test + ["DS"] * test
    people = [index // scans_per_person if index < train else index for index in range(count)]
    return {
        "name": "synthetic",
        "simulated": True,
        "digest": f"{seed:064x}",
        "landmarks": landmarks,
        "images": images.astype(np.float32),
        "points_mm": points_mm,
        "pixel_to_world": np.repeat(PIXEL_TO_WORLD[None], count, axis=0),
        "records": tuple(
            SliceRecord(f"sub-{person:03d}_run-{index}", f"sub-{person:03d}", None, group)
            for index, (person, group) in enumerate(zip(people, groups, strict=True))
        ),
        "settings": {},
    }


@pytest.fixture(scope="session")
def make_cohort(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., PreparedCohort]:
    """Factory of synthetic cohorts: `make_cohort(train=12, test=2, size=24, missing=...)`."""

    def make(
        train: int = 12,
        test: int = 2,
        size: int = 24,
        seed: int = 0,
        scans_per_person: int = 1,
        missing: tuple[tuple[int, int], ...] = (),
        settings: dict[str, Any] | None = None,
    ) -> PreparedCohort:
        arrays = synthetic_arrays(train, test, size, seed, scans_per_person)
        arrays["settings"] = settings or {}
        for scan, landmark in missing:
            arrays["points_mm"][scan, landmark] = np.nan
        return save_prepared(tmp_path_factory.mktemp("prepared") / "cohort", **arrays)

    return make


TINY_MODEL = {
    "_target_": "landmarking.models.coordinate_cnn.CoordinateCNN",
    "channels": [4, 8],
    "hidden": [16],
    "dropout": 0.3,
    "initialisation": "kaiming",
    "centred": True,
    "scale_px": 5.0,
}


def _callback_nodes(folder: Path, every_n_epochs: int) -> dict[str, Any]:
    ours, run = "landmarking.training.callbacks", {"every_n_epochs": every_n_epochs}
    return {
        "history": {"_target_": f"{ours}.History", "path": str(folder / "history.csv"), **run},
        "resume": {
            "_target_": f"{ours}.RunCheckpoint",
            "path": str(folder / "checkpoints" / "last.ckpt"),
            **run,
        },
    }


@pytest.fixture
def callback_nodes() -> Callable[[Path, int], dict[str, Any]]:
    """The default callbacks of a run at another pace: `callback_nodes(folder, every_n_epochs)`."""
    return _callback_nodes


@pytest.fixture
def tensorboard_node() -> Callable[[Path], dict[str, Any]]:
    """TensorBoard as conf/logger has it, for a folder."""
    return lambda folder: {
        "tensorboard": {
            "_target_": "pytorch_lightning.loggers.TensorBoardLogger",
            "save_dir": str(folder),
            "name": "tensorboard",
            "version": "",
            "default_hp_metric": False,
        }
    }


@pytest.fixture
def training_values(tmp_path: Path) -> dict[str, Any]:
    """Plain values of a training run of a second, in `tmp_path`, for `settings`."""
    return {
        "outputs": str(tmp_path / "outputs"),
        "study": "study",
        "cohort": {"root": "nowhere", "name": "synthetic"},
        "model": dict(TINY_MODEL),
        "data": {"batch_size": 4},
        "optimizer": {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 0.003},
        "schedule": {
            "_target_": "landmarking.models.module.Schedule",
            "kind": "cosine",
            "final_rate": 1e-5,
        },
        "trainer": {
            "max_epochs": 3,
            "accelerator": "cpu",
            "enable_progress_bar": False,
            "enable_model_summary": False,
        },
        "threads": 1,
    }


@pytest.fixture(scope="session")
def coarse():
    """Settings of heads that take a fraction of a second."""
    scanner = ScannerSettings(voxel_mm=[3.0, 3.6], field_mm=[170.0, 215.0, 200.0])
    return PhantomSettings(
        train=3, healthy=1, down_syndrome=1, scans_per_person=2.0, scanner=scanner
    )


@pytest.fixture(scope="session")
def head(coarse):
    return make_head(coarse, Subject("train", 0))
