"""Two callbacks of Hydra that make sweeps do what a person expects of them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, read_write

RESULTS = "optimization_results.yaml"
"""What sweepers that optimise leave in the folder of the sweep."""


class TypedWins(Callback):
    """What is typed takes the place of what an experiment sweeps over.

    Hydra would do every run once for each of the experiment's own values.
    """

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Drop the experiment's values for keys that the command line names."""
        params = OmegaConf.select(config, "hydra.sweeper.params")
        if not params:
            return
        task = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
        assert isinstance(task, list)
        typed = OverridesParser.create().parse_overrides([str(override) for override in task])
        with read_write(config):
            for override in typed:
                key = override.get_key_element().lstrip("+~")
                if key in params:
                    OmegaConf.set_struct(params, False)
                    del params[key]


class BestFound(Callback):
    """Says what a sweeper that optimises has found."""

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Print the best value and its settings."""
        path = Path(config.hydra.sweep.dir) / RESULTS
        if "Basic" in str(config.hydra.sweeper.get("_target_", "")) or not path.is_file():
            return
        found = OmegaConf.load(path)
        settings = ", ".join(f"{key}={value}" for key, value in found.best_params.items())
        value = float(found.best_value)
        sys.stdout.write(f"best {config.objective}: {value:.3f} with {settings}; {path}\n")
