"""What `experiments/prepare.py` does: configuration in, a summary for people out."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path

from landmarking.cohort.bids import Cohort
from landmarking.cohort.check import check_cohort
from landmarking.cohort.sources import CohortConfig
from landmarking.data.assembly import QUALITY
from landmarking.data.carried import pack_prepared
from landmarking.data.mean_reference import write_mean_reference
from landmarking.errors import CohortError, ConfigError
from landmarking.imaging.pipeline import PreprocessSettings
from landmarking.landmarks import LandmarkSet
from landmarking.preparation import (
    LandmarksConfig,
    Preparation,
    open_locked,
    prepare,
    prepare_shard,
)
from landmarking.processes import available_cores


@dataclass
class PrepareConfig:
    """What `experiments/prepare.py` takes.

    Attributes:
        outputs: Folder of `cache/` and `prepared/`.
        cohort: Where the scans come from.
        preprocess: Settings of the imaging stages.
        landmarks: Which landmarks.
        workers: Processes; None takes all cores.
        check_only: Whether to read and check everything and compute nothing.
        progress: Whether to draw a progress bar.
        shards: Number of shares that the scans are shared out in, to as many jobs.
        shard: Share of this job, from 0; None does all of them.
        carry: File (`*.prepared.zip`) that the prepared cohort is also written to, with 8-bit
            slices; `cohort.root=FILE` trains from it where the scans are not at hand.
        mean_reference: File (`*.npy`) that the mean histogram of the training groups' slices is
            also written to; `preprocess.histogram_reference=FILE` then matches slices to it.
    """

    outputs: str
    cohort: CohortConfig
    preprocess: PreprocessSettings = field(default_factory=PreprocessSettings)
    landmarks: LandmarksConfig = field(default_factory=LandmarksConfig)
    workers: int | None = None
    check_only: bool = False
    progress: bool = True
    shards: int = 1
    shard: int | None = None
    carry: str | None = None
    mean_reference: str | None = None

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: If there is no such shard.
        """
        if self.shards < 1 or not 0 <= (self.shard or 0) < self.shards:
            raise ConfigError(
                f"shard is a number from 0 to shards - 1, found shard {self.shard} of "
                f"{self.shards}; set shards too, as in shards=8 shard=0"
            )


def run_preparation(config: PrepareConfig) -> str:
    """Prepare the configured cohort, for the command line.

    Args:
        config: The whole configuration of `experiments/prepare.py`.

    Returns:
        A summary for people: counts by group, time by stage, and where everything lies.

    Raises:
        CohortError: If the cohort or any of its scans cannot be used; all problems at once.
        CacheError: If a file cannot be written.
    """
    outputs, landmarks = Path(config.outputs), config.landmarks.build()
    workers = config.workers or available_cores()
    cohort = open_locked(config.cohort, outputs, workers, config.progress)
    if config.check_only:
        return _checked(cohort, landmarks, workers, config.preprocess.slice_size)
    if config.shard is not None:
        done = prepare_shard(
            cohort,
            landmarks,
            config.preprocess,
            outputs,
            shard=config.shard,
            shards=config.shards,
            workers=workers,
            progress=config.progress,
        )
        return (
            f"shard {config.shard} of {config.shards}: {done} of {len(cohort.scans)} scans are in "
            "the cache; when all shards are, the same command without shards ends the work"
        )
    preparation = prepare(
        cohort,
        landmarks,
        config.preprocess,
        outputs,
        workers=workers,
        progress=config.progress,
    )
    lines = [summary_text(preparation)]
    if config.carry is not None:
        carried = Path(config.carry)
        pack_prepared(preparation.prepared, carried)
        lines.append(f"one file:      {carried} ({carried.stat().st_size / 1e6:.1f} MB)")
    if config.mean_reference is not None:
        lines.append(_mean_reference(config, Path(config.mean_reference), cohort))
    return "\n".join(lines)


def _mean_reference(config: PrepareConfig, path: Path, cohort: Cohort) -> str:
    groups = config.cohort.train_groups
    count = write_mean_reference(path, cohort, groups, config.preprocess, Path(config.outputs))
    return f"mean histogram: {path} ({count} slices of {', '.join(groups)})"


def _checked(cohort: Cohort, landmarks: LandmarkSet, workers: int, slice_size: int) -> str:
    check = check_cohort(cohort, landmarks, workers=workers, slice_size=slice_size)
    if check.problems:
        raise CohortError(check.text)
    return check.text


def summary_text(preparation: Preparation) -> str:
    """Counts by group, time by stage and paths, a few lines for people."""
    prepared = preparation.prepared
    counts = ", ".join(f"{group} {len(prepared.indices([group]))}" for group in prepared.groups)
    lines = [
        f"cohort {prepared.name}: {len(prepared)} slices ({counts}), "
        f"{len(prepared.landmarks)} landmarks of {prepared.landmarks.name}"
        + (", simulated" if prepared.simulated else "")
    ]
    if preparation.reused:
        lines.append(f"was prepared already; opened in {preparation.wall_seconds:.1f} s")
    else:
        what = "by stage, summed over processes:" if preparation.seconds else "all from the cache"
        lines.append(f"took {preparation.wall_seconds:.1f} s; {what}")
    lines += [
        f"  {stage:<12} {seconds:8.1f} s for {preparation.computed[stage]} scans"
        for stage, seconds in preparation.seconds.items()
    ]
    lines += _flagged_lines(prepared.folder / QUALITY)
    lines.append(f"input bytes:   sha256 {preparation.inputs}")
    lines.append(f"slices:        {prepared.folder}")
    lines.append(f"quality:       {prepared.folder / QUALITY}")
    sheets = sorted(prepared.folder.glob("contact-sheet-*.png"))
    lines += [f"contact sheet: {sheet}" for sheet in sheets[:1]]
    if len(sheets) > 1:
        lines[-1] += f" to {sheets[-1].name}"
    return "\n".join(lines)


def _flagged_lines(path: Path, most: int = 10) -> list[str]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as handle:
        flagged = [row for row in csv.DictReader(handle) if row["flagged"] == "True"]
    if not flagged:
        return ["nothing flagged"]
    lines = [f"flagged, look at them: {len(flagged)}"]
    lines += [f"  {row['scan_id']}: {row['reason']}" for row in flagged[:most]]
    return lines + (
        [f"  and {len(flagged) - most} more in {path.name}"] if len(flagged) > most else []
    )
