"""Charts for studies of more models than one pair of axes, or one palette, can hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from landmarking.evaluation.figures import draw_losses, figure_number, group_title
from landmarking.evaluation.metrics import sdr
from landmarking.evaluation.runs import Run
from landmarking.evaluation.style import Drawing, dashes, group_colours, new_figure
from landmarking.evaluation.summary import ALL, NO_SKILL, group_order, with_no_skill

MOST = 5
"""Models that one chart holds; of more, every model gets a row or a panel of its own."""

_COLUMNS = 3


def by_error(frame: pd.DataFrame) -> list[str]:
    """Models from the least mean error to the greatest; equal ones by name."""
    means = frame.groupby("model")["error_mm"].mean().reset_index()
    return [str(name) for name in means.sort_values(["error_mm", "model"])["model"]]


def model_errors(table: pd.DataFrame) -> Drawing | None:
    """Mean error of each model by group, best first; None for fewer than three models.

    Args:
        table: The result of `summary.table_1`.
    """
    rows = table[(table["group"] != ALL) & table["mean_mm"].notna()]
    names = rows.groupby("model")["mean_mm"].mean().sort_values(kind="stable").index
    if len(set(names) - {NO_SKILL}) < 3:
        return None
    groups = group_order(rows["group"])
    figure = new_figure(0.75 + 0.14 * len(names) * max(1, len(groups) / 2))
    axes = figure.add_subplot()
    colours = group_colours(groups)
    for index, group in enumerate(groups):
        part = rows[rows["group"] == group].set_index("model").reindex(names)
        y = np.arange(len(names)) + 0.3 * (index - (len(groups) - 1) / 2)
        means = part["mean_mm"]
        whiskers = [means - part["mean_mm_low"], part["mean_mm_high"] - means]
        axes.errorbar(
            means, y, xerr=np.nan_to_num(np.array(whiskers)), fmt="os^Dv"[index % 5], ms=3,
            elinewidth=0.8, capsize=1.5, color=colours[group], label=group_title(group),
        )  # fmt: skip
    axes.set_yticks(range(len(names)), list(names))
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(left=0.0)
    axes.grid(axis="x", color="#dddddd", lw=0.5)
    axes.set_xlabel("error (mm)")
    figure.legend(loc="outside lower center", ncols=len(groups))
    caption = "Mean error in mm by model, the least first; whiskers: 95 % intervals over people."
    return Drawing("model_errors", "Mean error by model", caption, figure)


def error_matrix(frame: pd.DataFrame, group: str, landmarks: Sequence[str]) -> Drawing | None:
    """Mean error by model and landmark, as numbers on colours; in place of Figures 4 and 5.

    None where the group has no landmark with truth.

    Args:
        frame: Rows of a study.
        group: Test group.
        landmarks: Names in the order wanted.
    """
    rows = frame[frame["group"] == group]
    if rows["error_mm"].isna().all():
        return None
    means = rows.pivot_table(index="model", columns="landmark", values="error_mm", aggfunc="mean")
    means = means.reindex(index=by_error(rows), columns=list(landmarks))
    values = means.to_numpy(np.float64)
    figure = new_figure(0.5 + 0.16 * len(means))
    axes = figure.add_subplot()
    high = float(np.nanmax(values))
    axes.imshow(values, cmap="YlOrBr", vmin=0.0, vmax=high, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        dark = value > 0.6 * high
        text = "-" if np.isnan(value) else f"{value:.1f}"
        style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 5.5}
        axes.text(column, row, text, color="white" if dark else "black", **style)
    axes.set_xticks(range(len(landmarks)), list(landmarks), fontsize=5.5)
    axes.set_yticks(range(len(means)), list(means.index), fontsize=5.5)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(group_title(group))
    number, stem = figure_number(group)
    title = f"{number}Error by landmark, {group_title(group)}"
    return Drawing(stem, title, "Mean error in mm by model, the least first.", figure)


def curve_panels(frame: pd.DataFrame) -> Drawing:
    """SDR against radius, one panel a model over all others in grey; `no skill` among them."""
    rows = with_no_skill(frame)
    names, groups = by_error(rows), group_order(rows["group"])
    reach = float(np.clip(np.nanpercentile(frame["error_mm"], 99), 5.0, 20.0))
    radii = np.linspace(0.0, reach, 201)
    curves = {
        (name, group): sdr(part["error_mm"], radii)
        for (name, group), part in rows.groupby(["model", "group"], sort=True)
    }
    figure, panels = _panels(len(names))
    colours = group_colours(groups)
    for name, axes in zip(names, panels, strict=True):
        for curve in curves.values():
            axes.plot(radii, curve, color="#e4e4e4", lw=0.5, zorder=1)
        for index, group in enumerate(groups):
            if (name, group) in curves:
                curve, look = curves[name, group], dashes(index)
                axes.plot(radii, curve, color=colours[group], ls=look, label=group, zorder=2)
        axes.set(xlim=(0, reach), ylim=(0, 100))
        axes.set_title(name, fontsize=6)
    figure.supxlabel("radius (mm)", fontsize=7)
    figure.supylabel("SDR (%)", fontsize=7)
    # The best model is drawn first; all of its groups are in the legend.
    panels[0].legend(loc="lower right", fontsize=5.5)
    caption = (
        "Share of landmarks (%) within a radius (mm) of their true position, one panel a model, "
        "the least mean error first; grey: all others."
    )
    return Drawing("error_curves", "Cumulative error", caption, figure)


def loss_panels(runs: Sequence[Run], names: Sequence[str]) -> Drawing | None:
    """Training and validation loss by epoch, one panel a model; None where no run kept any.

    Args:
        runs: Runs of the study.
        names: Models in the order wanted.
    """
    kept = [run for run in runs if run.history is not None and len(run.history)]
    shown = [name for name in names if any(run.model == name for run in kept)]
    if not shown:
        return None
    figure, panels = _panels(len(shown), sharex=False)
    for name, axes in zip(shown, panels, strict=True):
        of_model = [run for run in kept if run.model == name]
        for run in of_model:
            draw_losses(axes, run, "#0072B2", legend=run is of_model[0])
        axes.set_title(name, fontsize=6)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(labelsize=5.5)
        axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    panels[0].legend(loc="upper right", fontsize=5.5)
    figure.supxlabel("epoch", fontsize=7)
    figure.supylabel("loss (px)", fontsize=7)
    caption = (
        "Mean Euclidean loss in slice pixels by epoch, one line a run: training dotted, "
        "validation solid."
    )
    return Drawing("learning_curves", "Learning curves", caption, figure)


def _panels(count: int, *, sharex: bool = True) -> tuple[Figure, list[Axes]]:
    lines = -(-count // _COLUMNS)
    figure = new_figure(0.3 + 0.95 * lines)
    grid = figure.subplots(lines, _COLUMNS, sharex=sharex, sharey=True, squeeze=False).ravel()
    for axes in grid[count:]:
        axes.set_axis_off()
    return figure, list(grid[:count])
