"""Finished runs on disk, pooled into a study that may be tabulated.

A run is finished when its folder holds predictions.csv. Runs that do not belong together (another
cohort, split, landmark set or another set of test scans) are refused, unless told otherwise, with
the difference in words.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray

from landmarking.errors import PredictionsError
from landmarking.evaluation.predictions import read_predictions
from landmarking.files import check_sealed, file_sha256, parse_json
from landmarking.landmarks import landmark_set
from landmarking.runs import refuse_losses

PREDICTIONS = "predictions.csv"

_WAYS_OUT = "restore the file from a copy, or remove it to report without it"


@dataclass(frozen=True, eq=False)
class Run:
    """One finished run: its predictions, and what training left beside them."""

    folder: Path
    predictions: pd.DataFrame

    @property
    def name(self) -> str:
        """The run's name as its predictions state it."""
        return str(self.predictions["run"].iloc[0])

    @property
    def model(self) -> str:
        """The model's label: SL, ML or another."""
        return str(self.predictions["model"].iloc[0])

    @property
    def landmarks(self) -> tuple[str, ...]:
        """Names in the order of the file."""
        return tuple(dict.fromkeys(self.predictions["landmark"]))

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """What provenance.json records; empty where there is none.

        Raises:
            PredictionsError: If the file is damaged.
            RunError: If it is not what the run has written.
        """
        return self._mapping("provenance.json", parse_json)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved configuration, config.yaml; empty where there is none.

        Raises:
            PredictionsError: If the file is damaged.
            RunError: If it is not what the run has written.
        """
        return self._mapping("config.yaml", yaml.safe_load)

    @property
    def adapt(self) -> dict[str, Any]:
        """What of its configuration says whom it adapted to; empty where it did not adapt.

        Raises:
            PredictionsError: If the configuration is damaged.
            RunError: If it is not what the run has written.
        """
        found = self.config.get("adapt")
        if not isinstance(found, dict) or not found.get("group"):
            return {}
        return found if found.get("people", 0) != 0 else {}  # None is all but the fold's

    @cached_property
    def history(self) -> pd.DataFrame | None:
        """Losses by epoch, history.csv; None where there is none.

        Raises:
            PredictionsError: If the file is damaged.
            RunError: If it is not what the run has written.
        """
        path = self.folder / "history.csv"
        check_sealed(self.folder, path.name)
        if not path.is_file():
            return None
        try:
            return pd.read_csv(path)
        except (OSError, ValueError) as error:
            raise PredictionsError(
                f"{path}: cannot be read as a table ({error}); {_WAYS_OUT}"
            ) from error

    @cached_property
    def slices(self) -> dict[str, NDArray[np.uint8]]:
        """Test slices by scan, uint8 (H, W), slices.npz; empty where there are none.

        Raises:
            PredictionsError: If the file is damaged.
            RunError: If it is not what the run has written.
        """
        path = self.folder / "slices.npz"
        check_sealed(self.folder, path.name)
        if not path.is_file():
            return {}
        try:
            # Opened here: numpy leaves a damaged file open.
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
        except (OSError, ValueError, EOFError, BadZipFile, zlib.error, RuntimeError) as error:
            raise PredictionsError(
                f"{path}: cannot be read as slices ({error}); {_WAYS_OUT}"
            ) from error

    @cached_property
    def scans(self) -> pd.DataFrame:
        """What became of every test scan, scans.csv; no rows where a run has none.

        Raises:
            PredictionsError: If the file is damaged.
            RunError: If it is not what the run has written.
        """
        path = self.folder / "scans.csv"
        check_sealed(self.folder, path.name)
        if not path.is_file():
            return pd.DataFrame(columns=["scan_id", "participant_id", "group", "state", "reason"])
        try:
            return pd.read_csv(path, dtype=str, keep_default_na=False)
        except (OSError, ValueError) as error:
            raise PredictionsError(
                f"{path}: cannot be read as a table ({error}); {_WAYS_OUT}"
            ) from error

    def _mapping(self, name: str, parse: Callable[[str], Any]) -> dict[str, Any]:
        path = self.folder / name
        check_sealed(self.folder, name)
        if not path.is_file():
            return {}
        try:
            value = parse(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            found = " ".join(str(error).split())
            raise PredictionsError(f"{path}: cannot be read ({found}); {_WAYS_OUT}") from error
        if not isinstance(value, dict):
            found = type(value).__name__
            raise PredictionsError(f"{path}: expected a mapping, found {found}; {_WAYS_OUT}")
        return value


@dataclass(frozen=True, eq=False)
class Study:
    """Runs that are tabulated together.

    Attributes:
        name: Name of the folder they lie in.
        folder: That folder.
        runs: Finished runs, by name.
        frame: All their rows, in the runs' order.
        warnings: Differences that `allow_mixed` let through, in words.
    """

    name: str
    folder: Path
    runs: tuple[Run, ...]
    frame: pd.DataFrame = field(repr=False)
    warnings: tuple[str, ...] = ()

    @property
    def simulated(self) -> bool:
        """Whether any row comes from a simulated cohort."""
        return bool(self.frame["simulated"].any())

    @property
    def landmarks(self) -> tuple[str, ...]:
        """Names in the protocol's order; names that it does not know come last, as they come."""
        known = landmark_set("afids32").names
        found = tuple(dict.fromkeys(self.frame["landmark"]))
        return (
            *(name for name in known if name in found),
            *(name for name in found if name not in known),
        )

    @cached_property
    def scans(self) -> pd.DataFrame:
        """What became of every test scan, each once: scans.csv of the runs, with the cohort."""
        found = [run.scans.assign(cohort=run.predictions["cohort"].iloc[0]) for run in self.runs]
        table = pd.concat(found, ignore_index=True)
        return table.drop_duplicates(["cohort", "scan_id"]).reset_index(drop=True)

    def with_failures(self) -> pd.DataFrame:
        """All rows, and for every scan that came to no slice a row by run and landmark.

        The error of such a row is infinite: a miss at every radius, and part of no mean.
        """
        rows = []
        for run in self.runs:
            failed = run.scans[run.scans["state"] == "failed"]
            points = self.frame[self.frame["run"] == run.name].drop_duplicates("landmark")
            for row in failed.itertuples():
                person = str(row.participant_id)
                if self.frame["cohort"].nunique() > 1:
                    person = f"{points['cohort'].iloc[0]}/{person}"
                missed = points.assign(
                    scan_id=str(row.scan_id), participant_id=person, group=str(row.group)
                )
                rows.append(missed.assign(error_mm=np.inf, mean_error_mm=np.inf))
        if not rows:
            return self.frame
        # Every fold of a cross-validation lists the same scans.
        once = ["cohort", "model", "seed", "scan_id", "landmark"]
        return pd.concat([self.frame, pd.concat(rows).drop_duplicates(once)], ignore_index=True)

    @property
    def folds(self) -> dict[str, int]:
        """Fold by name of the run, of the runs of a cross-validation."""
        return {run.name: int(run.adapt.get("fold", 0)) for run in self.runs if run.adapt}

    @property
    def slices(self) -> dict[str, NDArray[np.uint8]]:
        """Test slices by scan, from whichever run has them."""
        pooled: dict[str, NDArray[np.uint8]] = {}
        for run in self.runs:
            pooled = {**run.slices, **pooled}
        return pooled


