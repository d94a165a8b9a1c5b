"""Open a cohort of any kind by its configuration: scans, or slices prepared before.

A prepared cohort can be one file, to train on a machine that has no scans: a ZIP of the prepared
folder with 8-bit slices. 2,000 of 150 x 150 take under 45 MB, and 40 MB more where they have tissue
maps.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import zipfile
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from landmarking.cohort.records import Cohort
from landmarking.cohort.slices import read_slices
from landmarking.cohort.tree import AFIDS_LAYOUT, Layout, read_cohort, read_people
from landmarking.config import refuse_outside
from landmarking.errors import CacheError, CohortError, ConfigError
from landmarking.files import (
    DAMAGED_ARCHIVE,
    atomic_folder,
    atomic_path,
    file_lock,
    file_sha256,
    refuse_foreign,
)
from landmarking.imaging.pipeline import PreprocessSettings, histogram_reference
from landmarking.landmarks import LandmarkSet
from landmarking.phantom.dataset import write_phantom_cohort
from landmarking.phantom.person import PhantomSettings
from landmarking.preparation.cache import BASELINE, canonical_json, differing_settings
from landmarking.preparation.prepared import (
    IMAGES,
    INDEX,
    TISSUES,
    PreparedCohort,
    load_prepared,
    save_prepared,
)

KINDS = ("phantom", "bids", "adni_santpau", "afids", "slices", "people", "mixed")


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
        parts: Of `mixed`, the sites: `phantom`, BIDS trees, or NAME:TREE. People are called after
            their site, such as `mine_sub-01`, so that two sub-01 are two people.
        weights: Of `mixed`, how often slices of each part are drawn in training; empty draws all
            alike.
        leave_out: Of `mixed`, a site that is tested on, and not learnt from; it takes the place of
            the test groups.
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
    parts: list[str] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    leave_out: str = ""
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
        if self.kind == "mixed":
            self._check_sites()

    def _check_sites(self) -> None:
        if len(self.parts) < 2:
            raise ConfigError(
                "cohort.parts: name two sites or more, as in cohort.parts=[phantom,mine:DIR]"
            )
        sites = self.sites
        if self.leave_out and self.leave_out not in sites:
            raise ConfigError(
                f"cohort.leave_out: {self.leave_out} is no site; they are {', '.join(sites)}"
            )
        if self.weights and len(self.weights) != len(sites):
            raise ConfigError(
                f"cohort.weights: {len(sites)} sites need {len(sites)} weights, found "
                f"{len(self.weights)}; give one each, in the order of cohort.parts"
            )
        if any(not weight > 0.0 for weight in self.weights):
            raise ConfigError(
                "cohort.weights are above 0; leave a site out of cohort.parts instead"
            )
        if self.leave_out:
            self.test_groups = [self.leave_out]

    @property
    def sites(self) -> dict[str, str]:
        """Tree by name of the site, of a mixed cohort.

        Raises:
            ConfigError: If two sites have one name.
        """
        found: dict[str, str] = {}
        for part in self.parts:
            name, colon, root = part.partition(":")
            if not colon:
                name, root = Path(part).name, part
            if name in found or not re.fullmatch(r"[0-9A-Za-z-]+", name):
                raise ConfigError(
                    f"cohort.parts: {part} is called {name}, and sites have names of their own, "
                    "letters and digits; write NAME:DIR"
                )
            found[name] = root
        return found


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
    if config.kind == "mixed":
        cohort = mixed(config, workers=workers, progress=progress, skip_bad=skip_bad)
    else:
        cohort = _opened(config, skip_bad)
    if config.leave_out:
        # The site's groups are one group to be tested, whatever they are called.
        return cohort
    bad, notes = group_remarks(config, cohort)
    if bad and not skip_bad:
        raise CohortError(f"{config.root}: its groups are not those of the settings:", bad)
    return replace(cohort, bad=(*cohort.bad, *bad), notes=(*cohort.notes, *notes))


def mixed(config: CohortConfig, *, workers: int, progress: bool, skip_bad: bool) -> Cohort:
    """One cohort of several sites, people and scans called after theirs.

    Args:
        config: A mixed cohort.
        workers: As for `open_cohort`, likewise the rest.
        progress: See there.
        skip_bad: See there.

    Raises:
        CohortError: If a site breaks the contract.
    """
    scans, bad, notes, simulated = [], [], [], False
    for name, root in config.sites.items():
        own = replace(config, kind="bids", name=name, root=root, parts=[], weights=[], leave_out="")
        if root == "phantom":
            label = f"phantom-{config.preset.label}"
            own = replace(own, kind="phantom", root=str(Path(config.root) / label))
            write_phantom_cohort(Path(own.root), config.preset, workers, progress=progress)
        site = _opened(own, skip_bad)
        scans += [
            replace(s, scan_id=f"{name}_{s.scan_id}", participant_id=f"{name}_{s.participant_id}")
            for s in site.scans
        ]
        bad += [f"{name}: {line}" for line in site.bad]
        notes += [f"{name}: {line}" for line in site.notes]
        simulated = simulated or site.simulated
    return Cohort(config.name, Path(config.root), tuple(scans), simulated, tuple(bad), tuple(notes))


def site_of(participant_id: str) -> str:
    """Site of a person of a mixed cohort."""
    return participant_id.partition("_")[0]


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


SUFFIX = ".prepared.zip"


def pack_prepared(prepared: PreparedCohort, path: Path) -> None:
    """Write a prepared cohort as one file with 8-bit slices; equal cohorts give equal bytes.

    Args:
        prepared: The cohort.
        path: File to write; ends in `.prepared.zip`.

    Raises:
        CacheError: If the name has another ending or the file cannot be written.
    """
    if not path.name.endswith(SUFFIX):
        raise CacheError(f"{path}: a carried cohort is named something{SUFFIX}; name it so")
    refuse_foreign(path, _is_carried, "carried cohort")
    try:
        with tempfile.TemporaryDirectory() as folder, atomic_path(path) as temporary:
            carried = Path(folder, "cohort")
            content = prepared.content()
            if prepared.tissues is not None:
                content["tissues"] = _rounded(prepared.tissues)
            save_prepared(carried, **content, dtype="uint8")
            with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
                for name in (INDEX, IMAGES, *([] if prepared.tissues is None else [TISSUES])):
                    # A fixed date, so that the bytes depend on the content alone.
                    entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
                    entry.compress_type = zipfile.ZIP_DEFLATED
                    archive.writestr(entry, (carried / name).read_bytes())
    except OSError as error:
        raise CacheError(f"{path}: cannot be written ({error})") from error


def _is_carried(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        return {INDEX, IMAGES} <= set(archive.namelist())


def _rounded(tissues: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Tissue maps with shares in 16 levels and distances in whole millimetres, which pack well."""
    steps = np.array([17, 17, 17, 4], dtype=np.float32)[:, None, None]
    rounded = np.empty(tissues.shape, dtype=np.uint8)
    for before, after in zip(tissues, rounded, strict=True):
        after[:] = np.minimum(np.rint(before / steps) * steps, 255.0)
    return rounded


