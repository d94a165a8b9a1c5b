"""Anatomical landmarks on the mid-sagittal plane of brain MRI: scan, slice, prediction, table.

`predict`, `predict_many` and `msp` take a scan (a file, an image of nibabel or SimpleITK) and write
nothing; docs/predict.md.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from landmarking.prediction.msp import Midsagittal as Midsagittal
    from landmarking.prediction.msp import msp as msp
    from landmarking.prediction.predict import Prediction as Prediction
    from landmarking.prediction.predict import predict as predict
    from landmarking.prediction.predict import predict_many as predict_many

__version__ = "0.1.0"

_WHERE = {
    "Midsagittal": "landmarking.prediction.msp",
    "Prediction": "landmarking.prediction.predict",
    "msp": "landmarking.prediction.msp",
    "predict": "landmarking.prediction.predict",
    "predict_many": "landmarking.prediction.predict",
}

__all__ = ["Midsagittal", "Prediction", "__version__", "msp", "predict", "predict_many"]


def __getattr__(name: str) -> Any:
    # Not every import of the package is to wait for torch.
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
