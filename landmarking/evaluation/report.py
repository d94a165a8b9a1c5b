"""The report of a study: tables, figures and page, from predictions alone."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from landmarking.errors import ConfigError
from landmarking.evaluation import tables
from landmarking.evaluation.comparisons import compare_groups, compare_models
from landmarking.evaluation.figures import cumulative_errors, error_bars, learning_curves
from landmarking.evaluation.pictures import error_ellipses, examples, landmark_figure
from landmarking.evaluation.runs import Study, load_study
from landmarking.evaluation.style import Drawing, house_style, save
from landmarking.evaluation.summary import by_landmark, group_order, table_1
from landmarking.evaluation.template_slice import template_positions_px, template_slice
from landmarking.storage import atomic_path, write_text

_LOG = logging.getLogger(__name__)

SIMULATED_NOTE = "Made from simulated phantom heads, not from people: no clinical result."


@dataclass
class ReportConfig:
    """conf/report.yaml.

    Attributes:
        runs: Folder of the study to report on.
        compare: Two or more studies' folders to put side by side instead.
        allow_mixed: Pool runs of different cohorts, splits, landmarks or test scans all the same.
        output: Folder of the report; null takes `report` inside `runs`.
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
    """All figures of a study, tidy and unrounded."""

    table_1: pd.DataFrame
    by_landmark: pd.DataFrame
    models: pd.DataFrame
    groups: pd.DataFrame


def run_report(config: ReportConfig) -> str:
    """Write the report that a configuration asks for.

    Args:
        config: What to report on.

    Returns:
        Table 1 as text, and the paths of what was written.

    Raises:
        PredictionsError: If there is nothing to report, a file is damaged, or runs do not belong
            together.
    """
    assert config.runs is not None
    study = load_study(Path(config.runs), allow_mixed=config.allow_mixed)
    folder = Path(config.output) if config.output else study.folder / "report"
    results = compute_results(study, config)
    shown = format_tables(study, results)
    written = write_tables(folder, shown, results)
    pictures = write_figures(folder, study)
    lines = [tables.to_console(shown[0]), f"tables:  {written[0].parent}"]
    if pictures:
        lines.append(f"figures: {pictures[0].parent}")
    return "\n".join(lines)


def compute_results(study: Study, config: ReportConfig) -> Results:
    """Every number of the report; see `ReportConfig` for draws and seed."""
    frame, names, seed = study.frame, study.landmarks, config.seed
    return Results(
        table_1(frame, resamples=config.resamples, seed=seed),
        by_landmark(frame, names, resamples=config.resamples, seed=seed),
        compare_models(frame, names, permutations=config.permutations, seed=seed),
        compare_groups(frame, names, permutations=config.permutations, seed=seed),
    )


def study_notes(study: Study) -> list[str]:
    """What must stand under every table: simulated or not, and what was mixed."""
    notes = [SIMULATED_NOTE] if study.simulated else []
    return notes + [f"Mixed on request: {warning}." for warning in study.warnings]


def format_tables(study: Study, results: Results) -> list[tables.Table]:
    """The tables in the report's order, Table 1 first."""
    notes = study_notes(study)
    return [tables.paper_table(results.table_1, notes)]


def write_tables(folder: Path, shown: list[tables.Table], results: Results) -> list[Path]:
    """Write every table as Markdown and LaTeX, and the unrounded numbers as CSV."""
    where = folder / "tables"
    paths = []
    for table in shown:
        for suffix, render in ((".md", tables.to_markdown), (".tex", tables.to_latex)):
            path = where / f"{table.name}{suffix}"
            write_text(path, render(table))
            paths.append(path)
    write_text(where / "tables.tex", tables.latex_document([table.name for table in shown]))
    for name, frame in vars(results).items():
        with atomic_path(where / f"{name.replace('_', '')}.csv") as temporary:
            frame.to_csv(temporary, index=False, lineterminator="\n")
    return paths


def write_figures(folder: Path, study: Study) -> list[Path]:
    """Draw and write every figure; those that need slices are left out where there are none."""
    with house_style():
        return [
            path
            for drawing in draw_figures(study)
            for path in save(drawing.figure, folder / "figures", drawing.name)
        ]


def draw_figures(study: Study) -> list[Drawing]:
    """All figures in the report's order; call within `house_style`."""
    frame, slices = study.frame, study.slices
    if not slices:
        _LOG.warning("%s: no slices.npz, so no figures on slices", study.folder)
    positions = template_positions_px(study)
    drawings = [
        landmark_figure(frame, slices),
        *(error_bars(frame, group, study.landmarks) for group in group_order(frame["group"])),
        examples(frame, slices),
        cumulative_errors(frame),
        error_ellipses(frame, template_slice(study), positions),
        learning_curves(study.runs),
    ]
    return [drawing for drawing in drawings if drawing is not None]
