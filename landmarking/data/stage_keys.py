"""Cache keys of the imaging stages.

A stage's key holds the key of the stage before, the version of its code and the settings that it
reads, and no others; so a new crop keeps registration and plane, and a new histogram reference
keeps the raw slice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from landmarking.data.cache import StageCache, stage_key
from landmarking.data.code_version import stage_version
from landmarking.geometry import SliceGeometry
from landmarking.imaging.pipeline import PreprocessSettings
from landmarking.storage import file_sha256

STAGES = ("read", "registration", "plane", "slice", "intensity")
"""Stages in order, as times and counts name them; `read` is not cached."""

TISSUES = "tissues"
"""Stage of the tissue maps, beside the others: cohorts without maps do without it."""


def key_settings(settings: PreprocessSettings) -> dict[str, Any]:
    """Settings that decide a prepared slice; normalisation happens later, batch by batch."""
    return {key: value for key, value in asdict(settings).items() if key != "normalisation"}


def stage_versions() -> dict[str, str]:
    """Version of the code of every cached stage."""
    return {stage: stage_version(stage) for stage in STAGES[1:]}


def stage_keys(image_sha256: str, settings: PreprocessSettings) -> dict[str, str]:
    """Cache keys of one scan by stage.

    Args:
        image_sha256: Digest of the scan's bytes.
        settings: Settings of all stages.
    """
    grid = (settings.slice_size, settings.crop, settings.spacing_mm)
    own_settings: dict[str, tuple[Any, ...]] = {
        "registration": (settings.registration,),
        "plane": (settings.midsagittal,),
        "slice": grid,
        "intensity": (reference_identity(settings.histogram_reference),),
    }
    keys: dict[str, str] = {}
    before = image_sha256
    for stage in STAGES[1:]:
        before = keys[stage] = stage_key(stage, stage_version(stage), before, own_settings[stage])
    return keys


def reference_identity(reference: str) -> str:
    """What a histogram reference is: the digest of the file, or its name where it is none."""
    path = Path(reference)
    return file_sha256(path) if path.is_file() else reference


def is_cached(image_sha256: str, settings: PreprocessSettings, cache: StageCache) -> bool:
    """Whether the finished slice of a scan lies in the cache (its checksum is not looked at)."""
    return cache.has("intensity", stage_keys(image_sha256, settings)["intensity"])


def tissue_key(sha256: Sequence[str], geometry: SliceGeometry) -> str:
    """Cache key of a slice's tissue maps, which hang on the slice's place and not on its making.

    Args:
        sha256: Digests of the maps' files.
        geometry: Where the slice lies.
    """
    return stage_key(TISSUES, stage_version(TISSUES), list(sha256), geometry.to_dict())
