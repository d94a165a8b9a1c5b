"""The paper's Figure 1 whole: maps, data-driven landmarks, networks, shape and a diagnosis.

One call goes from a cohort with two test groups to tables, maps, figures and one page; every scan's
deformation and prediction is kept, so that an interrupted run goes on.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from landmarking.cohort.bids import gather
from landmarking.cohort.records import Cohort, ScanRecord
from landmarking.config import PROJECT
from landmarking.errors import CohortError, ConfigError, LandmarkError, ScanError
from landmarking.files import file_sha256, write_text
from landmarking.geometry import Array
from landmarking.landmarks import landmark_set, read_landmarks
from landmarking.phantom.dataset import planned_scans
from landmarking.preparation.sources import CohortConfig, open_cohort
from landmarking.processes import map_processes
from landmarking.shape import framework_page, maps
from landmarking.shape.classifier import (
    CLASSIFIERS,
    Data,
    Verdict,
    nested,
    noise_curve,
    permutation_p,
)
from landmarking.shape.data_driven import Found, find_landmarks, plane_moves, write_set
from landmarking.shape.edma import FormDifference, compare_forms
from landmarking.shape.procrustes import Aligned, align, mean_shape_test, procrustes_anova

PATCH_PX = 12
"""Half the edge of a patch around a landmark, pixels of the slice."""


@dataclass
class FrameworkConfig:
    """What `experiments/framework.py` takes.

    Attributes:
        cohort: Which cohort; its first two test groups are compared, the second is looked for.
        outputs: Folder of results; `framework/` lies here.
        registration: `auto`, `syn`, `demons` or `affine`.
        spacing_mm: Voxels of the maps.
        fwhm_mm: Smoothing of the maps.
        permutations: Of the maps and shape tests.
        tfce: Whether clusters are tested too.
        draws: Of the classifiers' permutation tests.
        noises_mm: Landmark errors of the cost curve.
        classifiers: Of `logistic`, `svm`, `forest`; the first is tested by shuffled labels.
        automatic: Model that places landmarks: `shipped`, a packed model, a run.
        learn: Whether an ML model is trained on the data-driven landmarks.
        epochs: Of that training.
        workers: Processes; None takes two.
        seed: Of everything that is drawn.
    """

    cohort: CohortConfig
    outputs: str = "outputs"
    registration: str = "auto"
    spacing_mm: float = 4.0
    fwhm_mm: float = 10.0
    permutations: int = 500
    tfce: bool = True
    draws: int = 30
    noises_mm: list[float] = field(default_factory=lambda: [0.0, 0.5, 1.0, 2.0, 4.0])
    classifiers: list[str] = field(default_factory=lambda: list(CLASSIFIERS))
    automatic: str = "shipped"
    learn: bool = True
    epochs: int = 60
    workers: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check what types cannot.

        Raises:
            ConfigError: If there are not two groups, or a number is out of range.
        """
        if len(self.cohort.test_groups) < 2:
            raise ConfigError(
                "the framework compares two groups, found cohort.test_groups="
                f"[{','.join(self.cohort.test_groups)}]; name both"
            )
        if not 2.0 <= self.spacing_mm <= 8.0:
            raise ConfigError(f"spacing_mm lies between 2 and 8, found {self.spacing_mm}")
        if not self.classifiers or set(self.classifiers) - set(CLASSIFIERS):
            raise ConfigError(
                f"classifiers are some of {', '.join(CLASSIFIERS)}, found {self.classifiers}"
            )
        if self.permutations < 10 or self.draws < 1:
            raise ConfigError("permutations are 10 or more, draws one or more")

    @property
    def groups(self) -> tuple[str, str]:
        """The group that is compared with, and the one that is looked for."""
        return self.cohort.test_groups[0], self.cohort.test_groups[1]

    @property
    def folder(self) -> Path:
        """Where everything goes."""
        return Path(self.outputs) / "framework" / self.cohort.name


