"""Charts of errors in one look: Figures 4 and 5, cumulative and learning curves, many models."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter, NullLocator

from landmarking.evaluation.predictions import SDR_THRESHOLDS_MM, mean_sd, sdr
from landmarking.evaluation.statistics import ALL, NO_SKILL, group_order, ordered, with_no_skill
from landmarking.evaluation.study import Run
from landmarking.files import atomic_path
from landmarking.geometry import Array

COLUMN_IN = 3.5
"""Width of one text column, at which every figure must be legible."""

_COLOURS = {"SL": "#E69F00", "ML": "#0072B2", NO_SKILL: "#777777"}
_OTHERS = ("#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000")
_GROUPS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#000000")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (5, 1, 1, 1)))

_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 7.0,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7.0,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.2,
    "pdf.fonttype": 42,
    "svg.hashsalt": "landmarking",
    "figure.dpi": 100.0,
    "savefig.dpi": 300.0,
    "path.simplify": True,
}


@dataclass(frozen=True)
class Drawing:
    """A figure with what the report says about it.

    Attributes:
        name: Stem of its files.
        title: Heading.
        caption: What is drawn, with units.
        figure: The drawing itself.
    """

    name: str
    title: str
    caption: str
    figure: Figure


def model_colours(models: Iterable[str]) -> dict[str, str]:
    """One colour a model from the palette of Okabe and Ito (2008), which colour-blind people see.

    SL is orange and ML blue, as in the paper's Figures 4 and 5.
    """
    names = ordered(models, ("SL", "ML"), (NO_SKILL,))
    others = [name for name in names if name not in _COLOURS]
    spare = {name: _OTHERS[index % len(_OTHERS)] for index, name in enumerate(others)}
    return {name: _COLOURS.get(name) or spare[name] for name in names}


def group_colours(groups: Iterable[str]) -> dict[str, str]:
    """One colour a group from the same palette, for charts whose models are told apart by place."""
    return {group: _GROUPS[index % len(_GROUPS)] for index, group in enumerate(groups)}


def dashes(index: int) -> Any:
    """Line style of the index-th group, so that lines differ without colour too."""
    return _DASHES[index % len(_DASHES)]


@contextmanager
def house_style() -> Iterator[None]:
    """Draw and save within the house's style, whatever the user's matplotlibrc says."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


def new_figure(height_in: float, width_in: float = COLUMN_IN) -> Figure:
    """An empty figure with a layout that keeps labels apart; no window, no global state."""
    return Figure(figsize=(width_in, height_in), layout="constrained")


def png_bytes(figure: Figure) -> bytes:
    """A figure as PNG at 300 dpi, without a version in it; its layout is settled from then on."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    # Laying out costs as much as drawing, and would come out the same for the next format.
    figure.set_layout_engine("none")
    return buffer.getvalue()


def save(figure: Figure, folder: Path, name: str) -> bytes:
    """Write a figure as PNG and PDF, without dates or versions in the files.

    Args:
        figure: The drawing, made in `house_style`; saved in it too.
        folder: Where to.
        name: Stem of both files.

    Returns:
        The PNG, for the page.
    """
    png = png_bytes(figure)
    with atomic_path(folder / f"{name}.png") as temporary:
        temporary.write_bytes(png)
    plain = {"CreationDate": None, "Creator": None, "Producer": None}
    with atomic_path(folder / f"{name}.pdf") as temporary:
        figure.savefig(temporary, metadata=plain)
    return png


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
    for index, model in enumerate(models):
        offset = (index - (len(models) - 1) / 2) * width
        of_model = rows[rows["model"] == model]
        errors = [of_model.loc[of_model["landmark"] == n, "error_mm"].dropna() for n in landmarks]
        _bars(axes, [e.to_numpy() for e in errors], offset, width, model, colours[model])
    top = 1.05 * _top_mm(frame)
    beyond = int((rows["error_mm"] > 1.12 * top).sum())
    axes.set_ylim(0, 1.12 * top)  # the legend stands above the highest point
    axes.set_xticks(range(len(landmarks)), list(landmarks))
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel("error (mm)")
    axes.set_title(group_title(group))
    axes.legend(loc="upper left", ncols=len(models), handlelength=1.2)
    number, stem = figure_number(group)
    caption = (
        "Bars: mean error in mm; whiskers: one standard deviation; dots: single test points. The "
        "axis is the same for all groups."
        + (f" Points above the axis: {beyond}." if beyond else "")
    )
    title = f"{number}Error by landmark, {group_title(group)}"
    return Drawing(stem, title, caption, figure)


def _top_mm(frame: pd.DataFrame) -> float:
    """Where the bars, the whiskers and 99 % of the points of every group end, mm."""
    tops = [float(np.nanpercentile(frame["error_mm"], 99))]
    for _, errors in frame.groupby(["group", "model", "landmark"])["error_mm"]:
        mean, deviation = mean_sd(errors)
        tops.append(float(np.nansum([mean, deviation])))
    return max(tops)


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
        table: The result of `statistics.table_1`.
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
    # One scale for all groups, so that equal colours are equal errors.
    high = float(frame.groupby(["group", "model", "landmark"])["error_mm"].mean().max())
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


def adaptation_curve(points: pd.DataFrame) -> Drawing | None:
    """Error against the number of people learnt from; None where no way has two numbers.

    Args:
        points: The result of `adaptation`.
    """
    if not len(points):
        return None
    learnt = points[points["learnt_from"] > 0]
    ways = [way for way, part in learnt.groupby("way", sort=True) if part.learnt_from.nunique() > 1]
    if not ways:
        return None
    figure = new_figure(2.3)
    axes = figure.add_subplot()
    colours = model_colours(learnt["way"])
    for index, ((group, way), part) in enumerate(learnt.groupby(["group", "way"], sort=True)):
        part = part.sort_values("learnt_from")
        # Side by side, so that whiskers at the same number of people can be told apart.
        x = part["learnt_from"] * 1.03 ** (index - len(ways) / 2)
        means = part["mean_mm"]
        whiskers = [means - part["mean_mm_low"], part["mean_mm_high"] - means]
        label = str(way) if learnt["group"].nunique() == 1 else f"{way}, {group}"
        axes.errorbar(
            x, means, whiskers, marker="o", ms=3, lw=1.0, elinewidth=0.8, capsize=2,
            color=colours[str(way)], label=label, ls=dashes(index),
        )  # fmt: skip
    for row in points[points["learnt_from"] == 0].to_dict("records"):
        axes.axhline(row["mean_mm"], color="black", lw=0.8, ls=":", label="unadapted")
        axes.axhspan(row["mean_mm_low"], row["mean_mm_high"], color="black", alpha=0.08, lw=0)
    axes.set_xscale("log")
    numbers = sorted(set(learnt["learnt_from"]))
    axes.xaxis.set_major_locator(FixedLocator(numbers))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}")
    if points["mean_mm"].max() > 3.0 * points["mean_mm"].min():
        axes.set_yscale("log", subs=[2, 5])
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
    axes.set(xlabel="people learnt from", ylabel="error (mm)")
    axes.legend(loc="best")
    caption = (
        "Mean error in mm of the people tested on, by the number of people of their group learnt "
        "from; whiskers and band: 95 % intervals over people; dotted: the model started from."
    )
    return Drawing("adaptation_curve", "People learnt from", caption, figure)
