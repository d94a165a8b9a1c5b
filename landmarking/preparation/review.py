"""What a person looks over: the quality table of a cohort, and pages of small slices.

A figure is flagged where it breaks a fixed rule (a landmark close to the crop's border) or lies
far from its cohort: more than `OUTLIER_SD` robust standard deviations from the median, where a
robust standard deviation is 1.4826 times the median absolute deviation (the factor makes it the
standard deviation of a normal distribution; Rousseeuw and Croux 1993,
doi:10.1080/01621459.1993.10476408).
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from landmarking.errors import CacheError
from landmarking.files import readable
from landmarking.geometry import Array
from landmarking.imaging.quality import LOW_MARGIN_MM, Value
from landmarking.preparation.prepared import SliceRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes


# Quality control of a prepared cohort: one row a scan, with what a person should look at.
#
# A figure is flagged where it breaks a fixed rule (a landmark close to the crop's border) or lies
# far from its cohort: more than `OUTLIER_SD` robust standard deviations from the median, where a
# robust standard deviation is 1.4826 times the median absolute deviation (the factor makes it the
# standard deviation of a normal distribution; Rousseeuw and Croux 1993,
# doi:10.1080/01621459.1993.10476408).


OUTLIER_SD = 6.0
"""Robust standard deviations from the median at which a figure is flagged."""

SMALLEST_COHORT = 10
"""Fewer scans have no median worth comparing with."""

FAR_OFF_PLANE_MM = 5.0
"""Midline landmarks farther than this from the plane are flagged."""


@dataclass(frozen=True)
class _Watched:
    """A figure that is compared with its cohort.

    Attributes:
        low: Whether low values are suspect.
        high: Whether high values are suspect.
        least_sd: Smallest robust standard deviation that is believed, in the figure's unit, so
            that in an even cohort nothing is flagged for a trifle.
    """

    low: bool
    high: bool
    least_sd: float


_WATCHED: Mapping[str, _Watched] = {
    "symmetry_score": _Watched(low=True, high=False, least_sd=0.01),
    "symmetry_sharpness": _Watched(low=True, high=False, least_sd=0.0),
    "registration_quality": _Watched(low=True, high=False, least_sd=0.01),
    "reference_correlation": _Watched(low=True, high=False, least_sd=0.02),
    "raw_variation": _Watched(low=True, high=True, least_sd=0.05),
    "outside_share": _Watched(low=False, high=True, least_sd=0.02),
    "off_plane_max_mm": _Watched(low=False, high=True, least_sd=0.3),
    "crop_margin_mm": _Watched(low=True, high=False, least_sd=1.0),
}


_FIRST = (
    "symmetry_score",
    "symmetry_sharpness",
    "registration_method",
    "registration_quality",
    "registration_ok",
    "landmarks",
    "off_plane_max_mm",
    "off_plane_landmark",
    "off_plane_mean_mm",
    "crop_margin_mm",
    "outside_share",
    "reference_correlation",
)
"""Columns that a person looks at first; the others follow by name."""


def quality_table(
    records: Sequence[SliceRecord], figures: Sequence[Mapping[str, Value]]
) -> list[dict[str, Value]]:
    """Rows of qc.csv: people, figures, and what to look at.

    Args:
        records: N records.
        figures: Figures of each scan by name.

    Returns:
        N rows with the same keys; `flagged` and `reason` say what to look at.
    """
    names = {name for row in figures for name in row}
    columns = [name for name in _FIRST if name in names] + sorted(names.difference(_FIRST))
    reasons = [_broken_rules(row) for row in figures]
    for column, watched in _WATCHED.items():
        values = np.array([_number(row.get(column)) for row in figures])
        for index, reason in _outliers(column, values, watched).items():
            reasons[index].append(reason)
    return [
        {
            "scan_id": record.scan_id,
            "participant_id": record.participant_id,
            "session": record.session,
            "group": record.group,
            "flagged": bool(reason),
            "reason": "; ".join(reason),
            **{column: row.get(column) for column in columns},
        }
        for record, row, reason in zip(records, figures, reasons, strict=True)
    ]


def _number(value: Value) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")


def _broken_rules(row: Mapping[str, Value]) -> list[str]:
    reasons = []
    if row.get("registration_ok") is False:
        reasons.append(f"registration is doubtful ({_number(row.get('registration_quality')):.3g})")
    if row.get("notes"):
        reasons.append(str(row["notes"]))
    margin, off = _number(row.get("crop_margin_mm")), _number(row.get("off_plane_max_mm"))
    if margin < LOW_MARGIN_MM:
        reasons.append(f"a landmark is {margin:.1f} mm from the crop's border")
    if off > FAR_OFF_PLANE_MM:
        reasons.append(f"{row.get('off_plane_landmark')} is {off:.1f} mm off the plane")
    return reasons


def _outliers(column: str, values: Array, watched: _Watched) -> dict[int, str]:
    known = values[np.isfinite(values)]
    if len(known) < SMALLEST_COHORT:
        return {}
    median = float(np.median(known))
    spread = max(1.4826 * float(np.median(np.abs(known - median))), watched.least_sd)
    found = {}
    for index, value in enumerate(values):
        far = (value - median) / spread if spread > 0.0 else 0.0
        if (watched.low and far < -OUTLIER_SD) or (watched.high and far > OUTLIER_SD):
            side = "low" if far < 0 else "high"
            found[index] = f"{column} is {side} ({value:.3g}; median {median:.3g})"
    return found


def quality_csv(rows: Sequence[Mapping[str, Value]]) -> str:
    """The table as CSV text, numbers unrounded, empty cells where nothing is known."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def cohort_state(folder: Path) -> dict[str, Any]:
    """What `landmarking qc` says of a prepared cohort.

    Args:
        folder: Of outputs/prepared, with qc.csv and the pages of slices.

    Returns:
        Counts, where the pictures lie, and by scan why to look at it.

    Raises:
        CacheError: If the table cannot be read.
    """
    table = folder / "qc.csv"
    try:
        rows = list(csv.DictReader(io.StringIO(table.read_text(encoding="utf-8"))))
        flagged = {row["scan_id"]: row["reason"] for row in rows if row["flagged"] == "True"}
    except (OSError, ValueError, KeyError) as error:
        raise CacheError(
            f"{table}: cannot be read as the table of a prepared cohort; run landmarking prepare "
            "again with the same settings"
        ) from error
    pages = sorted(folder.glob("contact-sheet-*.png"))
    return {
        "scans": len(rows),
        "flagged": len(flagged),
        "table": str(table),
        "pages": f"{len(pages)}, from {pages[0]}" if pages else "none",
        "look at": flagged,
    }


