"""Cache keys of the imaging stages.

A stage's key holds the key of the stage before, the stage's version and those of its settings that
are not as in `BASELINE`, and no others; so a new crop keeps registration and plane, a new histogram
reference keeps the raw slice, and a setting that is new keeps everything while it has its default.
Nothing in a key comes from the text of the code or from where files lie.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

from landmarking.data.cache import StageCache, canonical_json, stage_key
from landmarking.geometry import SliceGeometry
from landmarking.imaging.pipeline import PreprocessSettings
from landmarking.storage import file_sha256

STAGES = ("read", "registration", "plane", "slice", "intensity")
"""Stages in order, as times and counts name them; `read` is not cached."""

TISSUES = "tissues"
"""Stage of the tissue maps, beside the others: cohorts without maps do without it."""

# Whoever changes what a stage computes or stores raises its number by one, in the same commit, and
# renews the table of tests/data/test_stage_versions.py, which fails when that was forgotten. The
# stages after it follow by themselves. Renaming, moving, reformatting or speeding up code that
# gives the same numbers raises nothing: what people have prepared stays good.
STAGE_VERSIONS: dict[str, int] = {
    "registration": 1,
    "plane": 1,
    "slice": 1,
    "intensity": 1,
    TISSUES: 1,
}
"""Version of every cached stage."""

STAGE_SETTINGS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "registration": ("registration",),
        "plane": ("midsagittal",),
        "slice": ("slice_size", "crop", "spacing_mm"),
        "intensity": ("histogram_reference",),
    }
)
"""The settings that each stage reads."""

# Not the defaults, though they were these at first: a setting that is as written here is left out
# of keys. A new setting is added with its first default; what stands here never changes, even where
# a default does.
BASELINE: Mapping[str, Any] = MappingProxyType(
    {
        "registration": "rigid",
        "slice_size": 256,
        "crop": [50, 200],
        "spacing_mm": 1.0,
        "histogram_reference": "template",
        "midsagittal": {
            "search": "fast",
            "pairs": 40_000,
            "radius_mm": 75.0,
            "edge_mm": 20.0,
            "near_mm": 30.0,
            "robustness": 0.5,
            "flatten_mm": 30.0,
        },
    }
)
"""Value of every setting that a key does not state."""


def key_settings(settings: PreprocessSettings) -> dict[str, Any]:
    """Settings that decide a prepared slice; normalisation happens later, batch by batch."""
    values: dict[str, Any] = json.loads(canonical_json(asdict(settings)))
    del values["normalisation"]
    return values


def decisive_settings(settings: PreprocessSettings) -> dict[str, Any]:
    """What is not as in `BASELINE`, a histogram reference by its content."""
    baseline = _baseline(settings)
    own = _difference(_filled(key_settings(settings), baseline), baseline)
    if "histogram_reference" in own:
        own["histogram_reference"] = reference_identity(settings.histogram_reference)
    return own


def differing_settings(
    made: Mapping[str, Any], wanted: PreprocessSettings
) -> dict[str, tuple[Any, Any]]:
    """Settings in which slices are not as wanted, the histogram reference left aside.

    Args:
        made: What the slices were made with, as plain values; a setting that is not there did not
            exist yet, and has its value of `BASELINE`.
        wanted: Settings to compare with.

    Returns:
        Value made with and value wanted, by key.
    """
    baseline = _baseline(wanted)
    before, after = _filled(made, baseline), _filled(key_settings(wanted), baseline)
    keys = [key for key in after if key != "histogram_reference" and before[key] != after[key]]
    return {key: (before[key], after[key]) for key in keys}


def _baseline(settings: PreprocessSettings) -> dict[str, Any]:
    # A setting that is not written yet has its default; a test sees to it that it is written.
    return _filled(BASELINE, key_settings(type(settings)()))


def _filled(values: Mapping[str, Any], baseline: Mapping[str, Any]) -> dict[str, Any]:
    """Values, and those of the baseline where there are none."""
    filled = dict(baseline)
    for key, value in values.items():
        known = baseline.get(key)
        nested = isinstance(value, Mapping) and isinstance(known, Mapping)
        filled[key] = _filled(value, known or {}) if nested else value
    return filled


def _difference(values: Mapping[str, Any], baseline: Mapping[str, Any]) -> dict[str, Any]:
    """Values that are not those of the baseline, which has all keys."""
    return {
        key: _difference(value, baseline[key]) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if value != baseline[key]
    }


def stage_keys(image_sha256: str, settings: PreprocessSettings) -> dict[str, str]:
    """Cache keys of one scan by stage.

    Args:
        image_sha256: Digest of the scan's bytes.
        settings: Settings of all stages.
    """
    decisive = decisive_settings(settings)
    keys: dict[str, str] = {}
    before = image_sha256
    for stage, names in STAGE_SETTINGS.items():
        own = {name: decisive[name] for name in names if name in decisive}
        before = keys[stage] = stage_key(stage, STAGE_VERSIONS[stage], before, own)
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
    return stage_key(TISSUES, STAGE_VERSIONS[TISSUES], list(sha256), geometry.to_dict())
