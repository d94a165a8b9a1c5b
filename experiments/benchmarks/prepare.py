"""Seconds a scan by stage, with one process and with two, cold and warm; and of opening slices."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np

from arguments import main, read_arguments
from landmarking.cohort.bids import read_cohort
from landmarking.cohort.records import Cohort
from landmarking.config import PROJECT
from landmarking.imaging.pipeline import PreprocessSettings
from landmarking.landmarks import landmark_set
from landmarking.phantom.dataset import write_phantom_cohort
from landmarking.phantom.person import PhantomSettings
from landmarking.preparation.cache import STAGES
from landmarking.preparation.prepare import Preparation, prepare
from landmarking.preparation.prepared import SliceRecord, load_prepared, save_prepared
from landmarking.processes import available_cores


@dataclass(frozen=True)
class Timing:
    """One preparation of the benchmark's cohort.

    Attributes:
        name: `cold` (nothing cached), `warm` (stages cached) or `finished` (cohort there).
        processes: Processes asked for.
        wall_seconds: Time from call to result.
        cpu_seconds: Processor time of all processes; unlike the time on the clock it tells what
            sharing costs when other work runs beside.
        seconds: Time by stage, summed over processes.
    """

    name: str
    processes: int
    wall_seconds: float
    cpu_seconds: float
    seconds: dict[str, float]


@dataclass
class PrepareBenchmark:
    """What to measure.

    Attributes:
        scans: Phantom heads; 0 for none.
        root: A BIDS cohort in place of the phantoms; empty for phantoms.
        opened: Slices of a prepared cohort whose opening is timed; 0 for none.
    """

    scans: int = 24
    root: str = ""
    opened: int = 2000


def run(arguments: list[str]) -> str:
    """Prepare a cohort with one process and with two, into empty folders; open a large one.

    Args:
        arguments: `key=value` for the fields of `PrepareBenchmark`.

    Returns:
        Two tables in Markdown, and a line about the opening.

    Raises:
        ConfigError: If a key is unknown or a value has the wrong type.
        CohortError: If a scan cannot be used.
    """
    chosen = read_arguments(PrepareBenchmark, arguments)
    with tempfile.TemporaryDirectory(prefix="landmarking-") as name:
        parts, folder = [], Path(name)
        if chosen.root or chosen.scans:
            cohort = read_cohort(Path(chosen.root)) if chosen.root else _phantoms(chosen.scans)
            timings = [*measure(cohort, folder / "one", 1), *measure(cohort, folder / "two", 2)]
            parts.append(report(cohort, timings))
        if chosen.opened:
            parts.append(opening(folder / "opened", chosen.opened))
    return "\n\n".join(parts)


def opening(folder: Path, slices: int) -> str:
    """Time to open a prepared cohort of noise, and to read every pixel of it once.

    Args:
        folder: Where to write it.
        slices: Number of slices of 150 x 150 pixels.
    """
    landmarks = landmark_set("msp8")
    image = np.random.default_rng(0).random((150, 150), dtype=np.float32)
    names = [f"sub-{number:05d}" for number in range(slices)]
    save_prepared(
        folder,
        name="opened",
        simulated=True,
        digest="0" * 64,
        landmarks=landmarks,
        images=np.broadcast_to(image, (slices, 150, 150)),
        points_mm=np.zeros((slices, len(landmarks), 3)),
        pixel_to_world=np.broadcast_to(np.eye(4), (slices, 4, 4)),
        records=[SliceRecord(name, name, None, "train", None, None) for name in names],
        settings={},
    )
    seconds = []
    clocks = (time.perf_counter(), time.process_time())
    prepared = load_prepared(folder)
    seconds += [time.perf_counter() - clocks[0], time.process_time() - clocks[1]]
    mapped = "mapped into memory" if isinstance(prepared.images, np.memmap) else "read into memory"
    begin = time.process_time()
    np.sum(prepared.images)
    reading = time.process_time() - begin
    return (
        f"{slices} slices ({prepared.images.nbytes / 1e6:.0f} MB) opened in {seconds[0]:.2f} s "
        f"({seconds[1]:.2f} s of processor time), {mapped}; every pixel read once in "
        f"{reading:.2f} s of processor time"
    )


def _phantoms(scans: int) -> Cohort:
    test = scans // 4
    preset = PhantomSettings(
        label="benchmark", train=scans - 2 * test, healthy=test, down_syndrome=test
    )
    root = PROJECT / "outputs" / "cohorts" / f"phantom-benchmark-{scans}"
    write_phantom_cohort(root, preset, available_cores(), progress=False)
    return read_cohort(root, name="phantom-benchmark")


def measure(cohort: Cohort, outputs: Path, processes: int) -> list[Timing]:
    """Prepare a cohort cold, from cached stages, and finished.

    Args:
        cohort: The cohort; its files are read once before, so that the disk is not measured.
        outputs: An empty folder.
        processes: Processes.
    """
    for scan in cohort.scans:
        scan.image.read_bytes()

    def once(name: str) -> Timing:
        before = _cpu_seconds()
        done: Preparation = prepare(
            cohort, landmark_set("msp8"), PreprocessSettings(), outputs, workers=processes
        )
        used = _cpu_seconds() - before
        return Timing(name, processes, done.wall_seconds, used, dict(done.seconds))

    cold = once("cold")
    shutil.rmtree(outputs / "prepared")
    return [cold, once("warm"), once("finished")]


def _cpu_seconds() -> float:
    resource = import_module("resource")
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return float(sum(usage.ru_utime + usage.ru_stime for usage in usages))


def report(cohort: Cohort, timings: Sequence[Timing]) -> str:
    """Tables of seconds a scan, in Markdown.

    Args:
        cohort: What was prepared.
        timings: From `measure`, with one and with two processes.
    """
    scans = len(cohort.scans)
    by_case = {(timing.name, timing.processes): timing for timing in timings}
    machine = f"{platform.machine()}, {available_cores()} cores"
    lines = [
        f"{scans} scans of {cohort.name}; {machine}, load {os.getloadavg()[0]:.1f} at the end",
        "",
        "| seconds a scan | one process | two processes | ratio |",
        "|---|---|---|---|",
    ]
    for name in ("cold", "warm", "finished"):
        one, two = by_case[name, 1], by_case[name, 2]
        for what, a, b in (
            ("clock", one.wall_seconds, two.wall_seconds),
            ("processor", one.cpu_seconds, two.cpu_seconds),
        ):
            lines.append(f"| {name}, {what} | {a / scans:.4f} | {b / scans:.4f} | {a / b:.2f} |")
    lines += ["", "| stage, cold | one process | two processes |", "|---|---|---|"]
    cold = {timing.processes: timing.seconds for timing in timings if timing.name == "cold"}
    for stage in STAGES:
        a, b = (cold[processes].get(stage, 0.0) / scans for processes in (1, 2))
        lines.append(f"| {stage} | {a:.4f} | {b:.4f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main(run)