def load_study(folder: Path, *, allow_mixed: bool = False) -> Study:
    """Read all finished runs below a folder and check that they belong together.

    Args:
        folder: A study's folder, or one run's.
        allow_mixed: Pool runs that differ in cohort, split, landmarks or test scans all the same.

    Raises:
        PredictionsError: If there is no finished run, a file is damaged, two runs predict the same
            thing, or runs differ and `allow_mixed` is not set.
        RunError: If a file is not what its run has written.
    """
    refuse_losses(folder)
    paths = sorted(folder.rglob(PREDICTIONS), key=lambda path: path.parent.as_posix())
    if not paths:
        raise PredictionsError(
            f"{folder}: no finished run below this folder (a run is finished when it has "
            f"{PREDICTIONS}); train first, or name another folder with runs=DIR"
        )
    runs = tuple(read_run(path) for path in paths)
    frame = pd.concat([run.predictions for run in runs], ignore_index=True)
    if frame["cohort"].nunique() > 1:
        # The sub-01 of two cohorts are two people.
        frame["participant_id"] = frame["cohort"] + "/" + frame["participant_id"]
    folds = [run.name for run in runs if run.adapt]
    _refuse_doubles(frame, folder, folds)
    differences = [
        *mixing_differences(frame, folds=folds),
        *missing_folds(runs),
        *changed_models(runs),
    ]
    if differences and not allow_mixed:
        raise PredictionsError(
            f"{folder}: these runs do not belong in one table:\n  - "
            + "\n  - ".join(differences)
            + "\nreport on each apart, finish or remove the odd runs, or set allow_mixed=true"
        )
    name = folder.resolve().name
    return Study(name, folder, runs, frame, tuple(differences))


def read_run(path: Path) -> Run:
    """Read one finished run by its predictions.csv.

    Raises:
        PredictionsError: If the file breaks the schema.
        RunError: If it is not what its run has written.
    """
    check_sealed(path.parent, path.name)
    return Run(path.parent, read_predictions(path))


