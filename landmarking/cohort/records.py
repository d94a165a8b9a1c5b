"""What a cohort is made of: scans with their people, groups and landmarks."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from landmarking.errors import CohortError


@dataclass(frozen=True)
class ScanRecord:
    """One T1 scan of one person.

    Attributes:
        scan_id: File name without `_T1w` and suffix, such as `sub-017_ses-01`.
        participant_id: Person, such as `sub-017`; splits go by it.
        session: Session label such as `ses-01`, or None.
        group: Group from participants.tsv, such as `train`, `HS` or `DS`.
        image: NIfTI file (or, in a cohort of slices, a PNG).
        landmarks: Landmark file, or None where nobody has placed any.
        age: Age in years, or None.
        sex: As participants.tsv has it, or None.
        tissues: Maps of grey matter, white matter and fluid, or None where there are none.
    """

    scan_id: str
    participant_id: str
    session: str | None
    group: str
    image: Path
    landmarks: Path | None
    age: float | None = None
    sex: str | None = None
    tissues: tuple[Path, ...] | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """Image, landmark file and tissue maps, as far as there are any."""
        landmarks = () if self.landmarks is None else (self.landmarks,)
        return (self.image, *landmarks, *(self.tissues or ()))


@dataclass(frozen=True)
class Cohort:
    """Scans with their people, groups and landmarks.

    Attributes:
        name: Short name, used in the names of output folders.
        root: Folder that the scans lie in.
        scans: Scans in the order of their ids.
        simulated: Whether the tree says of itself that its images are simulated.
        bad: What was left out because it breaks the contract, one sentence each.
        notes: What a person should know and nothing needs to be done about.
    """

    name: str
    root: Path
    scans: tuple[ScanRecord, ...]
    simulated: bool = False
    bad: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def groups(self) -> tuple[str, ...]:
        """Group names, in order of first appearance."""
        return tuple(dict.fromkeys(scan.group for scan in self.scans))

    def select(self, groups: Collection[str]) -> tuple[ScanRecord, ...]:
        """Scans of the named groups.

        Raises:
            CohortError: If the cohort has no scan of one of the groups.
        """
        missing = [group for group in groups if group not in self.groups]
        if missing:
            raise CohortError(
                f"cohort {self.name} has no group {', '.join(missing)}; "
                f"its groups are {', '.join(self.groups)}"
            )
        return tuple(scan for scan in self.scans if scan.group in groups)
