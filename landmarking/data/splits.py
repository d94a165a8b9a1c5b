"""Training and validation, split by person, and the file that keeps the split."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from landmarking.errors import CohortError, ConfigError
from landmarking.storage import parse_json, write_text

WAYS = ("person", "image")


@dataclass(frozen=True)
class Split:
    """Who is trained on and who is held out.

    Attributes:
        train: Sorted participant ids; scan ids if `by` is `image`.
        validation: Likewise; disjoint from `train`.
        seed: Seed of the draw.
        fraction: Share held out for validation.
        by: `person` keeps all scans of one person on one side; `image` does not, as in the
            authors' scripts, and lets the validation see people that were trained on.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    seed: int
    fraction: float
    by: str = "person"

    @property
    def digest(self) -> str:
        """Short hash of who is on which side."""
        sides = json.dumps([self.by, self.train, self.validation])
        return hashlib.sha256(sides.encode()).hexdigest()[:12]


def split_units(units: Sequence[str], *, fraction: float, seed: int, by: str = "person") -> Split:
    """Draw a split; the order and repetition of `units` do not matter.

    Args:
        units: Participant ids (or scan ids), repeated if somebody has several scans.
        fraction: Share held out, above 0 and below 1; at least one unit goes to each side.
        seed: Seed of the draw.
        by: `person` or `image`, recorded with the split.

    Returns:
        The split.

    Raises:
        ConfigError: If the fraction or `by` is out of range.
        CohortError: If there are fewer than two units.
    """
    if not 0.0 < fraction < 1.0:
        raise ConfigError(f"data.validation_fraction lies between 0 and 1, found {fraction}")
    if by not in WAYS:
        raise ConfigError(f"data.split_by is one of {', '.join(WAYS)}, found {by!r}")
    names = sorted(set(units))
    if len(names) < 2:
        raise CohortError(
            f"a split into training and validation needs two of them, found {len(names)}; "
            "check cohort.train_groups"
        )
    held_out = min(max(round(fraction * len(names)), 1), len(names) - 1)
    order = np.random.default_rng(seed).permutation(len(names))
    validation = sorted(names[i] for i in order[:held_out])
    train = sorted(names[i] for i in order[held_out:])
    return Split(tuple(train), tuple(validation), seed, fraction, by)


def split_by_person(participants: Sequence[str], *, fraction: float, seed: int) -> Split:
    """Draw a split of people; see `split_units`."""
    return split_units(participants, fraction=fraction, seed=seed, by="person")


def write_split(path: Path, split: Split) -> None:
    """Write a split as JSON, as a whole, with its digest."""
    write_text(path, json.dumps({**asdict(split), "digest": split.digest}, indent=1) + "\n")


def read_split(path: Path) -> Split:
    """Inverse of `write_split`.

    Raises:
        CohortError: If the file is missing, is no split, does not have the digest that it states,
            or has somebody on both sides.
    """
    try:
        data = parse_json(path.read_text(encoding="utf-8"))
        split = Split(
            tuple(map(str, data["train"])),
            tuple(map(str, data["validation"])),
            int(data["seed"]),
            float(data["fraction"]),
            str(data["by"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CohortError(f"{path}: not a split file ({error!r}); train the run again") from error
    if data.get("digest", split.digest) != split.digest:
        raise CohortError(
            f"{path}: was changed after it was written (its digest is {split.digest}, it states "
            f"{data['digest']}); restore it from a copy, or train the run again"
        )
    both = set(split.train) & set(split.validation)
    if both:
        raise CohortError(f"{path}: {', '.join(sorted(both))} on both sides of the split")
    return split
