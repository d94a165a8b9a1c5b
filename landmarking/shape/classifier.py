"""Who belongs to which group, by shape: nested cross-validation in which nothing leaks.

Everything that learns from people (alignment's mean shape, scaling, selection, components, the
classifier's settings) is a step of one scikit-learn pipeline, fitted on the training people of each
fold alone. Scans of one person stay together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from scipy.spatial.distance import pdist
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_selection import SelectKBest, f_classif
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_union
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC

from landmarking.errors import ConfigError
from landmarking.geometry import Array
from landmarking.shape.data_driven import DrivenMoves
from landmarking.shape.procrustes import align, align_to


class ProcrustesCoordinates(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Aligned coordinates and the logarithm of size; the mean shape is of the training people."""

    def __init__(self, landmarks: int, dimensions: int, *, with_size: bool = True) -> None:
        self.landmarks = landmarks
        self.dimensions = dimensions
        self.with_size = with_size

    def fit(self, rows: Array, _labels: object = None) -> ProcrustesCoordinates:
        """Find the mean shape of the training people, rows of shape (N, L * D)."""
        aligned = align(self._points(rows))
        # A landmark that too few of them have is left out for everybody.
        self.mean_, self.kept_ = aligned.mean, aligned.landmarks
        return self

    def transform(self, rows: Array) -> Array:
        """Coordinates of any people on that mean shape, shape (N, features)."""
        points, size = align_to(self._points(rows)[:, self.kept_], self.mean_)
        flat = points.reshape(len(points), -1)
        found: Array = np.hstack([flat, np.log(size)[:, None]]) if self.with_size else flat
        return found

    def _points(self, rows: Array) -> Array:
        return np.asarray(rows, float).reshape(len(rows), self.landmarks, self.dimensions)


def _distances(rows: Array, landmarks: int, dimensions: int) -> Array:
    points = np.asarray(rows, float).reshape(len(rows), landmarks, dimensions)
    found: Array = np.log(np.array([pdist(person) for person in points]))
    return found


@dataclass(frozen=True, eq=False)
class Data:
    """What is classified.

    Attributes:
        points: Landmarks in mm, shape (N, L, D); NaN where missing.
        labels: 1 for the group that is looked for, else 0, shape (N,).
        people: Person of each row; scans of one stay together.
        patches: Intensities around the landmarks, shape (N, F); None without.
        moves: Displacements along the mid-sagittal plane, mm, shape (N, V, 2); None without.
        places: Where they were taken, mm, shape (V, 2).
    """

    points: Array
    labels: NDArray[np.int64]
    people: Sequence[str]
    patches: Array | None = None
    moves: Array | None = None
    places: Array | None = None

    @property
    def rows(self) -> Array:
        """Points, patches and displacements side by side, shape (N, columns)."""
        parts = [p for p in (self.points, self.patches, self.moves) if p is not None]
        return np.hstack([part.reshape(len(part), -1) for part in parts])


FEATURES = ("shape", "distances", "patches", "both", "data-driven")
CLASSIFIERS = ("logistic", "svm", "forest")


def features(name: str, data: Data, components: int = 10) -> Pipeline:
    """The steps from rows of `Data` to standardised features.

    Args:
        name: `shape` (Procrustes coordinates and size), `distances` (their logarithms), `patches`
            (principal components of intensities), `both` (shape and patches), or `data-driven`
            (displacements where the training people's groups differ most).
        data: Says how rows are put together.
        components: Of the patches.

    Raises:
        ConfigError: If there is no such kind, or patches are asked for and there are none.
    """
    _, landmarks, dimensions = data.points.shape
    width = landmarks * dimensions
    if name not in FEATURES:
        raise ConfigError(f"features are one of {', '.join(FEATURES)}, found {name!r}")
    if name in ("patches", "both") and data.patches is None:
        raise ConfigError(f"features {name} need slices; choose shape or distances")
    if name == "data-driven" and (data.moves is None or data.places is None):
        raise ConfigError("features data-driven need deformations; choose shape or distances")
    points = ("points", FunctionTransformer(_columns, kw_args={"start": 0, "stop": width}))
    wide = width + (0 if data.patches is None else data.patches.shape[1])
    patches = ("patches", FunctionTransformer(_columns, kw_args={"start": width, "stop": wide}))
    moves = ("moves", FunctionTransformer(_columns, kw_args={"start": wide, "stop": None}))
    shape = [points, ("procrustes", ProcrustesCoordinates(landmarks, dimensions))]
    sizes = {"landmarks": landmarks, "dimensions": dimensions}
    apart = [points, ("distances", FunctionTransformer(_distances, kw_args=sizes))]
    looks = [patches, ("components", PCA(components, random_state=0))]
    places = np.zeros((0, 2)) if data.places is None else data.places
    ways: dict[str, list[tuple[str, Any]]] = {
        "shape": shape, "distances": apart, "patches": looks,
        "both": [("both", make_union(Pipeline(shape), Pipeline(looks)))],
        "data-driven": [moves, ("driven", DrivenMoves(places))],
    }  # fmt: skip
    steps = ways[name]
    return Pipeline([*steps, ("fill", SimpleImputer()), ("scale", StandardScaler())])


