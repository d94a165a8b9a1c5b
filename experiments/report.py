"""Tables and figures of a study: `python experiments/report.py runs=outputs/demo`."""

from __future__ import annotations

import sys

import hydra
from omegaconf import DictConfig, OmegaConf

from landmarking.config import register_resolvers, settings
from landmarking.errors import LandmarkingError


@hydra.main(config_path="../conf", config_name="report", version_base="1.3")
def main(config: DictConfig) -> None:
    """Check the configuration, write the report, and print Table 1 and the paths."""
    from landmarking.evaluation.report import ReportConfig, run_report

    try:
        values = OmegaConf.to_container(config, resolve=True)
        assert isinstance(values, dict)
        print(run_report(settings(ReportConfig, {str(key): values[key] for key in values})))
    except LandmarkingError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def as_list(argument: str) -> str:
    """`compare=A,B` as Hydra's list `compare=[A,B]`; without it Hydra would sweep over A and B."""
    key, equals, value = argument.partition("=")
    is_plain = key == "compare" and equals and value and value[0] not in "[\"'"
    return f"compare=[{value}]" if is_plain else argument


if __name__ == "__main__":
    register_resolvers()
    sys.argv[1:] = [as_list(argument) for argument in sys.argv[1:]]
    main()
