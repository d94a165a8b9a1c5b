"""What a cohort of UK Biobank's size costs: a cache and an index of real size, made and removed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from arguments import main, read_arguments
from landmarking.config import PROJECT
from landmarking.errors import ConfigError
from landmarking.landmarks import landmark_set
from landmarking.preparation.cache import STAGES, Entry, StageCache, stage_key
from landmarking.preparation.prepared import SliceRecord, load_prepared, save_prepared

_PIXELS = 150
_KEPT_FREE = 8 * 10**9


@dataclass
class ScaleBenchmark:
    """What to measure.

    Attributes:
        scans: Scans of the cohort.
        looked_at: Entries of the cache that are read, of which the time of all is reckoned.
        folder: Where everything is made and removed again; empty takes the system's own.
        growth: Numbers of scans that are really prepared, one phantom head over and over, to see
            what a scan costs as the cohort grows; with it the rest is left out.
        runs: Folders of runs to list, likewise.
    """

    scans: int = 100_000
    looked_at: int = 2_000
    folder: str = ""
    growth: list[int] = field(default_factory=list)
    runs: int = 0


def run(arguments: list[str]) -> str:
    """Make entries and an index for a cohort, look them up, load them, and remove them.

    Args:
        arguments: `key=value` for the fields of `ScaleBenchmark`.

    Returns:
        A table in Markdown.

    Raises:
        ConfigError: If a key is unknown, a value has the wrong type or the disk is too small.
    """
    chosen = read_arguments(ScaleBenchmark, arguments)
    parent = chosen.folder or tempfile.gettempdir()
    if chosen.runs:
        return measure_runs(Path(parent), chosen.runs)
    if chosen.growth:
        return measure_growth(Path(parent), chosen.growth)
    needed = chosen.scans * 3 * _PIXELS * _PIXELS * 4 + _KEPT_FREE
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise ConfigError(
            f"{parent}: {free / 1e9:.0f} GB are free, {needed / 1e9:.0f} are needed; give another "
            "folder= or fewer scans="
        )
    with tempfile.TemporaryDirectory(prefix="landmarking-", dir=parent) as folder:
        rows = [*measure_cache(Path(folder), chosen), *measure_index(Path(folder), chosen.scans)]
    lines = [f"{chosen.scans} scans", "", "| what | figure |", "|---|---|"]
    return "\n".join([*lines, *(f"| {what} | {figure} |" for what, figure in rows)])


def measure_runs(parent: Path, count: int) -> str:
    """List many runs, each with 192 predictions and 300 epochs, by the command.

    Args:
        parent: Where they are made and removed again.
        count: How many.

    Returns:
        One line.
    """
    config = "".join(f"key{n}: {n}\n" for n in range(150)) + "study: a\nseed: 0\n"
    table = "model,group,error_mm\n" + "ML,HS,1.5\n" * 192
    history = "epoch,validation_error_mm\n" + "".join(f"{n},1.25\n" for n in range(300))
    files = {"config.yaml": config, "provenance.json": "{}", "predictions.csv": table}
    with tempfile.TemporaryDirectory(prefix="landmarking-", dir=parent) as place:
        for number in range(count):
            folder = Path(place) / f"study{number // 100}" / f"run{number}"
            folder.mkdir(parents=True)
            for name, text in (files | {"history.csv": history}).items():
                (folder / name).write_text(text, encoding="utf-8")
        command = [sys.executable, "-m", "landmarking.cli", "runs", "list", place]
        _, seconds = _timed_wall(
            lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603
        )
    return f"{count} runs listed in {seconds:.2f} s by the clock, the command's start included"


def _timed_wall(work: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    return work(), time.perf_counter() - started


def measure_growth(parent: Path, counts: Sequence[int]) -> str:
    """Prepare 1, 10, 100, ... scans, each cohort from nothing, in one process.

    Args:
        parent: Where everything is made and removed again.
        counts: Numbers of scans.

    Returns:
        A table in Markdown: seconds, memory and bytes, by scan.
    """
    head = "| scans | seconds a scan | memory, MiB | cache, kB a scan | prepared, kB a scan |"
    lines = [head, "|---|---|---|---|---|"]
    with tempfile.TemporaryDirectory(prefix="landmarking-", dir=parent) as place:
        one = _one_head(Path(place) / "head")
        for count in counts:
            folder = Path(place) / str(count)
            _same_head(folder / "tree", one, count)
            wall, mib = _prepared_alone(folder)
            size = {name: _bytes(folder / "outputs" / name) for name in ("cache", "prepared")}
            lines.append(
                f"| {count} | {wall / count:.2f} | {mib:.0f} | {size['cache'] / count / 1e3:.0f} | "
                f"{size['prepared'] / count / 1e3:.0f} |"
            )
            shutil.rmtree(folder)
    return "\n".join(lines)


def _one_head(root: Path) -> Path:
    """A phantom head of the demo's kind, unpacked."""
    preset = {"train": 1, "healthy": 1, "down_syndrome": 1}
    words = [f"cohort.preset.{key}={value}" for key, value in preset.items()]
    words += ["cohort=phantom", "cohort/preset=demo", f"cohort.root={root}", "workers=1"]
    _prepare([*words, f"outputs={root}-outputs", "check_only=true"])
    return next(path for path in sorted(root.rglob("*_T1w.nii.gz")))


