"""The report of a study from predictions alone: tables, figures, and one HTML page."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from landmarking.errors import ConfigError
from landmarking.evaluation import comparisons, tables
from landmarking.evaluation.charts import (
    MOST,
    Drawing,
    adaptation_curve,
    by_error,
    cumulative_errors,
    curve_panels,
    error_bars,
    error_matrix,
    house_style,
    learning_curves,
    loss_panels,
    model_errors,
    png_bytes,
    save,
)
from landmarking.evaluation.comparisons import (
    adaptation,
    adaptation_table,
    cohort_differences,
    compare_groups,
    compare_models,
    stacked_summaries,
    study_differences,
)
from landmarking.evaluation.pictures import (
    error_ellipses,
    examples,
    landmark_figure,
    study_grid,
    template_positions_px,
    template_slice,
    worst_prediction,
)
from landmarking.evaluation.statistics import (
    ALL,
    by_landmark,
    by_seed,
    group_order,
    in_space,
    model_order,
    table_1,
    variance_parts,
    with_no_skill,
)
from landmarking.evaluation.study import Run, Study, different_code, load_study
from landmarking.evaluation.tables import (
    DASH,
    SIMULATED_NOTE,
    Table,
    fixed,
    latex_document,
    to_console,
    to_latex,
    to_markdown,
)
from landmarking.files import atomic_path, remove_leftovers, write_text

_LOG = logging.getLogger(__name__)


_WORST = 16
"""Pictures of the worst predictions, shared out among the landmarks."""
_MAIN_PACKAGES = ("torch", "pytorch-lightning", "numpy", "scipy", "nibabel", "nilearn")


@dataclass(frozen=True)
class Picture:
    """A figure on the page: PNG as a data URI, its size, and its words."""

    name: str
    title: str
    caption: str
    uri: str
    width: int


def render_page(study: Study, shown: Sequence[Table], pictures: Sequence[Picture]) -> str:
    """The whole page as text; call within `house_style`, for the worst cases are drawn here.

    Args:
        study: The runs.
        shown: Tables, Table 1 first.
        pictures: Figures.
    """
    environment = Environment(
        loader=PackageLoader("landmarking.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.j2").render(
        study=study,
        headlines=headlines(study.frame),
        cohorts=cohort_facts(study),
        runs=run_rows(study.runs),
        tables=shown,
        pictures=pictures,
        worst=worst_cases(study),
        shared=shared_facts([flat(run.provenance) for run in study.runs]),
        packages=package_versions(study.runs),
        settings=differing_settings(study.runs),
        differing=differing_facts(study.runs),
        configs=configurations(study.runs),
    )
    return page if page.endswith("\n") else page + "\n"


def picture(drawing: Drawing, png: bytes) -> Picture:
    """A drawing and its PNG as a data URI."""
    uri = f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
    # Twice the printed width in CSS pixels reads well on a screen.
    width = round(drawing.figure.get_figwidth() * 180)
    return Picture(drawing.name, drawing.title, drawing.caption, uri, width)


def headlines(frame: pd.DataFrame) -> list[str]:
    """Mean errors in one sentence a group: `HS: SL 1.21 mm, ML 2.42 mm, no skill 5.15 mm`."""
    means = with_no_skill(frame).groupby(["group", "model"])["error_mm"].mean().dropna()
    lines = []
    for group in group_order(means.index.get_level_values("group")):
        ranked = means.loc[group].sort_values(kind="stable")
        lines.append(f"{group}: " + ", ".join(f"{name} {v:.2f} mm" for name, v in ranked.items()))
    return lines


def cohort_facts(study: Study) -> list[dict[str, Any]]:
    """One entry a cohort: name, digest, simulated, people by group, scans."""
    facts = []
    for (name, digest), rows in study.frame.groupby(["cohort", "cohort_digest"], sort=True):
        people = rows.groupby("group")["participant_id"].nunique()
        facts.append(
            {
                "name": name,
                "digest": digest,
                "simulated": bool(rows["simulated"].any()),
                "groups": [(group, int(people[group])) for group in group_order(people.index)],
                "scans": int(rows["scan_id"].nunique()),
                "splits": sorted(set(rows["split_digest"])),
            }
        )
    return facts


def run_rows(runs: Iterable[Run]) -> Table:
    """What was run, one row a run."""
    header = (
        *("Run", "Model", "Experiment", "Landmarks", "seed", "epochs", "validation (px)"),
        "error (mm)",
    )
    rows = []
    for run in sorted(runs, key=lambda run: (model_order([run.model]), run.model, run.name)):
        first = run.predictions.iloc[0]
        epochs, loss = _last_epoch(run)
        names = ", ".join(run.landmarks)
        cells = (run.name, run.model, str(first["experiment"]), names, str(first["seed"]))
        error = run.predictions["error_mm"].mean()
        rows.append((*cells, epochs, loss, DASH if pd.isna(error) else fixed(error)))
    return Table("runs", "What was run", header, tuple(rows), text_columns=4)


def _last_epoch(run: Run) -> tuple[str, str]:
    history = run.history
    if history is None or history.empty or "validation_loss_px" not in history:
        return DASH, DASH
    losses = history["validation_loss_px"].dropna()
    loss = f"{losses.iloc[-1]:.2f}" if len(losses) else DASH
    return str(len(history)), loss


def worst_cases(study: Study) -> list[dict[str, Any]]:
    """The greatest errors of every landmark, each with its slice where one was kept."""
    frame, slices = study.frame, study.slices
    order = frame.sort_values(["error_mm", "run", "scan_id"], ascending=[False, True, True])
    known = order.dropna(subset=["error_mm"])
    each = max(1, _WORST // len(study.landmarks))
    chosen = [known[known["landmark"] == name].head(each) for name in study.landmarks]
    cases = []
    for _, row in pd.concat(chosen).iterrows():
        case: dict[str, Any] = {str(key): value for key, value in row.items()}
        case["picture"] = None
        if row["scan_id"] in slices:
            drawing = worst_prediction(row, slices)
            case["picture"] = picture(drawing, png_bytes(drawing.figure))
        cases.append(case)
    return cases


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A nested mapping as dotted keys and text; the packages are shown apart and left out."""
    result: dict[str, str] = {}
    for key, item in value.items():
        if prefix == "" and key == "packages":
            continue
        if isinstance(item, Mapping):
            result |= flat(item, f"{prefix}{key}.")
        elif isinstance(item, list):
            result[f"{prefix}{key}"] = " ".join(map(str, item))
        else:
            result[f"{prefix}{key}"] = DASH if item is None else str(item)
    return result