def _columns(rows: Array, start: int, stop: int | None) -> Array:
    return rows[:, start:stop]


def classifier(name: str) -> tuple[Any, Mapping[str, Sequence[Any]]]:
    """A classifier of scikit-learn and the settings that the inner folds choose among.

    Raises:
        ConfigError: If there is no such one.
    """
    strengths = (0.01, 0.1, 1.0)
    if name == "logistic":
        return LogisticRegression(max_iter=2000), {"C": strengths}
    if name == "svm":
        return SVC(kernel="linear", random_state=0), {"C": strengths}
    if name == "forest":
        return RandomForestClassifier(100, random_state=0, n_jobs=1), {"max_depth": (2, 4)}
    raise ConfigError(f"classifiers are {', '.join(CLASSIFIERS)}, found {name!r}")


@dataclass(frozen=True, eq=False)
class Verdict:
    """What a nested cross-validation came to.

    Attributes:
        scores: Out-of-fold score of each row, comparable between folds, shape (N,).
        labels: Truth, shape (N,).
        auc: Area under the ROC curve of the out-of-fold scores.
        auc_low: Lower end of its 95 % interval (DeLong et al. 1988).
        auc_high: Upper end.
        balanced_accuracy: Of the folds' own thresholds.
        probabilities: Out-of-fold probability of 1, shape (N,); NaN of a classifier without.
    """

    scores: Array
    labels: NDArray[np.int64]
    auc: float
    auc_low: float
    auc_high: float
    balanced_accuracy: float
    probabilities: Array


def nested(
    data: Data,
    *,
    kind: str = "shape",
    by: str = "logistic",
    select: int | None = None,
    folds: int = 5,
    seed: int = 0,
) -> Verdict:
    """Judge a classifier by nested cross-validation over people.

    Args:
        data: People, points and labels.
        kind: One of `FEATURES`.
        by: One of `CLASSIFIERS`.
        select: Keep so many features, chosen by their F within the training people; None keeps all.
        folds: Outer folds; the inner ones are three.
        seed: Of the folds.

    Raises:
        ConfigError: If a name is unknown, or a group has fewer people than folds.
    """
    labels, people = np.asarray(data.labels), np.asarray(data.people)
    least = min(len(set(people[labels == side])) for side in (0, 1))
    if least < folds:
        raise ConfigError(
            f"{folds} folds need as many people in each group, found {least}; take fewer folds"
        )
    model, grid = classifier(by)
    # As many components as the training people of an inner fold can have.
    inner_people = int(len(set(people)) * (1 - 1 / folds) * 2 / 3)
    steps = [("features", features(kind, data, max(1, min(10, inner_people - 2))))]
    steps += [("select", SelectKBest(f_classif, k=select))] if select else []
    pipeline = Pipeline([*steps, ("by", model)])
    rows = data.rows
    scores, guessed = np.zeros(len(rows)), np.zeros(len(rows))
    probabilities = np.full(len(rows), np.nan)
    outer = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    for train, test in outer.split(rows, labels, people):
        inner = StratifiedGroupKFold(3, shuffle=True, random_state=seed)
        search = GridSearchCV(
            pipeline,
            {f"by__{key}": list(values) for key, values in grid.items()},
            scoring="roc_auc",
            cv=list(inner.split(rows[train], labels[train], people[train])),
        )
        search.fit(rows[train], labels[train])
        raw, of_training = (_score(search, rows[part]) for part in (test, train))
        # Folds have scales of their own: standardised by their training people, they compare.
        scores[test] = (raw - of_training.mean()) / max(float(of_training.std()), 1e-12)
        guessed[test] = search.predict(rows[test])
        if hasattr(search, "predict_proba"):
            probabilities[test] = search.predict_proba(rows[test])[:, 1]
    low, high = delong_interval(labels, scores)
    accuracy = float(balanced_accuracy_score(labels, guessed))
    area = float(roc_auc_score(labels, scores))
    return Verdict(scores, labels, area, low, high, accuracy, probabilities)


