"""Which model: the one that ships with the package, a packed one, or one's own runs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from landmarking.errors import ConfigError
from landmarking.prediction.model import LandmarkModel
from landmarking.prediction.package import SUFFIX, read_package
from landmarking.prediction.runs import model_from_runs

SHIPPED = Path(__file__).resolve().parents[1] / "weights" / "default.zip"
"""The model that comes with the package."""


def open_model(sources: Sequence[str | Path] = ()) -> LandmarkModel:
    """Open a model; the same one is opened once per process.

    Args:
        sources: None for the model that ships with the package; one packed model; or folders of
            runs or of studies with runs in them.

    Raises:
        ConfigError: If there is no such model, it is damaged, or runs do not belong together.
    """
    return _open(tuple(str(source) for source in sources) or (str(SHIPPED),))


@lru_cache(maxsize=2)
def _open(sources: tuple[str, ...]) -> LandmarkModel:
    paths = [Path(source) for source in sources]
    packed = [path for path in paths if path.suffix == SUFFIX]
    if packed and len(paths) > 1:
        raise ConfigError(f"{packed[0]}: a packed model is used alone; give it as the only one")
    if packed:
        return read_package(packed[0])
    return model_from_runs(paths)
