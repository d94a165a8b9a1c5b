"""Train one model or a sweep: `python experiments/train.py experiment=demo_sl`."""

from __future__ import annotations

import math

import hydra
from omegaconf import DictConfig

from landmarking.shells import answer, start


@hydra.main(config_path="../conf", config_name="train", version_base="1.3")
def main(config: DictConfig) -> float:
    """Check the configuration, prepare the cohort if need be, train, and print one line.

    Returns:
        The metric that `objective` names, for sweepers that optimise it; infinity, which they take
        for the worst, where it was not measured.
    """
    from landmarking.training.settings import TrainingConfig
    from landmarking.training.train import train

    value = answer(config, TrainingConfig, train).objective
    return value if math.isfinite(value) else math.inf


if __name__ == "__main__":
    start(main, "train")
