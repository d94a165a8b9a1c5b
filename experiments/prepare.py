"""Cut the slices of a cohort: `python experiments/prepare.py cohort=phantom cohort/preset=demo`."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from landmarking.shells import answer, start


@hydra.main(config_path="../conf", config_name="prepare", version_base="1.3")
def main(config: DictConfig) -> None:
    """Check the configuration, prepare or check the cohort, and print the summary."""
    from landmarking.preparation.prepare import PrepareConfig, run_preparation

    answer(config, PrepareConfig, run_preparation)


if __name__ == "__main__":
    start(main, "prepare")
