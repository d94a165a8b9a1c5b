"""Who is learnt from: training and validation split by person, and adaptation to another group."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from landmarking.cohort.records import known, read_table
from landmarking.errors import CohortError, ConfigError
from landmarking.files import parse_json, write_text
from landmarking.preparation.prepared import PreparedCohort
from landmarking.preparation.sources import site_of

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
        raise CohortError(f"{path}: not a split file; train the run again") from error
    if data.get("digest", split.digest) != split.digest:
        raise CohortError(
            f"{path}: was changed after it was written (its digest is {split.digest}, it states "
            f"{data['digest']}); restore it from a copy, or train the run again"
        )
    both = set(split.train) & set(split.validation)
    if both:
        raise CohortError(f"{path}: {', '.join(sorted(both))} on both sides of the split")
    return split


SETS = ("train", "validation", "test")

TABLE_COLUMNS = ("participant_id", "set", "fold")


@dataclass(frozen=True)
class SplitTable:
    """Who is on which side, as a table that other tools write and read.

    Attributes:
        path: Where it was read.
        sets: `train`, `validation` or `test` by participant id; empty if the table has no column
            `set`.
        folds: Fold from zero by participant id; empty if the table has no column `fold`.
    """

    path: Path
    sets: dict[str, str]
    folds: dict[str, int]

    def split(self, units: Sequence[str]) -> Split:
        """The table's training and validation people.

        Args:
            units: Participant ids of the training groups, repeated for several scans.

        Raises:
            CohortError: If the table lacks one of them, calls one `test`, or a side is empty.
        """
        names = set(units)
        if lacking := names - set(self.sets):
            raise CohortError(
                f"{self.path}: has no set for {named(lacking)} of the training groups; add rows, "
                "or leave these people out by the column exclude of participants.tsv"
            )
        if tested := {name for name in names if self.sets[name] == "test"}:
            raise CohortError(
                f"{self.path}: calls {named(tested)} of the training groups test; give them a test "
                "group in participants.tsv, or leave them out there by the column exclude"
            )
        train, validation = (
            tuple(sorted(name for name in names if self.sets[name] == side)) for side in SETS[:2]
        )
        if not train or not validation:
            raise CohortError(
                f"{self.path}: leaves {'nobody to validate by' if train else 'nobody to train on'} "
                "of the training groups; correct the column set"
            )
        return Split(train, validation, 0, len(validation) / len(names))


def read_split_table(path: Path) -> SplitTable:
    """Read a table of people: `participant_id` and `set`, or `fold`, or both; tab-separated.

    Args:
        path: Such as a run's `split.tsv`, or what `landmarking runs splits` writes.

    Raises:
        CohortError: If it cannot be read, somebody comes twice, or a value is unknown.
    """
    problems: list[str] = []
    rows = list(read_table(path, ("participant_id",), problems))
    sets: dict[str, str] = {}
    folds: dict[str, int] = {}
    for row in rows:
        person, side, fold = (row.get(name, "") for name in TABLE_COLUMNS)
        if person in sets or person in folds:
            problems.append(f"{person} comes twice; keep one row a person")
        if known(side):
            if side not in SETS:
                problems.append(f"{person} has set {side!r}; write {', '.join(SETS)}")
            sets[person] = side
        if known(fold):
            if not fold.isdigit():
                problems.append(f"{person} has fold {fold!r}; write whole numbers from 0")
                continue
            folds[person] = int(fold)
    if rows and not (sets or folds or problems):
        problems.append("has neither a column set nor a column fold; add one of them")
    if problems:
        raise CohortError(f"{path} is no table of a split; mend these:", tuple(problems))
    return SplitTable(path, sets, folds)


def write_split_table(path: Path, split: Split, tested: Collection[str], fold: int | None) -> None:
    """Write who is on which side, for other tools; `read_split_table` reads it.

    Args:
        path: The table.
        split: Training and validation people.
        tested: Participant ids of the test groups.
        fold: Fold that the tested people are, or None.
    """
    rows: dict[str, tuple[str | None, str | None]] = {}
    for side, people in zip(SETS, (split.train, split.validation, sorted(tested)), strict=True):
        mark = str(fold) if side == "test" and fold is not None else None
        rows |= dict.fromkeys(people, (side, mark))
    write_rows(path, rows)


def write_rows(path: Path, rows: Mapping[str, tuple[str | None, str | None]]) -> None:
    """Write a table of a split.

    Args:
        path: The table.
        rows: Set and fold by participant id; None where there is none.
    """
    lines = ["\t".join(TABLE_COLUMNS)]
    lines += [
        f"{person}\t{side or 'n/a'}\t{fold or 'n/a'}" for person, (side, fold) in rows.items()
    ]
    write_text(path, "\n".join(lines) + "\n")


SUFFIX = "-adapt"
"""Added to a group's name for those of its people who are learnt from."""


