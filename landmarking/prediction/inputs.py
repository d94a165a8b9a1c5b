"""Which scans, and what their files are called."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from landmarking.errors import ConfigError

SUFFIXES = (".nii.gz", ".nii")

_DATASET = "dataset_description.json"
_T1W = "_T1w"


@dataclass(frozen=True)
class Target:
    """One scan and where its results go.

    Attributes:
        scan: The NIfTI file.
        stem: Path of its results within the output folder, without their endings: the scan's
            place below the folder that was given, such as `sub-01/anat/sub-01_T1w`.
    """

    scan: Path
    stem: str


def find_scans(inputs: Sequence[Path], output: Path, *, bids: bool = False) -> list[Target]:
    """Scans that were named, and those in folders that were named, in order.

    In a BIDS tree (a folder with `dataset_description.json` or `sub-*/`), the scans are its
    `_T1w` files outside `derivatives`, `sourcedata` and `code`; in any other folder, every NIfTI
    file at any depth. Hidden files and folders, and the output folder, are left out.

    Args:
        inputs: Files and folders.
        output: Folder of the results.
        bids: Name results as BIDS derivatives; the input has to be one BIDS tree.

    Returns:
        Targets, each with a stem of its own.

    Raises:
        ConfigError: If an input does not exist, a folder has no scan, two scans would share their
            results' names, or `bids` is asked for and the input is no BIDS tree.
    """
    if bids and not (len(inputs) == 1 and is_bids(inputs[0])):
        raise ConfigError(
            "--bids takes one BIDS tree, a folder with dataset_description.json or sub-*/; found "
            f"{', '.join(map(str, inputs))}"
        )
    targets = [target for path in inputs for target in _targets(path, output)]
    if bids:
        targets = [Target(t.scan, t.stem.removesuffix(_T1W)) for t in targets]
    _refuse_doubles(targets)
    return targets


def is_bids(path: Path) -> bool:
    """Whether a folder is the root of a BIDS tree."""
    return path.is_dir() and ((path / _DATASET).is_file() or any(path.glob("sub-*/")))


def _targets(path: Path, output: Path) -> list[Target]:
    if not path.is_dir():
        if not path.exists():
            raise ConfigError(f"{path}: there is no such file or folder; check the path")
        return [Target(path, scan_stem(path.name))]
    wanted, what = (_T1W, "*_T1w.nii[.gz] files") if is_bids(path) else ("", ".nii[.gz] files")
    found = [
        Target(scan, (scan.parent.relative_to(path) / scan_stem(scan.name)).as_posix())
        for scan in _walk(path, output)
        if scan_stem(scan.name).endswith(wanted)
    ]
    if not found:
        raise ConfigError(f"{path}: there are no {what} in it; give scans or their folder")
    return sorted(found, key=lambda target: target.stem)


def _walk(root: Path, output: Path) -> list[Path]:
    apart = {"derivatives", "sourcedata", "code"} if is_bids(root) else set()
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".")
            and name not in apart
            and (Path(folder) / name).resolve() != output.resolve()
        ]
        found += [
            Path(folder, name)
            for name in files
            if name.casefold().endswith(SUFFIXES) and not name.startswith(".")
        ]
    return found


def scan_stem(name: str) -> str:
    """A file's name without `.nii` or `.nii.gz`; other names stay whole."""
    for suffix in SUFFIXES:
        if name.casefold().endswith(suffix):
            return name[: -len(suffix)]
    return name


def _refuse_doubles(targets: Sequence[Target]) -> None:
    seen: dict[str, Path] = {}
    for target in targets:
        other = seen.setdefault(target.stem, target.scan)
        if other is not target.scan:
            raise ConfigError(
                f"{other} and {target.scan} would both be written as {target.stem}; give the "
                "folder that holds both, whose sub-folders are kept, or an -o for each"
            )