@dataclass(frozen=True, eq=False)
class Results:
    """Everything that the page shows.

    Attributes:
        config: The settings.
        simulated: Whether the people are phantoms.
        people: One row a test scan: scan_id, participant_id, group, age, sex, head_size.
        method: Registration that was used.
        grid: The maps' voxels.
        group_map: Of the logarithm of local volume.
        grey_map: Of grey matter.
        truth: On phantoms: true mean difference of the logarithm of volume, and figures by name.
        found: Data-driven landmarks; None where nothing differed.
        learnt: Table of the model trained on them, as text; empty without.
        aligned: Manual landmarks of the test people after alignment, in the slice's plane.
        names: Landmarks.
        shape_test: Permutation test of the mean shapes.
        anova: What shape goes with.
        forms: EDMA, the second group by the first.
        verdicts: Classification by kind, classifier and source (`manual`, `automatic`).
        p_value: Of the best-known one (`shape`, `logistic`, `automatic`), by shuffled labels.
        null: Its AUC under shuffled labels.
        cost: AUC by landmark error.
        slices: For the picture: a slice with manual and automatic points.
        notes: What a reader should know.
    """

    config: FrameworkConfig
    simulated: bool
    people: pd.DataFrame
    method: str
    grid: maps.Grid
    group_map: maps.GroupMap
    grey_map: maps.GroupMap
    truth: tuple[Array, Mapping[str, float]] | None
    found: Found | None
    learnt: str
    aligned: Aligned
    names: tuple[str, ...]
    shape_test: Mapping[str, float]
    anova: pd.DataFrame
    forms: FormDifference
    verdicts: Mapping[tuple[str, str, str], Verdict]
    p_value: float
    null: Array
    cost: pd.DataFrame
    slices: Mapping[str, Any]
    notes: Sequence[str]


def run_framework(config: FrameworkConfig) -> str:
    """Go through the whole frame, and write tables, maps, figures and the page.

    Args:
        config: The settings.

    Returns:
        The main figures and the paths, a few lines.

    Raises:
        LandmarkingError: If the cohort cannot be used.
    """
    method = maps.method_here(config.registration)
    cohort = open_cohort(config.cohort, workers=config.workers or 2, skip_bad=True)
    tested = [s for s in cohort.scans if s.group in config.groups and s.landmarks is not None]
    first = {scan.participant_id: scan for scan in reversed(tested)}
    tested = [scan for scan in tested if first[scan.participant_id] is scan]
    counts = {group: sum(s.group == group for s in tested) for group in config.groups}
    if min(counts.values()) < 5:
        raise CohortError(
            f"{cohort.name}: five people with landmarks are needed in each group, found "
            + ", ".join(f"{count} {group}" for group, count in counts.items())
        )
    with Progress(console=Console(stderr=True), transient=True) as bar:
        moved, notes = _deformations(config, tested, method, bar)
        tested = [scan for scan in tested if scan.scan_id in moved]
        group_map, grey_map, people, grid = _maps(config, tested, moved, bar)
        truth = _truth(config, tested, group_map, grid, bar) if cohort.simulated else None
        found, more = _landmarks(config, tested, moved, grid)
        notes += more
        points, automatic, looks, slices = _points(config, tested, bar)
    if method == "affine":
        notes.append(
            "No nonlinear registration is installed (pip install 'landmarking[framework]'): the "
            "maps are of an affine one, which moves nothing within the brain."
        )
    second = np.array([scan.group == config.groups[1] for scan in tested])
    moves = plane_moves([moved[scan.scan_id] for scan in tested], grid)
    done = _shapes(config, people, second, points, automatic, looks, moves)
    learnt = _learn(config, cohort, found, method) if config.learn and found else ""
    results = Results(
        config=config,
        simulated=cohort.simulated,
        people=people,
        method=method,
        grid=grid,
        group_map=group_map,
        grey_map=grey_map,
        truth=truth,
        found=found,
        learnt=learnt,
        slices=slices,
        notes=notes,
        **done,
    )
    return framework_page.write(results, config.folder)


def _deformations(
    config: FrameworkConfig, scans: Sequence[ScanRecord], method: str, bar: Progress
) -> tuple[dict[str, maps.Deformation], list[str]]:
    """Deformation by scan id, and what could not be deformed."""
    folder = Path(config.outputs) / "framework" / "deformations"
    jobs = [
        maps.DeformJob(
            scan.image,
            file_sha256(scan.image),
            folder,
            config.spacing_mm,
            method,
            config.cohort.allow_scaled,
        )
        for scan in scans
    ]
    folder.mkdir(parents=True, exist_ok=True)
    task = bar.add_task(f"deformations ({method})", total=len(jobs))
    problems = {}
    for path, problem in map_processes(_deform_quietly, jobs, config.workers or 2):
        problems[path] = problem
        bar.advance(task)
    found, notes = {}, []
    for scan, job in zip(scans, jobs, strict=True):
        if problem := problems[job.path]:
            notes.append(f"{scan.scan_id} is left out: {problem}")
        else:
            found[scan.scan_id] = maps.read_deformation(job.path)
    return found, notes


