"""A trained study on another cohort: `python experiments/evaluate.py runs=DIR cohort=bids ...`."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from landmarking.shells import answer, start


@hydra.main(config_path="../conf", config_name="evaluate", version_base="1.3")
def main(config: DictConfig) -> None:
    """Check the configuration, predict the cohort with every run, and print the errors."""
    from landmarking.training.evaluate import TransferConfig, evaluate_runs

    answer(config, TransferConfig, lambda checked: evaluate_runs(checked).summary())


if __name__ == "__main__":
    start(main, "evaluate")
