"""Where in the brain two groups differ, voxel by voxel: deformation of each scan to the template.

A scan is brought to the common space by our affine registration, then bent onto the template: by
SyN (antspyx) where that is installed, else by diffeomorphic demons (SimpleITK), else not at all,
and whoever reads the result is told. Tests are nilearn's permutations with max-T, and TFCE.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from landmarking.errors import ConfigError, ScanError
from landmarking.files import atomic_path
from landmarking.geometry import Array, apply_affine
from landmarking.imaging.registration import register
from landmarking.imaging.scan import Scan, load_scan, to_pil
from landmarking.imaging.template import block_average, load_template
from landmarking.phantom.person import PhantomSettings, Subject, anatomy, generator
from landmarking.phantom.scanner import scanner_frame
from landmarking.preparation.cache import stage_key

nib: Any = import_module("nibabel")

METHODS = ("auto", "syn", "demons", "affine")

VERSION = 1
"""Part of the cache's keys: raise it when a deformation comes out otherwise."""

_WIDER_MM = 4.0
"""The template's brain mask is widened by this before anything is compared within it."""


@dataclass(frozen=True, eq=False)
class Grid:
    """The template on voxels of a few mm.

    Attributes:
        brain: Intensities, shape (I, J, K).
        mask: Brain, same shape.
        affine: Voxel to common space, shape (4, 4); its axes run right, front and up.
        spacing_mm: Edge of a voxel.
    """

    brain: NDArray[np.float32]
    mask: NDArray[np.bool_]
    affine: Array
    spacing_mm: float


@lru_cache(maxsize=4)
def template_grid(spacing_mm: float) -> Grid:
    """The template in voxels of `spacing_mm` (whole mm)."""
    template = load_template()
    brain, affine = block_average(template.brain, template.affine, spacing_mm)
    share, _ = block_average(template.brain_mask.astype(np.float32), template.affine, spacing_mm)
    return Grid(brain, share > 0.5, affine, float(affine[0, 0]))


@dataclass(frozen=True, eq=False)
class Deformation:
    """Where the template's points lie in a scan.

    Attributes:
        move_mm: Displacement in the common space at every voxel of the grid, shape (3, I, J, K):
            what lies at x in the template lies at x + move in the scan brought there.
        to_common: Scan world RAS mm to common space, affine, shape (4, 4).
        grey: Share of grey matter at every voxel of the grid, where the scan shows it there.
        correlation: With the template, within its brain, after all.
        method: `syn`, `demons` or `affine`.
        spacing_mm: Voxels of the grid.
    """

    move_mm: NDArray[np.float32]
    to_common: Array
    grey: NDArray[np.float32]
    correlation: float
    method: str
    spacing_mm: float

    @property
    def log_jacobian(self) -> NDArray[np.float32]:
        """Logarithm of local volume by the template's, the affine part apart, shape (I, J, K)."""
        return log_jacobian(self.move_mm, self.spacing_mm)

    @property
    def head_size(self) -> float:
        """Edge of the head by the template's, from the affine part."""
        return float(1.0 / np.cbrt(np.linalg.det(self.to_common[:3, :3])))

    def carried(self, points_mm: Array) -> Array:
        """World RAS mm in the scan of points of the template, shape (N, 3)."""
        affine = template_grid(self.spacing_mm).affine
        voxels = apply_affine(np.linalg.inv(affine), points_mm).T
        move = [
            ndimage.map_coordinates(part, voxels, order=1, mode="nearest") for part in self.move_mm
        ]
        return apply_affine(np.linalg.inv(self.to_common), points_mm + np.stack(move, axis=-1))


def log_jacobian(move_mm: NDArray[np.float32], spacing_mm: float) -> NDArray[np.float32]:
    """Logarithm of the volume ratio of a displacement field of shape (3, I, J, K)."""
    slopes = np.array([np.gradient(part, spacing_mm) for part in move_mm])
    slopes = np.moveaxis(slopes, (0, 1), (-2, -1)) + np.eye(3)
    found: NDArray[np.float32] = np.log(np.maximum(np.linalg.det(slopes), 0.05)).astype(np.float32)
    return found