def _deform_quietly(job: maps.DeformJob) -> tuple[Path, str]:
    # The field stays in its file: there is no need to send it through a pipe. What is wrong with a
    # scan stands on the page.
    logging.getLogger("landmarking.imaging").setLevel(logging.ERROR)
    return job.path, maps.deformed(job)[1]


def _maps(
    config: FrameworkConfig,
    scans: Sequence[ScanRecord],
    moved: Mapping[str, maps.Deformation],
    bar: Progress,
) -> tuple[maps.GroupMap, maps.GroupMap, pd.DataFrame, maps.Grid]:
    grid = maps.template_grid(config.spacing_mm)
    people = pd.DataFrame(
        {
            "scan_id": scan.scan_id,
            "participant_id": scan.participant_id,
            "group": scan.group,
            "age": np.nan if scan.age is None else scan.age,
            "sex": scan.sex or "",
            "head_size": moved[scan.scan_id].head_size,
        }
        for scan in scans
    )
    sexes = sorted(set(people["sex"]))
    covariates = {
        "age": people["age"].to_numpy(float),
        "head size": people["head_size"].to_numpy(float),
        "sex": (people["sex"] == sexes[-1]).to_numpy(float),
    }
    second = (people["group"] == config.groups[1]).to_numpy()
    made = []
    task = bar.add_task("voxel-wise tests", total=2)
    for kind in ("log_jacobian", "grey"):
        each = [
            moved[s.scan_id].log_jacobian
            if kind == "log_jacobian"
            # Modulated: as much grey matter as the person has, wherever it was moved from.
            else moved[s.scan_id].grey * np.exp(moved[s.scan_id].log_jacobian)
            for s in scans
        ]
        made.append(
            maps.compare_maps(
                maps.smoothed(each, grid, config.fwhm_mm),
                second,
                covariates,
                grid,
                permutations=config.permutations,
                tfce=config.tfce and kind == "log_jacobian",
                seed=config.seed,
            )
        )
        bar.advance(task)
    return made[0], made[1], people, grid


def _truth(
    config: FrameworkConfig,
    scans: Sequence[ScanRecord],
    found: maps.GroupMap,
    grid: maps.Grid,
    bar: Progress,
) -> tuple[Array, dict[str, float]]:
    """True mean difference of the phantoms' own warps, and how well the map shows it."""
    wanted = {scan.scan_id: scan.group for scan in scans}
    plan = [p for p in planned_scans(config.cohort.preset) if _scan_id(p) in wanted]
    task = bar.add_task("true deformations", total=len(plan))
    volumes, second = [], []
    for planned in plan:
        move = maps.true_deformation(config.cohort.preset, planned.subject, grid)
        volumes.append(maps.log_jacobian(move.astype(np.float32), grid.spacing_mm))
        second.append(wanted[_scan_id(planned)] == config.groups[1])
        bar.advance(task)
    values = maps.smoothed(volumes, grid, config.fwhm_mm)
    side = np.array(second)
    true = values[side].mean(axis=0) - values[~side].mean(axis=0)
    strong = np.abs(true) >= np.percentile(np.abs(true), 90)
    nothing = np.abs(true) <= np.percentile(np.abs(true), 10)
    hit = (found.p < 0.05) & (np.sign(found.t) == np.sign(true))
    moved = float(found.difference.std()) > 0.0
    return true, {
        "correlation of the found with the true difference": float(
            np.corrcoef(found.difference, true)[0, 1] if moved else 0.0
        ),
        "sensitivity where the true difference is largest (tenth of the voxels)": float(
            hit[strong].mean()
        ),
        "significant where it is smallest (tenth of the voxels)": float(
            (found.p < 0.05)[nothing].mean()
        ),
        "significant voxels with the true sign": float(
            hit.sum() / max(1, int((found.p < 0.05).sum()))
        ),
    }


