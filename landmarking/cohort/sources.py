"""Open a cohort of any kind by its configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from landmarking.cohort.bids import Cohort, read_cohort
from landmarking.cohort.phantom import PhantomSettings
from landmarking.cohort.phantom_cohort import write_phantom_cohort
from landmarking.errors import ConfigError

KINDS = ("phantom", "bids", "adni_santpau", "afids", "slices")


@dataclass
class CohortConfig:
    """Which cohort, and which of its groups are trained on and tested on.

    Attributes:
        kind: `phantom` (made where missing), `bids` or another kind of tree.
        name: Short name; output folders bear it.
        root: Folder of the cohort; relative to the working directory.
        train_groups: Groups to train and validate on.
        test_groups: Groups to test on.
        preset: Settings of a phantom cohort.
    """

    kind: str = "bids"
    name: str = "cohort"
    root: str = ""
    train_groups: list[str] = field(default_factory=lambda: ["train"])
    test_groups: list[str] = field(default_factory=lambda: ["HS", "DS"])
    preset: PhantomSettings = field(default_factory=PhantomSettings)

    def __post_init__(self) -> None:
        """Refuse unknown kinds and an unset root.

        Raises:
            ConfigError: If the kind is unknown or the root is empty.
        """
        if self.kind not in KINDS:
            raise ConfigError(f"cohort.kind: {self.kind!r} is none of {', '.join(KINDS)}")
        if not self.root:
            raise ConfigError("cohort.root: name the folder of the cohort, cohort.root=DIR")


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
    return read_cohort(root, name=config.name)