def shared_facts(facts: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Provenance on which all runs agree."""
    first = facts[0] if facts else {}
    return {key: value for key, value in first.items() if all(f.get(key) == value for f in facts)}


def differing_facts(runs: Sequence[Run]) -> Table | None:
    """Provenance on which runs differ, one row a run; None where they agree on all."""
    facts = [flat(run.provenance) for run in runs]
    agreed = shared_facts(facts)
    keys = list(dict.fromkeys(key for fact in facts for key in fact if key not in agreed))
    if not keys:
        return None
    rows = tuple(
        (run.name, *(fact.get(key, DASH) for key in keys))
        for run, fact in zip(runs, facts, strict=True)
    )
    title = "Provenance that differs between runs"
    return Table("provenance", title, ("Run", *keys), rows, text_columns=1 + len(keys))


OF_PLACE = ("outputs", "run_dir", "run", "landmark", "overwrite", "threads", "workers")

MOST_SETTINGS = 12
"""Settings beside one another; `landmarking runs export` has all."""


def differing_settings(runs: Sequence[Run]) -> Table | None:
    """Settings in which runs differ beside what came out, to be sorted; None where they agree."""
    every = [
        {
            key: value
            for key, value in flat(run.config).items()
            if key not in OF_PLACE and str(run.config.get("run_dir") or run.folder) not in value
        }
        for run in runs
    ]
    agreed = shared_facts(every)
    keys = list(dict.fromkeys(key for each in every for key in each if key not in agreed))
    if not keys:
        return None
    rows = []
    for run, each in zip(runs, every, strict=True):
        error = run.predictions["error_mm"].mean()
        came = (_last_epoch(run)[1], DASH if pd.isna(error) else fixed(error))
        rows.append((run.name, *(each.get(key, DASH) for key in keys[:MOST_SETTINGS]), *came))
    left = len(keys) - MOST_SETTINGS
    notes = (f"{left} more settings differ: landmarking runs export DIR.",) if left > 0 else ()
    return Table(
        name="settings",
        title="Settings in which the runs differ, beside what came out",
        header=("Run", *keys[:MOST_SETTINGS], "validation (px)", "error (mm)"),
        rows=tuple(rows),
        notes=notes,
        text_columns=1,
    )


def package_versions(runs: Iterable[Run]) -> dict[str, str]:
    """Versions by package, main ones first; several where runs differ."""
    found: dict[str, set[str]] = {}
    for run in runs:
        packages = run.provenance.get("packages")
        if isinstance(packages, Mapping):
            for name, version in packages.items():
                found.setdefault(str(name), set()).add(str(version))
    names = [name for name in _MAIN_PACKAGES if name in found]
    names += [name for name in found if name not in names]
    return {name: " and ".join(sorted(found[name])) for name in names}


def configurations(runs: Iterable[Run]) -> list[tuple[str, str]]:
    """Distinct resolved configurations: names of the runs that share one, and its YAML."""
    texts: dict[str, list[str]] = {}
    for run in runs:
        if run.config:
            varying = {k: v for k, v in run.config.items() if k not in ("run", "landmark")}
            text = yaml.safe_dump(json.loads(json.dumps(varying, default=str)), sort_keys=False)
            texts.setdefault(text, []).append(run.name)
    return [(", ".join(names), text) for text, names in texts.items()]


_SHOWN = 3
"""Models drawn on slices where a study has many."""


FAILURES = ("misses", "left_out")
"""What a scan that came to no slice can be in the rates."""


@dataclass
class ReportConfig:
    """conf/report.yaml.

    Attributes:
        runs: Folder of the study to report on.
        compare: Two or more studies' folders to put side by side instead.
        allow_mixed: Pool runs of different cohorts, splits, landmarks or test scans all the same.
        failures: `misses`: scans that came to no slice count as misses in every rate; `left_out`:
            they do not count at all.
        output: Folder of the report; null takes `report` inside `runs`, or a folder named after
            the studies beside the first of them.
        resamples: Without effect, since intervals have a closed form; kept for old command lines.
        permutations: Random permutations per test.
        seed: Seed of both.
    """

    runs: str | None = None
    compare: list[str] = field(default_factory=list)
    allow_mixed: bool = False
    failures: str = "misses"
    output: str | None = None
    resamples: int = 10_000
    permutations: int = 10_000
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that give no report.

        Raises:
            ConfigError: If nothing or too much is asked for, or a count is too small.
        """
        if bool(self.runs) == bool(self.compare):
            raise ConfigError("report: give either runs=DIR or compare=DIR,DIR")
        if self.compare and len(self.compare) < 2:
            raise ConfigError("report: compare needs two folders or more, compare=DIR,DIR")
        if self.failures not in FAILURES:
            raise ConfigError(
                f"report: failures is one of {', '.join(FAILURES)}, found {self.failures!r}"
            )
        if self.permutations < 100:
            raise ConfigError("report: permutations are at least 100")


@dataclass(frozen=True)
class Results:
    """All figures of a study, tidy and unrounded; the fields are the stems of the CSV files."""

    table1: pd.DataFrame
    landmarks: pd.DataFrame
    models: pd.DataFrame
    groups: pd.DataFrame
    seeds: pd.DataFrame
    variance: pd.DataFrame
    space: pd.DataFrame
    adaptation: pd.DataFrame


def run_report(config: ReportConfig) -> str:
    """Write the report that a configuration asks for.

    Args:
        config: What to report on.

    Returns:
        The main table as text, and the paths of what was written.

    Raises:
        PredictionsError: If there is nothing to report, a file is damaged, or runs do not belong
            together.
    """
    folders = [Path(name) for name in config.compare or [config.runs or ""]]
    studies = [load_study(folder, allow_mixed=config.allow_mixed) for folder in folders]
    if config.compare:
        return write_comparison(studies, config)
    folder = Path(config.output) if config.output else studies[0].folder / "report"
    return write_report(studies[0], folder, config)


def write_comparison(studies: Sequence[Study], config: ReportConfig) -> str:
    """Write the tables that put studies side by side.

    Args:
        studies: Two studies or more.
        config: Draws, seed and output folder.

    Returns:
        The tables as text, and the path of their folder.
    """
    default = studies[0].folder.resolve().parent / "-vs-".join(study.name for study in studies)
    folder = Path(config.output) if config.output else default
    notes = [SIMULATED_NOTE] if any(study.simulated for study in studies) else []
    notes += cohort_differences(studies)
    stacked = stacked_summaries(studies)
    tests = study_differences(studies, permutations=config.permutations, seed=config.seed)
    shown = [
        comparisons.studies_table(stacked, notes),
        comparisons.differences_table(tests, notes),
    ]
    remove_leftovers(folder)
    write_tables(folder, shown, {"studies": stacked, "differences": tests})
    return "\n".join([*map(to_console, shown), f"tables: {folder}"])


def write_report(study: Study, folder: Path, config: ReportConfig) -> str:
    """Write tables, figures and page of one study.

    Args:
        study: The runs.
        folder: Where to; files of an earlier report are replaced one by one.
        config: Draws and seed.

    Returns:
        Table 1 as text, and the paths of what was written.

    Raises:
        PredictionsError: If a file beside the predictions is damaged.
    """
    results = compute_results(study, config)
    shown = format_tables(study, results, counted=config.failures == "misses")
    remove_leftovers(folder)
    unrounded = vars(results) | {"table1": tables.with_published(results.table1)}
    if study.folds:
        # Everybody of a cross-validation, each predicted by runs that have not seen them.
        unrounded["out_of_fold_predictions"] = study.frame[study.frame["run"].isin(study.folds)]
    write_tables(folder / "tables", shown, unrounded)
    with house_style():
        pictures = [
            picture(drawing, save(drawing.figure, folder / "figures", drawing.name))
            for drawing in draw_figures(study, results)
        ]
        write_text(folder / "index.html", render_page(study, shown, pictures))
    places = ("tables:  ", "tables"), ("figures: ", "figures"), ("page:    ", "index.html")
    return "\n".join([to_console(shown[0]), *(f"{word}{folder / name}" for word, name in places)])


def compute_results(study: Study, config: ReportConfig) -> Results:
    """Every number of the report; see `ReportConfig` for draws and seed."""
    frame, names, seed = study.frame, study.landmarks, config.seed
    counted = study.with_failures() if config.failures == "misses" else frame
    return Results(
        table1=table_1(counted),
        landmarks=by_landmark(counted, names),
        models=compare_models(frame, names, permutations=config.permutations, seed=seed),
        groups=compare_groups(frame, names, permutations=config.permutations, seed=seed),
        seeds=by_seed(counted),
        variance=variance_parts(frame, study.folds),
        space=in_space(frame),
        adaptation=adaptation(study, permutations=config.permutations, seed=seed),
    )


CHOSEN = "optimization_results.yaml"
"""What a sweeper that optimises leaves beside its runs."""

CHOSEN_NOTE = (
    "Settings were chosen among these runs by validation error: the best of many is better than it "
    "will be again; train the winner with another split_seed before its figures are quoted."
)


def study_notes(study: Study) -> list[str]:
    """What must stand under every table: simulated or not, and what was mixed."""
    notes = [SIMULATED_NOTE] if study.simulated else []
    code = different_code(study.runs)
    notes += [code] if code else []
    notes += [CHOSEN_NOTE] if (study.folder / CHOSEN).exists() else []
    return notes + [f"Mixed on request: {warning}." for warning in study.warnings]


def format_tables(study: Study, results: Results, *, counted: bool = True) -> list[Table]:
    """The tables in the report's order, Table 1 first; those without rows are left out.

    Args:
        study: The runs.
        results: Their figures.
        counted: Whether failed scans are misses in the rates.
    """
    notes, models = study_notes(study), results.models
    on_models = notes
    if study.frame["model"].nunique() > MOST:
        models = models[models["landmark"] == ALL]
        on_models = [*notes, "Landmark by landmark: models.csv."]
    shown = [
        tables.paper_table(results.table1, notes),
        tables.scans_table(study.scans, counted, notes),
        tables.landmark_table(results.landmarks, notes),
        tables.landmark_sdr_table(results.landmarks, notes),
        tables.space_table(results.space, notes),
        comparisons.models_table(models, on_models),
        comparisons.groups_table(results.groups, notes),
    ]
    if len(results.seeds):
        shown.append(tables.seeds_table(results.seeds, results.table1, notes))
    if len(results.variance):
        shown.append(tables.variance_table(results.variance, notes))
    if len(results.adaptation):
        shown.append(adaptation_table(results.adaptation, notes))
    return [table for table in shown if table.rows]


def write_tables(folder: Path, shown: Sequence[Table], figures: Mapping[str, pd.DataFrame]) -> None:
    """Write every table as Markdown and LaTeX, and the unrounded figures as CSV."""
    for table in shown:
        write_text(folder / f"{table.name}.md", to_markdown(table))
        write_text(folder / f"{table.name}.tex", to_latex(table))
    write_text(folder / "tables.tex", latex_document([table.name for table in shown]))
    for name, frame in figures.items():
        if len(frame):
            with atomic_path(folder / f"{name}.csv") as temporary:
                frame.to_csv(temporary, index=False, lineterminator="\n")


def draw_figures(study: Study, results: Results) -> list[Drawing]:
    """All figures in the report's order; call within `house_style`.

    Those that need slices or histories are left out where no run kept any.

    Args:
        study: The runs.
        results: Its numbers.
    """
    frame, slices = study.frame, study.slices
    if not slices:
        _LOG.warning("%s: no slices.npz, so no figures on slices", study.folder)
    names = by_error(frame)
    many = len(names) > MOST
    best = frame[frame["model"].isin(names[:_SHOWN])] if many else frame
    by_landmark_chart = error_matrix if many else error_bars
    drawings = [
        landmark_figure(frame, slices),
        model_errors(results.table1),
        *(by_landmark_chart(frame, g, study.landmarks) for g in group_order(frame["group"])),
        examples(best, slices, step_mm=study_grid(study).step_mm),
        adaptation_curve(results.adaptation),
        curve_panels(frame) if many else cumulative_errors(frame),
        error_ellipses(
            best,
            template_slice(study),
            template_positions_px(study),
            step_mm=study_grid(study).step_mm,
        ),
        loss_panels(study.runs, names) if many else learning_curves(study.runs),
    ]
    chosen = f" The {_SHOWN} of {len(names)} models with the least mean error."
    return [
        replace(drawing, caption=drawing.caption + chosen)
        if many and drawing.name in {"figure6_examples", "error_ellipses"}
        else drawing
        for drawing in drawings
        if drawing is not None
    ]
