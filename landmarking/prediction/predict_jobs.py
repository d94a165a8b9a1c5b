"""One scan of many, predicted and written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from landmarking.prediction.batch import Outcome, Record, attempt
from landmarking.prediction.clock import Clock
from landmarking.prediction.files import FCSV, MARKUPS, PICTURE, RECORD, read_record
from landmarking.prediction.inputs import Target
from landmarking.storage import file_sha256


@dataclass(frozen=True)
class PredictJob:
    """One scan to predict.

    Attributes:
        target: The scan and the names of its results.
        output: Folder of the results.
        sources: The model, as `open_model` takes it.
        model_digest: What decides its positions; a result of another one is made again.
        coverage: Probability of its radii, or None; likewise.
        picture: Whether to draw the picture.
        overwrite: Predict again what is finished.
    """

    target: Target
    output: Path
    sources: tuple[str, ...]
    model_digest: str
    coverage: float | None = None
    picture: bool = True
    overwrite: bool = False

    def path(self, ending: str) -> Path:
        """A file of the scan's results."""
        return self.output / f"{self.target.stem}{ending}"


def finished(job: PredictJob) -> dict[str, Any] | None:
    """The record of a scan whose results are there, of the same bytes and the same model.

    Args:
        job: The scan.
    """
    endings = (MARKUPS, FCSV, PICTURE) if job.picture else (MARKUPS, FCSV)
    record = None if job.overwrite else read_record(job.path(RECORD))
    if record is None or not all(job.path(ending).is_file() for ending in endings):
        return None
    same_model = (record["model_digest"], record["coverage"]) == (job.model_digest, job.coverage)
    return record if same_model and same_bytes(job.target.scan, record) else None


def same_bytes(scan: Path, record: Record) -> bool:
    """Whether a record was made from a scan as it is now."""
    try:
        return bool(record["scan_sha256"] == file_sha256(scan))
    except OSError:
        return False


def predict_job(job: PredictJob) -> Outcome:
    """Predict one scan and write its files.

    Args:
        job: The scan.
    """
    from landmarking.prediction.files import write_scan_files
    from landmarking.prediction.models import open_model
    from landmarking.prediction.predictor import predict_scan

    model = open_model(job.sources)

    def make(clock: Clock) -> Record:
        # Old results must not pass for those of this attempt.
        job.path(RECORD).unlink(missing_ok=True)
        prediction = predict_scan(job.target.scan, model)
        clock.seconds.update({k: v for k, v in prediction.seconds.items() if k != "cpu"})
        return clock.timed(
            "files",
            lambda: write_scan_files(prediction, job.output, job.target.stem, picture=job.picture),
        )

    return attempt(job, make)
