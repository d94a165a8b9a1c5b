"""The faults, by kind; every choice among many is drawn from a seed."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from harm import damage, mended
from sandbox import Box
from starts import Trouble, fail, file_limit, send, skewed_clock, without_privilege
from trial import Bench, Fault

STARTING_FROM = {
    "prepare": "registered",
    "train": "prepared",
    "sweep": "prepared",
    "evaluate": "trained",
    "report": "trained",
    "predict": "trained",
}
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
YEAR_S = 365 * 86_400.0


def all_faults(bench: Bench, *, small_disks: bool) -> Iterator[Fault]:
    """Every fault of the whole run, kind by kind."""
    rng = random.Random(bench.seed)
    yield from killed(bench, rng, each=3)
    yield from killed_heads(rng)
    yield from cut_writes()
    yield from killed_shells(bench, rng)
    yield from refused_operations(bench, rng, each=3)
    if small_disks:
        yield from small_disks_faults()
    yield from file_limits()
    yield from permissions()
    yield from damage()
    yield from removals(bench, rng)
    yield from crowds()
    yield from clocks()


def killed(bench: Bench, rng: random.Random, each: int) -> Iterator[Fault]:
    """A signal at a file operation: just before something is written, renamed or removed."""
    for command, state in STARTING_FROM.items():
        last = bench.operations(state, command)
        for number in SIGNALS:
            for at in sorted(rng.sample(range(1, last + 1), min(each, last))):
                yield Fault(
                    f"{number.name} at a file operation",
                    f"{command}: operation {at} of {last}",
                    state,
                    command,
                    trouble=Trouble(at, send(number)),
                )


def killed_heads(rng: random.Random) -> Iterator[Fault]:
    """A signal while phantom heads are made."""
    for number in SIGNALS:
        for at in sorted(rng.sample(range(1, 14), 2)):
            yield Fault(
                f"{number.name} at a file operation",
                f"prepare, making a head: operation {at}",
                "prepared",
                "prepare",
                spoil=_lose_a_head,
                trouble=Trouble(at, send(number)),
            )


def _lose_a_head(box: Box, rng: random.Random) -> None:
    # As a build that was stopped has left it: the record comes last.
    next((box.cohort / "derivatives" / "phantom").rglob("*_phantom.json")).unlink()


def cut_writes() -> Iterator[Fault]:
    """The process ends in the middle of a write, at a byte."""
    for command, state in STARTING_FROM.items():
        for size in (100, 3_000, 40_000):
            yield Fault(
                "ended in the middle of a write",
                f"{command}: at byte {size}",
                state,
                command,
                trouble=Trouble(start=file_limit(size, deadly=True)),
            )


def killed_shells(bench: Bench, rng: random.Random) -> Iterator[Fault]:
    """A signal at a random moment to the command as people start it."""
    for command, state in STARTING_FROM.items():
        for number in SIGNALS:
            moment = round(rng.uniform(0.5, 9.0), 2)
            yield Fault(
                f"{number.name} to the shell at a random moment",
                f"{command}: after {moment} s",
                state,
                command,
                outside=(number, moment),
            )


def refused_operations(bench: Bench, rng: random.Random, each: int) -> Iterator[Fault]:
    """The system refuses one file operation: no space, or the disk fails."""
    for command, state in STARTING_FROM.items():
        last = bench.operations(state, command)
        for at in sorted(rng.sample(range(1, last + 1), min(each, last))):
            number = rng.choice((errno.ENOSPC, errno.EIO))
            yield Fault(
                "a file operation is refused",
                f"{command}: {os.strerror(number)} at operation {at} of {last}",
                state,
                command,
                trouble=Trouble(at, fail(number)),
            )


def small_disks_faults() -> Iterator[Fault]:
    """A disk that is really full."""
    for command, state in STARTING_FROM.items():
        for space in (8, 64, 300):
            yield Fault(
                "full disk",
                f"{command}: {space} KiB left",
                state,
                command,
                trouble=Trouble(at=-1),
                space_kib=space,
            )


def file_limits() -> Iterator[Fault]:
    """No file may grow beyond a size, as a quota has it."""
    for command, state in STARTING_FROM.items():
        for size in (500, 3_000, 60_000):
            yield Fault(
                "quota on the size of a file",
                f"{command}: {size} bytes",
                state,
                command,
                trouble=Trouble(start=file_limit(size)),
            )


def permissions() -> Iterator[Fault]:
    """A folder may not be written, or a file not be read."""
    places: tuple[tuple[str, str, Callable[[Box], Path], int], ...] = (
        ("prepare", "outputs read-only", lambda box: box.outputs, 0o555),
        ("prepare", "cache read-only", lambda box: box.outputs / "cache", 0o555),
        ("prepare", "a stage of the cache read-only", lambda b: b.outputs / "cache/plane", 0o555),
        ("prepare", "locks read-only", lambda box: box.outputs / "cache" / "locks", 0o555),
        ("prepare", "a scan unreadable", _a_scan, 0o000),
        ("prepare", "participants.tsv unreadable", lambda b: b.cohort / "participants.tsv", 0),
        ("train", "outputs read-only", lambda box: box.outputs, 0o555),
        ("train", "the slices unreadable", lambda box: box.prepared / "images.npy", 0o000),
        ("sweep", "outputs read-only", lambda box: box.outputs, 0o555),
        ("evaluate", "outputs read-only", lambda box: box.outputs, 0o555),
        ("evaluate", "the model unreadable", lambda b: b.run / "checkpoints/model.ckpt", 0o000),
        ("report", "the study read-only", lambda box: box.outputs / "demo", 0o555),
        ("report", "predictions unreadable", lambda box: box.run / "predictions.csv", 0o000),
        ("predict", "outputs read-only", lambda box: box.outputs, 0o555),
        ("predict", "the model unreadable", lambda b: b.run / "checkpoints/model.ckpt", 0o000),
        ("predict", "a scan unreadable", _a_scan, 0o000),
    )
    for command, name, place, mode in places:

        def forbid(box: Box, rng: random.Random, place=place, mode=mode) -> None:  # type: ignore[no-untyped-def]
            path = place(box)
            if not path.exists():
                path.mkdir(parents=True)
            path.chmod(mode)

        yield Fault(
            "no permission",
            f"{command}: {name}",
            STARTING_FROM[command],
            command,
            spoil=forbid,
            trouble=Trouble(start=without_privilege),
        )


def _a_scan(box: Box) -> Path:
    return sorted(box.cohort.rglob("*_T1w.nii.gz"))[1]


def _a_landmark_file(box: Box) -> Path:
    return sorted(box.cohort.rglob("*_landmarks.mrk.json"))[1]


def removals(bench: Bench, rng: random.Random) -> Iterator[Fault]:
    """Something is removed while a command works."""
    places: tuple[tuple[str, str, Callable[[Box], Path]], ...] = (
        ("prepare", "a scan", _a_scan),
        ("prepare", "a landmark file", _a_landmark_file),
        ("prepare", "participants.tsv", lambda box: box.cohort / "participants.tsv"),
        ("prepare", "the cache", lambda box: box.outputs / "cache"),
        ("train", "the run's folder", lambda box: box.run),
        ("train", "the checkpoints", lambda box: box.run / "checkpoints"),
        ("train", "the prepared cohort", lambda box: box.prepared),
        ("sweep", "the study", lambda box: box.outputs / "demo"),
        ("evaluate", "the model", lambda box: box.run / "checkpoints" / "model.ckpt"),
        ("report", "predictions.csv", lambda box: box.run / "predictions.csv"),
        ("report", "the report", lambda box: box.report),
        ("predict", "a scan", _a_scan),
        ("predict", "the model", lambda box: box.run / "checkpoints" / "model.ckpt"),
    )
    for command, name, place in places:
        state = STARTING_FROM[command]
        last = bench.operations(state, command)
        for at in sorted(rng.sample(range(1, last + 1), 2)):

            def act(place=place) -> None:  # type: ignore[no-untyped-def]
                path = place(bench.box)
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

            yield Fault(
                "removed under way",
                f"{command}: {name} at operation {at} of {last}",
                state,
                command,
                trouble=Trouble(at, act),
                put_back=place,
                mend=mended(state),
            )


def crowds() -> Iterator[Fault]:
    """Several commands at once on one outputs folder."""
    groups: tuple[tuple[str, tuple[str, ...]], ...] = (
        ("registered", ("prepare",) * 8),
        ("registered", ("prepare",) * 3 + ("train",) * 2),
        ("prepared", ("train",) * 2),
        ("prepared", ("train",) * 4),
        ("prepared", ("sweep",) * 2),
        ("prepared", ("sweep", "sweep", "train")),
        ("stopped", ("train",) * 3),
        ("trained", ("report",) * 3),
        ("trained", ("evaluate",) * 2),
        ("trained", ("report", "evaluate", "train", "sweep")),
        ("trained", ("prepare", "report", "report")),
        ("scans", ("prepare",) * 3),
        ("trained", ("predict",) * 3),
    )
    for state, commands in groups:
        words = ", ".join(f"{commands.count(name)} {name}" for name in dict.fromkeys(commands))
        yield Fault(
            "several at once", f"{words} from {state}", state, commands[0], None, None, commands
        )


def clocks() -> Iterator[Fault]:
    """A clock that is wrong, and files from another time."""
    for command, state in STARTING_FROM.items():
        for years in (-30.0, 30.0):
            yield Fault(
                "a wrong clock",
                f"{command}: {years:+g} years",
                state,
                command,
                trouble=Trouble(start=skewed_clock(years * YEAR_S)),
            )
    for years in (-40.0, 40.0):

        def shift(box: Box, rng: random.Random, years=years) -> None:  # type: ignore[no-untyped-def]
            for path in box.root.joinpath("box").rglob("*"):
                seconds = max(path.stat().st_mtime + years * YEAR_S, 1.0)
                os.utime(path, (seconds, seconds))

        for command in ("prepare", "train"):
            yield Fault(
                "a wrong clock",
                f"{command}: files from {years:+g} years",
                STARTING_FROM[command],
                command,
                spoil=shift,
            )