def method_here(method: str) -> str:
    """The registration that `auto` stands for on this machine.

    Raises:
        ConfigError: If the method is unknown, or not installed.
    """
    if method not in METHODS:
        raise ConfigError(f"registration is one of {', '.join(METHODS)}, found {method!r}")
    needs = {"syn": "ants", "demons": "SimpleITK"}
    if method == "auto":
        there = (name for name, module in needs.items() if find_spec(module) is not None)
        return next(there, "affine")
    if method in needs and find_spec(needs[method]) is None:
        raise ConfigError(
            f'registration={method} needs pip install "landmarking[framework]"; affine needs none'
        )
    return method


def deform(scan: Scan, spacing_mm: float = 4.0, method: str = "demons") -> Deformation:
    """Bend a scan onto the template.

    Args:
        scan: Head or brain, any orientation.
        spacing_mm: Voxels in which it is done.
        method: `syn`, `demons` or `affine`.

    Raises:
        ScanError: If the affine registration finds no head.
    """
    canonical = to_pil(scan)
    placed = register(canonical, "affine")
    if not placed.ok:
        raise ScanError(
            f"{scan.name}: the registration is doubtful ({placed.quality:.2f}), so no map is made "
            "of it; look at the scan, or leave it out in scans.tsv"
        )
    grid = template_grid(spacing_mm)
    wide = ndimage.binary_dilation(grid.mask, iterations=max(1, round(_WIDER_MM / spacing_mm)))
    to_voxel = np.linalg.inv(placed.world_to_common @ canonical.affine) @ grid.affine
    size = np.linalg.norm(canonical.affine[:3, :3], axis=0)
    blurred = ndimage.gaussian_filter(canonical.data, 0.4 * spacing_mm / size)
    moving = ndimage.affine_transform(
        blurred, to_voxel[:3, :3], to_voxel[:3, 3], output_shape=grid.brain.shape, order=1
    )
    fixed = np.where(wide, grid.brain, 0.0).astype(np.float32)
    moving = np.where(wide, moving, 0.0).astype(np.float32)
    bend = {"demons": _demons, "syn": _syn}.get(method)
    move = np.zeros((3, *fixed.shape), np.float32) if bend is None else bend(fixed, moving, grid)
    index = np.indices(fixed.shape) + move / grid.spacing_mm
    warped = ndimage.map_coordinates(moving, index, order=1)
    correlation = float(np.corrcoef(warped[grid.mask], fixed[grid.mask])[0, 1])
    grey = _grey_share(warped, grid.mask)
    return Deformation(move, placed.world_to_common, grey, correlation, method, grid.spacing_mm)


def _demons(
    fixed: NDArray[np.float32], moving: NDArray[np.float32], grid: Grid
) -> NDArray[np.float32]:
    """Diffeomorphic demons (Vercauteren et al. 2009) on three levels."""
    itk: Any = import_module("SimpleITK")
    target, source = (_image(itk, data, grid.spacing_mm) for data in (fixed, moving))
    source = itk.HistogramMatching(
        source,
        target,
        numberOfHistogramLevels=256,
        numberOfMatchPoints=12,
        thresholdAtMeanIntensity=True,
    )
    field: Any = None
    for shrink, steps in ((3, 40), (2, 30), (1, 20)):
        pair = [_shrunk(itk, image, shrink, grid.spacing_mm) for image in (target, source)]
        demons = itk.DiffeomorphicDemonsRegistrationFilter()
        demons.SetNumberOfIterations(steps)
        demons.SetStandardDeviations(1.5)
        demons.SetSmoothUpdateField(True)
        demons.SetUpdateFieldStandardDeviations(1.0)
        demons.SetNumberOfThreads(1)  # the same numbers whatever the machine
        start: list[Any] = [] if field is None else [_on(itk, field, pair[0])]
        field = demons.Execute(*pair, *start)
    values = itk.GetArrayFromImage(field)
    return np.asarray(np.transpose(values, (3, 2, 1, 0)), np.float32)


def _image(itk: Any, data: NDArray[np.float32], spacing_mm: float) -> Any:
    image = itk.GetImageFromArray(np.ascontiguousarray(data.T))
    image.SetSpacing((spacing_mm,) * 3)
    return image


