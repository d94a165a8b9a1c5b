"""Landmarks drawn on slices: Figures 3 and 6, error ellipses, worst cases, the template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.patheffects as effects
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Ellipse
from numpy.typing import NDArray
from scipy import ndimage

from landmarking.evaluation.charts import Drawing, group_title, model_colours, new_figure
from landmarking.evaluation.statistics import group_order, ordered
from landmarking.evaluation.study import Study
from landmarking.geometry import Array
from landmarking.imaging.template import load_template
from landmarking.landmarks import landmark_set

Slices = Mapping[str, NDArray[np.uint8]]

_HALO = [effects.withStroke(linewidth=1.4, foreground="black")]
_DARK_EDGE = [effects.withStroke(linewidth=1.2, foreground="#222222")]
_LIGHT_EDGE = [effects.withStroke(linewidth=1.8, foreground="#ffffffaa")]
_TRUTH: dict[str, Any] = {
    "marker": "+", "color": "white", "s": 12, "linewidths": 0.5, "path_effects": _DARK_EDGE,
}  # fmt: skip


def landmark_figure(frame: pd.DataFrame, slices: Slices) -> Drawing | None:
    """Figure 3: the landmark set on a slice; None where no slices were kept.

    The slice is the one whose landmarks lie nearest to the mean shape of the test scans.
    """
    known = frame[frame["scan_id"].isin(list(slices))].dropna(subset=["error_mm"])
    points = known.drop_duplicates(["scan_id", "landmark"]).set_index(["scan_id", "landmark"])
    if points.empty:
        return None
    xy = points[["true_x_px", "true_y_px"]]
    apart = (xy - xy.groupby(level="landmark").transform("mean")).pow(2).sum(axis=1)
    complete = apart.groupby(level="scan_id").agg(["count", "mean"])
    best = complete.sort_values(["count", "mean"], ascending=[False, True], kind="stable").index[0]
    figure = new_figure(3.4, 3.4)
    axes = figure.add_subplot()
    _show(axes, slices[str(best)])
    chosen = xy.loc[best]
    axes.scatter(chosen["true_x_px"], chosen["true_y_px"], **(_TRUTH | {"s": 40, "linewidths": 1}))
    for name, (x, y) in zip(chosen.index, chosen.to_numpy(), strict=True):
        axes.annotate(
            str(name), (x, y), (3, 3), textcoords="offset points", color="white", path_effects=_HALO
        )
    caption = f"The landmarks of one test slice ({best}), face to the left."
    return Drawing("figure3_landmarks", "Figure 3. The landmark set", caption, figure)


def examples(frame: pd.DataFrame, slices: Slices, *, step_mm: float = 1.0) -> Drawing | None:
    """Figure 6: truth and predictions on the best, median and worst scan of each group.

    Scans are ranked by their mean error over all models, landmarks and seeds.

    Args:
        frame: Rows of a study.
        slices: Test slices by scan.
        step_mm: Pixel size, for the scale bar.
    """
    rows = frame[frame["scan_id"].isin(list(slices))]
    ranked = rows.groupby(["group", "scan_id"])["error_mm"].mean().dropna()
    if ranked.empty:
        return None
    groups = group_order(ranked.index.get_level_values("group"))
    models = ordered(rows["model"], ("ML", "SL"), ())
    middle, reach = rows["true_y_px"].mean(), 50.0
    colours = model_colours(models)
    figure = new_figure(0.97 * len(groups) * len(models))
    panels = figure.subplots(len(groups) * len(models), 3, squeeze=False)
    for row, (group, model) in enumerate((g, m) for g in groups for m in models):
        order = ranked.loc[group].sort_values(kind="stable").index
        picks = zip(("best", "median", "worst"), (0, (len(order) - 1) // 2, -1), strict=True)
        for axes, (word, index) in zip(panels[row], picks, strict=True):
            scan = str(order[index])
            part = rows[(rows["scan_id"] == scan) & (rows["model"] == model)]
            _show(axes, slices[scan])
            draw_points(axes, part, colours[model])
            axes.set_ylim(middle + reach, middle - reach)
            axes.set_title(f"{word}: {part['error_mm'].mean():.1f} mm", pad=2, fontsize=6.5)
        panels[row][0].set_ylabel(f"{group}, {model}")
    first = panels[0][0]
    _scale_bar(first, first.get_xlim()[0] + 6, middle + reach - 7, 10.0 / step_mm, size=4.5)
    _name_points(first, rows[rows["scan_id"] == str(ranked.loc[groups[0]].idxmin())])
    caption = (
        "Predictions (coloured x) over true landmarks (white +), joined, on the test scans of each "
        "group with the least, the median and the greatest mean error over all models; the number "
        "is the scan's mean error in mm under the model of the row. Names stand in the first "
        "picture; the bar is 10 mm."
    )
    return Drawing("figure6_examples", "Figure 6. Predictions on slices", caption, figure)


def _name_points(axes: Axes, rows: pd.DataFrame) -> None:
    """The name of each landmark beside its true place, away from the middle of all of them."""
    points = rows.drop_duplicates("landmark").dropna(subset=["true_x_px"])
    places = points[["true_x_px", "true_y_px"]].to_numpy()
    away = places - places.mean(axis=0)
    angles = np.arctan2(away[:, 1], away[:, 0])
    order = np.argsort(angles)
    # Spread evenly around, in the order of the angles, so that no two names meet.
    even = np.linspace(-np.pi, np.pi, len(order), endpoint=False)
    angles[order] = even + np.angle(np.exp(1j * (angles[order] - even)).mean())
    for name, place, angle in zip(points["landmark"], places, angles, strict=True):
        centre = places.mean(axis=0) + 32.0 * np.array([1.45 * np.cos(angle), np.sin(angle)])
        axes.annotate(
            str(name), (place[0], place[1]), (centre[0], centre[1]), color="white", fontsize=4.5,
            ha="center", va="center", path_effects=_HALO, zorder=5, annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": "white", "lw": 0.4, "shrinkA": 1, "shrinkB": 3},
        )  # fmt: skip


def worst_prediction(row: pd.Series[Any], slices: Slices) -> Drawing:
    """One prediction on its slice, cropped to 60 mm around the landmark."""
    figure = new_figure(1.5, 1.5)
    axes = figure.add_subplot()
    _show(axes, slices[str(row["scan_id"])])
    model = str(row["model"])
    draw_points(axes, row.to_frame().T, model_colours([model])[model])
    x = (row["true_x_px"] + row["pred_x_px"]) / 2
    y = (row["true_y_px"] + row["pred_y_px"]) / 2
    reach = max(30.0, 0.7 * float(row["error_mm"]))
    axes.set(xlim=(x - reach, x + reach), ylim=(y + reach, y - reach))
    words = f"{row['model']}, {row['landmark']}, {row['scan_id']}: {row['error_mm']:.2f} mm"
    return Drawing("worst", words, words, figure)


def draw_points(axes: Axes, rows: pd.DataFrame, colour: str) -> None:
    """Truth, prediction, and a line between them, for the rows of one scan."""
    pairs = rows[["true_x_px", "true_y_px", "pred_x_px", "pred_y_px"]].to_numpy(np.float64)
    for true_x, true_y, x, y in pairs:
        axes.plot([true_x, x], [true_y, y], color=colour, lw=0.6, zorder=2)
    axes.scatter(
        pairs[:, 2],
        pairs[:, 3],
        marker="x",
        s=7,
        color=colour,
        linewidths=0.8,
        zorder=4,
        path_effects=_LIGHT_EDGE,
    )
    axes.scatter(pairs[:, 0], pairs[:, 1], zorder=3, **_TRUTH)


def error_ellipses(
    frame: pd.DataFrame,
    background: Array | None,
    positions_px: Mapping[str, Array],
    *,
    step_mm: float = 1.0,
) -> Drawing | None:
    """Mean error and its 95 % ellipse for each landmark, drawn at its place on the template.

    Args:
        frame: Rows of a study.
        background: The template's mid slice in the grid of the slices; None leaves it out.
        positions_px: Where each landmark is drawn, slice pixels, shape (2,).
        step_mm: Pixel size of the template's slice: errors are drawn in mm on its scale.
    """
    rows = frame[frame["landmark"].isin(list(positions_px))].dropna(subset=["error_mm"])
    if rows.empty:
        return None
    groups = group_order(rows["group"])
    models = ordered(rows["model"], ("SL", "ML"), ())
    colours = model_colours(models)
    places = np.array(list(positions_px.values()))
    low, high = places.min(axis=0) - 14, places.max(axis=0) + 14
    aspect = float((high[1] - low[1]) / (high[0] - low[0]))
    figure = new_figure(0.4 + len(groups) * (0.25 + 3.1 * aspect))
    panels = figure.subplots(len(groups), 1, squeeze=False)[:, 0]
    for axes, group in zip(panels, groups, strict=True):
        if background is not None:
            _show(axes, background)
        for model in models:
            part = rows[(rows["group"] == group) & (rows["model"] == model)]
            _ellipses(axes, part, positions_px, step_mm, colours[model])
        axes.set(xlim=(low[0], high[0]), ylim=(high[1], low[1]), xticks=[], yticks=[])
        axes.set_aspect("equal")
        people = rows.loc[rows["group"] == group, "participant_id"].nunique()
        axes.set_title(f"{group_title(group)}, {people} {'person' if people == 1 else 'people'}")
        _scale_bar(axes, float(low[0]) + 3, float(high[1]) - 3, 10.0 / step_mm)
    for model, colour in colours.items():
        panels[0].plot([], [], color=colour, label=model)
    figure.legend(loc="outside lower center", ncols=len(models))
    caption = (
        "Predicted minus true position of every test point in the scan's own mm, at the "
        "landmark's place on the template: dot, mean; ellipse, 95 % of a normal distribution with "
        "the same covariance. White +: no error. The bar is 10 mm."
    )
    return Drawing("error_ellipses", "Direction and spread of errors", caption, figure)


def _ellipses(
    axes: Axes,
    rows: pd.DataFrame,
    positions_px: Mapping[str, Array],
    step_mm: float,
    colour: str,
) -> None:
    for name, part in rows.groupby("landmark", sort=True):
        place = np.asarray(positions_px[str(name)])
        offset = offsets_mm(part) / step_mm
        centre = place + offset.mean(axis=0)
        axes.scatter(place[0], place[1], marker="+", color="white", s=14, linewidths=0.6, zorder=4)
        axes.scatter(centre[0], centre[1], s=5, color=colour, linewidths=0, zorder=5)
        if len(offset) < 3:
            continue
        width, height, angle = ellipse_axes(np.cov(offset.T))
        ring = Ellipse((float(centre[0]), float(centre[1])), width, height, angle=angle)
        ring.set(facecolor="none", edgecolor=colour, linewidth=1.0, path_effects=_LIGHT_EDGE)
        axes.add_patch(ring)


def offsets_mm(rows: pd.DataFrame) -> Array:
    """Predicted minus true position within the slice, shape (n, 2), in the scan's own mm.

    Along the slice's axes; a pixel's own size is known from the error in mm that a row has.
    """
    pixels = (
        rows[["pred_x_px", "pred_y_px"]].to_numpy() - rows[["true_x_px", "true_y_px"]].to_numpy()
    )
    length = np.linalg.norm(pixels, axis=1)
    scale = rows["error_mm"].to_numpy() / np.maximum(length, 1e-12)
    return np.asarray(pixels * np.where(length > 0.0, scale, 0.0)[:, None])


def ellipse_axes(covariance: Array) -> tuple[float, float, float]:
    """Full axes and angle (degrees) of the ellipse that holds 95 % of a 2-D normal distribution.

    Args:
        covariance: Shape (2, 2).
    """
    values, vectors = np.linalg.eigh(covariance)
    # 5.991 is the 95th percentile of chi squared with two degrees of freedom.
    long, short = 2.0 * np.sqrt(5.991 * values[::-1].clip(0.0))
    x, y = vectors[:, 1]
    return float(long), float(short), float(np.degrees(np.arctan2(y, x)))


def _scale_bar(axes: Axes, x: float, y: float, length_px: float, *, size: float = 7.0) -> None:
    axes.plot([x, x + length_px], [y, y], color="white", lw=1.5, path_effects=_HALO)
    axes.annotate(
        "10 mm", (x, y), (0, 2), textcoords="offset points", color="white", path_effects=_HALO,
        fontsize=size,
    )  # fmt: skip


def _show(axes: Axes, image: NDArray[Any]) -> None:
    axes.imshow(image, cmap="gray", interpolation="antialiased")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)


def mean_positions_px(frame: pd.DataFrame, landmarks: Sequence[str]) -> dict[str, Array]:
    """Mean true position of each landmark that was scored, slice pixels, shape (2,)."""
    means = frame.groupby("landmark")[["true_x_px", "true_y_px"]].mean().dropna()
    return {name: means.loc[name].to_numpy() for name in landmarks if name in means.index}


_CENTRE_A_MM, _CENTRE_S_MM = -15.5, -7.5


@dataclass(frozen=True)
class Grid:
    """The slice grid in common space: pixel (x, y) lies at A = a0 - x * step, S = s0 - y * step."""

    a0_mm: float
    s0_mm: float
    step_mm: float
    size: int


def study_grid(study: Study) -> Grid:
    """Grid of a study's slices, from the preprocessing in its runs' configurations.

    A run without a recorded configuration has the paper's grid: 256 pixels of 1 mm, [50:200].
    """
    recorded = (run.config.get("preprocess") for run in study.runs)
    found: dict[str, Any] = next((value for value in recorded if isinstance(value, dict)), {})
    step = float(found.get("spacing_mm", 1.0))
    start, stop = (int(edge) for edge in found.get("crop", (50, 200)))
    reach = (int(found.get("slice_size", 256)) - 1) / 2 - start
    return Grid(_CENTRE_A_MM + reach * step, _CENTRE_S_MM + reach * step, step, stop - start)


def template_slice(study: Study) -> Array:
    """The template's plane x = 0, shape (size, size), 0 to 1, in the grid of the study's slices."""
    grid, template = study_grid(study), load_template()
    y, x = np.mgrid[: grid.size, : grid.size] * grid.step_mm
    world = np.stack([np.zeros_like(x), grid.a0_mm - x, grid.s0_mm - y, np.ones_like(x)], axis=-1)
    voxels = world @ np.linalg.inv(template.affine).T
    return ndimage.map_coordinates(template.brain, np.moveaxis(voxels[..., :3], -1, 0), order=1)


def template_positions_px(study: Study) -> dict[str, Array]:
    """Template positions of the study's landmarks, slice pixels, shape (2,); others left out."""
    grid, every = study_grid(study), landmark_set("afids32")
    positions: dict[str, Array] = {}
    for name in study.landmarks:
        if name in every.names:
            _, a, s = every.template_mm[every.index(name)]
            positions[name] = np.array([grid.a0_mm - a, grid.s0_mm - s]) / grid.step_mm
    return positions
