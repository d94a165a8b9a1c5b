"""Anatomical landmarks on the mid-sagittal plane of brain MRI: scan, slice, prediction, table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from landmarking.prediction.predict import predict as predict

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # `from landmarking import predict` without every import of the package waiting for torch.
    if name == "predict":
        from landmarking.prediction.predict import predict

        return predict
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
