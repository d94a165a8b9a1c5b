"""Pictures of a study's report and TensorBoard: `python experiments/screenshots.py`."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from landmarking.shells import answer, start


@hydra.main(config_path="../conf", config_name="screenshots", version_base="1.3")
def main(config: DictConfig) -> None:
    """Check the configuration, take the pictures, and print their paths."""
    from landmarking.evaluation.screenshots import ScreenshotsConfig, take_screenshots

    answer(
        config, ScreenshotsConfig, lambda checked: "\n".join(map(str, take_screenshots(checked)))
    )


if __name__ == "__main__":
    start(main, "screenshots")