def mixing_differences(frame: pd.DataFrame, folds: Collection[str] = ()) -> list[str]:
    """What keeps the rows of several runs out of one table, in words; empty when nothing does.

    Args:
        frame: Rows of all runs.
        folds: Names of runs that are folds of a cross-validation: each has a split of its own.
    """
    found = _sides(frame, "cohort_digest", "cohorts")
    # A seed draws its own split: runs have to agree with those of the same seed.
    whole = frame[~frame["run"].isin(folds)]
    for seed, rows in whole.groupby("seed", sort=True):
        found += _sides(rows, "split_digest", f"train/validation splits of seed {seed}")
    found += _sides(frame, "simulated", "kinds of cohort (simulated and real)")
    found += _uneven(frame, "landmark", "landmark sets")
    found += _uneven(frame, "scan_id", "test scans")
    return found


def missing_folds(runs: Sequence[Run]) -> list[str]:
    """Cross-validations of which a fold is not there, in words: part of the people is not tested.

    Args:
        runs: Finished runs; those that are no folds do not matter.
    """
    found: dict[tuple[str, str, str, int], set[int]] = {}
    for run in runs:
        if run.adapt:
            first = run.predictions.iloc[0]
            model = f"{first['model']} seed {first['seed']}"
            single = str(run.config.get("landmark") or "")
            key = (model, single, str(run.adapt["group"]), int(run.adapt["folds"]))
            found.setdefault(key, set()).add(int(run.adapt["fold"]))
    words = []
    for (model, single, group, count), there in found.items():
        if lacking := sorted(set(range(count)) - there):
            folds = ", ".join(map(str, lacking))
            of = f"{model}{f' {single}' if single else ''} on {group}"
            words.append(f"{of}: {len(there)} of {count} folds, fold {folds} is missing")
    return words


def changed_models(runs: Sequence[Run]) -> list[str]:
    """Runs whose model was trained again after it had predicted for them, in words.

    Args:
        runs: Finished runs; those that predicted with their own model are sealed with it.
    """
    words = []
    for run in runs:
        path, digest = run.provenance.get("model"), run.provenance.get("model_sha256")
        if digest and path and Path(path).is_file() and file_sha256(Path(path)) != digest:
            words.append(f"{run.name}: {path} has changed since it made these predictions")
    return words


def different_code(runs: Sequence[Run]) -> str:
    """What to say where runs were made by different states of our code; empty if not known.

    Args:
        runs: Finished runs.
    """
    made: dict[str, list[str]] = {}
    for run in runs:
        commit = str(run.provenance.get("commit") or "")[:12]
        if commit:
            state = f"{commit}{' with changes' if run.provenance.get('modified') else ''}"
            made.setdefault(state, []).append(run.name)
    if len(made) < 2:
        return ""
    sides = (f"{state} ({len(names)} runs)" for state, names in made.items())
    return f"Made by different states of the code: {'; '.join(sides)}."


def _sides(frame: pd.DataFrame, column: str, title: str) -> list[str]:
    runs = frame.groupby(column, sort=True)["run"].agg(_run_list)
    if len(runs) < 2:
        return []
    sides = "; ".join(f"{_short(value)} in {names}" for value, names in runs.items())
    return [f"different {title}: {sides}"]


def _uneven(frame: pd.DataFrame, column: str, title: str) -> list[str]:
    sets: dict[frozenset[str], list[str]] = {}
    for (model, seed), rows in frame.groupby(["model", "seed"], sort=True):
        sets.setdefault(frozenset(rows[column]), []).append(f"{model} seed {seed}")
    if len(sets) < 2:
        return []
    everything = frozenset().union(*sets)
    sides = []
    for values, who in sets.items():
        lacking = sorted(everything - values)
        some = ", ".join(lacking[:8]) + (", ..." if len(lacking) > 8 else "")
        has = "has all" if not lacking else f"lacks {some}"
        sides.append(f"{' and '.join(who)} {has}")
    return [f"different {title}: {'; '.join(sides)}"]


def _refuse_doubles(frame: pd.DataFrame, folder: Path, folds: Collection[str]) -> None:
    keys = ["cohort_digest", "model", "seed", "scan_id", "landmark"]
    # Folds of a cross-validation all predict the people of a group that none has learnt from.
    fold = frame["split_digest"].where(frame["run"].isin(folds), "")
    double = frame[frame[keys].assign(fold=fold).duplicated(keep=False)]
    if len(double):
        first = double.iloc[0]
        same = double[(double[keys] == first[keys]).all(axis=1)]
        raise PredictionsError(
            f"{folder}: the runs {_run_list(same['run'])} all predict {first['landmark']} with "
            f"{first['model']} and seed {first['seed']}; keep one, or give them different seeds"
        )


def _run_list(names: pd.Series[str]) -> str:
    unique = sorted(set(names))
    return ", ".join(unique[:4]) + (f" and {len(unique) - 4} more" if len(unique) > 4 else "")


def _short(value: object) -> str:
    text = str(value)
    return text[:12] if len(text) > 16 else text