def _scan_id(planned: Any) -> str:
    return "_".join(part for part in (planned.participant_id, planned.session) if part)


def _landmarks(
    config: FrameworkConfig,
    scans: Sequence[ScanRecord],
    moved: Mapping[str, maps.Deformation],
    grid: maps.Grid,
) -> tuple[Found | None, list[str]]:
    second = np.array([scan.group == config.groups[1] for scan in scans])
    try:
        every = [moved[scan.scan_id] for scan in scans]
        found = find_landmarks(every, second, grid, seed=config.seed)
    except LandmarkError as error:
        return None, [f"No data-driven landmarks: {error}"]
    write_set(config.folder / "data_driven.json", found.landmark_set())
    write_set(Path(config.outputs) / "framework" / "data_driven.json", found.landmark_set())
    return found, []


def _points(
    config: FrameworkConfig, scans: list[ScanRecord], bar: Progress
) -> tuple[Array, Array, Array, dict[str, Any]]:
    """Manual and automatic landmarks on the slice of each scan, mm, patches, and one to be drawn.

    Both are taken on the plane that was found, (N, L, 2): to the back and down.
    """
    from landmarking.prediction.package import open_model
    from landmarking.prediction.predict import predict_scan

    model = open_model([config.automatic])
    names = model.landmarks.names
    task = bar.add_task("automatic landmarks", total=len(scans))
    manual, automatic, patches = [], [], []
    shown: dict[str, Any] = {}
    kept = config.folder / "landmarks"
    for scan in scans:
        assert scan.landmarks is not None
        path = kept / f"{scan.scan_id}.npz"
        truth = landmark_set("afids32").subset(names).arrange(read_landmarks(scan.landmarks))
        digest = f"{file_sha256(scan.image)}{file_sha256(scan.landmarks)}{model.digest}"
        row = _read_kept(path, digest)
        if row is None:
            try:
                found = predict_scan(scan.image, model, allow_scaled=config.cohort.allow_scaled)
            except ScanError as error:
                raise CohortError(
                    f"{error}; leave the scan out by the column exclude of its scans.tsv"
                ) from error
            pixels = found.geometry.to_pixel(truth)
            row = {
                "manual": pixels @ found.geometry.px_to_mm.T,
                "automatic": np.array([m.pixel for m in found.landmarks])
                @ found.geometry.px_to_mm.T,
                "patches": _patches(found.image, pixels),
                "image": found.image,
                "pixels": np.stack([pixels, [m.pixel for m in found.landmarks]]),
            }
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                save: Any = np.savez_compressed
                save(file, digest=digest, **row)
        manual.append(row["manual"])
        automatic.append(row["automatic"])
        patches.append(row["patches"])
        if scan.group == config.groups[1] and not shown:
            shown = {"scan": scan.scan_id, "image": row["image"], "pixels": row["pixels"]}
        bar.advance(task)
    shown["names"] = names
    return np.array(manual), np.array(automatic), np.array(patches), shown


def _read_kept(path: Path, digest: str) -> dict[str, Array] | None:
    if not path.exists():
        return None
    with np.load(path) as kept:
        return dict(kept) if str(kept["digest"]) == digest else None


def _patches(image: NDArray[np.float32], pixels: Array) -> Array:
    """Intensities around the landmarks, a third of the pixels along each axis, in one row."""
    padded = np.pad(image, PATCH_PX, mode="edge")
    parts = []
    for x, y in np.nan_to_num(pixels, nan=image.shape[0] / 2):
        row, column = (round(np.clip(v, 0, image.shape[0] - 1)) for v in (y, x))
        part = padded[row : row + 2 * PATCH_PX : 3, column : column + 2 * PATCH_PX : 3]
        parts.append(part.ravel())
    values = np.concatenate(parts)
    return np.asarray((values - values.mean()) / max(float(values.std()), 1e-9))


