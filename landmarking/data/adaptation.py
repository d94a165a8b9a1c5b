"""Learn from a few people of a group and test on others of it, cross-validated by person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from landmarking.data.prepared import PreparedCohort
from landmarking.errors import CohortError, ConfigError

SUFFIX = "-adapt"
"""Added to a group's name for those of its people who are learnt from."""


@dataclass
class AdaptConfig:
    """Which people of a group are learnt from, and where the weights start.

    Attributes:
        group: Group to adapt to, such as `DS`; empty for no adaptation. Its people who are learnt
            from become the group `<group>-adapt`, to be named in cohort.train_groups.
        people: Number of people to learn from.
        fold: Fold whose people are tested on, from zero.
        folds: Number of folds.
        seed: Seed of the folds, apart from the run's own.
        start: Folder of a finished run whose weights to start from; empty to start afresh.
    """

    group: str = ""
    people: int = 0
    fold: int = 0
    folds: int = 5
    seed: int = 0
    start: str = ""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: If a number is out of range.
        """
        if self.folds < 2 or not 0 <= self.fold < self.folds or self.people < 0:
            raise ConfigError(
                "adapt.folds is at least 2, adapt.fold from 0 to adapt.folds - 1, adapt.people not "
                f"negative; found {self.folds}, {self.fold} and {self.people}"
            )


def choose_people(people: Sequence[str], config: AdaptConfig) -> tuple[list[str], list[str]]:
    """People to learn from, and people of the fold to test on.

    More people to learn from always include the fewer, and every person is in one fold.

    Args:
        people: Participant ids of the group; order and repetition do not matter.
        config: Numbers of people and folds.

    Raises:
        CohortError: If there are too few.
    """
    names = sorted(set(people))
    order = [names[i] for i in np.random.default_rng(config.seed).permutation(len(names))]
    tested = order[config.fold :: config.folds]
    rest = [name for name in order if name not in set(tested)]
    if not tested or len(rest) < config.people:
        raise CohortError(
            f"adapt: group {config.group} has {len(names)} people, {len(rest)} of them outside "
            f"fold {config.fold} of {config.folds}; {config.people} were asked for"
        )
    return rest[: config.people], tested


def adapted(cohort: PreparedCohort, config: AdaptConfig) -> PreparedCohort:
    """A cohort whose group holds only the people of one fold, and who is learnt from apart.

    Args:
        cohort: The prepared cohort.
        config: What to do; without a group the cohort is returned as it is.

    Returns:
        The cohort without the group's people who are neither learnt from nor tested on.

    Raises:
        CohortError: If the group is missing or too small, or a test person is learnt from.
    """
    if not config.group:
        return cohort
    members = cohort.indices([config.group])
    learnt, tested = choose_people([cohort.records[i].participant_id for i in members], config)
    records, kept = [], []
    for index, record in enumerate(cohort.records):
        if record.group == config.group and record.participant_id in learnt:
            record = replace(record, group=config.group + SUFFIX)
        elif record.group == config.group and record.participant_id not in tested:
            continue
        records.append(record)
        kept.append(index)
    result = replace(
        cohort,
        images=cohort.images[kept],
        points_px=cohort.points_px[kept],
        points_mm=cohort.points_mm[kept],
        pixel_to_world=cohort.pixel_to_world[kept],
        records=tuple(records),
        tissues=None if cohort.tissues is None else cohort.tissues[kept],
    )
    refuse_shared_people(result, config.group)
    return result


def refuse_shared_people(cohort: PreparedCohort, group: str) -> None:
    """Make sure that nobody of a test group is in any other group.

    Raises:
        CohortError: If somebody is, with the names.
    """
    tested = {r.participant_id for r in cohort.records if r.group == group}
    others = {r.participant_id for r in cohort.records if r.group != group}
    if tested & others:
        raise CohortError(
            f"cohort {cohort.name}: {', '.join(sorted(tested & others))} of test group {group} "
            "also in another group; give a person one group in participants.tsv"
        )
