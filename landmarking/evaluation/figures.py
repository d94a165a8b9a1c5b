"""Charts of errors: the paper's Figures 4 and 5, cumulative curves, and learning curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from landmarking.evaluation.metrics import SDR_THRESHOLDS_MM, mean_sd, sdr
from landmarking.evaluation.runs import Run
from landmarking.evaluation.style import Drawing, dashes, model_colours, new_figure
from landmarking.evaluation.summary import NO_SKILL, group_order, ordered, with_no_skill
from landmarking.geometry import Array

GROUP_TITLES = {"HS": "healthy subjects", "DS": "Down syndrome"}


def group_title(group: str) -> str:
    """`Down syndrome (DS)` for the paper's groups, the bare name for others."""
    return f"{GROUP_TITLES[group]} ({group})" if group in GROUP_TITLES else group


def error_bars(frame: pd.DataFrame, group: str, landmarks: Sequence[str]) -> Drawing | None:
    """Figures 4 and 5: error by landmark and model, mean and SD, with the points behind the bars.

    None where the group has no landmark with truth.

    Args:
        frame: Rows of a study.
        group: Test group.
        landmarks: Names in the order wanted.
    """
    rows = frame[frame["group"] == group]
    if rows["error_mm"].isna().all():
        return None
    models = ordered(rows["model"], ("SL", "ML"), ())
    colours = model_colours(models)
    figure = new_figure(2.2)
    axes = figure.add_subplot()
    width = 0.8 / len(models)
    tops = [0.0]
    for index, model in enumerate(models):
        offset = (index - (len(models) - 1) / 2) * width
        of_model = rows[rows["model"] == model]
        errors = [of_model.loc[of_model["landmark"] == n, "error_mm"].dropna() for n in landmarks]
        _bars(axes, [e.to_numpy() for e in errors], offset, width, model, colours[model])
        tops += [sum(mean_sd(e)) for e in errors if len(e) > 1]
    top = 1.05 * max([*tops, float(np.nanpercentile(rows["error_mm"], 99))])
    beyond = int((rows["error_mm"] > 1.12 * top).sum())
    axes.set_ylim(0, 1.12 * top)  # the legend stands above the highest point
    axes.set_xticks(range(len(landmarks)), list(landmarks))
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel("error (mm)")
    axes.set_title(group_title(group))
    axes.legend(loc="upper left", ncols=len(models), handlelength=1.2)
    number, stem = figure_number(group)
    caption = (
        "Bars: mean error in mm; whiskers: one standard deviation; dots: single test points."
        + (f" Points above the axis: {beyond}." if beyond else "")
    )
    title = f"{number}Error by landmark, {group_title(group)}"
    return Drawing(stem, title, caption, figure)


def figure_number(group: str) -> tuple[str, str]:
    """What the paper calls the chart of a group's errors by landmark, and the stem of its files."""
    known = {"DS": ("Figure 4. ", "figure4_ds"), "HS": ("Figure 5. ", "figure5_hs")}
    return known.get(group, ("", f"errors_{slug(group)}"))


def _bars(
    axes: Axes, errors: Sequence[Array], offset: float, width: float, label: str, colour: str
) -> None:
    centres = np.arange(len(errors)) + offset
    for centre, values in zip(centres, errors, strict=True):
        # Golden-ratio spacing: spread evenly, the same in every run, and no grid to be seen.
        spread = (np.arange(len(values)) * 0.618034) % 1.0 - 0.5
        x = centre + 0.7 * width * spread
        axes.scatter(x, values, s=2.2, color=colour, alpha=0.45, linewidths=0, zorder=1)
    means, deviations = np.array([mean_sd(values) for values in errors]).T
    axes.bar(centres, means, width * 0.94, color=colour, alpha=0.55, label=label, zorder=2)
    style: dict[str, Any] = {"ecolor": "black", "elinewidth": 0.7, "capsize": 1.5, "capthick": 0.7}
    axes.errorbar(centres, means, np.nan_to_num(deviations), fmt="none", zorder=3, **style)


def cumulative_errors(frame: pd.DataFrame) -> Drawing:
    """SDR against radius, by model and group, with no skill for measure."""
    rows = with_no_skill(frame)
    models = ordered(rows["model"], ("SL", "ML"), (NO_SKILL,))
    groups, colours = group_order(rows["group"]), model_colours(models)
    reach = float(np.clip(np.nanpercentile(frame["error_mm"], 99), 5.0, 20.0))
    radii = np.linspace(0.0, reach, 401)
    columns = min(len(models), 3)
    figure = new_figure(2.1 + 0.15 * -(-len(models) * len(groups) // columns))
    axes = figure.add_subplot()
    for model in models:
        for index, group in enumerate(groups):
            part = rows[(rows["model"] == model) & (rows["group"] == group)]
            curve = sdr(part["error_mm"], radii)
            axes.plot(
                radii, curve, color=colours[model], ls=dashes(index), label=f"{model}, {group}"
            )
    for radius in SDR_THRESHOLDS_MM:
        axes.axvline(radius, color="#dddddd", lw=0.5, zorder=0)
    axes.set(xlabel="radius (mm)", ylabel="SDR (%)", xlim=(0, reach), ylim=(0, 100))
    # Below the axes, where it hides no curve; one column a model.
    figure.legend(loc="outside lower center", ncols=columns, handlelength=2.4)
    caption = (
        "Share of landmarks (%) within a radius (mm) of their true position; thin lines mark the "
        "radii of Table 1."
    )
    return Drawing("error_curves", "Cumulative error", caption, figure)


def learning_curves(runs: Sequence[Run]) -> Drawing | None:
    """Training and validation loss by epoch, one panel a model; None where no run kept any."""
    kept = [run for run in runs if run.history is not None and len(run.history)]
    if not kept:
        return None
    models = ordered((run.model for run in kept), ("SL", "ML"), ())
    colours = model_colours(models)
    figure = new_figure(1.9)
    panels = figure.subplots(1, len(models), sharey=True, squeeze=False)[0]
    for axes, model in zip(panels, models, strict=True):
        of_model = [run for run in kept if run.model == model]
        for run in of_model:
            draw_losses(axes, run, colours[model], legend=run is of_model[0])
        plural = "run" if len(of_model) == 1 else "runs"
        axes.set_title(f"{model} ({len(of_model)} {plural})")
        axes.set_xlabel("epoch")
        axes.set_yscale("log", subs=[2, 5])
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    panels[0].set_ylabel("loss (px)")
    panels[0].legend(loc="upper right")
    caption = (
        "Mean Euclidean loss in slice pixels by epoch, one line a run: training dotted, "
        "validation solid."
    )
    return Drawing("learning_curves", "Learning curves", caption, figure)


def draw_losses(axes: Axes, run: Run, colour: str, *, legend: bool) -> None:
    """Training loss, dotted, and validation loss, solid, of one run that has a history."""
    history = run.history
    assert history is not None
    for column, style, name in (
        ("train_loss_px", ":", "training"),
        ("validation_loss_px", "-", "validation"),
    ):
        if column in history:
            known = history[["epoch", column]].dropna()
            label = name if legend else None
            axes.plot(known["epoch"], known[column], style, color=colour, lw=0.8, label=label)


def slug(name: str) -> str:
    """A name that is safe in a file name: letters, digits and dashes."""
    return "".join(c if c.isalnum() and c.isascii() else "-" for c in name).strip("-").lower()
