"""The common space: the ICBM152 2009a symmetric average that nilearn ships.

Source: Fonov et al. 2011; the average of 152 T1 scans, brain only, 1 mm, with grey and white matter
maps. Its world (RAS mm) is the common space, in which the AFIDs positions of the template live.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from landmarking.errors import ScanError
from landmarking.geometry import Array

_FILES = {
    "brain": "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz",
    "grey": "mni_icbm152_gm_tal_nlin_sym_09a_converted.nii.gz",
    "white": "mni_icbm152_wm_tal_nlin_sym_09a_converted.nii.gz",
}


@dataclass(frozen=True, eq=False)
class Template:
    """The template's volumes on one 1 mm grid.

    Attributes:
        brain: T1 intensities of the brain, 0 outside it, at most 1; float32, shape (197, 233, 189).
        grey: Grey matter probability, 0 to 1, same grid.
        white: White matter probability, 0 to 1, same grid.
        brain_mask: Brain with its ventricles and sulci, no holes, same grid.
        affine: Voxel to common space (RAS mm), shape (4, 4).
        digest: SHA-256 of the three files' bytes, hexadecimal.
    """

    brain: NDArray[np.float32]
    grey: NDArray[np.float32]
    white: NDArray[np.float32]
    brain_mask: NDArray[np.bool_]
    affine: Array
    digest: str


@lru_cache(maxsize=1)
def load_template() -> Template:
    """Read the template once per process; treat the arrays as read-only, they are shared.

    Raises:
        ScanError: If nilearn is not installed or no longer ships the files.
    """
    paths = {name: _folder() / file for name, file in _FILES.items()}
    missing = [path.name for path in paths.values() if not path.is_file()]
    if missing:
        raise ScanError(
            f"template: nilearn's data folder has no {', '.join(missing)}; "
            "install the nilearn version named in constraints.txt"
        )
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in paths.values())).hexdigest()
    images: dict[str, Any] = {name: nib.load(path) for name, path in paths.items()}
    volumes = {name: _unit_range(np.asanyarray(image.dataobj)) for name, image in images.items()}
    outside, _ = ndimage.label(volumes["brain"] <= 0.0)
    mask = np.asarray(outside != outside[0, 0, 0])
    for volume in (*volumes.values(), mask):
        volume.setflags(write=False)
    affine = np.asarray(images["brain"].affine, dtype=np.float64)
    return Template(**volumes, brain_mask=mask, affine=affine, digest=digest)


def _folder() -> Path:
    # The files are found without importing nilearn, which takes two seconds.
    spec = find_spec("nilearn")
    if spec is None or spec.origin is None:
        raise ScanError("template: nilearn is not installed; install this package's dependencies")
    return Path(spec.origin).parent / "datasets" / "data"


def _unit_range(data: NDArray[np.generic]) -> NDArray[np.float32]:
    volume = np.asarray(data, dtype=np.float32)
    return np.asarray(volume / volume.max(), dtype=np.float32)