COLUMNS, ROWS = 12, 8
"""Slices on one page, across and down."""

MOST_PAGES = 40
"""Pages at most: nobody looks at a thousand, and flagged slices come first."""

_GAP, _CAPTION = 6, 16
_FLAG = "#e6194b"
_GROUPS = ("#4daf4a", "#377eb8", "#ff7f00", "#984ea3", "#a65628", "#999999")


def write_contact_sheets(
    folder: Path,
    images: Sequence[NDArray[np.float32]] | NDArray[np.float32],
    points_px: Array,
    records: Sequence[SliceRecord],
    quality: Sequence[Mapping[str, Any]],
    names: Sequence[str],
) -> list[Path]:
    """Draw the slices, flagged ones first, then group by group, on 40 pages at most.

    Args:
        folder: Where `contact-sheet-01.png` and so on are written.
        images: Slices, shape (N, H, W).
        points_px: Landmarks (x, y), shape (N, L, 2), NaN where missing.
        records: N records; a group has the same colour on all pages.
        quality: N rows of the quality table; `flagged` ones are outlined.
        names: Landmark names, L of them.

    Returns:
        Paths of the pages.
    """
    groups = list(dict.fromkeys(record.group for record in records))
    order = sorted(
        range(len(records)),
        key=lambda i: (not quality[i]["flagged"], groups.index(records[i].group), i),
    )
    size = COLUMNS * ROWS
    pages = [order[start : start + size] for start in range(0, len(order), size)]
    left_out = len(order) - MOST_PAGES * size
    rest = f"; {left_out} slices are not drawn" if left_out > 0 else ""
    pages = pages[:MOST_PAGES]
    paths = []
    for number, page in enumerate(pages, start=1):
        path = folder / f"contact-sheet-{number:02d}.png"
        title = f"page {number} of {len(pages)}{rest}"
        _draw_page(path, title, page, images, points_px, records, quality, names, groups)
        paths.append(path)
    return paths