def _shapes(
    config: FrameworkConfig,
    people: pd.DataFrame,
    second: NDArray[np.bool_],
    manual: Array,
    automatic: Array,
    patches: Array,
    moves: tuple[Array, Array],
) -> dict[str, Any]:
    aligned = align(manual)
    names = landmark_set("msp8").names if manual.shape[1] == 8 else ()
    names = names or tuple(f"L{number}" for number in range(1, manual.shape[1] + 1))
    kept = people.iloc[aligned.people]
    factors: dict[str, Any] = {"group": kept["group"].tolist()}
    if kept["sex"].nunique() > 1:
        factors["sex"] = kept["sex"].tolist()
    factors["size"] = []
    draws = max(99, config.permutations)
    whole = np.isfinite(manual).all(axis=(1, 2))
    forms = compare_forms(
        manual[whole & second], manual[whole & ~second], names, draws=draws, seed=config.seed
    )
    label = second.astype(np.int64)
    ids = people["participant_id"].tolist()
    sources = {"manual": manual, "automatic": automatic}
    verdicts: dict[tuple[str, str, str], Verdict] = {}
    for source, points in sources.items():
        data = Data(points, label, ids, patches)
        for kind in ("shape", "distances", "both") if source == "automatic" else ("shape",):
            for by in config.classifiers if kind == "shape" else config.classifiers[:1]:
                verdict = nested(data, kind=kind, by=by, seed=config.seed)
                verdicts[kind, by, source] = verdict
    if moves[0].any():
        # Where the groups differ most is found on the training people of every fold.
        data = Data(manual, label, ids, None, *moves)
        verdicts["data-driven", config.classifiers[0], "deformation"] = nested(
            data, kind="data-driven", by=config.classifiers[0], seed=config.seed
        )
    data = Data(automatic, label, ids)
    p, null = permutation_p(
        data,
        verdicts["shape", config.classifiers[0], "automatic"].auc,
        lambda d: nested(d, by=config.classifiers[0], seed=config.seed).auc,
        draws=config.draws,
        seed=config.seed,
    )
    return {
        "aligned": aligned,
        "names": names,
        "shape_test": mean_shape_test(
            aligned, kept["group"].tolist(), permutations=9_999, seed=config.seed
        ),
        "anova": procrustes_anova(aligned, factors, permutations=draws, seed=config.seed),
        "forms": forms,
        "verdicts": verdicts,
        "p_value": p,
        "null": null,
        "cost": noise_curve(Data(manual, label, ids), config.noises_mm, seed=config.seed),
    }


def _learn(config: FrameworkConfig, cohort: Cohort, found: Found, method: str) -> str:
    """Train an ML model on the data-driven landmarks of everybody; its table of errors."""
    with Progress(console=Console(stderr=True), transient=True) as bar:
        moved, _ = _deformations(config, cohort.scans, method, bar)
    tree = config.folder / "cohort"
    marks = found.landmark_set()
    done = {path.name for path in tree.glob("sub-*")} if tree.exists() else set()
    for group in cohort.groups:
        pairs = [
            (
                scan.image,
                dict(zip(marks.names, moved[scan.scan_id].carried(marks.template_mm), strict=True)),
            )
            for scan in cohort.select([group])
            if scan.scan_id in moved and scan.participant_id not in done
        ]
        if pairs:
            gather(tree, group, pairs)
    words = [
        "experiment=demo_ml", "cohort=bids", f"cohort.root={tree}", "landmarks=data_driven",
        f"cohort.name={config.cohort.name}-data-driven", f"outputs={config.outputs}",
        f"cohort.train_groups=[{','.join(config.cohort.train_groups)}]",
        f"cohort.test_groups=[{','.join(config.groups)}]", "study=framework/learnt",
        f"run={config.cohort.name}", f"trainer.max_epochs={config.epochs}", "overwrite=true",
        "trainer.enable_progress_bar=false",
    ]  # fmt: skip
    script = str(PROJECT / "experiments" / "train.py")
    finished = subprocess.run(  # noqa: S603 - our own script
        [sys.executable, script, *words], check=False, capture_output=True, text=True
    )
    if finished.returncode:
        return f"not trained: {finished.stderr.strip()[-300:]}"
    run = Path(config.outputs) / "framework" / "learnt" / config.cohort.name / "predictions.csv"
    table = pd.read_csv(run)
    by = table.groupby(["group", "landmark"])[["error_mm", "mean_error_mm"]].mean()
    write_text(config.folder / "tables" / "learnt.csv", by.reset_index().to_csv(index=False))
    whole = table.groupby("group")[["error_mm", "mean_error_mm"]].mean()
    return json.dumps({str(g): [float(v) for v in row] for g, row in whole.iterrows()})