def unpack_prepared(path: Path, folder: Path) -> PreparedCohort:
    """Unpack a carried cohort.

    Args:
        path: File that `pack_prepared` wrote.
        folder: Folder to make or replace.

    Raises:
        CacheError: If the file is damaged or no such file.
    """
    try:
        with zipfile.ZipFile(path) as archive, atomic_folder(folder) as temporary:
            for name in (INDEX, IMAGES, *({TISSUES} & set(archive.namelist()))):
                # Only these members, whatever else a file holds and whatever their paths say.
                with archive.open(name) as packed, (temporary / name).open("wb") as file:
                    shutil.copyfileobj(packed, file)
            load_prepared(temporary)
    except CacheError as error:
        raise CacheError(
            f"{path}: its index or slices are damaged or of another version; copy the file again, "
            "or pack it again with landmarking prepare"
        ) from error
    except DAMAGED_ARCHIVE as error:
        raise CacheError(f"{path}: not a carried cohort ({error}); copy the file again") from error
    return load_prepared(folder)


def is_prepared(root: Path) -> bool:
    """Whether a cohort's root is a prepared cohort, as a folder or as one file."""
    return (root / INDEX).is_file() or (root.is_file() and root.name.endswith(SUFFIX))


def open_prepared(
    root: Path, landmarks: LandmarkSet, settings: PreprocessSettings, outputs: Path
) -> PreparedCohort:
    """Open a prepared cohort in place of its scans.

    Args:
        root: Prepared folder, or one file that is unpacked under `outputs/prepared` once.
        landmarks: Landmarks wanted, in their order.
        settings: What the slices have to have been made with.
        outputs: Folder of `prepared/`.

    Raises:
        CacheError: If it is damaged.
        CohortError: If it was made with other settings or lacks a landmark.
    """
    prepared = _unpacked_once(root, outputs) if root.is_file() else load_prepared(root)
    pairs = differing_settings(prepared.settings, settings)
    if not _same_reference(prepared, settings):
        made = prepared.settings.get("histogram_reference")
        pairs["histogram_reference"] = (made, settings.histogram_reference)
    differing = [
        f"{key} is {canonical_json(made)}, not {canonical_json(wanted)}"
        for key, (made, wanted) in pairs.items()
    ]
    if differing:
        raise CohortError(
            f"{root}: its slices were made with other settings ({'; '.join(differing)}); "
            "give the same under preprocess, or prepare the cohort again"
        )
    return with_landmarks(prepared, landmarks)


def _same_reference(prepared: PreparedCohort, settings: PreprocessSettings) -> bool:
    """Whether histograms were matched to the same; a file counts by its content, if it is here."""
    recorded = prepared.settings.get("histogram_reference_sha256")
    if recorded is not None and Path(settings.histogram_reference).is_file():
        return bool(recorded == histogram_reference(settings).digest)
    baseline = BASELINE["histogram_reference"]
    made = prepared.settings.get("histogram_reference", baseline)
    return bool(made == settings.histogram_reference)


def _unpacked_once(path: Path, outputs: Path) -> PreparedCohort:
    name = f"{path.name.removesuffix(SUFFIX)}-{file_sha256(path)[:12]}-carried"
    folder = outputs / "prepared" / name
    with file_lock(outputs / "cache" / "locks" / f"{name}.lock"):
        return load_prepared(folder) if folder.exists() else unpack_prepared(path, folder)


def with_landmarks(prepared: PreparedCohort, landmarks: LandmarkSet) -> PreparedCohort:
    """The same slices with some of their landmarks, in the order wanted.

    Raises:
        CohortError: If the cohort was prepared without one of them.
    """
    if landmarks.names == prepared.landmarks.names:
        return prepared
    missing = [name for name in landmarks.names if name not in prepared.landmarks.names]
    if missing:
        raise CohortError(
            f"cohort {prepared.name} was prepared without {', '.join(missing)}; "
            f"it has {', '.join(prepared.landmarks.names)}"
        )
    order = [prepared.landmarks.index(name) for name in landmarks.names]
    return replace(
        prepared,
        landmarks=landmarks,
        points_px=prepared.points_px[:, order],
        points_mm=prepared.points_mm[:, order],
    )
