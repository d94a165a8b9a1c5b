"""Commands about what is there: doctor, conf, completion, runs, qc and gather.

`landmarking doctor` is the first thing to send with a question: versions, devices, folders with
their free space, and one line for each thing to mend.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from landmarking import __version__
from landmarking.config import CONF, INSTALLED, PROJECT, results_folder
from landmarking.errors import ConfigError, LandmarkingError
from landmarking.files import not_written, temporary_neighbour, write_text
from landmarking.runs import (
    Listed,
    RunFolder,
    differing_settings,
    find_runs,
    flat_settings,
    listed,
    remove_run,
)

EXTRAS = {
    "formats": ("pydicom", "nrrd"),
    "monai": ("monai",),
    "timm": ("timm",),
    "mlflow": ("mlflow",),
    "wandb": ("wandb",),
    "optuna": ("hydra_plugins.hydra_optuna_sweeper",),
    "onnx": ("onnx", "onnxruntime"),
}
"""Modules that show that an extra is installed."""

LEAST_FREE_GIB = 2.0
"""Less room than this on the disk of the results is worth a word."""


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's.

    Attributes:
        what: What was looked at.
        found: What was found.
        wrong: What to do about it; empty where nothing is wrong.
    """

    what: str
    found: str
    wrong: str = ""


def run_doctor(_options: argparse.Namespace) -> int:
    """Print what was found.

    Returns:
        1 if something is wrong, else 0.
    """
    found = list(findings())
    width = max(len(each.what) for each in found)
    for each in found:
        sys.stdout.write(f"{each.what:<{width}}  {each.found}\n")
    wrong = [each for each in found if each.wrong]
    sys.stdout.write("\n")
    for each in wrong:
        sys.stdout.write(f"wrong: {each.what}: {each.wrong}\n")
    sys.stdout.write("" if wrong else "nothing is wrong\n")
    return int(bool(wrong))


def findings() -> Iterator[Finding]:
    """Look at the installation, from the interpreter to the model that ships."""
    where = "installed in" if INSTALLED else "checkout in"
    yield Finding("landmarking", f"{__version__}, {where} {PROJECT}")
    yield Finding("python", f"{platform.python_version()}, {sys.executable}")
    yield Finding("system", platform.platform())
    yield from _packages()
    yield Finding("extras", _extras())
    yield from _devices()
    yield _folder("results", results_folder())
    yield _configuration()
    yield _model()


def _packages() -> Iterator[Finding]:
    """Every package that we need, by the bounds that we state."""
    for text in requires("landmarking") or ():
        needed = Requirement(text)
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(needed.name)
        except PackageNotFoundError:
            yield Finding(needed.name, "missing", f"install it: pip install '{needed}'")
            continue
        fits = needed.specifier.contains(found, prereleases=True)
        wrong = "" if fits else f"needs {needed.specifier}: pip install '{needed}'"
        yield Finding(needed.name, found, wrong)


def _extras() -> str:
    there = [name for name, modules in EXTRAS.items() if all(map(_importable, modules))]
    missing = [name for name in EXTRAS if name not in there]
    ways = f"not installed: {', '.join(missing)} (pip install 'landmarking[NAME]')"
    return "; ".join([", ".join(there) or "none", *([ways] if missing else [])])


