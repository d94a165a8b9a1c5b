"""Figures of a slice for quality control, and fixed rules that say what a person should look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from landmarking.geometry import Array, SliceGeometry, apply_affine
from landmarking.imaging.scan import Scan

Value = float | str | bool | None

LOW_MARGIN_MM = 10.0
"""Landmarks closer than this to the border of the crop are flagged."""


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


ODD_MM = 15.0
"""A landmark farther than this from where the others of its head expect it is flagged; among the
landmarks of 109 real people (AFIDs-HCP, AFIDs-OASIS, ds000011, ds002748) the farthest is 11 mm."""


def misplaced(points_mm: Array, template_mm: Array, names: Sequence[str]) -> str:
    """Landmarks that lie where the others of the same head do not expect them.

    Each is compared with the template's, moved rigidly onto the others: a label that was given to
    another point, or a wrong digit, is far off.

    Args:
        points_mm: World RAS mm, shape (L, 3), NaN where missing.
        template_mm: The same landmarks on the template, shape (L, 3).
        names: Their names.

    Returns:
        What to look at, empty where there is nothing, or fewer than four landmarks.
    """
    known = np.flatnonzero(np.isfinite(points_mm).all(axis=1))
    found = []
    for index in (int(number) for number in known if len(known) > 3):
        others = known[known != index]
        away = _moved_onto(template_mm[others], points_mm[others], template_mm[index])
        distance = float(np.linalg.norm(points_mm[index] - away))
        if distance > ODD_MM:
            found.append(f"{names[index]} lies {distance:.0f} mm")
    if not found:
        return ""
    return f"{', '.join(found)} from where the other landmarks expect it: check its label"


def _moved_onto(source: Array, target: Array, point: Array) -> Array:
    """A point after the rigid motion that brings one set of points onto another (Kabsch 1976)."""
    middle, goal = source.mean(axis=0), target.mean(axis=0)
    left, _, right = np.linalg.svd((source - middle).T @ (target - goal))
    upright = np.diag([1.0, 1.0, np.sign(np.linalg.det(right.T @ left.T))])
    return np.asarray(right.T @ upright @ left.T @ (point - middle) + goal)


def size_ratio(points_mm: Array, template_mm: Array) -> float:
    """Size of a set of landmarks over that of the template's; NaN of fewer than three.

    Args:
        points_mm: World RAS mm, shape (L, 3), NaN where missing.
        template_mm: The same landmarks on the template, shape (L, 3).
    """
    known = np.isfinite(points_mm).all(axis=1)
    if known.sum() < 3:
        return float("nan")
    spans = [float(np.linalg.norm(x[known] - x[known].mean(0))) for x in (points_mm, template_mm)]
    return spans[0] / spans[1]


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


def intensity_figures(
    raw: NDArray[np.float32],
    matched: NDArray[np.float32],
    reference: NDArray[np.float32],
    brain: NDArray[np.bool_],
) -> dict[str, float]:
    """Intensity statistics of a slice.

    Args:
        raw: Slice as resampled, shape (H, W).
        matched: The same after histogram matching, shape (H, W).
        reference: Slice that it was matched to, shape (H, W); of a mean reference any shape.
        brain: Where the brain of a slice is, shape (H, W).

    Returns:
        Mean, standard deviation and percentiles of the raw slice in the scan's own units; its
        relative variation (SD over mean); the correlation with the reference within the brain,
        where the reference is a slice.
    """
    low, middle, high = np.percentile(raw, [1, 50, 99])
    mean, deviation = float(raw.mean(dtype=np.float64)), float(raw.std(dtype=np.float64))
    figures = {
        "raw_mean": mean,
        "raw_sd": deviation,
        "raw_p01": float(low),
        "raw_p50": float(middle),
        "raw_p99": float(high),
        "raw_variation": deviation / mean if mean > 0.0 else float("nan"),
    }
    if matched.shape == reference.shape == brain.shape:
        figures["reference_correlation"] = _correlation(matched[brain], reference[brain])
    return figures


def _correlation(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    if first.size == 0:
        return float("nan")
    a, b = (image.astype(np.float64) - float(image.mean()) for image in (first, second))
    # Sums of NumPy's own, not BLAS, whose last digits follow the number of threads.
    norm = float(np.sqrt(np.sum(a * a) * np.sum(b * b)))
    return float(np.sum(a * b)) / norm if norm > 0.0 else float("nan")


def outside_share(geometry: SliceGeometry, shape: Sequence[int], affine: Array) -> float:
    """Share of a slice's pixels that lie outside the scan's field of view, 0 to 1.

    Args:
        geometry: Where the slice lies.
        shape: Voxels of the scan along its three axes.
        affine: Voxel to world RAS mm, shape (4, 4).
    """
    rows, columns = geometry.shape
    y, x = np.mgrid[0:rows, 0:columns]
    voxels = apply_affine(np.linalg.inv(affine), geometry.to_world(np.stack([x, y], axis=-1)))
    inside = (voxels >= -0.5) & (voxels <= np.asarray(shape) - 0.5)
    return float(1.0 - inside.all(axis=-1).mean())


LOW_SYMMETRY = 0.6
"""Eq. 1 at the plane below this is lower than on any head that was looked at; see docs."""

LOW_SHARPNESS = 0.01
"""A plane may move by 2 mm at the cost of less than this: it is a guess."""

LARGE_DOUBT_MM = 5.0
"""A radius (or, without calibration, a spread) above this is flagged."""


NO_HEAD = 0.35
"""A registration of lower quality has found no head; upright T1 scans of people reach 0.69."""

UNLIKE_T1 = 0.25
"""A slice that correlates less with the reference, and on which a network sees no landmark, shows
something else than a head in T1; T1 scans of people reach 0.33."""

NO_LANDMARK_MM = 5.0
"""Mean spread of heatmaps above which a network sees no landmark; on T1 scans it is 2 to 4 mm."""


def refusal(quality: Mapping[str, float | str | bool], spread_mm: Array) -> str:
    """Why no number should come out of a scan at all; empty where there is no such reason.

    Args:
        quality: Figures of the pipeline by name.
        spread_mm: The model's own doubt, shape (L,); NaN where it has none.
    """
    registration = _number(quality, "registration_quality")
    if registration < NO_HEAD:
        return no_head(registration)
    known = spread_mm[np.isfinite(spread_mm)]
    likeness = _number(quality, "reference_correlation")
    if len(known) and likeness < UNLIKE_T1 and float(known.mean()) > NO_LANDMARK_MM:
        return (
            f"its slice is unlike T1 (correlation {likeness:.2f}) and no landmark is seen on it "
            f"(mean spread {float(known.mean()):.1f} mm): check the contrast, and the axes in the "
            "header; landmarks come out of T1 scans only"
        )
    return ""


def no_head(registration: float) -> str:
    """Why a scan is refused whose registration has found no head.

    Args:
        registration: Quality of the registration.
    """
    return (
        f"no T1 head in its usual position was found (registration quality {registration:.2f}, "
        f"at least {NO_HEAD} is needed): check the axes in the header, and that it is a T1 scan"
    )


def scan_flags(quality: Mapping[str, float | str | bool]) -> tuple[str, ...]:
    """Reasons to look at a whole scan.

    Args:
        quality: Figures of the pipeline by name.
    """
    reasons = []
    if quality.get("registration_ok") is False:
        reasons.append(f"registration is doubtful ({_number(quality, 'registration_quality'):.2f})")
    if _number(quality, "symmetry_score") < LOW_SYMMETRY:
        reasons.append(f"symmetry is low ({_number(quality, 'symmetry_score'):.2f})")
    if _number(quality, "symmetry_sharpness") < LOW_SHARPNESS:
        reasons.append("the plane is a guess: symmetry hardly falls beside it")
    if quality.get("notes"):
        reasons.append(str(quality["notes"]))
    return tuple(reasons)


def _number(quality: Mapping[str, float | str | bool], key: str) -> float:
    # NaN compares as false: a figure that is not known flags nothing.
    value = quality.get(key)
    return float(value) if isinstance(value, int | float) else float("nan")


def landmark_flags(
    scan: Scan, geometry: SliceGeometry, points_mm: Array, doubt_mm: Array, what: str
) -> list[tuple[str, ...]]:
    """Reasons to look at single landmarks.

    Args:
        scan: Says where voxels are.
        geometry: Where the slice lies.
        points_mm: World RAS mm, shape (L, 3).
        doubt_mm: Confidence radius, or the heatmap's spread without one, shape (L,).
        what: Which of the two, for the message.

    Returns:
        Reasons by landmark, L of them.
    """
    voxels = apply_affine(np.linalg.inv(scan.affine), points_mm)
    within = (voxels >= -0.5) & (voxels <= np.array(scan.data.shape) - 0.5)
    margins = crop_margin_mm(geometry, points_mm)
    found = []
    for index in range(len(points_mm)):
        reasons = []
        if not within[index].all():
            reasons.append("outside the scan")
        if margins[index] < LOW_MARGIN_MM:
            reasons.append(f"{margins[index]:.1f} mm from the border of the slice")
        if doubt_mm[index] > LARGE_DOUBT_MM:
            reasons.append(f"the model is in doubt ({what} {doubt_mm[index]:.1f} mm)")
        found.append(tuple(reasons))
    return found