def _shrunk(itk: Any, image: Any, by: int, spacing_mm: float) -> Any:
    if by == 1:
        return image
    return itk.Shrink(itk.DiscreteGaussian(image, (0.5 * by * spacing_mm) ** 2), (by,) * 3)


def _on(itk: Any, field: Any, image: Any) -> Any:
    return itk.Resample(field, image, itk.Transform(), itk.sitkLinear, 0.0, field.GetPixelID())


def _syn(
    fixed: NDArray[np.float32], moving: NDArray[np.float32], grid: Grid
) -> NDArray[np.float32]:
    """SyN of ANTs (Avants et al. 2008), its affine part left out: that is done."""
    ants: Any = import_module("ants")
    pair = [ants.from_numpy(data, spacing=(grid.spacing_mm,) * 3) for data in (fixed, moving)]
    done = ants.registration(*pair, type_of_transform="SyNOnly", initial_transform="identity")
    warp = next(path for path in done["fwdtransforms"] if path.endswith(".nii.gz"))
    values = np.asarray(nib.load(warp).dataobj).squeeze()
    return np.asarray(np.moveaxis(values, -1, 0), np.float32)


def _grey_share(image: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Probability of the middle one of three classes of intensity within the brain."""
    from sklearn.mixture import GaussianMixture

    values = image[mask].reshape(-1, 1).astype(float)
    starts = np.percentile(values, [10, 45, 85]).reshape(-1, 1)
    classes = GaussianMixture(3, means_init=starts, random_state=0, max_iter=50).fit(values)
    middle = int(np.argsort(classes.means_.ravel())[1])
    share = np.zeros(image.shape, np.float32)
    share[mask] = classes.predict_proba(values)[:, middle]
    return share


@dataclass(frozen=True)
class DeformJob:
    """One scan to deform, and where the result is kept."""

    scan: Path
    digest: str
    folder: Path
    spacing_mm: float
    method: str
    allow_scaled: bool = False

    @property
    def path(self) -> Path:
        """The cached result."""
        key = stage_key("deformation", VERSION, [self.digest, self.spacing_mm, self.method])
        return self.folder / f"{key[:24]}.npz"


def deformed(job: DeformJob) -> tuple[Deformation | None, str]:
    """Deform one scan, or find it done; what is wrong comes back as text.

    Args:
        job: The scan.
    """
    if job.path.exists():
        return read_deformation(job.path), ""
    try:
        found = deform(
            load_scan(job.scan, allow_scaled=job.allow_scaled), job.spacing_mm, job.method
        )
    except ScanError as error:
        return None, str(error)
    with atomic_path(job.path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            move_mm=found.move_mm.astype(np.float16),
            to_common=found.to_common,
            grey=found.grey.astype(np.float16),
            correlation=found.correlation,
            method=found.method,
            spacing_mm=found.spacing_mm,
        )
    return read_deformation(job.path), ""


def read_deformation(path: Path) -> Deformation:
    """Read what `deformed` has kept."""
    with np.load(path) as kept:
        return Deformation(
            kept["move_mm"].astype(np.float32),
            kept["to_common"],
            kept["grey"].astype(np.float32),
            float(kept["correlation"]),
            str(kept["method"]),
            float(kept["spacing_mm"]),
        )


def smoothed(maps: Sequence[NDArray[np.float32]], grid: Grid, fwhm_mm: float) -> Array:
    """Maps smoothed within the brain, shape (N, voxels of the mask)."""
    sigma = fwhm_mm / 2.3548 / grid.spacing_mm
    weight = ndimage.gaussian_filter(grid.mask.astype(np.float32), sigma)[grid.mask]
    inside = (np.where(grid.mask, each, 0.0).astype(np.float32) for each in maps)
    return np.array([ndimage.gaussian_filter(each, sigma)[grid.mask] / weight for each in inside])


@dataclass(frozen=True, eq=False)
class GroupMap:
    """A comparison of two groups, voxel by voxel.

    Attributes:
        difference: Mean of the second group less that of the first, voxels of the mask, shape (V,).
        t: Statistic of the second group against the first, covariates taken out, shape (V,).
        p: Family-wise corrected by max-T, two-sided, shape (V,).
        p_tfce: Likewise of threshold-free cluster enhancement (Smith and Nichols 2009); None
            where it was not asked for.
    """

    difference: Array
    t: Array
    p: Array
    p_tfce: Array | None = None


def compare_maps(
    values: Array,
    second: NDArray[np.bool_],
    covariates: Mapping[str, Array],
    grid: Grid | None = None,
    *,
    permutations: int = 500,
    tfce: bool = False,
    seed: int = 0,
    workers: int = 1,
) -> GroupMap:
    """Test every voxel, corrected for all of them.

    Args:
        values: One row a person, shape (N, V).
        second: Who is in the second group, shape (N,).
        covariates: Numbers by name, shape (N,) each; constant ones are left out.
        grid: Where the voxels lie; for TFCE.
        permutations: Exchanges.
        tfce: Also clusters.
        seed: Of the exchanges.
        workers: Processes.
    """
    from nilearn.maskers import NiftiMasker
    from nilearn.mass_univariate import permuted_ols

    varying = [v for v in covariates.values() if np.nanstd(v) > 0 and np.isfinite(v).all()]
    confounds = np.column_stack(varying) if varying else None
    masker = None
    if tfce and grid is not None:
        image = nib.Nifti1Image(grid.mask.astype(np.uint8), grid.affine)
        masker = NiftiMasker(image).fit()
    apart = values[second].mean(axis=0) - values[~second].mean(axis=0)
    varies = values.std(axis=0) > 0.0
    if not varies.any():
        # As after an affine registration, which moves nothing within the brain.
        return GroupMap(apart, np.zeros(len(apart)), np.ones(len(apart)))
    if not varies.all():
        masker = None
    found = permuted_ols(
        second.astype(float)[:, None],
        values[:, varies],
        confounds,
        n_perm=permutations,
        random_state=seed,
        n_jobs=workers,
        masker=masker,
        tfce=masker is not None,
        output_type="dict",
    )
    t, p = np.zeros(len(apart)), np.ones(len(apart))
    t[varies] = np.asarray(found["t"]).ravel()
    p[varies] = 10.0 ** -np.asarray(found["logp_max_t"]).ravel()
    clusters = None if masker is None else 10.0 ** -np.asarray(found["logp_max_tfce"]).ravel()
    return GroupMap(apart, t, p, clusters)


def write_map(path: Path, values: Array, grid: Grid) -> None:
    """Write values of the mask's voxels as NIfTI in the template's space.

    Args:
        path: `.nii.gz`.
        values: Shape (V,).
        grid: Where they lie.
    """
    volume = np.zeros(grid.mask.shape, np.float32)
    volume[grid.mask] = values
    image = nib.Nifti1Image(volume, grid.affine)
    image.header.set_xyzt_units("mm")
    with atomic_path(path) as temporary:
        nib.save(image, temporary)


def true_deformation(settings: PhantomSettings, subject: Subject, grid: Grid) -> Array:
    """Where a phantom's own warp puts the template's points, affine part apart.

    Args:
        settings: Of its cohort.
        subject: The scan.
        grid: The template's voxels.

    Returns:
        Displacement in the common space at every voxel, shape (3, I, J, K), as `Deformation` has
        it; exact within the brain.
    """
    visit = generator(settings.seed, subject.group, subject.index, 1 + subject.scan)
    frame = scanner_frame(settings.scanner, visit)
    warp = anatomy(settings, subject, frame).warp
    voxels = np.moveaxis(np.indices(grid.mask.shape), 0, -1).reshape(-1, 3)
    common = apply_affine(grid.affine, voxels)
    inside = grid.mask.ravel()
    world = apply_affine(frame.affine, warp.inverse(common[inside]))
    ones = np.column_stack([world, np.ones(len(world))])
    fit = np.linalg.lstsq(ones, common[inside], rcond=None)[0]
    move = np.zeros((len(common), 3))
    move[inside] = ones @ fit - common[inside]
    return np.moveaxis(move.reshape(*grid.mask.shape, 3), -1, 0)