def _importable(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _devices() -> Iterator[Finding]:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("cores", f"{cores}, {torch.get_num_threads()} threads of torch")
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        yield Finding("GPU", f"{', '.join(names)}, CUDA {torch.version.cuda}")
    elif torch.backends.mps.is_available():
        yield Finding("GPU", "Apple's (trainer.accelerator=mps)")
    elif shutil.which("nvidia-smi"):
        yield Finding(
            "GPU",
            "there is a driver, and this torch cannot use it",
            "install torch for your CUDA, as pytorch.org/get-started says",
        )
    else:
        yield Finding("GPU", "none; everything runs on the processor")


def _folder(what: str, folder: Path) -> Finding:
    """Whether a folder, or the one that it would be made in, can be written, and its free space."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free / 2**30
    wrong = ""
    if not os.access(there, os.W_OK):
        wrong = "cannot be written; mend its permissions, or give another outputs=DIR"
    elif free < LEAST_FREE_GIB:
        wrong = "little room is left; free space, or give another outputs=DIR"
    kept = f", {_size(folder):.1f} GiB kept in it" if folder.is_dir() else ", not there yet"
    return Finding(what, f"{folder}, {free:.0f} GiB free{kept}", wrong)


def _size(folder: Path) -> float:
    """GiB of the files below a folder; links count nothing."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place) / name
            try:
                total += 0 if path.is_symlink() else path.stat().st_size
            except OSError:  # gone since it was listed
                continue
    return total / 2**30


def _configuration() -> Finding:
    files = list(CONF.rglob("*.yaml"))
    wrong = "" if files else "is empty; install the package again"
    return Finding("configuration", f"{CONF}, {len(files)} files", wrong)


def _model() -> Finding:
    from landmarking.prediction.package import open_model

    try:
        model = open_model(())
    except LandmarkingError as error:
        return Finding("model", "cannot be opened", f"{error}")
    return Finding("model", f"{model.name}, {len(model.landmarks.names)} landmarks")


def copy_configuration(options: argparse.Namespace) -> int:
    """Copy conf/ to a folder of one's own, to be changed there.

    Args:
        options: `folder`.

    Raises:
        ConfigError: If the folder is there, or cannot be written.
    """
    folder = Path(options.folder)
    if folder.exists() or folder.is_symlink():
        raise ConfigError(f"{folder}: is there already, and kept; name a folder that is not")
    try:
        folder.absolute().parent.mkdir(parents=True, exist_ok=True)
        partial = temporary_neighbour(folder.absolute())
        shutil.copytree(CONF, partial)
        partial.rename(folder)
    except OSError as error:
        raise ConfigError(not_written(folder, error, "choose another DIR")) from error
    sys.stdout.write(
        f"{folder}: {len(list(folder.rglob('*.yaml')))} files; use them by\n"
        f"  landmarking train --config-path {folder} ...\n"
    )
    return 0


def list_runs(options: argparse.Namespace) -> int:
    """Print one line a run.

    Args:
        options: As `cli.parser` gives them.

    Raises:
        ConfigError: If there is no such folder, column or run.
    """
    rows = _listed_runs(options)
    if options.json:
        _print_json({"runs": [row.record() for row in rows]})
        return 0
    groups = list(dict.fromkeys(name for row in rows for name in row.test_error_mm))
    head = ["run", "state", "model", "seed", "epochs", "val mm", *(f"{g} mm" for g in groups)]
    cells = [[*head, "MB", "changed"]]
    for row in rows:
        record = row.record()
        errors = [_mm(row.test_error_mm.get(name)) for name in groups]
        path = str(row.path.relative_to(_runs_root(options))) if row.path.parts else ""
        cells.append(
            [
                *(path, row.state, row.values["model"], row.values["seed"], str(row.epochs)),
                *(_mm(row.val_error_mm), *errors, f"{row.size_mb:.1f}", record["changed"]),
            ]
        )
    sys.stdout.write(_columns(cells, left=3))
    states = [row.state for row in rows]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    sys.stdout.write(f"{len(rows)} runs: {counts}; {sum(r.size_mb for r in rows):.0f} MB\n")
    return 0


def _runs_root(options: argparse.Namespace) -> Path:
    return Path(options.root) if options.root else results_folder()


def _listed_runs(options: argparse.Namespace) -> list[Listed]:
    root = _runs_root(options)
    if not root.is_dir():
        raise ConfigError(f"{root}: there is no such folder; name the folder of the runs")
    rows = [listed(run) for run in find_runs(root)]
    rows = [row for row in rows if options.state in (None, row.state)]
    if not rows:
        raise ConfigError(f"{root}: there is no run in it; name the folder of the runs")
    known = [key for key in rows[0].record() if key != "test_error_mm"]
    if options.sort not in known:
        raise ConfigError(f"--sort takes {', '.join(known)}; found {options.sort}")

    def rank(row: Listed) -> tuple[bool, Any]:
        value = row.record()[options.sort]
        return value is None, 0 if value is None else value

    return sorted(rows, key=rank)


def _mm(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _columns(cells: Sequence[Sequence[str]], left: int) -> str:
    """Rows as text, the first columns to the left and the others to the right."""
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = (
        "  ".join(
            f"{cell:<{width}}" if i < left else f"{cell:>{width}}"
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    )
    return "".join(f"{line}\n" for line in lines)


def export_runs(options: argparse.Namespace) -> int:
    """Write all runs as one table, with the settings in which they differ.

    Args:
        options: As `cli.parser` gives them.

    Raises:
        ConfigError: If there is no run, or the file cannot be written.
    """
    path = Path(options.output)
    if path.suffix not in (".csv", ".json"):
        raise ConfigError(f"{path}: a table of runs is .csv or .json; choose one of these endings")
    if path.exists():
        raise ConfigError(f"{path}: is there already, and kept; name another file")
    rows = _listed_runs(options)
    settings = differing_settings([RunFolder(row.path) for row in rows])
    records = []
    for number, row in enumerate(rows):
        record = row.record()
        groups = record.pop("test_error_mm")
        record |= {f"{name}_error_mm": value for name, value in groups.items()}
        records.append(record | {key: values[number] for key, values in settings.items()})
    if path.suffix == ".json":
        text = json.dumps({"runs": records}, indent=1, default=str) + "\n"
    else:
        buffer = io.StringIO()
        columns = list(dict.fromkeys(key for record in records for key in record))
        writer = csv.DictWriter(buffer, columns, lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(records)
        text = buffer.getvalue()
    write_text(path, text)
    sys.stdout.write(f"{path}: {len(records)} runs, {len(settings)} settings that differ\n")
    return 0


def splits_runs(options: argparse.Namespace) -> int:
    """Write who was in which fold, or on which side, of the runs below a folder.

    Args:
        options: As `cli.parser` gives them.

    Raises:
        LandmarkingError: If runs differ in it, or there is nothing to write.
    """
    from landmarking.data.splits import read_split_table, write_rows

    path, root = Path(options.output), _runs_root(options)
    if path.exists():
        raise ConfigError(f"{path}: is there already, and kept; name another file")
    sides: dict[str, str] = {}
    folds: dict[str, str] = {}
    for run in find_runs(root):
        table = read_split_table(run.split_table)
        # Of a cross-validation everybody is tested once, in the fold that counts.
        crossed = bool(table.folds)
        found = {k: str(v) for k, v in table.folds.items()} if crossed else table.sets
        kept = folds if crossed else sides
        for person, value in found.items():
            if kept.setdefault(person, value) != value:
                raise ConfigError(
                    f"{run.path}: has {person} in {value}, another run in {kept[person]}; these "
                    "runs have splits of their own (split_seed): name one of them, or one study"
                )
    if not (sides or folds):
        raise ConfigError(f"{root}: there is no run with a split.tsv in it; name another folder")
    write_rows(path, {name: (sides.get(name), folds.get(name)) for name in {**sides, **folds}})
    sys.stdout.write(
        f"{path}: {len({**sides, **folds})} people, {len(set(folds.values()))} folds; use it by "
        f"data.split={path}\n"
    )
    return 0


def show_runs(options: argparse.Namespace) -> int:
    """Print everything about one run.

    Args:
        options: As `cli.parser` gives them.

    Raises:
        LandmarkingError: If it is no run, or its files are not what it has written.
    """
    run = _one_run(options.runs[0])
    row, facts = listed(run), run.facts()
    packages = facts.pop("packages", {})
    settings = flat_settings(run.read_config())
    if options.json:
        _print_json(
            {**row.record(), "settings": settings, "made_with": facts, "packages": packages}
        )
        return 0
    for title, values in (("", row.record()), ("settings", settings), ("made with", facts)):
        sys.stdout.write(f"\n{title}\n" if title else "")
        cells = [[f"  {key}" if title else key, str(value)] for key, value in values.items()]
        sys.stdout.write(_columns(cells, left=2))
    return 0


def diff_runs(options: argparse.Namespace) -> int:
    """Print the settings in which runs differ, beside their errors.

    Args:
        options: As `cli.parser` gives them.

    Raises:
        LandmarkingError: If one is no run, or its files are not what it has written.
    """
    runs = [_one_run(name) for name in options.runs]
    if len(runs) < 2:
        raise ConfigError("diff takes two runs or more; name another one")
    rows, settings = [listed(run) for run in runs], differing_settings(runs)
    if options.json:
        _print_json({"runs": [row.record() for row in rows], "settings": settings})
        return 0
    groups = list(dict.fromkeys(name for row in rows for name in row.test_error_mm))
    cells = [["", *(run.path.name for run in runs)], ["state", *(row.state for row in rows)]]
    cells += [[key, *(str(value) for value in values)] for key, values in settings.items()]
    cells.append(["validation error, mm", *(_mm(row.val_error_mm) for row in rows)])
    cells += [[f"{g} error, mm", *(_mm(row.test_error_mm.get(g)) for row in rows)] for g in groups]
    sys.stdout.write(_columns(cells, left=1))
    return 0


def rm_runs(options: argparse.Namespace) -> int:
    """Remove runs, after asking.

    Args:
        options: As `cli.parser` gives them.

    Raises:
        ConfigError: If one is no run, or nobody can be asked.
    """
    runs = [_one_run(name) for name in options.runs]
    if not options.yes:
        if not sys.stdin.isatty():
            raise ConfigError("rm asks before it removes, and nobody can be asked; add --yes")
        names = "".join(f"  {run.path}\n" for run in runs)
        sys.stdout.write(f"{names}remove {len(runs)} run(s) for good? [y/N] ")
        sys.stdout.flush()
        if sys.stdin.readline().strip().casefold() not in ("y", "yes"):
            sys.stdout.write("nothing was removed\n")
            return 1
    held = sum(remove_run(run.path) for run in runs)
    sys.stdout.write(f"{len(runs)} run(s) removed, {held:.1f} MB\n")
    return 0


def _one_run(name: str) -> RunFolder:
    run = RunFolder(Path(name))
    if not (run.config.is_file() and run.provenance.is_file()):
        raise ConfigError(f"{name}: is no run; `landmarking runs list DIR` lists those below DIR")
    return run


def run_qc(options: argparse.Namespace) -> int:
    """Say how a folder of results stands, or which scans of a prepared cohort to look at.

    Args:
        options: As `cli.parser` gives them.

    Raises:
        ConfigError: If the folder holds neither.
    """
    folder = Path(options.folder)
    if (folder / "qc.csv").is_file():
        from landmarking.preparation.review import cohort_state

        state = cohort_state(folder)
    else:
        from landmarking.prediction.summary import results_state

        state = results_state(folder)
    if options.json:
        _print_json(state)
        return 0
    for key, value in state.items():
        if isinstance(value, dict):
            sys.stdout.write("".join(f"  {name}: {text}\n" for name, text in value.items()))
        else:
            sys.stdout.write(f"{key}: {value}\n")
    return 0


def run_gather(options: argparse.Namespace) -> int:
    """Put scans with their landmarks, or what was corrected in a folder of results, into a tree.

    Args:
        options: As `cli.parser` gives them.

    Raises:
        LandmarkingError: If there is nothing to gather, or the tree cannot be written.
    """
    from landmarking.cohort.bids import add_all, pair
    from landmarking.prediction.summary import checked

    pairs = [pair(text) for text in options.pairs]
    for folder in options.results:
        pairs += checked(Path(folder), accepted=options.accepted)
    if not pairs:
        raise ConfigError("gather takes SCAN[=LANDMARKS], or --results DIR; name one of them")
    return add_all(Path(options.root), options.group, pairs)


def print_completion(options: argparse.Namespace) -> int:
    """Print the script that completes the command in a shell.

    Args:
        options: `shell`.
    """
    import shtab

    from landmarking.cli import parser

    sys.stdout.write(shtab.complete(parser(), options.shell) + "\n")
    return 0


def _print_json(body: object) -> None:
    sys.stdout.write(json.dumps(body, allow_nan=False, default=str) + "\n")
