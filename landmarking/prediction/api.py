"""The Python call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from landmarking.imaging.scan import Scan
from landmarking.prediction.models import open_model
from landmarking.prediction.predictor import predict_scan
from landmarking.prediction.result import ScanPrediction


def predict(
    scan: str | Path | Scan, *, model: str | Path | Sequence[str | Path] | None = None
) -> ScanPrediction:
    """Find the landmarks of a T1 scan.

    Args:
        scan: NIfTI file (`.nii`, `.nii.gz`), or a scan from `landmarking.imaging.scan.load_scan`.
        model: None for the model that ships with the package; a packed model (`.zip`); a folder of
            one's own run or study, or several.

    Returns:
        Landmarks in the scan's world RAS mm, with radii, flags, the slice and its geometry.

    Raises:
        ScanError: If the scan cannot be read or is no three-dimensional head.
        ConfigError: If the model cannot be opened.

    Example:
        >>> found = predict("scan.nii.gz")  # doctest: +SKIP
        >>> found.points_mm["AC"]  # doctest: +SKIP
        array([ 0.3,  1.8, -4.2])
    """
    if model is None:
        sources: Sequence[str | Path] = ()
    elif isinstance(model, str | Path):
        sources = (model,)
    else:
        sources = model
    return predict_scan(Path(scan) if isinstance(scan, str) else scan, open_model(sources))
