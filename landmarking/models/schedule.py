"""Learning rate by epoch, as a pure function of its number.

The paper: from 0.005 to 0.0005 by factors of 0.95, "performed multiple times, as necessary, until
reaching the desired final learning rate at the end of training". ln(0.1) / ln(0.95) is 44.9, so
there are 45 decays; the last one is clamped at the final rate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from landmarking.errors import ConfigError

KINDS = ("exponential", "cosine", "constant")


@dataclass(frozen=True)
class Schedule:
    """How the learning rate falls over a run; `_target_` of the files in conf/schedule.

    Attributes:
        kind: `exponential` (the paper), `cosine`, or `constant` (the authors' scripts, which build
            a scheduler and never step it).
        final_rate: Rate of the last epochs; not used by `constant`.
        factor: Factor of one exponential decay.
        warmup_epochs: Epochs of linear rise at the start, before the schedule proper.
    """

    kind: str = "exponential"
    final_rate: float = 0.0005
    factor: float = 0.95
    warmup_epochs: int = 0

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: If a value is out of range.
        """
        if self.kind not in KINDS:
            raise ConfigError(f"schedule.kind is one of {', '.join(KINDS)}, found {self.kind!r}")
        if not 0.0 < self.factor < 1.0:
            raise ConfigError(f"schedule.factor lies between 0 and 1, found {self.factor}")
        if self.final_rate <= 0.0 or self.warmup_epochs < 0:
            raise ConfigError(
                "schedule.final_rate is positive and schedule.warmup_epochs not negative, found "
                f"{self.final_rate} and {self.warmup_epochs}"
            )


def decay_count(initial_rate: float, final_rate: float, factor: float) -> int:
    """Decays by `factor` after which the rate is at or below the final one."""
    if final_rate >= initial_rate:
        return 0
    # A hair's breadth off, so that a ratio that is an exact power does not cost one decay more.
    return math.ceil(math.log(final_rate / initial_rate) / math.log(factor) - 1e-9)


def learning_rate(epoch: int, epochs: int, initial_rate: float, schedule: Schedule) -> float:
    """Learning rate of one epoch.

    Args:
        epoch: Counted from zero.
        epochs: Length of the whole run.
        initial_rate: Rate at the start.
        schedule: How it falls.

    Returns:
        The rate; of the exponential kind, n decays cut the run into n + 1 equal parts, so that the
        last part is trained at the final rate.
    """
    if epoch < schedule.warmup_epochs:
        return initial_rate * (epoch + 1) / (schedule.warmup_epochs + 1)
    if schedule.kind == "constant" or schedule.final_rate >= initial_rate:
        return initial_rate
    position = epoch - schedule.warmup_epochs
    length = max(epochs - schedule.warmup_epochs, 1)
    if schedule.kind == "cosine":
        share = 0.5 * (1.0 + math.cos(math.pi * min(position / max(length - 1, 1), 1.0)))
        return share * initial_rate + (1.0 - share) * schedule.final_rate
    parts = decay_count(initial_rate, schedule.final_rate, schedule.factor) + 1
    decays = min(position * parts // length, parts - 1)
    return max(initial_rate * schedule.factor**decays, schedule.final_rate)
