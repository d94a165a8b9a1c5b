"""The mean histogram of a training set, as a reference that slices can be matched to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from landmarking.cohort.bids import Cohort
from landmarking.data.assembly import input_digests
from landmarking.data.cache import StageCache
from landmarking.data.stages import raw_slice
from landmarking.errors import ConfigError
from landmarking.imaging.intensity import mean_quantiles, save_reference
from landmarking.imaging.pipeline import PreprocessSettings, histogram_reference


def write_mean_reference(
    path: Path, cohort: Cohort, groups: Sequence[str], settings: PreprocessSettings, outputs: Path
) -> int:
    """Write the mean histogram of the raw slices of some groups.

    Args:
        path: File to write, `*.npy`; `preprocess.histogram_reference=PATH` matches slices to it.
        cohort: The cohort; scans that the cache does not hold are cut.
        groups: Groups that count: those that are trained on, never one that is tested on.
        settings: Settings of the slices; the reference named there plays no part.
        outputs: Folder of `cache/`.

    Returns:
        Number of slices in the mean.

    Raises:
        ConfigError: If the path does not end in `.npy`, or no scan is of these groups.
        ScanError: If a scan cannot be read.
        CacheError: If a file cannot be written.
    """
    if path.suffix != ".npy":
        raise ConfigError(f"mean_reference: the file's name ends in .npy, found {path}")
    scans = [record for record in cohort.scans if record.group in groups]
    if not scans:
        raise ConfigError(
            f"mean_reference: cohort {cohort.name} has no scan of the groups {', '.join(groups)}; "
            "set cohort.train_groups"
        )
    digests, cache = input_digests(cohort, outputs, 1), StageCache(outputs / "cache")
    raw = (raw_slice(record.image, digests[record.image], settings, cache) for record in scans)
    region = histogram_reference(replace(settings, histogram_reference="template")).region
    save_reference(path, mean_quantiles(raw, region))
    return len(scans)
