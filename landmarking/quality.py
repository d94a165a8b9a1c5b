"""Quality control of a prepared cohort: one row a scan, with what a person should look at.

A figure is flagged where it breaks a fixed rule (a landmark close to the crop's border) or lies far
from its cohort: more than `OUTLIER_SD` robust standard deviations from the median, where a robust
standard deviation is 1.4826 times the median absolute deviation (the factor makes it the standard
deviation of a normal distribution; Rousseeuw and Croux 1993, doi:10.1080/01621459.1993.10476408).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from landmarking.data.prepared import SliceRecord
from landmarking.geometry import Array, SliceGeometry

Value = float | str | bool | None

OUTLIER_SD = 6.0
"""Robust standard deviations from the median at which a figure is flagged."""

SMALLEST_COHORT = 10
"""Fewer scans have no median worth comparing with."""

LOW_MARGIN_MM = 10.0
"""Landmarks closer than this to the border of the crop are flagged."""

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


def landmark_figures(
    geometry: SliceGeometry, points_mm: Array, template_mm: Array, names: Sequence[str]
) -> dict[str, Value]:
    """How the true landmarks of a scan lie to its slice.

    Args:
        geometry: Where the slice lies.
        points_mm: World RAS mm, shape (L, 3), NaN where missing.
        template_mm: The same landmarks on the template, shape (L, 3); its plane is x = 0.
        names: Their names.

    Returns:
        Number of landmarks, the largest and mean distance from where they should lie to the plane
        (for midline landmarks: from the plane), and the smallest distance from the crop's border;
        None where no landmark is known.
    """
    known = np.isfinite(points_mm).all(axis=1)
    figures: dict[str, Value] = {"landmarks": float(known.sum())}
    if not known.any():
        return {
            **figures,
            "off_plane_max_mm": None,
            "off_plane_landmark": None,
            "off_plane_mean_mm": None,
            "crop_margin_mm": None,
        }
    off = np.abs(off_plane_mm(geometry, points_mm, template_mm))
    worst = int(np.nanargmax(off))
    return {
        **figures,
        "off_plane_max_mm": float(off[worst]),
        "off_plane_landmark": names[worst],
        "off_plane_mean_mm": float(np.nanmean(off)),
        "crop_margin_mm": float(np.nanmin(crop_margin_mm(geometry, points_mm))),
    }


def off_plane_mm(geometry: SliceGeometry, points_mm: Array, template_mm: Array) -> Array:
    """Signed distance to the left of where the template has each landmark, shape (L,).

    For landmarks of the midline that is the distance from the slice, within the 0.4 mm that they
    are off the template's plane; the others are compared with their own side.
    """
    expected = np.where(np.abs(template_mm[:, 0]) < 2.0, 0.0, -template_mm[:, 0])
    return np.asarray(geometry.distance_mm(points_mm) - expected)


def crop_margin_mm(geometry: SliceGeometry, points_mm: Array) -> Array:
    """Distance of landmarks from the border of the slice in mm, shape (L,), negative outside."""
    rows, columns = geometry.shape
    x, y = np.moveaxis(geometry.to_pixel(points_mm), -1, 0)
    step_x, step_y = np.linalg.norm(geometry.pixel_to_world[:3, :2], axis=0)
    # Pixels reach half a step beyond their centres.
    across = np.minimum(x + 0.5, columns - 0.5 - x) * step_x
    along = np.minimum(y + 0.5, rows - 0.5 - y) * step_y
    return np.asarray(np.minimum(across, along))


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
