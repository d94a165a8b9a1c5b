"""Pictures of the report page and of TensorBoard for the documentation, as a browser shows them."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from landmarking.config import PROJECT
from landmarking.errors import ConfigError, LandmarkingError
from landmarking.evaluation.browser import Browser, find_chromium

_TENSORBOARD_TABS = ("timeseries", "custom_scalars", "images", "hparams")
_SETTLED = "new Promise(done => setTimeout(() => done(document.readyState), {ms}))"


@dataclass
class ScreenshotsConfig:
    """conf/screenshots.yaml.

    Attributes:
        runs: Folder of a study with its report.
        output: Where the pictures go; null takes docs/images of this checkout.
        tensorboard: Show the study in TensorBoard too.
        settle_s: Seconds that TensorBoard gets to draw a tab.
    """

    runs: str = "outputs/demo"
    output: str | None = None
    tensorboard: bool = True
    settle_s: float = 10.0


def take_screenshots(config: ScreenshotsConfig) -> list[Path]:
    """Write report.png, report-phone.png and, unless told otherwise, tensorboard-<tab>.png.

    Raises:
        ConfigError: If there is no Chromium or no report.
        LandmarkingError: If a page cannot be loaded or the browser does not answer.
    """
    chromium = find_chromium()
    if chromium is None:
        raise ConfigError("screenshots need Chromium; on Debian: apt-get install chromium")
    page = Path(config.runs).resolve() / "report" / "index.html"
    if not page.is_file():
        raise ConfigError(f"{page}: no report; make it with experiments/report.py runs=DIR")
    output = Path(config.output) if config.output else PROJECT / "docs" / "images"
    with Browser(chromium) as browser:
        paths = _report(browser, page, output)
        if config.tensorboard:
            paths += _tensorboard(browser, Path(config.runs), output, config.settle_s)
    return paths


def _report(browser: Browser, page: Path, output: Path) -> list[Path]:
    paths = [output / "report.png", output / "report-phone.png"]
    for path, width, height in zip(paths, (1200, 390), (1500, 844), strict=True):
        browser.open(page.as_uri(), width=width, height=height)
        browser.screenshot(path)
    return paths


def _tensorboard(browser: Browser, runs: Path, output: Path, settle_s: float) -> list[Path]:
    paths = []
    with served(runs) as address:
        for tab in _TENSORBOARD_TABS:
            browser.open(f"{address}#{tab}", width=1400, height=1000)
            browser.evaluate(_SETTLED.format(ms=int(1000 * settle_s)))
            paths.append(output / f"tensorboard-{tab.replace('_', '-')}.png")
            browser.screenshot(paths[-1])
    return paths


@contextmanager
def served(runs: Path, *, timeout_s: float = 90.0) -> Iterator[str]:
    """TensorBoard on a folder, on a free port of this machine, until the block ends.

    Args:
        runs: Folder with event files somewhere below.
        timeout_s: How long it may take to answer.

    Yields:
        Its address.

    Raises:
        LandmarkingError: If it ends or does not answer in time.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # From within the folder, for TensorBoard shows the path that it was given.
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", "."]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and fixed flags
            [*command, "--port", str(port)], cwd=runs, stdout=log, stderr=log
        )
        try:
            address = f"http://localhost:{port}/"
            _wait_for(address, process, time.monotonic() + timeout_s)
            yield address
        finally:
            process.terminate()
            process.wait()


def _wait_for(address: str, process: subprocess.Popen[bytes], end: float) -> None:
    while time.monotonic() < end:
        if process.poll() is not None:
            raise LandmarkingError(f"TensorBoard ended with status {process.returncode}")
        try:
            with urllib.request.urlopen(address, timeout=5):  # noqa: S310 - our own server
                return
        except OSError:
            time.sleep(0.3)
    raise LandmarkingError(f"TensorBoard does not answer on {address}")
