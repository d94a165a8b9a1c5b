"""Shape without position, direction and size: Procrustes alignment, its tests, axes and pictures.

Alignment and tests are ours (morphops and ktch align complete configurations only, and neither has
the permutation tests); thin-plate splines are scipy's, principal components scikit-learn's.
Sources: Dryden and Mardia 2016, Statistical Shape Analysis; Goodall 1991; Collyer et al. 2015.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.interpolate import RBFInterpolator

from landmarking.errors import ConfigError, LandmarkError
from landmarking.geometry import Array

KINDS = ("full", "partial", "form")

LEAST_KNOWN = 0.5
"""Landmarks that fewer of the people have are left out; people who have fewer of the rest, too."""


@dataclass(frozen=True, eq=False)
class Aligned:
    """People after alignment.

    Attributes:
        points: Aligned configurations, shape (N, L, D), without gaps.
        size: Centroid size of each before, in the unit of the data, shape (N,).
        mean: Mean shape, shape (L, D).
        people: Rows of the data that were kept, shape (N,).
        landmarks: Columns that were kept, shape (L,).
        filled: Number of points that were estimated.
    """

    points: Array
    size: Array
    mean: Array
    people: NDArray[np.int64]
    landmarks: NDArray[np.int64]
    filled: int

    @property
    def tangent(self) -> Array:
        """Deviations from the mean shape in its tangent space, shape (N, L * D)."""
        flat = self.points.reshape(len(self.points), -1)
        pole = self.mean.ravel() / np.linalg.norm(self.mean)
        apart = flat - self.mean.ravel()
        return np.asarray(apart - np.outer(apart @ pole, pole))


def align(points: Array, *, kind: str = "full", reflect: bool = False, steps: int = 100) -> Aligned:
    """Generalised Procrustes analysis.

    A point that a person lacks takes the place of the mean shape's in every step, and so adds
    nothing to the person's distance from it; its rule is `LEAST_KNOWN`.

    Args:
        points: Configurations, shape (N, L, D), D of 2 or 3; NaN where a landmark is missing.
        kind: `full` fits the scale of each, `partial` gives all of them unit size, `form` keeps
            the size (and compares size and shape).
        reflect: Whether a configuration may be mirrored.
        steps: Most steps of the iteration.

    Raises:
        ConfigError: If `kind` is unknown.
        LandmarkError: If fewer than two people or D + 1 landmarks are left.
    """
    if kind not in KINDS:
        raise ConfigError(f"alignment is one of {', '.join(KINDS)}, found {kind!r}")
    known = _known(points)
    landmarks = np.flatnonzero(known.mean(axis=0) >= LEAST_KNOWN)
    people = np.flatnonzero(known[:, landmarks].mean(axis=1) >= LEAST_KNOWN)
    if len(people) < 2 or len(landmarks) < points.shape[2] + 1:
        raise LandmarkError(
            f"alignment needs two people with {points.shape[2] + 1} landmarks in common, found "
            f"{len(people)} with {len(landmarks)}; place more, or leave out who lacks them"
        )
    raw = points[np.ix_(people, landmarks)]
    there = known[np.ix_(people, landmarks)]
    start = int(np.argmax(there.sum(axis=1)))
    mean = _standard(np.where(there[start][:, None], raw[start], np.nanmean(raw, axis=0)), kind)
    aligned, size = raw, np.zeros(len(raw))
    for _ in range(steps):
        fitted = [_fitted(p, w, mean, kind, reflect) for p, w in zip(raw, there, strict=True)]
        aligned = np.array([each for each, _ in fitted])
        size = np.array([each for _, each in fitted])
        new = aligned.mean(axis=0)
        new = _standard(new, kind) if kind != "form" else new - new.mean(axis=0)
        done = np.linalg.norm(new - mean) < 1e-12 * max(1.0, float(np.linalg.norm(mean)))
        mean = new
        if done:
            break
    return Aligned(aligned, size, mean, people, landmarks, int((~there).sum()))


def align_to(
    points: Array, mean: Array, *, kind: str = "full", reflect: bool = False
) -> tuple[Array, Array]:
    """Align configurations to a mean shape of other people, such as those of a training fold.

    Args:
        points: Shape (N, L, D); NaN where a landmark is missing.
        mean: Mean shape, shape (L, D).
        kind: As for `align`.
        reflect: As for `align`.

    Returns:
        Aligned configurations, shape (N, L, D), and centroid sizes, shape (N,).
    """
    there = _known(points)
    fitted = [_fitted(p, w, mean, kind, reflect) for p, w in zip(points, there, strict=True)]
    return np.array([each for each, _ in fitted]), np.array([each for _, each in fitted])


def _known(points: Array) -> NDArray[np.bool_]:
    return np.asarray(np.isfinite(points).all(axis=2), dtype=bool)


def _standard(points: Array, kind: str) -> Array:
    centred = points - points.mean(axis=0)
    return np.asarray(centred if kind == "form" else centred / np.linalg.norm(centred))


def _fitted(
    points: Array, there: NDArray[np.bool_], mean: Array, kind: str, reflect: bool
) -> tuple[Array, float]:
    """One configuration on the mean by least squares, and its centroid size."""
    own, goal = points[there], mean[there]
    middle = goal.mean(axis=0)
    centred, target = own - own.mean(axis=0), goal - middle
    size = float(np.linalg.norm(centred))
    # Of a person who lacks points, as large as the whole would be.
    whole = size * float(np.linalg.norm(mean - mean.mean(axis=0)) / np.linalg.norm(target))
    u, stretch, vt = np.linalg.svd(centred.T @ target)
    turn = u @ vt
    if np.linalg.det(turn) < 0 and not reflect:
        u[:, -1] *= -1
        stretch[-1] *= -1
        turn = u @ vt
    scale = {"form": 1.0, "partial": 1.0 / whole if whole else 1.0, "full": 1.0}[kind]
    if kind == "full":
        scale = float(stretch.sum()) / size**2
    result = mean.copy()
    result[there] = scale * centred @ turn + middle
    return result, whole


def distance(first: Array, second: Array, *, kind: str = "full", reflect: bool = False) -> float:
    """Procrustes distance of two configurations of shape (L, D), each of unit size before.

    `full` is the sine of the angle between them, `partial` the chord.
    """
    one, other = _standard(first, kind), _standard(second, kind)
    there = np.ones(len(one), dtype=bool)
    fitted, _ = _fitted(one, there, other, kind, reflect)
    return float(np.linalg.norm(fitted - other))


def mean_shape_test(
    aligned: Aligned, labels: Sequence[str], *, permutations: int = 9_999, seed: int = 0
) -> dict[str, float]:
    """Do the mean shapes of two groups differ? People are exchanged between them.

    Args:
        aligned: The people of both groups, aligned together.
        labels: Group of each, in the order of `aligned.people`.
        permutations: Random exchanges.
        seed: Of the exchanges.

    Returns:
        `distance` between the group means, and two-sided `p`.
    """
    groups = _two(labels)
    first = np.array([label == groups[0] for label in labels])
    flat = aligned.tangent
    rng = np.random.default_rng(seed)

    def apart(side: NDArray[np.bool_]) -> float:
        return float(np.linalg.norm(flat[side].mean(axis=0) - flat[~side].mean(axis=0)))

    found = apart(first)
    drawn = np.array([apart(rng.permutation(first)) for _ in range(permutations)])
    more = int((drawn >= found - 1e-12).sum())
    return {"distance": found, "p": (1 + more) / (1 + permutations)}


def _two(labels: Sequence[str]) -> tuple[str, str]:
    groups = list(dict.fromkeys(labels))
    if len(groups) != 2:
        raise ConfigError(f"two groups are compared, found {', '.join(map(str, groups)) or 'none'}")
    return groups[0], groups[1]


def procrustes_anova(
    aligned: Aligned,
    factors: Mapping[str, Sequence[object]],
    *,
    permutations: int = 9_999,
    seed: int = 0,
) -> pd.DataFrame:
    """What shape goes with, one factor after another: group, sex, size (allometry), ...

    Sequential sums of squares of the aligned coordinates; residuals of the model without a factor
    are exchanged between people (Collyer et al. 2015), which keeps what the earlier ones explain.

    Args:
        aligned: The people.
        factors: Values in the order of `aligned.people`; text makes groups, numbers a line. `size`
            without values (an empty list) is the logarithm of centroid size.
        permutations: Exchanges.
        seed: Of the exchanges.

    Returns:
        One row a factor, and the rest: df, ss, r2, f, p.
    """
    shape = aligned.points.reshape(len(aligned.points), -1)
    rng = np.random.default_rng(seed)
    total = float(np.square(shape - shape.mean(axis=0)).sum())
    design = np.ones((len(shape), 1))
    full = [design]
    for name, values in factors.items():
        column = np.log(aligned.size) if name == "size" and not len(values) else values
        design = np.hstack([design, _coded(column)])
        full.append(design)
    left = [_residuals(each, shape) for each in full]
    sums = [float(np.square(each).sum()) for each in left]
    last_df = len(shape) - np.linalg.matrix_rank(full[-1])
    rows = []
    for number, name in enumerate(factors, start=1):
        df = int(np.linalg.matrix_rank(full[number]) - np.linalg.matrix_rank(full[number - 1]))
        gain = sums[number - 1] - sums[number]
        f = gain / df / (sums[-1] / last_df)
        fitted = shape - left[number - 1]
        more = 0
        for _ in range(permutations):
            made = fitted + left[number - 1][rng.permutation(len(shape))]
            before, after, last = (
                float(np.square(_residuals(each, made)).sum())
                for each in (full[number - 1], full[number], full[-1])
            )
            more += (before - after) / df / (last / last_df) >= f - 1e-12
        p = (1 + more) / (1 + permutations)
        rows.append({"factor": name, "df": df, "ss": gain, "r2": gain / total, "f": f, "p": p})
    rest = {"factor": "rest", "df": int(last_df), "ss": sums[-1], "r2": sums[-1] / total}
    return pd.DataFrame([*rows, rest])


def _coded(values: object) -> Array:
    """Numbers as one centred column, text as one column a group but the first."""
    series = pd.Series(np.asarray(values))
    if pd.api.types.is_numeric_dtype(series):
        return np.asarray(series.to_numpy(float)[:, None] - series.mean())
    names = sorted(series.unique())
    return np.array([[float(value == name) for name in names[1:]] for value in series])


def _residuals(design: Array, values: Array) -> Array:
    base, _ = np.linalg.qr(design)
    return np.asarray(values - base @ (base.T @ values))


@dataclass(frozen=True, eq=False)
class Components:
    """Principal components of shape.

    Attributes:
        share: Share of the variance by component, shape (C,).
        shapes: The mean shape two standard deviations to either side along each, (C, 2, L, D).
        scores: Of each person, shape (N, C).
    """

    share: Array
    shapes: Array
    scores: Array


def components(aligned: Aligned, count: int = 2) -> Components:
    """What shapes vary in, in the tangent space of the mean shape.

    Args:
        aligned: The people.
        count: Number of components, at most.
    """
    from sklearn.decomposition import PCA

    count = min(count, len(aligned.points) - 1)
    found = PCA(count, svd_solver="full").fit(aligned.tangent)
    reach = 2.0 * np.sqrt(found.explained_variance_)[:, None] * found.components_
    ends = np.stack([-reach, reach], axis=1).reshape(count, 2, *aligned.mean.shape)
    scores = np.asarray(found.transform(aligned.tangent))
    return Components(np.asarray(found.explained_variance_ratio_), aligned.mean + ends, scores)


def bent_grid(
    mean: Array, shape: Array, *, lines: int = 15, along: int = 80, margin: float = 0.2
) -> list[Array]:
    """Lines of a square grid over a mean shape, bent by the thin-plate spline to another shape.

    Args:
        mean: Shape (L, 2).
        shape: Shape (L, 2); where the landmarks go.
        lines: In each direction.
        along: Points of a line.
        margin: Beyond the landmarks, as a share of their extent.

    Returns:
        Lines, each of shape (along, 2).
    """
    bend = RBFInterpolator(mean, shape, kernel="thin_plate_spline", degree=1)
    low, high = mean.min(axis=0), mean.max(axis=0)
    room = margin * (high - low).max()
    across, upward = (
        np.linspace(a - room, b + room, lines) for a, b in zip(low, high, strict=True)
    )
    fine = [np.linspace(a - room, b + room, along) for a, b in zip(low, high, strict=True)]
    straight = [np.column_stack([np.full(along, x), fine[1]]) for x in across]
    straight += [np.column_stack([fine[0], np.full(along, y)]) for y in upward]
    return [np.asarray(bend(line)) for line in straight]