@dataclass
class AdaptConfig:
    """Which people of a group are learnt from, and where the weights start.

    Attributes:
        group: Group to adapt to, such as `DS`; empty for no adaptation. Its people who are learnt
            from become the group `<group>-adapt`, to be named in cohort.train_groups.
        people: Number of people to learn from; None for all who are not tested.
        fold: Fold whose people are tested on, from zero.
        folds: Number of folds.
        seed: Seed of the folds, apart from the run's own.
        start: Folder of a finished run whose weights to start from, a packed model (`.zip`), or
            the name of one that ships (`painted` has seen no scan); empty to start afresh.
    """

    group: str = ""
    people: int | None = 0
    fold: int = 0
    folds: int = 5
    seed: int = 0
    start: str = ""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: If a number is out of range.
        """
        if self.folds < 2 or not 0 <= self.fold < self.folds or (self.people or 0) < 0:
            raise ConfigError(
                "adapt.folds is at least 2, adapt.fold from 0 to adapt.folds - 1, adapt.people not "
                f"negative; found {self.folds}, {self.fold} and {self.people}"
            )


def choose_people(
    people: Sequence[str], config: AdaptConfig, table: SplitTable | None = None
) -> tuple[list[str], list[str]]:
    """People to learn from, and people of the fold to test on.

    More people to learn from always include the fewer, and every person is in one fold.

    Args:
        people: Participant ids of the group; order and repetition do not matter.
        config: Numbers of people and folds.
        table: Says who is in which fold; None draws it.

    Raises:
        CohortError: If there are too few, or the table lacks somebody or has other folds.
    """
    names = sorted(set(people))
    order = [names[i] for i in np.random.default_rng(config.seed).permutation(len(names))]
    tested = order[config.fold :: config.folds]
    if table is not None and table.folds:
        if lacking := set(names) - set(table.folds):
            raise CohortError(f"{table.path}: has no fold for {named(lacking)}; add rows")
        numbers = {table.folds[name] for name in names}
        if numbers != set(range(config.folds)):
            raise CohortError(
                f"{table.path}: has the folds {', '.join(map(str, sorted(numbers)))}, and folds="
                f"{config.folds} are asked for; they are numbered from 0, each with somebody in it"
            )
        tested = [name for name in order if table.folds[name] == config.fold]
    rest = [name for name in order if name not in set(tested)]
    wanted = len(rest) if config.people is None else config.people
    if not tested or len(rest) < wanted:
        raise CohortError(
            f"adapt: group {config.group} has {len(names)} people, {len(rest)} of them outside "
            f"fold {config.fold} of {config.folds}; {wanted} were asked for"
        )
    return rest[:wanted], tested


def adapted(
    cohort: PreparedCohort, config: AdaptConfig, table: SplitTable | None = None
) -> PreparedCohort:
    """A cohort whose group holds only the people of one fold, and who is learnt from apart.

    Args:
        cohort: The prepared cohort.
        config: What to do; without a group the cohort is returned as it is.
        table: Says who is in which fold; None draws it.

    Returns:
        The cohort without the group's people who are neither learnt from nor tested on.

    Raises:
        CohortError: If the group is missing or too small.
    """
    if not config.group:
        return cohort
    members = cohort.indices([config.group])
    people = [cohort.records[i].participant_id for i in members]
    learnt, tested = choose_people(people, config, table)
    records, kept = [], []
    for index, record in enumerate(cohort.records):
        if record.group == config.group and record.participant_id in learnt:
            record = replace(record, group=config.group + SUFFIX)
        elif record.group == config.group and record.participant_id not in tested:
            continue
        records.append(record)
        kept.append(index)
    return replace(
        cohort,
        images=cohort.images[kept],
        points_px=cohort.points_px[kept],
        points_mm=cohort.points_mm[kept],
        pixel_to_world=cohort.pixel_to_world[kept],
        records=tuple(records),
        tissues=None if cohort.tissues is None else cohort.tissues[kept],
    )


def with_site_apart(cohort: PreparedCohort, site: str) -> PreparedCohort:
    """A mixed cohort in which one site's people are a group of their own, called after it.

    Args:
        cohort: The prepared cohort.
        site: Name of the site; empty changes nothing.

    Raises:
        CohortError: If nobody is of that site.
    """
    if not site:
        return cohort
    records = tuple(
        replace(record, group=site) if site_of(record.participant_id) == site else record
        for record in cohort.records
    )
    if records == cohort.records and not any(record.group == site for record in records):
        raise CohortError(f"cohort {cohort.name}: nobody is of the site {site}; name another one")
    return replace(cohort, records=records)


def refuse_overlap(
    cohort: PreparedCohort, train_groups: Sequence[str], test_groups: Sequence[str]
) -> None:
    """Make sure that nobody who is tested is learnt from.

    Args:
        cohort: The prepared cohort.
        train_groups: Groups that are learnt from.
        test_groups: Groups that are tested on; those that the cohort lacks count for nobody.

    Raises:
        CohortError: If a group is in both lists, or a person in groups of both.
    """
    if both := [group for group in test_groups if group in train_groups]:
        raise CohortError(
            f"cohort {cohort.name}: {', '.join(both)} is in both cohort.train_groups and "
            "cohort.test_groups, so its people would be tested on what was learnt from them; "
            "take it out of one"
        )
    tested = {r.participant_id for r in cohort.records if r.group in test_groups}
    learnt = {r.participant_id for r in cohort.records if r.group in train_groups}
    if tested & learnt:
        raise CohortError(
            f"cohort {cohort.name}: {named(tested & learnt)} in a training group and in a test "
            "group; give a person one group in participants.tsv"
        )


def people_learnt_from(split: Split, cohort: PreparedCohort) -> set[str]:
    """Participant ids of a cohort that a split of it trains on or validates by."""
    units = {*split.train, *split.validation}
    by_person = split.by == "person"
    return {
        record.participant_id
        for record in cohort.records
        if (record.participant_id if by_person else record.scan_id) in units
    }


def named(people: set[str], most: int = 5) -> str:
    """The first names of a set, and how many more there are."""
    names = sorted(people)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
