"""Landmarks that the data find: where on the mid-sagittal plane two groups' deformations differ.

After Zhang et al. 2016, "Detecting Anatomical Landmarks for Fast Alzheimer's Disease Diagnosis",
IEEE Transactions on Medical Imaging 35(12), on deformations in place of patches: Hotelling's T2 of
the displacement at every point of the plane, its local maxima, a least distance between them, and
as many as stay above what exchanged labels reach.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.base import BaseEstimator, TransformerMixin

from landmarking.errors import LandmarkError
from landmarking.files import write_text
from landmarking.geometry import Array
from landmarking.landmarks import Landmark, LandmarkSet
from landmarking.shape.maps import Deformation, Grid

LEAST_MM = 10.0
"""Distance between two of them."""

MOST = 10
"""Number of them, at most."""


@dataclass(frozen=True, eq=False)
class Found:
    """Landmarks that the data have found.

    Attributes:
        points_mm: Template positions on the plane x = 0, world RAS mm, shape (K, 3).
        t2: Hotelling's T2 at each, shape (K,).
        threshold: What the largest T2 of exchanged labels stays below in 95 % of the draws.
        plane: T2 over the plane, shape (J, K); NaN outside the brain.
        y_mm: World mm of its first axis, shape (J,).
        z_mm: World mm of its second axis, shape (K,).
    """

    points_mm: Array
    t2: Array
    threshold: float
    plane: Array
    y_mm: Array
    z_mm: Array

    def landmark_set(self, name: str = "data_driven") -> LandmarkSet:
        """The points as a set that models learn."""
        marks = (
            Landmark(f"D{number}", f"data-driven landmark {number}", 100 + number, (), tuple(point))
            for number, point in enumerate(self.points_mm.tolist(), start=1)
        )
        return LandmarkSet(name, tuple(marks))


def hotelling_t2(first: Array, second: Array) -> Array:
    """Two-sample T2 at every point; first of shape (N, V, D), second (M, V, D); shape (V,)."""
    n, m = len(first), len(second)
    apart = first.mean(axis=0) - second.mean(axis=0)
    pooled = sum(
        np.einsum("nvi,nvj->vij", group - group.mean(axis=0), group - group.mean(axis=0))
        for group in (first, second)
    )
    pooled = pooled / (n + m - 2) + 1e-9 * np.eye(first.shape[2])
    solved = np.linalg.solve(pooled, apart[..., None])[..., 0]
    return np.asarray(n * m / (n + m) * np.einsum("vi,vi->v", apart, solved))


def find_landmarks(
    deformations: Sequence[Deformation],
    second: NDArray[np.bool_],
    grid: Grid,
    *,
    draws: int = 200,
    seed: int = 0,
) -> Found:
    """Find them on the mid-sagittal plane of the template.

    Whoever judges a classifier by them finds them anew on each fold's training people.

    Args:
        deformations: The people of both groups.
        second: Who is in the second group, shape (N,).
        grid: The template's voxels.
        draws: Exchanges of labels.
        seed: Of the exchanges.

    Raises:
        LandmarkError: If nothing stays above the threshold.
    """
    column = -grid.affine[0, 3] / grid.affine[0, 0]
    moves = np.array([_midplane(each.move_mm, column) for each in deformations])
    share = _midplane(grid.mask[None].astype(np.float32), column)[0]
    inside = ndimage.binary_erosion(share > 0.5)
    values = np.moveaxis(moves[:, 1:], 1, -1)[:, inside]  # along the plane: front and up
    rng = np.random.default_rng(seed)
    observed = hotelling_t2(values[second], values[~second])
    reached = []
    for _ in range(draws):
        side = rng.permutation(second)
        reached.append(hotelling_t2(values[side], values[~side]).max())
    threshold = float(np.percentile(reached, 95))
    plane = np.full(inside.shape, np.nan)
    plane[inside] = observed
    y_mm, z_mm = (
        grid.affine[axis, 3] + grid.affine[axis, axis] * np.arange(grid.mask.shape[axis])
        for axis in (1, 2)
    )
    filled = np.where(inside, np.nan_to_num(plane), 0.0)
    peaks = np.argwhere((filled == ndimage.maximum_filter(filled, 3)) & (filled > threshold))
    peaks = peaks[np.argsort(-filled[tuple(peaks.T)])]
    chosen: list[Array] = []
    for row, col in peaks:
        point = np.array([0.0, y_mm[row], z_mm[col]])
        if len(chosen) < MOST and all(np.linalg.norm(point - o) >= LEAST_MM for o in chosen):
            chosen.append(point)
    if not chosen:
        raise LandmarkError(
            f"no point of the plane differs between the groups beyond chance (T2 up to "
            f"{np.nanmax(plane):.1f}, exchanged labels up to {threshold:.1f}); take more people"
        )
    points = np.array(chosen)
    rows = np.rint((points[:, 1] - y_mm[0]) / grid.spacing_mm).astype(int)
    cols = np.rint((points[:, 2] - z_mm[0]) / grid.spacing_mm).astype(int)
    return Found(points, plane[rows, cols], threshold, plane, y_mm, z_mm)


def _midplane(volume: NDArray[np.float32], column: float) -> Array:
    """Values on the plane between two columns of voxels, shape (C, J, K)."""
    low = int(np.floor(column))
    part = column - low
    return np.asarray((1 - part) * volume[:, low] + part * volume[:, low + 1])


def plane_moves(deformations: Sequence[Deformation], grid: Grid) -> tuple[Array, Array]:
    """Displacements along the mid-sagittal plane.

    Args:
        deformations: N people.
        grid: The template's voxels.

    Returns:
        Front and up in mm at each of V points within the brain, shape (N, V, 2); and where these
        points lie, mm, shape (V, 2).
    """
    column = -grid.affine[0, 3] / grid.affine[0, 0]
    inside = ndimage.binary_erosion(_midplane(grid.mask[None].astype(np.float32), column)[0] > 0.5)
    moves = np.array([_midplane(each.move_mm, column)[1:] for each in deformations])
    places = np.argwhere(inside) * np.diag(grid.affine)[1:3] + grid.affine[1:3, 3]
    return np.moveaxis(moves, 1, -1)[:, inside], places


class DrivenMoves(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Displacements at the points where the training people's groups differ most.

    The points are found anew on the training people of every fold, so that nobody who is tested has
    a say in where they lie.
    """

    def __init__(self, places: Array, count: int = 3) -> None:
        self.places = places
        self.count = count

    def fit(self, rows: Array, labels: NDArray[np.int64]) -> DrivenMoves:
        """Find the points, of rows of shape (N, V * 2) and labels 0 and 1."""
        moves = np.asarray(rows, float).reshape(len(rows), -1, 2)
        found = hotelling_t2(moves[labels == 1], moves[labels == 0])
        self.chosen_: list[int] = []
        for index in np.argsort(-found):
            apart = np.linalg.norm(self.places[self.chosen_] - self.places[index], axis=1)
            if (apart >= LEAST_MM).all():
                self.chosen_.append(int(index))
            if len(self.chosen_) == self.count:
                break
        return self

    def transform(self, rows: Array) -> Array:
        """Front and up at these points, shape (N, 2 * count)."""
        moves = np.asarray(rows, float).reshape(len(rows), -1, 2)
        return moves[:, self.chosen_].reshape(len(rows), -1)


def write_set(path: Path, landmarks: LandmarkSet) -> None:
    """Write a landmark set as a file that `landmarks.set=FILE.json` takes.

    Args:
        path: The file.
        landmarks: The set.
    """
    rows = [
        {
            "name": each.name,
            "title": each.title,
            "afid": each.afid,
            "aliases": list(each.aliases),
            "template_mm": list(each.template_mm),
        }
        for each in landmarks.landmarks
    ]
    body = {"name": landmarks.name, "landmarks": rows}
    write_text(path, json.dumps(body, indent=1) + "\n")