def _same_head(tree: Path, head: Path, count: int) -> None:
    """A BIDS tree of one head, every file with another byte behind its end: another digest."""
    rows = ["participant_id\tgroup"]
    content = head.read_bytes()
    for number in range(count):
        name = f"sub-{number:05d}"
        path = tree / name / "anat" / f"{name}_T1w.nii.gz"
        path.parent.mkdir(parents=True)
        path.write_bytes(content + f"\n{number}".encode())
        rows.append(f"{name}\t{'train' if number % 2 else 'HS'}")
    (tree / "participants.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def _prepare(words: list[str]) -> tuple[float, float]:
    """Seconds on the clock and most memory in MiB of one call of prepare.py."""
    command = [sys.executable, str(PROJECT / "experiments" / "prepare.py"), *words]
    started = time.perf_counter()
    process = subprocess.Popen(  # noqa: S603 - our own script
        [*command, "progress=false"], stdout=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise ConfigError(f"{' '.join(words)}: preparing failed, see its message; run it by hand")
    return time.perf_counter() - started, used.ru_maxrss / 1024.0


def _prepared_alone(folder: Path) -> tuple[float, float]:
    words = ["cohort=bids", f"cohort.root={folder / 'tree'}", f"outputs={folder / 'outputs'}"]
    return _prepare([*words, "workers=1"])


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def measure_cache(folder: Path, chosen: ScaleBenchmark) -> list[tuple[str, str]]:
    """Entries of all stages for every scan: bytes, files a folder, look-up and reading.

    Args:
        folder: Where the cache is made.
        chosen: How many.
    """
    cache = StageCache(folder / "cache")
    keys = [stage_key("scan", 1, number) for number in range(chosen.scans)]
    _fill(cache, keys)
    folders = list((cache.root / "intensity").iterdir())
    most = max(len(os.listdir(path)) for path in folders)
    entry = cache.root / "intensity" / keys[0][:2] / f"{keys[0]}.json"
    size = entry.stat().st_size + entry.with_suffix(".npy").stat().st_size
    found, seconds = _timed(lambda: sum(cache.has("intensity", key) for key in keys))
    sample = keys[:: max(1, len(keys) // chosen.looked_at)]
    _, reading = _timed(lambda: [cache.get("intensity", key) for key in sample])
    return [
        ("folders of a stage, files in the fullest", f"{len(folders)}, {most}"),
        ("files in the cache", f"{len(keys) * (len(STAGES) - 1 + 2)}"),
        ("bytes of a finished slice in the cache", f"{size / 1e3:.1f} kB"),
        (f"looking up {found} entries", f"{seconds:.1f} s CPU"),
        ("reading and checking an entry", f"{1e3 * reading / len(sample):.2f} ms CPU"),
    ]


def _fill(cache: StageCache, keys: list[str]) -> None:
    # One entry of each stage is made as usual; the others are its bytes under their own names.
    rng = np.random.default_rng(0)
    image = rng.uniform(0, 255, (_PIXELS, _PIXELS)).astype(np.float32)
    values = {"qc": {f"figure_{n}": float(n) / 7 for n in range(24)}, "affine": np.eye(4).tolist()}
    for stage in STAGES[1:]:
        kept = image if stage in ("slice", "intensity") else None
        first = cache.root / stage / keys[0][:2] / f"{keys[0]}.json"
        cache.put(stage, keys[0], Entry(values, kept))
        text = first.read_text(encoding="utf-8")
        data = None if kept is None or stage == "slice" else first.with_suffix(".npy").read_bytes()
        for key in keys[1:]:
            path = cache.root / stage / key[:2] / f"{key}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text.replace(keys[0], key), encoding="utf-8")
            if data is not None:
                path.with_suffix(".npy").write_bytes(data)


def measure_index(folder: Path, scans: int) -> list[tuple[str, str]]:
    """A prepared cohort: writing, loading, memory.

    Args:
        folder: Where it is made.
        scans: Slices in it.
    """
    landmarks = landmark_set("msp8")
    rng = np.random.default_rng(0)
    image = rng.uniform(0, 255, (_PIXELS, _PIXELS)).astype(np.float32)
    records = [SliceRecord(f"sub-{n:06d}", f"sub-{n:06d}", None, "train") for n in range(scans)]
    points = np.broadcast_to(landmarks.template_mm, (scans, len(landmarks), 3))
    _, writing = _timed(
        lambda: save_prepared(
            folder / "prepared",
            name="scale",
            simulated=True,
            digest="0" * 64,
            landmarks=landmarks,
            images=[image] * scans,
            points_mm=points + rng.normal(0, 1, points.shape),
            pixel_to_world=np.broadcast_to(np.eye(4), (scans, 4, 4)),
            records=records,
            settings={},
        )
    )
    index, images = ((folder / "prepared" / name) for name in ("index.json", "images.npy"))
    loaded, loading = _timed(lambda: load_prepared(folder / "prepared", verify=False))
    tracemalloc.start()
    again = load_prepared(folder / "prepared", verify=False)
    memory = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(again) == scans
    _, checked = _timed(lambda: load_prepared(folder / "prepared"))
    return [
        ("index.json, images.npy", f"{_mb(index):.0f} MB, {_mb(images):.0f} MB"),
        ("writing and loading the prepared cohort", f"{writing:.1f} s CPU"),
        ("loading it without the slices' checksum", f"{loading:.1f} s CPU"),
        ("loading it with the checksum", f"{checked:.1f} s CPU"),
        ("memory of a loaded cohort, slices on the disk", f"{memory / 1e6:.0f} MB"),
        ("memory of its slices on a training device", f"{loaded.images.nbytes / 1e6:.0f} MB"),
    ]


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    result = work()
    return result, time.process_time() - start


def _mb(path: Path) -> float:
    return path.stat().st_size / 1e6


if __name__ == "__main__":
    main(run)