def _draw_page(
    path: Path,
    title: str,
    page: Sequence[int],
    images: Sequence[NDArray[np.float32]] | NDArray[np.float32],
    points_px: Array,
    records: Sequence[SliceRecord],
    quality: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    groups: Sequence[str],
) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height, width = images[0].shape
    tile = (height + _CAPTION + _GAP, width + _GAP)
    columns = min(COLUMNS, len(page))
    corners = [(tile[0] * (k // columns), tile[1] * (k % columns)) for k in range(len(page))]
    canvas = np.zeros((tile[0] * math.ceil(len(page) / columns), tile[1] * columns))
    for (row, column), index in zip(corners, page, strict=True):
        top = row + _CAPTION
        canvas[top : top + height, column : column + width] = _grey(images[index])
    legend_px = 30
    figure = Figure(
        figsize=(max(canvas.shape[1], 600) / 100, (canvas.shape[0] + legend_px) / 100), dpi=100
    )
    FigureCanvasAgg(figure)
    figure.set_facecolor("black")
    share = legend_px / (canvas.shape[0] + legend_px)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0 - share))
    axes.imshow(canvas, cmap="gray", vmin=0, vmax=1, interpolation="nearest", aspect="equal")
    axes.axis("off")
    axes.set_autoscale_on(False)
    for (row, column), index in zip(corners, page, strict=True):
        colour = _GROUPS[groups.index(records[index].group) % len(_GROUPS)]
        _caption(axes, row, column, (height, width), records[index], quality[index], colour)
    _landmarks(axes, corners, points_px[list(page)], names)
    _legend(figure, title, groups, axes, share)
    figure.savefig(path, metadata={"Software": None})


def _grey(image: NDArray[np.float32]) -> NDArray[np.float64]:
    low, high = np.percentile(image, [1, 99.5])
    return np.asarray(np.clip((image - low) / max(float(high - low), 1e-12), 0.0, 1.0))


def _caption(
    axes: Axes,
    row: int,
    column: int,
    shape: tuple[int, int],
    record: SliceRecord,
    quality: Mapping[str, Any],
    colour: str,
) -> None:
    from matplotlib.patches import Rectangle

    height, width = shape
    corner = (column - 0.5, row - 0.5)
    axes.add_patch(Rectangle(corner, width, _CAPTION, color=colour, linewidth=0))
    name = readable(record.scan_id.removeprefix("sub-"))[:26]
    axes.text(column + 3, row + 11.5, name, color="white", fontsize=6, parse_math=False)
    if quality["flagged"]:
        border = Rectangle(corner, width, height + _CAPTION, fill=False, linewidth=3)
        border.set_edgecolor(_FLAG)
        axes.add_patch(border)
        axes.text(
            column + 4,
            row + _CAPTION + height - 4,
            readable("\n".join(_wrap(str(quality["reason"]), 38)[:4])),
            color="white",
            parse_math=False,
            fontsize=5.5,
            va="bottom",
            bbox={"facecolor": "black", "alpha": 0.65, "pad": 1, "linewidth": 0},
        )


def _wrap(text: str, width: int) -> list[str]:
    import textwrap

    return textwrap.wrap(text, width)


def _landmarks(
    axes: Axes, corners: Sequence[tuple[int, int]], points_px: Array, names: Sequence[str]
) -> None:
    from matplotlib import colormaps

    offsets = np.array([(column, row + _CAPTION) for row, column in corners], dtype=float)
    placed = points_px + offsets[:, None, :]
    colours = colormaps["tab20"](np.linspace(0, 1, 20))
    for number, name in enumerate(names):
        x, y = placed[:, number, 0], placed[:, number, 1]
        dots = axes.scatter(x, y, s=12, color=colours[number % 20], linewidths=0, label=name)
        # Dots that are all alike are drawn at whole pixels, up to one off; two entries prevent it.
        dots.set_antialiased([True, True])


def _legend(figure: Any, title: str, groups: Sequence[str], axes: Axes, share: float) -> None:
    from matplotlib.patches import Patch

    handles, labels = axes.get_legend_handles_labels()
    for number, group in enumerate(groups):
        handles.append(Patch(color=_GROUPS[number % len(_GROUPS)]))
        labels.append(group)
    handles.append(Patch(fill=False, edgecolor=_FLAG, linewidth=2))
    labels.append("look at it")
    figure.legend(
        handles,
        labels,
        loc="center right",
        bbox_to_anchor=(0.0, 1.0 - share, 1.0, share),
        ncols=len(labels),
        fontsize=7,
        labelcolor="white",
        frameon=False,
        markerscale=1.6,
        handlelength=1,
        columnspacing=1,
    )
    where = (0.005, 1.0 - share / 2)
    figure.text(*where, title, color="white", fontsize=8, va="center", parse_math=False)
