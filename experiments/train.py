"""Train one model or a sweep: `python experiments/train.py experiment=demo_sl`."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from landmarking.command_line import answer, start


@hydra.main(config_path="../conf", config_name="train", version_base="1.3")
def main(config: DictConfig) -> None:
    """Check the configuration, prepare the cohort if need be, train, and print one line."""
    from landmarking.training import TrainingConfig, train

    answer(config, TrainingConfig, lambda checked: train(checked).summary())


if __name__ == "__main__":
    start(main, "train")
