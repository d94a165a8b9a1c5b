"""The people of a prepared cohort as maps to be painted: their own tissues on their own slices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from landmarking.data.template_slab import BENT, CHANNELS, MARGIN_PX, TemplateSlab
from landmarking.data.warp import SliceWarp
from landmarking.errors import ConfigError
from landmarking.geometry import Array
from landmarking.imaging.tissues import DISTANCE_LOW_MM, DISTANCE_STEP_MM, MAPS

if TYPE_CHECKING:
    from landmarking.data.prepared import PreparedCohort

_TONES = (0.44, 0.82, 0.24)
"""Intensities that grey matter, white matter and fluid have in the template."""


@dataclass(frozen=True, eq=False)
class CohortPeople:
    """Maps of a cohort's people, kept as bytes.

    Attributes:
        tissues: Tissue maps, see `landmarking.imaging.tissues`, uint8, shape (N, 4, H, W).
        regions: Soft masks of cortex, cerebellum and face, uint8, shape (N, 3, H, W).
        known: Whether a slice has tissue maps, shape (N,).
    """

    tissues: Tensor
    regions: Tensor
    known: Tensor

    def to(self, device: torch.device) -> CohortPeople:
        """The same people on a device."""
        return CohortPeople(self.tissues.to(device), self.regions.to(device), self.known.to(device))

    def maps(self, subjects: Tensor, warp: SliceWarp) -> Tensor:
        """Maps of some people, warped.

        Args:
            subjects: Numbers of the slices within their cohort, shape (B,).
            warp: Where each pixel looks; beyond the edge a slice's border goes on.

        Returns:
            Maps as `CHANNELS` names them, shape (B, 7, H, W).
        """
        chosen = torch.cat([self.tissues[subjects], self.regions[subjects]], dim=1)
        rows, columns = chosen.shape[-2:]
        span = torch.tensor([columns - 1, rows - 1], device=chosen.device, dtype=torch.float32)
        at = 2.0 * warp.grid() / span - 1.0
        maps = grid_sample(chosen.float(), at, padding_mode="border", align_corners=True)
        shares = maps[:, :3] / 255.0
        tones = torch.tensor(_TONES, device=maps.device)[:, None, None]
        t1 = (tones * shares).sum(1, keepdim=True)
        distance = maps[:, 3:4] * DISTANCE_STEP_MM + DISTANCE_LOW_MM
        return torch.cat([t1, shares[:, :2], distance, maps[:, len(MAPS) :] / 255.0], dim=1)


def cohort_people(cohort: PreparedCohort, slab: TemplateSlab, columns: list[int]) -> CohortPeople:
    """Maps of all people of a cohort.

    Args:
        cohort: The prepared cohort.
        slab: The template, whose regions are laid over each slice by its landmarks.
        columns: Position of each of the cohort's landmarks within `afids32`.

    Raises:
        ConfigError: If no scan of the cohort has tissue maps.
    """
    if cohort.tissues is None:
        raise ConfigError(
            f"augment.source: cohort {cohort.name} has no tissue maps to paint; take "
            "augment.source=people, or put maps beside the scans as "
            "derivatives/*/sub-*/anat/*_label-{GM,WM,CSF}_probseg.nii.gz and prepare it again"
        )
    tissues = torch.from_numpy(np.array(cohort.tissues))
    template_px = slab.landmarks_px[columns].cpu().numpy()
    regions = [_regions(slab, points, template_px) for points in cohort.points_px]
    return CohortPeople(tissues, torch.stack(regions), (tissues[:, :3] > 0).flatten(1).any(1))


def _regions(slab: TemplateSlab, points_px: Array, template_px: Array) -> Tensor:
    """The template's regions on one slice, as bytes, shape (3, H, W)."""
    matrix = torch.from_numpy(_to_template(points_px, template_px)).float()
    rows, columns = slab.size
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    at = torch.stack([x, y, torch.ones_like(x)], dim=-1).float() @ matrix
    masks = slab.pairs[:1, BENT : len(CHANNELS)].cpu()
    span = torch.tensor([masks.shape[-1] - 1, masks.shape[-2] - 1])
    at = 2.0 * (at + MARGIN_PX) / span - 1.0
    found = grid_sample(masks, at[None], padding_mode="border", align_corners=True)
    return (255.0 * found[0]).round().to(torch.uint8)


def _to_template(points_px: Array, template_px: Array) -> Array:
    """Least-squares affine map from a slice to the template's, shape (3, 2)."""
    known = np.isfinite(points_px).all(axis=-1)
    if known.sum() < 4:
        # Registration has brought the slice near the template's already.
        return np.eye(3, 2)
    source = np.column_stack([points_px[known], np.ones(known.sum())])
    return np.asarray(np.linalg.lstsq(source, template_px[known], rcond=None)[0])