def _score(search: GridSearchCV, rows: Array) -> Array:
    if hasattr(search, "decision_function"):
        return np.asarray(search.decision_function(rows))
    return np.asarray(search.predict_proba(rows)[:, 1])


def delong_interval(
    labels: NDArray[np.int64], scores: Array, level: float = 0.95
) -> tuple[float, float]:
    """Interval of the area under the ROC curve from its structural components.

    Args:
        labels: 0 and 1, shape (N,).
        scores: Higher for 1, shape (N,).
        level: Coverage.
    """
    ones, zeros = scores[labels == 1], scores[labels == 0]
    wins = (ones[:, None] > zeros) + 0.5 * (ones[:, None] == zeros)
    area = float(wins.mean())
    variance = wins.mean(axis=1).var(ddof=1) / len(ones) + wins.mean(axis=0).var(ddof=1) / len(
        zeros
    )
    reach = float(stats.norm.ppf(0.5 + level / 2) * np.sqrt(variance))
    return max(0.0, area - reach), min(1.0, area + reach)


def permutation_p(
    data: Data, found: float, judge: Callable[[Data], float], *, draws: int = 50, seed: int = 0
) -> tuple[float, Array]:
    """How often labels that mean nothing do as well; people keep one label for all their scans.

    Args:
        data: The people.
        found: What the true labels came to.
        judge: Gives the same figure for other labels, such as `lambda d: nested(d).auc`.
        draws: Shuffles.
        seed: Of the shuffles.

    Returns:
        The p value, and the figures under shuffled labels, shape (draws,).
    """
    rng = np.random.default_rng(seed)
    names, first = np.unique(np.asarray(data.people), return_index=True)
    figures = []
    for _ in range(draws):
        label = dict(zip(names, rng.permutation(data.labels[first]), strict=True))
        shuffled = np.array([label[person] for person in data.people])
        figures.append(judge(replace(data, labels=shuffled)))
    null = np.array(figures)
    return float((1 + (null >= found).sum()) / (1 + draws)), null


def selected_outside(data: Data, keep: int, *, folds: int = 5, seed: int = 0) -> float:
    """AUC when features are chosen on everybody before the folds: the mistake, to be shown.

    Args:
        data: The people.
        keep: Features that are kept.
        folds: Folds.
        seed: Of the folds.
    """
    rows = features("distances", data).fit_transform(data.rows)
    chosen = SelectKBest(f_classif, k=keep).fit_transform(rows, data.labels)
    scores = np.zeros(len(rows))
    split = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    for train, test in split.split(chosen, data.labels, np.asarray(data.people)):
        model = LogisticRegression(max_iter=2000).fit(chosen[train], data.labels[train])
        scores[test] = model.decision_function(chosen[test])
    return float(roc_auc_score(data.labels, scores))


def noise_curve(
    data: Data,
    noises_mm: Sequence[float],
    *,
    repeats: int = 5,
    seed: int = 0,
    **how: Any,
) -> pd.DataFrame:
    """What landmark error costs: AUC when every coordinate is off by noise.

    Args:
        data: The people.
        noises_mm: Standard deviations by coordinate, mm.
        repeats: Draws of each.
        seed: Of the noise.
        **how: As for `nested`.

    Returns:
        One row a draw: `noise_mm`, `auc`.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for noise in noises_mm:
        for number in range(repeats if noise else 1):
            moved = (
                data.points + rng.normal(0.0, noise, data.points.shape) if noise else data.points
            )
            verdict = nested(replace(data, points=moved), **how)
            rows.append({"noise_mm": float(noise), "draw": number, "auc": verdict.auc})
    return pd.DataFrame(rows)
