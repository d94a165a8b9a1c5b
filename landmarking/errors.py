"""Errors that a person can act on.

Every message names what was read, the rule it breaks, what was found, and the way out. The shells
turn a `LandmarkingError` into one line on stderr and a non-zero exit status; anything else is a
defect of ours and keeps its traceback.
"""

from __future__ import annotations

import logging
import traceback
from pathlib import Path

logger = logging.getLogger(__name__)


class LandmarkingError(Exception):
    """Base of everything that the library raises about its input."""


class ScanError(LandmarkingError):
    """A scan cannot be read, or is not a three-dimensional T1 head."""


class LandmarkError(LandmarkingError):
    """Landmark names, coordinates or frames do not fit."""


class CohortError(LandmarkingError):
    """A cohort breaks the BIDS contract; carries every problem found, not the first."""

    def __init__(self, message: str, problems: tuple[str, ...] = ()) -> None:
        super().__init__("\n  - ".join((message, *problems)))
        self.problems = problems


class ConfigError(LandmarkingError):
    """A setting has a wrong name, type or range."""


class CacheError(LandmarkingError):
    """A cache entry or prepared cohort is missing, damaged or of another version."""


class RunError(LandmarkingError):
    """A file of a run is damaged, or was changed after the run was finished."""


class PredictionsError(LandmarkingError):
    """A predictions file breaks the schema, or runs do not belong in one table."""


def defect(error: BaseException) -> str:
    """What to say of an error of ours on one scan of many; the log has its traceback (DEBUG)."""
    last = traceback.extract_tb(error.__traceback__)[-1:]
    place = f"{Path(last[0].filename).name}, line {last[0].lineno}: " if last else ""
    said = str(error).splitlines()[0] if str(error) else "no more is known"
    logger.debug("%s", "".join(traceback.format_exception(error)))
    return f"a defect of this program ({place}{said}); please report it with the scan's header"
