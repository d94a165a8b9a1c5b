"""Pictures of the report and of TensorBoard for the documentation, by a headless Chromium.

    python experiments/benchmarks/screenshots.py runs=outputs/demo

The browser shows a page as a person would see it, also for the test that a page raises no error
and sorts. Protocol: https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
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
from typing import Any, Self

from arguments import main, read_arguments
from landmarking.config import PROJECT
from landmarking.errors import ConfigError, LandmarkingError
from landmarking.files import atomic_path

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars", "--force-color-profile=srgb", "--remote-debugging-pipe",
)  # fmt: skip


def find_chromium() -> str | None:
    """Path of an installed Chromium or Chrome, or None."""
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


def _above_nine(descriptor: int) -> int:
    """A copy of a file descriptor with a number above 9."""
    copies = [os.dup(descriptor)]
    while copies[-1] < 10:
        copies.append(os.dup(descriptor))
    for copy in copies[:-1]:
        os.close(copy)
    return copies[-1]


class Browser:
    """One tab of a headless Chromium; a context manager.

    Attributes:
        problems: Errors and warnings of the console since the last `open`, and uncaught exceptions.
    """

    def __init__(self, executable: str, *, timeout_s: float = 180.0) -> None:
        self.problems: list[str] = []
        self._timeout_s = timeout_s
        self._profile = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        self._buffer = b""
        self._events: list[dict[str, Any]] = []
        self._number = 0
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        # Chromium reads descriptor 3 and writes 4; copies above 9 keep the two from colliding.
        inner = [_above_nine(fd) for fd in (to_browser, from_browser)]
        script = f'exec "$0" "$@" 3<&{inner[0]} 4>&{inner[1]}'
        self._process = subprocess.Popen(  # noqa: S603 - fixed flags, no user input in the shell
            ["/bin/bash", "-c", script, executable, *_FLAGS,
             f"--user-data-dir={self._profile.name}"],
            pass_fds=inner, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for fd in (to_browser, from_browser, *inner):
            os.close(fd)
        self._session: str | None = None

    def __enter__(self) -> Self:
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._write)
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._read)
        self._profile.cleanup()

    def open(self, url: str, *, width: int = 1200, height: int = 900, scale: float = 1.0) -> None:
        """Load a page and wait for its load event.

        Args:
            url: Address; `file://` for a report.
            width: Viewport in CSS pixels; under 600 the page is shown as on a phone.
            height: Likewise.
            scale: Device pixels per CSS pixel of screenshots.

        Raises:
            LandmarkingError: If the browser does not answer in time or the page cannot be loaded.
        """
        self.problems.clear()
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=scale, mobile=width < 600,
        )  # fmt: skip
        # An address that differs in its fragment only would not load again.
        self._call("Page.navigate", url="about:blank")
        self._wait("Page.loadEventFired")
        answer = self._call("Page.navigate", url=url)
        if answer.get("errorText"):
            raise LandmarkingError(f"{url}: the browser says {answer['errorText']}")
        self._wait("Page.loadEventFired")

    def evaluate(self, expression: str) -> Any:
        """The JSON value of a JavaScript expression in the page; promises are awaited.

        Raises:
            LandmarkingError: If the expression throws.
        """
        answer = self._call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise LandmarkingError(f"{expression!r} throws: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def print_view(self, printed: bool = True) -> None:
        """Show pages as they are printed, or again as on a screen."""
        self._call("Emulation.setEmulatedMedia", media="print" if printed else "")

    def screenshot(self, path: Path, *, selector: str | None = None) -> None:
        """Write a PNG of the viewport, or of the first element that matches a CSS selector."""
        clip = {}
        if selector:
            box = self.evaluate(
                f"(() => {{ const r = document.querySelector({json.dumps(selector)})"
                ".getBoundingClientRect(); return {x: r.x + scrollX, y: r.y + scrollY, "
                "width: r.width, height: r.height, scale: 1}; })()"
            )
            clip = {"clip": box, "captureBeyondViewport": True}
        shot = self._call("Page.captureScreenshot", format="png", **clip)
        with atomic_path(path) as temporary:
            temporary.write_bytes(base64.b64decode(shot["data"]))

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        answer = self._receive(lambda m: m.get("id") == message["id"], method)
        if "error" in answer:
            raise LandmarkingError(f"Chromium refuses {method}: {answer['error']}")
        result: dict[str, Any] = answer.get("result", {})
        return result

    def _wait(self, event: str) -> None:
        for number, message in enumerate(self._events):
            if message.get("method") == event:
                del self._events[: number + 1]
                return
        self._receive(lambda m: m.get("method") == event, event)
        self._events.clear()

    def _receive(self, wanted: Any, name: str) -> dict[str, Any]:
        end = time.monotonic() + self._timeout_s
        while True:
            while b"\0" in self._buffer:
                raw, self._buffer = self._buffer.split(b"\0", 1)
                message: dict[str, Any] = json.loads(raw)
                self._note(message)
                if wanted(message):
                    return message
                self._events.append(message)
            left = end - time.monotonic()
            if left <= 0 or not select.select([self._read], [], [], left)[0]:
                raise LandmarkingError(f"Chromium did not answer {name} in {self._timeout_s:g} s")
            chunk = os.read(self._read, 1 << 20)
            if not chunk:
                raise LandmarkingError(f"Chromium ended while it was to answer {name}")
            self._buffer += chunk

    def _note(self, message: dict[str, Any]) -> None:
        method, details = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.problems.append(str(details["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and details["type"] in ("error", "warning"):
            self.problems.append(str(details["args"]))
        elif method == "Log.entryAdded" and details["entry"]["level"] in ("error", "warning"):
            self.problems.append(details["entry"]["text"])


_TENSORBOARD_TABS = ("timeseries", "custom_scalars", "images", "hparams")
_SETTLED = "new Promise(done => setTimeout(() => done(document.readyState), {ms}))"


@dataclass
class ScreenshotsConfig:
    """What is pictured.

    Attributes:
        runs: Folder of a study with its report.
        output: Where the pictures go; none: docs/images of this checkout.
        tensorboard: Show the study in TensorBoard too.
        settle_s: Seconds that TensorBoard gets to draw a tab.
    """

    runs: str = "outputs/demo"
    output: str | None = None
    tensorboard: bool = True
    settle_s: float = 10.0


def take_screenshots(config: ScreenshotsConfig) -> list[Path]:
    """Write report-<width>.png and, unless told otherwise, tensorboard-<tab>.png.

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
    widths = (400, 800, 1600)
    paths = [output / f"report-{width}.png" for width in widths]
    for path, width, height in zip(paths, widths, (900, 1200, 1500), strict=True):
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


def run(arguments: list[str]) -> str:
    """Take the pictures that the command line asks for; their paths."""
    return "\n".join(map(str, take_screenshots(read_arguments(ScreenshotsConfig, arguments))))


if __name__ == "__main__":
    main(run)
