"""Open a cohort of any kind by its configuration."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from landmarking.cohort.real_people import read_people
from landmarking.cohort.records import Cohort
from landmarking.cohort.slices import read_slices
from landmarking.cohort.tree import AFIDS_LAYOUT, Layout, read_cohort
from landmarking.config import refuse_outside
from landmarking.errors import CohortError, ConfigError
from landmarking.phantom.dataset import write_phantom_cohort
from landmarking.phantom.person import PhantomSettings

KINDS = ("phantom", "bids", "adni_santpau", "afids", "slices", "people")


@dataclass
class CohortConfig:
    """Which cohort, and which of its groups are trained on and tested on.

    Attributes:
        kind: `phantom` (made where missing), `bids` or another kind of tree.
        name: Short name; output folders bear it.
        root: Folder of the cohort; relative to the working directory.
        train_groups: Groups to train and validate on.
        test_groups: Groups to test on.
        test_root: Of `adni_santpau`, the tree with the test groups; all scans under `root` are
            trained on.
        default_group: Of `afids`, the group of people to whom participants.tsv gives none.
        predictions: Of `bids`, whether landmark files that a model has written count as truth
            where no person has placed any.
        allow_scaled: Read scans whose header stretches their voxels, as in template space.
        preset: Settings of a phantom cohort.
    """

    kind: str = "bids"
    name: str = "cohort"
    root: str = ""
    train_groups: list[str] = field(default_factory=lambda: ["train"])
    test_groups: list[str] = field(default_factory=lambda: ["HS", "DS"])
    test_root: str = ""
    default_group: str = "HS"
    predictions: bool = False
    allow_scaled: bool = False
    preset: PhantomSettings = field(default_factory=PhantomSettings)

    def __post_init__(self) -> None:
        """Refuse unknown kinds, names that lead elsewhere and an unset root.

        Raises:
            ConfigError: If the kind is unknown, the name leads out of the outputs or the root is
                empty.
        """
        if self.kind not in KINDS:
            raise ConfigError(f"cohort.kind: {self.kind!r} is none of {', '.join(KINDS)}")
        refuse_outside("cohort.name", self.name)
        if not self.root:
            raise ConfigError("cohort.root: name the folder of the cohort, cohort.root=DIR")
        if self.kind == "adni_santpau" and not self.test_root:
            raise ConfigError("cohort.test_root: name the tree with the groups to test on")


def open_cohort(
    config: CohortConfig, *, workers: int = 1, progress: bool = True, skip_bad: bool = False
) -> Cohort:
    """Read a cohort, and make it first where it is a phantom that is not there yet.

    Args:
        config: Kind, root and groups.
        workers: Processes that make phantom heads.
        progress: Whether a bar is shown while they are made.
        skip_bad: Leave out single scans and files that break the contract; see `Cohort.bad`.

    Raises:
        CohortError: If the tree breaks the contract.
    """
    if config.kind == "phantom":
        write_phantom_cohort(Path(config.root), config.preset, workers, progress=progress)
    cohort = _opened(config, skip_bad)
    bad, notes = group_remarks(config, cohort)
    if bad and not skip_bad:
        raise CohortError(f"{config.root}: its groups are not those of the settings:", bad)
    return replace(cohort, bad=(*cohort.bad, *bad), notes=(*cohort.notes, *notes))


def _opened(config: CohortConfig, skip_bad: bool) -> Cohort:
    root = Path(config.root)
    if config.kind == "people":
        return read_people(root, name=config.name)
    if config.kind == "slices":
        return read_slices(root, name=config.name)
    layout = AFIDS_LAYOUT if config.kind == "afids" else Layout()
    group = config.default_group if config.kind == "afids" else ""
    layout = replace(layout, group=group, predictions=config.predictions)
    if config.kind != "adni_santpau":
        return read_cohort(root, name=config.name, layout=layout, skip_bad=skip_bad)
    train = config.train_groups[0] if config.train_groups else "train"
    # All of this tree becomes one group: its own table need not have any.
    first = read_cohort(
        root, name=config.name, layout=replace(layout, group=train), skip_bad=skip_bad
    )
    own = replace(layout, group="")
    return joined(first, read_cohort(Path(config.test_root), layout=own, skip_bad=skip_bad), train)


def group_remarks(config: CohortConfig, cohort: Cohort) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What there is to say of groups that no list names, and of lists that name no group.

    Args:
        config: The lists.
        cohort: The groups.

    Returns:
        What is wrong (a group that only differs in its spelling), and what should be known.
    """
    listed = [*config.train_groups, *config.test_groups]
    bad, notes = [], []
    absent = [group for group in dict.fromkeys(listed) if group not in cohort.groups]
    for group in cohort.groups:
        if group in listed:
            continue
        count = len(cohort.select([group]))
        lists = (
            f"cohort.train_groups=[{','.join(config.train_groups)}] nor "
            f"cohort.test_groups=[{','.join(config.test_groups)}]"
        )
        near = [name for name in absent if _same_word(name, group)]
        if near:
            bad.append(
                f"group {group} ({count} scans) is in neither {lists}; did you mean {near[0]}? "
                "Correct the table or the list"
            )
        else:
            notes.append(
                f"group {group} ({count} scans) is in neither {lists}: neither trained nor tested "
                "on unless it is named"
            )
    notes += [
        f"cohort.{key} names {group}, and no scan is of that group"
        for key, groups in (
            ("train_groups", config.train_groups),
            ("test_groups", config.test_groups),
        )
        for group in groups
        if group not in cohort.groups
    ]
    return tuple(bad), tuple(notes)


def _same_word(first: str, second: str) -> bool:
    """Whether two names differ by case, blanks and the like only."""
    one, other = ("".join(filter(str.isalnum, word)).casefold() for word in (first, second))
    return one == other


def joined(train: Cohort, test: Cohort, group: str) -> Cohort:
    """One cohort of two trees: all of the first in one training group, the second as it is.

    Args:
        train: Scans to train on; the groups in their participants.tsv are given up.
        test: Scans to test on.
        group: Name of the training group.

    Raises:
        CohortError: If a person is in both, which would test on people trained on, or the test
            tree has a group of that name.
    """
    shared = {scan.participant_id for scan in train.scans} & {
        scan.participant_id for scan in test.scans
    }
    problems = [f"{person}: is in both trees" for person in sorted(shared)]
    if group in test.groups:
        problems.append(f"{test.root}: has a group {group}, which is the name of the other tree's")
    if problems:
        raise CohortError(f"{train.root} and {test.root} cannot be joined:", tuple(problems))
    scans = (*(replace(scan, group=group) for scan in train.scans), *test.scans)
    simulated = train.simulated or test.simulated
    bad, notes = (*train.bad, *test.bad), (*train.notes, *test.notes)
    return Cohort(train.name, train.root, scans, simulated, bad, notes)
