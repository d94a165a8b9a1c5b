"""Cut the slices of a cohort: `python experiments/prepare.py cohort=phantom cohort/preset=demo`."""

from __future__ import annotations

import sys
from typing import Any, cast

import hydra
from omegaconf import DictConfig, OmegaConf

from landmarking.config import register_resolvers, settings
from landmarking.errors import LandmarkingError


@hydra.main(config_path="../conf", config_name="prepare", version_base="1.3")
def main(config: DictConfig) -> None:
    """Check the configuration, prepare or check the cohort, and print the summary."""
    from landmarking.prepare_command import PrepareConfig, run_preparation

    try:
        values = cast("dict[str, Any]", OmegaConf.to_container(config, resolve=True))
        print(run_preparation(settings(PrepareConfig, values)))
    except LandmarkingError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    register_resolvers()
    main()
