"""Tables and figures of a study: `python experiments/report.py runs=outputs/demo`."""

from __future__ import annotations

import sys

import hydra
from omegaconf import DictConfig

from landmarking.shells import answer, start


@hydra.main(config_path="../conf", config_name="report", version_base="1.3")
def main(config: DictConfig) -> None:
    """Check the configuration, write the report, and print Table 1 and the paths."""
    from landmarking.evaluation.report import ReportConfig, run_report

    answer(config, ReportConfig, run_report)


def as_list(argument: str) -> str:
    """`compare=A,B` as Hydra's list `compare=[A,B]`; without it Hydra would sweep over A and B."""
    key, equals, value = argument.partition("=")
    is_plain = key == "compare" and equals and value and value[0] not in "[\"'"
    return f"compare=[{value}]" if is_plain else argument


if __name__ == "__main__":
    sys.argv[1:] = [as_list(argument) for argument in sys.argv[1:]]
    start(main, "report")
