"""Pictures of a report, and what happens where none can be taken."""

import struct
import subprocess
import sys
import time

import pytest

import screenshots
from landmarking.errors import ConfigError, LandmarkingError
from screenshots import ScreenshotsConfig, find_chromium, take_screenshots

needs_chromium = pytest.mark.skipif(
    find_chromium() is None, reason="no Chromium is installed (Debian: apt-get install chromium)"
)


@needs_chromium
def test_a_report_is_pictured_wide_and_on_a_phone(reported, tmp_path):
    folder, _ = reported
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "report").symlink_to(folder)
    config = ScreenshotsConfig(str(tmp_path / "study"), str(tmp_path / "images"), tensorboard=False)

    paths = take_screenshots(config)

    assert [path.name for path in paths] == ["report-400.png", "report-800.png", "report-1600.png"]
    sizes = [struct.unpack(">II", path.read_bytes()[16:24]) for path in paths]
    assert sizes == [(400, 900), (800, 1200), (1600, 1500)]


@needs_chromium
def test_a_study_without_report_is_said(tmp_path):
    with pytest.raises(ConfigError, match=r"no report; make it with experiments/report\.py"):
        take_screenshots(ScreenshotsConfig(str(tmp_path)))


def test_a_machine_without_chromium_is_said(monkeypatch):
    monkeypatch.setattr(screenshots, "find_chromium", lambda: None)

    with pytest.raises(ConfigError, match="apt-get install chromium"):
        take_screenshots(ScreenshotsConfig())


def test_a_server_that_ends_or_never_answers_is_said():
    ended = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    ended.wait()
    with pytest.raises(LandmarkingError, match="status 3"):
        screenshots._wait_for("http://localhost:9/", ended, time.monotonic() + 5)

    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as silent:
        with pytest.raises(LandmarkingError, match="does not answer"):
            screenshots._wait_for("http://localhost:9/", silent, time.monotonic() + 0.5)
        silent.communicate(b"\n")
