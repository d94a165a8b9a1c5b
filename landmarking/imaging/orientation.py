"""Canonical orientation of the voxel axes: PIL, as the paper has it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from nibabel import orientations as _orientations

from landmarking.imaging.scan import Scan

orientations: Any = _orientations  # nibabel's functions carry no types

_PIL = orientations.axcodes2ornt(("P", "I", "L"))


def to_pil(scan: Scan) -> Scan:
    """Reorder and flip the voxel axes so that they run posterior, inferior, left.

    Exact: voxels are moved, never interpolated, and the affine follows them, so that every voxel
    keeps its world position. An oblique scan stays oblique; its axes are the nearest to PIL.

    Args:
        scan: Scan of shape (I, J, K) in any of the 48 axis orientations.

    Returns:
        The same voxels, contiguous in memory, in the new order; world RAS is unchanged.
    """
    current = orientations.io_orientation(scan.affine)
    change = orientations.ornt_transform(current, _PIL)
    data = np.ascontiguousarray(orientations.apply_orientation(scan.data, change))
    affine = scan.affine @ orientations.inv_ornt_aff(change, scan.data.shape)
    return replace(scan, data=data, affine=affine)
