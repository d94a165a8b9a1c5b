"""A trained study on another cohort: `python experiments/evaluate.py runs=DIR cohort=bids ...`."""

from __future__ import annotations

import sys

import hydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue

from landmarking.config import admit_keys, register_resolvers, settings
from landmarking.errors import LandmarkingError


@hydra.main(config_path="../conf", config_name="evaluate", version_base="1.3")
def main(config: DictConfig) -> None:
    """Check the configuration, predict the cohort with every run, and print the errors."""
    from landmarking.transfer import TransferConfig, evaluate_runs

    try:
        values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        assert isinstance(values, dict)
        named = {str(key): value for key, value in values.items()}
        print(evaluate_runs(settings(TransferConfig, named)).summary())
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
