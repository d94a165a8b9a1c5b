"""Augmentation: images a second, and how exactly points follow their image."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor

from arguments import main, read_arguments
from landmarking.config import PROJECT, settings
from landmarking.data.augment import Augmentation, AugmentConfig, build_augmentation, random_warp
from landmarking.data.warp import Chance
from landmarking.files import atomic_path, write_text
from landmarking.geometry import Array
from landmarking.imaging.pipeline import (
    MIDSAGITTAL_COMMON,
    PreprocessSettings,
    slice_geometry,
    template_slice,
)
from landmarking.landmarks import landmark_set

KINDS = ("light", "strong", "synth")
SIZE = (150, 150)


@dataclass
class AugmentBenchmark:
    """What to measure.

    Attributes:
        batch: Slices in a batch.
        rounds: Batches that are timed, after one that is not.
        blobs: Rendered points whose place is compared with the carried one, by kind.
        pictures: Slices in a row of the picture, two at least.
        threads: Threads of this process.
        device: `cpu` or `cuda`.
        outputs: Folder for augment.md and augment.png; relative to the project.
    """

    batch: int = 32
    rounds: int = 5
    blobs: int = 256
    pictures: int = 6
    threads: int = 1
    device: str = "cpu"
    outputs: str = "outputs/benchmarks/augment"


def run(arguments: list[str]) -> str:
    """Run the benchmark.

    Args:
        arguments: `key=value` for the fields of `AugmentBenchmark`.

    Returns:
        A table in Markdown, also written to the outputs folder beside a picture.

    Raises:
        ConfigError: If a key is unknown.
    """
    chosen = read_arguments(AugmentBenchmark, arguments, "benchmark")
    torch.set_num_threads(chosen.threads)
    lines = [
        (
            f"{chosen.device}, {chosen.threads} thread(s), batches of {chosen.batch} slices of "
            f"{SIZE[0]} x {SIZE[1]}; seconds of processor time on a CPU, of the clock on a GPU."
        ),
        "",
        "| augment | images a second | blob to point, median / 95 % / max (px) |",
        "|---|---|---|",
    ]
    for kind in KINDS:
        config = shipped(kind)
        rate = images_a_second(config, chosen)
        away = "painted by the same map" if kind == "synth" else _row(blob_misses(config, chosen))
        lines.append(f"| {kind} | {rate:.0f} | {away} |")
    folder = PROJECT / chosen.outputs
    write_text(folder / "augment.md", "\n".join(lines) + "\n")
    draw(folder / "augment.png", chosen.device, chosen.pictures)
    return "\n".join([*lines, "", str(folder / "augment.png")])


def draw(path: Path, device: str, columns: int) -> None:
    """Draw changed template slices (light, strong) and painted people (two rows) with points."""
    from matplotlib.figure import Figure

    preprocess = PreprocessSettings()
    landmarks = landmark_set("msp8")
    geometry = slice_geometry(MIDSAGITTAL_COMMON, np.eye(4), preprocess)
    image = torch.from_numpy(template_slice(preprocess)).expand(columns, 1, -1, -1).to(device)
    points = torch.from_numpy(geometry.to_pixel(landmarks.template_mm)).float()
    points = points.expand(columns, -1, -1).to(device)
    figure = Figure(figsize=(2.0 * columns, 8.0), layout="constrained")
    axes = figure.subplots(4, columns)
    for row, kind in enumerate(("light", "strong", "synth", "synth")):
        augment = _built(shipped(kind))
        changed, moved = augment(image, points, torch.arange(columns, device=device), row)
        for column in range(columns):
            panel = axes[row, column]
            panel.imshow(changed[column, 0].cpu().numpy(), cmap="gray")
            panel.plot(*moved[column].cpu().numpy().T, "+", color="#d55e00")
            panel.set_axis_off()
        axes[row, 0].set_title(kind, loc="left")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=80, format="png")


def _built(config: AugmentConfig) -> Augmentation:
    landmarks = landmark_set("msp8")
    augment = build_augmentation(
        config,
        seed=0,
        landmarks=landmarks,
        names=landmarks.names,
        preprocess=PreprocessSettings(),
        image_size=SIZE,
    )
    assert augment is not None
    return augment


def shipped(kind: str) -> AugmentConfig:
    """The configuration of conf/augment/<kind>.yaml."""
    values = OmegaConf.to_container(OmegaConf.load(PROJECT / "conf" / "augment" / f"{kind}.yaml"))
    assert isinstance(values, dict)
    return settings(AugmentConfig, {str(key): value for key, value in values.items()}, "augment")


def images_a_second(config: AugmentConfig, chosen: AugmentBenchmark) -> float:
    """Images changed or painted in a second."""
    augment = _built(config)
    images = torch.rand(chosen.batch, 1, *SIZE, device=chosen.device)
    points = torch.full((chosen.batch, 8, 2), 75.0, device=chosen.device)
    subjects = torch.arange(chosen.batch, device=chosen.device)
    clock = _clock(chosen.device)
    augment(images, points, subjects, 0)
    start = clock()
    for epoch in range(1, chosen.rounds + 1):
        augment(images, points, subjects, epoch)
    return chosen.rounds * chosen.batch / (clock() - start)


def _clock(device: str) -> Callable[[], float]:
    if device == "cpu":
        return time.process_time

    def waited() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return waited


def blob_misses(config: AugmentConfig, chosen: AugmentBenchmark, sd_px: float = 4.0) -> Tensor:
    """Distance in pixels between warped blobs' peaks and their carried centres, shape (n,)."""
    subjects = torch.arange(chosen.blobs, device=chosen.device)
    chance = Chance(0, 0, subjects)
    centres = chance.uniform(1, 2, low=45.0, high=105.0)
    axis = torch.arange(SIZE[0], device=chosen.device, dtype=torch.float32)
    away = (axis - centres[..., :1]) ** 2, (axis - centres[..., 1:]) ** 2
    blobs = torch.exp(-(away[0][:, :, None, :] + away[1][:, :, :, None]) / (2.0 * sd_px**2))
    warp = random_warp(chance, config, SIZE)
    seen, carried = warp.sample(blobs, mode="bicubic")[:, 0], warp.carry(centres)[:, 0]
    misses = [
        float(np.linalg.norm(_peak(image) - point))
        for image, point in zip(seen.cpu().numpy(), carried.cpu().numpy(), strict=True)
        if point.min() > 5.0 and point.max() < SIZE[0] - 6.0
    ]
    return torch.tensor(misses)


def _peak(image: Array) -> Array:
    """Peak (x, y) of a blob: the top of the parabola through the logarithms around its maximum."""
    row, column = np.unravel_index(int(image.argmax()), image.shape)
    around = np.log(image[row - 2 : row + 3, column - 2 : column + 3].astype(np.float64)).ravel()
    y, x = (part.ravel().astype(np.float64) for part in np.mgrid[-2:3, -2:3])
    terms = np.stack([np.ones(25), x, y, x * x, x * y, y * y], axis=1)
    _, bx, by, axx, axy, ayy = np.linalg.lstsq(terms, around, rcond=None)[0]
    top = np.linalg.solve([[2 * axx, axy], [axy, 2 * ayy]], [-bx, -by])
    return np.array([column, row]) + top


def _row(misses: Tensor) -> str:
    median, most = np.quantile(misses.numpy(), [0.5, 0.95])
    return f"{median:.3f} / {most:.3f} / {float(misses.max()):.3f}"


if __name__ == "__main__":
    main(run)
