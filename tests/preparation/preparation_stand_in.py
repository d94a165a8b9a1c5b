"""A cohort of small noise heads, and quick stand-ins for the two slow imaging stages.

Run as a script (`preparation_stand_in.py FUNCTION ROOT OUTPUTS`) it prepares such a cohort. Worker
processes import it again, and so use the stand-ins too. Every call of a stage is a line of
ROOT/calls.txt: stage, scan, process.
"""

import os
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np

from landmarking.cohort.records import Cohort, ScanRecord
from landmarking.geometry import LEFT, Plane
from landmarking.imaging.midsagittal import MidsagittalPlane
from landmarking.imaging.pipeline import PreprocessSettings
from landmarking.imaging.registration import Registration
from landmarking.landmarks import landmark_set, write_markups
from landmarking.preparation import stages
from landmarking.preparation.prepare import prepare

LANDMARKS = landmark_set("msp8")
AFFINE = np.array([[5.0, 0, 0, -90], [0, 5, 0, -120], [0, 0, 5, -90], [0, 0, 0, 1]])


def make_cohort(root: Path, count: int = 4) -> Cohort:
    """Noise in the template's world, landmarks within a millimetre of the template's."""
    rng = np.random.default_rng(0)
    scans = []
    for number in range(count):
        scan_id = f"sub-{number:02d}"
        image, landmarks = root / f"{scan_id}_T1w.nii.gz", root / f"{scan_id}_landmarks.mrk.json"
        root.mkdir(parents=True, exist_ok=True)
        data = rng.uniform(1, 200, (36, 44, 36)).astype(np.float32)
        nib.save(nib.Nifti1Image(data, AFFINE), image)
        points = LANDMARKS.template_mm + rng.normal(0, 0.5, (len(LANDMARKS), 3))
        write_markups(landmarks, dict(zip(LANDMARKS.names, points, strict=True)))
        group = ("train", "HS", "DS")[number % 3]
        scans.append(ScanRecord(scan_id, scan_id, None, group, image, landmarks, 30.0 + number))
    return Cohort("noise", root, tuple(scans), simulated=True)


def install(log: Path, replace=setattr, seconds: float = 0.0) -> None:
    """Put the stand-ins in the place of registration and plane search."""

    def note(stage, scan):
        with log.open("a") as handle:
            handle.write(f"{stage} {scan.name} {os.getpid()}\n")
        time.sleep(seconds)

    def register_stage(canonical, settings):
        note("registration", canonical)
        return Registration(np.eye(4), 0.9, True, settings.registration)

    def plane_stage(canonical, registration, settings):
        note("plane", canonical)
        return MidsagittalPlane(Plane(LEFT, 0.0), 0.8, 0.1, np.zeros(3))

    replace(stages, "register_stage", register_stage)
    replace(stages, "plane_stage", plane_stage)


def calls(log: Path) -> list[list[str]]:
    """Stage, scan and process of every call so far."""
    return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


def prepare_in_processes(root: Path, outputs: Path) -> None:
    """Prepare with two worker processes."""
    prepare(make_cohort(root, 12), LANDMARKS, PreprocessSettings(), outputs, workers=2)


def prepare_eight_times(root: Path, outputs: Path) -> None:
    """Prepare the same cohort in eight processes at once; all of them have to succeed."""
    cohort = make_cohort(root, 6)
    children = [os.fork() for _ in range(8) if os.getpid() == PARENT]
    if os.getpid() == PARENT:
        sys.exit(sum(os.waitpid(child, 0)[1] for child in children) != 0)
    prepare(cohort, LANDMARKS, PreprocessSettings(), outputs, workers=1)


ARGUMENTS = sys.argv[1:] if Path(sys.argv[0]).name == Path(__file__).name else []
PARENT = os.getpid()
if ARGUMENTS:
    install(Path(ARGUMENTS[1]) / "calls.txt", seconds=0.05)


if __name__ == "__main__":
    globals()[ARGUMENTS[0]](Path(ARGUMENTS[1]), Path(ARGUMENTS[2]))
