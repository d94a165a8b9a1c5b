"""Open a cohort of any kind by its configuration."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from landmarking.cohort.bids import AFIDS_LAYOUT, read_cohort
from landmarking.cohort.real_people import read_people
from landmarking.cohort.records import Cohort
from landmarking.cohort.slices import read_slices
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
        preset: Settings of a phantom cohort.
    """

    kind: str = "bids"
    name: str = "cohort"
    root: str = ""
    train_groups: list[str] = field(default_factory=lambda: ["train"])
    test_groups: list[str] = field(default_factory=lambda: ["HS", "DS"])
    test_root: str = ""
    default_group: str = "HS"
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


def open_cohort(config: CohortConfig, *, workers: int = 1, progress: bool = True) -> Cohort:
    """Read a cohort, and make it first where it is a phantom that is not there yet.

    Args:
        config: Kind, root and groups.
        workers: Processes that make phantom heads.
        progress: Whether a bar is shown while they are made.

    Raises:
        CohortError: If the tree breaks the contract.
    """
    root = Path(config.root)
    if config.kind == "phantom":
        write_phantom_cohort(root, config.preset, workers, progress=progress)
    if config.kind == "people":
        return read_people(root, name=config.name)
    if config.kind == "slices":
        return read_slices(root, name=config.name)
    if config.kind == "afids":
        layout = replace(AFIDS_LAYOUT, group=config.default_group)
        return read_cohort(root, name=config.name, layout=layout)
    cohort = read_cohort(root, name=config.name)
    if config.kind == "adni_santpau":
        group = config.train_groups[0] if config.train_groups else "train"
        return joined(cohort, read_cohort(Path(config.test_root)), group)
    return cohort


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
    return Cohort(train.name, train.root, scans, simulated)
