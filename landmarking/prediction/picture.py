"""One picture a scan: what was found, where, and whether to believe it."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landmarking.prediction.result import ScanPrediction, Section

_FOUND, _LOOK, _PLANE = "#56B4E9", "#E69F00", "#56B4E9"


def draw_prediction(prediction: ScanPrediction, path: Path) -> None:
    """Draw the slice with its landmarks, the plane on two views, and the figures.

    Args:
        prediction: What to draw.
        path: PNG file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.2, 6.4), dpi=110, facecolor="black")
    FigureCanvasAgg(figure)
    _slice(figure.add_axes((0.004, 0.02, 0.52, 0.89)), prediction)
    for bottom, section in zip((0.475, 0.02), prediction.sections, strict=False):
        _section(figure.add_axes((0.528, bottom, 0.25, 0.42)), section)
    _texts(figure, prediction)
    figure.savefig(path, format="png", metadata={"Software": None})


def _slice(axes: Any, prediction: ScanPrediction) -> None:
    axes.imshow(_grey(prediction.image), cmap="gray", vmin=0, vmax=1, interpolation="bicubic")
    axes.axis("off")
    axes.set_autoscale_on(False)
    middle = np.mean([landmark.pixel for landmark in prediction.landmarks], axis=0)
    step_mm = float(np.linalg.norm(prediction.geometry.pixel_to_world[:3, 0]))
    for landmark in prediction.landmarks:
        colour = _LOOK if landmark.flags else _FOUND
        x, y = landmark.pixel
        axes.plot(
            x, y, "+", color=colour, markersize=9, markeredgewidth=1.6, path_effects=_outline()
        )
        if landmark.radius_mm is not None:
            _circle(axes, (x, y), landmark.radius_mm / step_mm, colour)
        away = (landmark.pixel - middle) / max(float(np.linalg.norm(landmark.pixel - middle)), 1e-9)
        axes.annotate(
            landmark.name,
            (x, y),
            xytext=(away[0] * 16, -away[1] * 16),
            textcoords="offset points",
            color=colour,
            fontsize=9,
            ha="center",
            va="center",
            path_effects=_outline(),
        )


def _outline() -> list[Any]:
    """A dark rim, so that names can be read on bright tissue."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=2.2, foreground="black")]


def _circle(axes: Any, centre: tuple[float, float], radius: float, colour: str) -> None:
    from matplotlib.patches import Circle

    axes.add_patch(Circle(centre, radius, fill=False, edgecolor=colour, linewidth=0.9))


def _section(axes: Any, section: Section) -> None:
    height, width = section.image.shape
    axes.imshow(_grey(section.image), cmap="gray", vmin=0, vmax=1, aspect="equal")
    axes.set_autoscale_on(False)
    axes.axis("off")
    if np.isfinite(section.trace).all():
        axes.plot(*section.trace.T, color=_PLANE, linewidth=1.0)
    axes.set_title(section.title, color="white", fontsize=8, pad=2)
    for x, side, place in ((0.02, "R", "left"), (0.98, "L", "right")):
        axes.text(x * width, 0.06 * height, side, color="white", fontsize=8, ha=place, va="center")


def _texts(figure: Any, prediction: ScanPrediction) -> None:
    figure.text(0.012, 0.955, prediction.name, color="white", fontsize=11, va="center")
    looked = [landmark for landmark in prediction.landmarks if landmark.flags]
    verdict = "nothing flagged" if not (looked or prediction.flags) else "look at it"
    colour = "white" if verdict == "nothing flagged" else _LOOK
    figure.text(0.988, 0.955, verdict, color=colour, fontsize=11, va="center", ha="right")
    text = "\n".join(_table(prediction))
    figure.text(
        0.786, 0.895, text, color="white", fontsize=7.5, va="top", family="DejaVu Sans Mono"
    )
    reasons = [*prediction.flags, *(f"{x.name}: {r}" for x in looked for r in x.flags)]
    lines = [part for reason in reasons for part in textwrap.wrap(reason, 36)]
    figure.text(0.786, 0.05, "\n".join(lines[:14]), color=_LOOK, fontsize=7.5, va="bottom")


def _table(prediction: ScanPrediction) -> list[str]:
    lines = ["mm (RAS)    R     A     S"]
    if prediction.coverage is not None:
        lines[0] += " radius"
    for landmark in prediction.landmarks:
        right, front, up = landmark.world_mm
        line = f"{landmark.name:<7}{right:6.1f}{front:6.1f}{up:6.1f}"
        lines.append(line + ("" if landmark.radius_mm is None else f"{landmark.radius_mm:6.1f}"))
    lines.append("")
    for key, title in (
        ("registration_quality", "registration"),
        ("symmetry_score", "symmetry"),
        ("symmetry_sharpness", "sharpness"),
        ("reference_correlation", "like template"),
    ):
        value = prediction.quality.get(key)
        if isinstance(value, int | float):
            lines.append(f"{title:<14}{value:6.2f}")
    if prediction.coverage is not None:
        lines += [
            "",
            f"radius: {prediction.coverage:.0%}, for people like",
            "those of the calibration",
        ]
    return [*lines, "", *textwrap.wrap(f"model {prediction.model}", 32)]


def _grey(image: NDArray[np.float32]) -> NDArray[np.float64]:
    low, high = np.percentile(image, [1, 99.5])
    return np.asarray(np.clip((image - low) / max(float(high - low), 1e-12), 0.0, 1.0))
