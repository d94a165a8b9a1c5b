"""Start the project's commands: in a fork of this process, or as the shell that people call.

A fork shares the imports of its parent, which take seconds, and runs the same script from its
first line. What a fault breaks is told by an audit hook: it sees every file that is opened for
writing, renamed or removed, and can end the process, raise an error or change the disk there.
"""

from __future__ import annotations

import ctypes
import io
import os
import resource
import runpy
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
LIMIT_S = 900.0
INSTALLED = "landmarking.cli"
"""Module of the command that is installed, of which `predict` is a part."""


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        status: Exit status; minus the signal where one ended it, as in `subprocess`.
        out: Standard output.
        err: Standard error.
        seconds: Wall time.
        events: File operations under the sandbox, where they were counted.
    """

    status: int
    out: str
    err: str
    seconds: float
    events: int = 0

    @property
    def traced(self) -> bool:
        """Whether a traceback was shown."""
        return "Traceback (most recent call last)" in self.err + self.out


@dataclass(frozen=True)
class Trouble:
    """What happens to a process on its way.

    Attributes:
        at: Number of the file operation at which it happens, from 1; 0 for from the start.
        act: What happens then; raises or does as it likes.
        start: Called in the process before the command.
    """

    at: int = 0
    act: Callable[[], None] | None = None
    start: Callable[[], None] | None = None


def warm_up() -> None:
    """Import what the commands import, so that forks need not."""
    # Byte code written on a first import would count as file operations of that start alone.
    sys.dont_write_bytecode = True
    os.environ["OMP_NUM_THREADS"] = "1"
    import hydra._internal.hydra  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import pytorch_lightning  # noqa: F401
    import rich.progress  # noqa: F401
    import torch

    import landmarking.commands
    import landmarking.evaluation.report
    import landmarking.prediction.outputs
    import landmarking.prediction.predict
    import landmarking.preparation.prepare
    import landmarking.training.evaluate  # noqa: F401

    torch.set_num_threads(1)


def forked(
    command: Sequence[str], folder: Path, trouble: Trouble | None = None, limit_s: float = LIMIT_S
) -> Ended:
    """Run a command in a fork of this process and wait for its end.

    Args:
        command: Name of the shell in experiments/ and its arguments.
        folder: Where output is kept, and which file operations count.
        trouble: What happens to it.
        limit_s: Seconds after which it is killed and counted as hanging.
    """
    child = start(command, folder, trouble)
    return finish(child, limit_s)


@dataclass(frozen=True)
class Child:
    """A process that is under way."""

    pid: int
    log: Path
    began: float


_COUNT = [0]


def start(command: Sequence[str], folder: Path, trouble: Trouble | None = None) -> Child:
    """Begin what `forked` does, and do not wait."""
    _COUNT[0] += 1
    log = folder / f"log-{os.getpid()}-{_COUNT[0]}"
    sys.stdout.flush()
    sys.stderr.flush()
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        _child(command, folder, log, trouble or Trouble())
    return Child(pid, log, began)


def finish(child: Child, limit_s: float = LIMIT_S) -> Ended:
    """Wait for a child; one that hangs is killed and ends with status 124."""
    status: int | None = None
    while status is None:
        pid, raw = os.waitpid(child.pid, os.WNOHANG)
        if pid:
            status = os.waitstatus_to_exitcode(raw)
        elif time.monotonic() - child.began > limit_s:
            os.kill(child.pid, signal.SIGKILL)
            os.waitpid(child.pid, 0)
            status = 124
        else:
            time.sleep(0.01)
    texts = []
    for end in ("out", "err", "events"):
        path = child.log.with_name(f"{child.log.name}.{end}")
        texts.append(path.read_text(errors="replace") if path.exists() else "")
        path.unlink(missing_ok=True)
    events = int(texts[2] or 0)
    return Ended(status, texts[0], texts[1], time.monotonic() - child.began, events)


def _child(command: Sequence[str], folder: Path, log: Path, trouble: Trouble) -> None:
    status = 1
    try:
        # What earlier work in this process has done with signals is not the child's business:
        # Lightning, for one, leaves Ctrl-C without effect once it was answered.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for number, end in ((1, "out"), (2, "err")):
            handle = os.open(f"{log}.{end}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(handle, number)
        # The parent's objects may be pytest's; the child writes to its own files.
        sys.stdout = io.TextIOWrapper(os.fdopen(os.dup(1), "wb", 0), write_through=True)
        sys.stderr = io.TextIOWrapper(os.fdopen(os.dup(2), "wb", 0), write_through=True)
        count = _watch(folder, trouble)
        if trouble.start is not None:
            trouble.start()
        program = _program(command[0])
        sys.argv = [str(program), *command[1:]] if program else [INSTALLED, *command]
        try:
            if program:
                runpy.run_path(str(program), run_name="__main__")
            else:
                runpy.run_module(INSTALLED, run_name="__main__", alter_sys=True)
            status = 0
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
            if isinstance(stop.code, str):
                sys.stderr.write(f"{stop.code}\n")  # as the interpreter does on its way out
        Path(f"{log}.events").write_text(str(count[0]))
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _program(name: str) -> Path | None:
    """Script in experiments/, or None for a part of the installed command."""
    path = PROJECT / "experiments" / f"{name}.py"
    return path if path.exists() else None


def _watch(folder: Path, trouble: Trouble) -> list[int]:
    count = [0]
    inside = str(folder / "box")

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open":
            path, mode = arguments[0], arguments[1]
            counts = isinstance(mode, str) and bool(set(mode) & set("wax+"))
        elif event in ("os.rename", "os.remove", "os.mkdir"):
            path, counts = arguments[0], True
        else:
            return
        if not counts or not isinstance(path, str | os.PathLike):
            return
        if not str(path).startswith(inside):
            return
        count[0] += 1
        if count[0] == trouble.at and trouble.act is not None:
            trouble.act()

    sys.addaudithook(hook)
    return count


def send(number: signal.Signals) -> Callable[[], None]:
    """An act: the process gets a signal."""
    return lambda: os.kill(os.getpid(), number)


def fail(number: int) -> Callable[[], None]:
    """An act: the operation fails as if the system had refused it."""

    def act() -> None:
        raise OSError(number, os.strerror(number))

    return act


def file_limit(size: int, *, deadly: bool = False) -> Callable[[], None]:
    """A start: no file may grow beyond a size; deadly ends the process in the middle of a write."""

    def begin() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL if deadly else signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return begin


def without_privilege() -> None:
    """A start: permissions count for root too (the capabilities to overlook them are dropped)."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    if libc.capget(header, data):
        raise OSError(ctypes.get_errno(), "capget")
    for word in (0, 1):
        data[word] &= ~0b1110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER
    if libc.capset(header, data):
        raise OSError(ctypes.get_errno(), "capset")


def skewed_clock(seconds: float) -> Callable[[], None]:
    """A start: the process believes in another time of day."""

    def begin() -> None:
        true = time.time
        time.time = lambda: true() + seconds

    return begin


def shell(
    command: Sequence[str],
    *,
    signal_after: tuple[signal.Signals, float] | None = None,
    limit_s: float = LIMIT_S,
) -> Ended:
    """Run a command as people do, and signal it after some seconds."""
    began = time.monotonic()
    program = _program(command[0])
    words = [str(program), *command[1:]] if program else ["-m", INSTALLED, *command]
    process = subprocess.Popen(
        [sys.executable, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    if signal_after is not None:
        try:
            process.wait(signal_after[1])
        except subprocess.TimeoutExpired:
            process.send_signal(signal_after[0])
    try:
        out, err = process.communicate(timeout=limit_s)
        status = process.returncode
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        status = 124
    return Ended(status, out, err, time.monotonic() - began)
