"""Frames and the maps between them.

Two frames exist. *World* is RAS in mm, as NIfTI has it: x to the right, y to the front, z up. A
*slice pixel* is (x, y) = (posterior, inferior), pixel centres at whole numbers. A `SliceGeometry`
ties one slice to the world of the scan that it was cut from, so that no point loses its frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from landmarking.errors import LandmarkError

Array = NDArray[np.floating[Any]]

LEFT = np.array([-1.0, 0.0, 0.0])
"""World direction that the normal of a mid-sagittal plane points to (the L of PIL)."""


def apply_affine(affine: Array, points: ArrayLike) -> Array:
    """Map points through a homogeneous matrix.

    Args:
        affine: Matrix of shape (4, 4).
        points: Points of shape (..., 3).

    Returns:
        Mapped points, shape (..., 3); NaN rows stay NaN.

    Raises:
        LandmarkError: If the shapes do not fit.
    """
    array = np.asarray(points, dtype=np.float64)
    if affine.shape != (4, 4) or array.shape[-1:] != (3,):
        raise LandmarkError(
            f"apply_affine takes a (4, 4) matrix and (..., 3) points, "
            f"got {affine.shape} and {array.shape}"
        )
    return array @ affine[:3, :3].T + affine[:3, 3]


def rigid_matrix(
    pitch_deg: float = 0.0,
    roll_deg: float = 0.0,
    yaw_deg: float = 0.0,
    shift_mm: ArrayLike = (0.0, 0.0, 0.0),
    centre_mm: ArrayLike = (0.0, 0.0, 0.0),
) -> Array:
    """Rigid motion of the head in world RAS: rotate about a centre, then shift.

    Args:
        pitch_deg: Nod, rotation about the left-right axis; applied first.
        roll_deg: Tilt to a shoulder, rotation about the front-back axis; applied second.
        yaw_deg: Turn, rotation about the vertical axis; applied last.
        shift_mm: Translation after the rotation, shape (3,).
        centre_mm: Fixed point of the rotation, shape (3,).

    Returns:
        Homogeneous matrix, shape (4, 4), determinant 1.
    """
    a, b, c = np.deg2rad([pitch_deg, roll_deg, yaw_deg])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    centre = np.asarray(centre_mm, dtype=np.float64)
    matrix = np.eye(4)
    matrix[:3, :3] = about_z @ about_y @ about_x
    matrix[:3, 3] = centre - matrix[:3, :3] @ centre + np.asarray(shift_mm, dtype=np.float64)
    return matrix


@dataclass(frozen=True, eq=False)
class Plane:
    """Oriented plane in world RAS: the points p with `normal . p = offset_mm`.

    Attributes:
        normal: Unit vector, shape (3,); of a mid-sagittal plane it points to the left.
        offset_mm: Signed distance of the plane from the world's origin, along the normal.
    """

    normal: Array
    offset_mm: float

    @classmethod
    def from_normal(cls, normal: ArrayLike, point_mm: ArrayLike) -> Self:
        """Plane through a point; the normal is scaled to length one and turned to the left.

        Args:
            normal: Direction of any length above zero, shape (3,).
            point_mm: A point of the plane in world RAS, shape (3,).

        Raises:
            LandmarkError: If the normal has no length or lies within the sagittal plane.
        """
        direction = np.asarray(normal, dtype=np.float64)
        length = float(np.linalg.norm(direction))
        if not np.isfinite(length) or length < 1e-12:
            raise LandmarkError(f"a plane's normal needs a length above zero, got {normal!r}")
        towards_left = float(direction @ LEFT)
        if towards_left == 0.0:
            raise LandmarkError(
                f"a mid-sagittal plane's normal needs a left-right part, got {normal!r}"
            )
        unit = direction / length * np.sign(towards_left)
        return cls(unit, float(unit @ np.asarray(point_mm, dtype=np.float64)))

    def distance_mm(self, points_mm: ArrayLike) -> Array:
        """Signed distance of world points, shape (..., 3) to (...), positive to the left."""
        points = np.asarray(points_mm, dtype=np.float64)
        return np.asarray(points @ self.normal - self.offset_mm)

    def project(self, points_mm: ArrayLike) -> Array:
        """Foot points on the plane, shape (..., 3) to (..., 3)."""
        points = np.asarray(points_mm, dtype=np.float64)
        return points - self.distance_mm(points)[..., None] * self.normal

    def reflection(self) -> Array:
        """Homogeneous matrix, shape (4, 4), that mirrors world points at the plane."""
        matrix = np.eye(4)
        matrix[:3, :3] -= 2.0 * np.outer(self.normal, self.normal)
        matrix[:3, 3] = 2.0 * self.offset_mm * self.normal
        return matrix

    def transformed(self, affine: Array) -> Plane:
        """The same plane after its points have moved through a (4, 4) world map."""
        # Covariant: normals move with the inverse transpose, so that shears keep them orthogonal.
        normal = np.linalg.inv(affine[:3, :3]).T @ self.normal
        return Plane.from_normal(normal, apply_affine(affine, self.offset_mm * self.normal))

    def angle_deg(self, other: Plane) -> float:
        """Angle between two planes, 0 to 90 degrees."""
        # atan2 of sine and cosine keeps small angles that arccos of a rounded 1 would lose.
        sine = float(np.linalg.norm(np.cross(self.normal, other.normal)))
        return float(np.rad2deg(np.arctan2(sine, abs(float(self.normal @ other.normal)))))


@dataclass(frozen=True, eq=False)
class SliceGeometry:
    """Where a slice lies in the world of its scan.

    Attributes:
        pixel_to_world: Matrix, shape (4, 4), from (x_px, y_px, left_mm, 1) to world RAS mm: x runs
            posterior, y inferior, and the third coordinate is the distance from the plane, in mm,
            positive to the left.
        shape: Slice size (rows, columns) = (y, x) in pixels.
    """

    pixel_to_world: Array
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        """Refuse geometries that could not be undone or that would mirror the head.

        Raises:
            LandmarkError: If the matrix is singular or turns left into right.
        """
        determinant = float(np.linalg.det(self.pixel_to_world[:3, :3]))
        # (posterior, inferior, left) is a left-handed frame and RAS a right-handed one.
        if not determinant < -1e-9:
            raise LandmarkError(
                f"a slice geometry maps (posterior, inferior, left) to RAS with a negative "
                f"determinant, got {determinant:.3g}: the slice is mirrored or degenerate"
            )

    @property
    def plane(self) -> Plane:
        """The slice's plane in world RAS."""
        in_plane = self.pixel_to_world[:3, :2]
        return Plane.from_normal(
            np.cross(in_plane[:, 0], in_plane[:, 1]), self.pixel_to_world[:3, 3]
        )

    @property
    def px_to_mm(self) -> Array:
        """In-plane metric, shape (2, 2): lengths of `px_to_mm @ pixel_offset` are mm."""
        # R of a QR decomposition carries all lengths and angles of the two columns; an affine
        # registration may have scaled and sheared them, and errors must stay in the scan's mm.
        upper = np.linalg.qr(self.pixel_to_world[:3, :2])[1]
        return np.asarray(upper * np.sign(np.diag(upper))[:, None], dtype=np.float64)

    def to_world(self, points_px: ArrayLike) -> Array:
        """Slice pixels, shape (..., 2), to world RAS mm, shape (..., 3)."""
        points = np.asarray(points_px, dtype=np.float64)
        return points @ self.pixel_to_world[:3, :2].T + self.pixel_to_world[:3, 3]

    def to_pixel(self, points_mm: ArrayLike) -> Array:
        """World RAS mm, shape (..., 3), to the slice pixels of their foot points, (..., 2)."""
        return apply_affine(np.linalg.inv(self.pixel_to_world), points_mm)[..., :2]

    def distance_mm(self, points_mm: ArrayLike) -> Array:
        """Signed distance of world points (..., 3) from the slice, positive to the left."""
        return self.plane.distance_mm(points_mm)

    def cropped(self, x: slice, y: slice) -> SliceGeometry:
        """Geometry of `image[y, x]`: same plane, origin moved to the crop's first pixel.

        Args:
            x: Columns kept, with whole start and stop.
            y: Rows kept, likewise.
        """
        matrix = self.pixel_to_world.copy()
        matrix[:3, 3] = self.to_world([x.start, y.start])
        return SliceGeometry(matrix, (y.stop - y.start, x.stop - x.start))

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON; `from_dict` gives the same geometry back exactly."""
        return {"pixel_to_world": self.pixel_to_world.tolist(), "shape": list(self.shape)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Inverse of `to_dict`."""
        rows, columns = data["shape"]
        return cls(np.array(data["pixel_to_world"], dtype=np.float64), (int(rows), int(columns)))
