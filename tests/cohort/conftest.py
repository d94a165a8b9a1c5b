import pytest

from landmarking.cohort.phantom import PhantomSettings, Subject, make_head
from landmarking.cohort.scanner import ScannerSettings


@pytest.fixture(scope="session")
def coarse():
    """Settings of heads that take a fraction of a second."""
    scanner = ScannerSettings(voxel_mm=[3.0, 3.6], field_mm=[170.0, 215.0, 200.0])
    return PhantomSettings(
        train=3, healthy=1, down_syndrome=1, scans_per_person=2.0, scanner=scanner
    )


@pytest.fixture(scope="session")
def head(coarse):
    return make_head(coarse, Subject("train", 0))
