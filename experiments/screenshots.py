"""Pictures of a study's report and TensorBoard: `python experiments/screenshots.py`."""

from __future__ import annotations

import sys

import hydra
from omegaconf import DictConfig, OmegaConf

from landmarking.config import register_resolvers, settings
from landmarking.errors import LandmarkingError


@hydra.main(config_path="../conf", config_name="screenshots", version_base="1.3")
def main(config: DictConfig) -> None:
    """Check the configuration, take the pictures, and print their paths."""
    from landmarking.evaluation.screenshots import ScreenshotsConfig, take_screenshots

    try:
        values = OmegaConf.to_container(config, resolve=True)
        assert isinstance(values, dict)
        checked = settings(ScreenshotsConfig, {str(key): values[key] for key in values})
        print(*take_screenshots(checked), sep="\n")
    except LandmarkingError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    register_resolvers()
    main()
