"""The report of a study: tables, figures and page, from predictions alone."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from landmarking.errors import ConfigError
from landmarking.evaluation import comparison_tables, tables
from landmarking.evaluation.adaptation import adaptation, adaptation_curve, adaptation_table
from landmarking.evaluation.comparisons import compare_groups, compare_models
from landmarking.evaluation.figures import cumulative_errors, error_bars, learning_curves
from landmarking.evaluation.many_models import (
    MOST,
    by_error,
    curve_panels,
    error_matrix,
    loss_panels,
    model_errors,
)
from landmarking.evaluation.page import picture, render_page
from landmarking.evaluation.pictures import error_ellipses, examples, landmark_figure
from landmarking.evaluation.runs import Study, load_study
from landmarking.evaluation.side_by_side import (
    cohort_differences,
    stacked_summaries,
    study_differences,
)
from landmarking.evaluation.style import Drawing, house_style, save
from landmarking.evaluation.summary import ALL, by_landmark, by_seed, group_order, table_1
from landmarking.evaluation.template_slice import study_grid, template_positions_px, template_slice
from landmarking.evaluation.typeset import (
    Table,
    latex_document,
    to_console,
    to_latex,
    to_markdown,
)
from landmarking.storage import atomic_path, remove_leftovers, write_text

_SHOWN = 3
"""Models drawn on slices where a study has many."""

_LOG = logging.getLogger(__name__)

SIMULATED_NOTE = "Made from simulated phantom heads, not from people: no clinical result."


@dataclass
class ReportConfig:
    """conf/report.yaml.

    Attributes:
        runs: Folder of the study to report on.
        compare: Two or more studies' folders to put side by side instead.
        allow_mixed: Pool runs of different cohorts, splits, landmarks or test scans all the same.
        output: Folder of the report; null takes `report` inside `runs`, or a folder named after
            the studies beside the first of them.
        resamples: Bootstrap draws of people for the intervals.
        permutations: Random permutations per test.
        seed: Seed of both.
    """

    runs: str | None = None
    compare: list[str] = field(default_factory=list)
    allow_mixed: bool = False
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
        if min(self.resamples, self.permutations) < 100:
            raise ConfigError("report: resamples and permutations are at least 100")


@dataclass(frozen=True)
class Results:
    """All figures of a study, tidy and unrounded; the fields are the stems of the CSV files."""

    table1: pd.DataFrame
    landmarks: pd.DataFrame
    models: pd.DataFrame
    groups: pd.DataFrame
    seeds: pd.DataFrame
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
    stacked = stacked_summaries(studies, resamples=config.resamples, seed=config.seed)
    tests = study_differences(studies, permutations=config.permutations, seed=config.seed)
    shown = [
        comparison_tables.studies_table(stacked, notes),
        comparison_tables.differences_table(tests, notes),
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
    shown = format_tables(study, results)
    remove_leftovers(folder)
    unrounded = vars(results) | {"table1": tables.with_published(results.table1)}
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
    return Results(
        table1=table_1(frame, resamples=config.resamples, seed=seed),
        landmarks=by_landmark(frame, names, resamples=config.resamples, seed=seed),
        models=compare_models(frame, names, permutations=config.permutations, seed=seed),
        groups=compare_groups(frame, names, permutations=config.permutations, seed=seed),
        seeds=by_seed(frame, resamples=config.resamples, seed=seed),
        adaptation=adaptation(
            study, resamples=config.resamples, permutations=config.permutations, seed=seed
        ),
    )


def study_notes(study: Study) -> list[str]:
    """What must stand under every table: simulated or not, and what was mixed."""
    notes = [SIMULATED_NOTE] if study.simulated else []
    return notes + [f"Mixed on request: {warning}." for warning in study.warnings]


def format_tables(study: Study, results: Results) -> list[Table]:
    """The tables in the report's order, Table 1 first; those without rows are left out."""
    notes, models = study_notes(study), results.models
    on_models = notes
    if study.frame["model"].nunique() > MOST:
        models = models[models["landmark"] == ALL]
        on_models = [*notes, "Landmark by landmark: models.csv."]
    shown = [
        tables.paper_table(results.table1, notes),
        tables.landmark_table(results.landmarks, notes),
        tables.landmark_sdr_table(results.landmarks, notes),
        comparison_tables.models_table(models, on_models),
        comparison_tables.groups_table(results.groups, notes),
    ]
    if len(results.seeds):
        shown.append(tables.seeds_table(results.seeds, results.table1, notes))
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
        examples(best, slices),
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
