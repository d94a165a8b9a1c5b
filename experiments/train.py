"""Train one model or a sweep: `python experiments/train.py experiment=demo_sl`."""

from __future__ import annotations

import sys

import hydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue

from landmarking.config import admit_keys, register_resolvers, settings
from landmarking.errors import LandmarkingError


@hydra.main(config_path="../conf", config_name="train", version_base="1.3")
def main(config: DictConfig) -> None:
    """Check the configuration, prepare the cohort if need be, train, and print one line."""
    from landmarking.training import TrainingConfig, train

    try:
        values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        assert isinstance(values, dict)
        print(train(settings(TrainingConfig, {str(k): v for k, v in values.items()})).summary())
    except MissingMandatoryValue as error:
        print(f"{error.full_key}: set it, as in {error.full_key}=DIR", file=sys.stderr)
        sys.exit(2)
    except LandmarkingError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    register_resolvers()
    sys.argv[1:] = admit_keys(sys.argv[1:])
    main()
