"""Figure 1 whole: `python experiments/framework.py cohort=phantom cohort/preset=demo`."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from landmarking.shells import answer, start


@hydra.main(config_path="../conf", config_name="framework", version_base="1.3")
def main(config: DictConfig) -> None:
    """Check the configuration, go through the frame, and print the main figures and the paths."""
    from landmarking.shape.framework import FrameworkConfig, run_framework

    answer(config, FrameworkConfig, run_framework)


if __name__ == "__main__":
    start(main, "framework")
