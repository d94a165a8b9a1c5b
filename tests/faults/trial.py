"""One fault: break something, start again, and compare with what an undisturbed run leaves."""

from __future__ import annotations

import random
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sandbox import Box
from starts import Child, Ended, Trouble, finish, forked, shell, start

SURVIVED = ("same", "said")


@dataclass(frozen=True)
class Fault:
    """What is broken, and how.

    Attributes:
        kind: Row of the table.
        name: What happens, in words.
        state: State of the template that it starts from.
        command: Short name of the command.
        spoil: Called before the first start; what is damaged then.
        trouble: What happens to the first start; None starts it once, as it is.
        together: Short names of commands that start at the same time instead.
        outside: Signal and share of the usual time, for the shell that people call.
        space_kib: Free space of a small disk that the first start has; None for the real disk.
        put_back: What was removed under way, and is put back ahead of the second start where it
            was there from the beginning. What is missing until then is no wrong number.
        mend: What the message asks a person to do.
        more: Further arguments of the command.
    """

    kind: str
    name: str
    state: str
    command: str
    spoil: Callable[[Box, random.Random], None] | None = None
    trouble: Trouble | None = None
    together: tuple[str, ...] = ()
    outside: tuple[Any, float] | None = None
    space_kib: int | None = None
    put_back: Callable[[Box], Path] | None = None
    mend: Callable[[Box], None] | None = None
    more: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """What came of a fault.

    Attributes:
        fault: The fault.
        result: `same`, `said`, or what went wrong: `traceback`, `number`, `silent`, `hanging`,
            `stuck`, `leftover`.
        first: How the disturbed start ended.
        detail: The message, or what differs.
        seconds: Wall time of all starts.
    """

    fault: Fault
    result: str
    first: str
    detail: str
    seconds: float

    @property
    def survived(self) -> bool:
        """Whether nothing was lost."""
        return self.result in SURVIVED


@dataclass
class Bench:
    """Runs faults in one sandbox, and knows what undisturbed commands leave.

    Attributes:
        box: Where the commands work.
        seed: Seed of all that is drawn.
    """

    box: Box
    seed: int = 0
    _expected: dict[tuple[str, str, tuple[str, ...]], tuple[dict[str, str], Ended]] = field(
        default_factory=dict
    )

    def expected(
        self, state: str, command: str, more: tuple[str, ...] = ()
    ) -> tuple[dict[str, str], Ended]:
        """Digests that a command leaves when nothing happens, and how it ended."""
        key = (state, command, more)
        if key not in self._expected:
            self.box.reset(state)
            ended = forked(self.box.command(command, *more), self.box.root)
            if ended.status:
                raise SystemExit(f"{command} from {state} does not even work: {ended.err}")
            self._expected[key] = (self.box.digests(), ended)
        return self._expected[key]

    def operations(self, state: str, command: str) -> int:
        """File operations of an undisturbed command."""
        return self.expected(state, command)[1].events

    def run(self, fault: Fault) -> Verdict:
        """Try one fault."""
        rng = random.Random(f"{self.seed} {fault.kind} {fault.name}")
        wanted = self._wanted(fault)
        if fault.space_kib is None:
            self.box.reset(fault.state)
            return self._run(fault, rng, wanted)
        with SmallDisk(self.box, fault.state, fault.space_kib):
            return self._run(fault, rng, wanted)

    def _wanted(self, fault: Fault) -> dict[str, str]:
        wanted: dict[str, str] = {}
        for command in fault.together or (fault.command,):
            wanted |= self.expected(fault.state, command, fault.more)[0]
        return wanted

    def _run(self, fault: Fault, rng: random.Random, wanted: dict[str, str]) -> Verdict:
        place = None if fault.put_back is None else fault.put_back(self.box)
        if fault.spoil is not None:
            fault.spoil(self.box, rng)
        firsts = self._first(fault)
        if fault.space_kib is not None:
            SmallDisk.widen(self.box)
        seconds = sum(first.seconds for first in firsts)
        ways = " and ".join(sorted({_way(first) for first in firsts}))
        for first in firsts:
            wrong = _wrong(first)
            if wrong:
                return Verdict(fault, wrong, ways, _tail(first), seconds)
        if not fault.together and any(first.status == 0 for first in firsts):
            different = self._different(wanted, complete=fault.put_back is None)
            if different:
                return Verdict(fault, "number", ways, f"finished, yet {different}", seconds)
        if place is not None:
            self.box.put_back(place, fault.state)
        result, detail = "same", ""
        for command in dict.fromkeys(fault.together or (fault.command,)):
            result, detail, spent = self._again(fault, command, result, detail)
            seconds += spent
            if result not in SURVIVED:
                return Verdict(fault, result, ways, detail, seconds)
        different = self._different(wanted)
        if different:
            return Verdict(fault, "number", ways, different, seconds)
        if not detail and any(first.status > 0 for first in firsts):
            detail = _tail(next(first for first in firsts if first.status > 0))
        return Verdict(fault, result, ways, detail, seconds)

    def _first(self, fault: Fault) -> list[Ended]:
        box = self.box
        if fault.together:
            children: list[Child] = [
                start(box.command(name, *fault.more), box.root) for name in fault.together
            ]
            return [finish(child) for child in children]
        command = box.command(fault.command, *fault.more)
        if fault.outside is not None:
            number, seconds = fault.outside
            return [shell(command, signal_after=(number, seconds))]
        if fault.trouble is None:
            return []
        return [forked(command, box.root, fault.trouble)]

    def _again(self, fault: Fault, name: str, result: str, detail: str) -> tuple[str, str, float]:
        command = self.box.command(name, *fault.more)
        again = forked(command, self.box.root)
        wrong = _wrong(again)
        if wrong:
            return wrong, _tail(again), again.seconds
        if again.status == 0:
            return result, detail or _tail(again) if again.err else detail, again.seconds
        if fault.mend is None:
            return "stuck", _tail(again), again.seconds
        fault.mend(self.box)
        mended = forked(command, self.box.root)
        seconds = again.seconds + mended.seconds
        if mended.status:
            return "stuck", f"{_tail(again)} / after mending: {_tail(mended)}", seconds
        return "said", _tail(again), seconds

    def _different(self, wanted: dict[str, str], *, complete: bool = True) -> str:
        found = self.box.digests()
        keys = {*wanted, *found} if complete else set(found)
        odd = sorted(key for key in keys if wanted.get(key) != found.get(key))
        return ", ".join(odd)


def _way(ended: Ended) -> str:
    if ended.status < 0:
        return f"killed ({-ended.status})"
    return {0: "finished", 124: "hanging"}.get(ended.status, f"status {ended.status}")


def _wrong(ended: Ended) -> str:
    """What no start may do, whatever happens to it; empty if it did nothing of the kind."""
    if ended.status == 124:
        return "hanging"
    if ended.traced:
        return "traceback"
    if ended.status > 0 and not says_way_out(ended.err):
        return "silent"
    return ""


_WAYS_OUT = (
    "again|choose|free |remove|set |check|copy|mend|train|name |give|replace|goes on|take|export|"
    "save|keep|did you mean|keys: |correct |must|needs|one of|add|state|between|at least|make"
)


def says_way_out(message: str) -> bool:
    """Whether a message tells a person what to do."""
    return bool(message.strip()) and re.search(_WAYS_OUT, message) is not None


def _tail(ended: Ended) -> str:
    lines = [line for line in ended.err.strip().splitlines() if line.strip()]
    return " | ".join(lines[-3:])[-400:]


class SmallDisk:
    """The box on a disk of its own with little space; needs root."""

    def __init__(self, box: Box, state: str, space_kib: int) -> None:
        self.box, self.state, self.space_kib = box, state, space_kib

    def __enter__(self) -> None:
        """Mount it and copy the state there."""
        folder = self.box.root / "box"
        self.box.reset(self.state)
        usage = subprocess.run(
            ["du", "-sk", str(folder)], capture_output=True, text=True, check=True
        )
        size = int(usage.stdout.split()[0]) + self.space_kib
        _call("mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(folder))
        _call("cp", "-a", f"{self.box.root / 'template' / self.state}/.", str(folder))

    def __exit__(self, *_: object) -> None:
        """Take it away."""
        _call("umount", str(self.box.root / "box"))

    @staticmethod
    def widen(box: Box) -> None:
        """Somebody frees space."""
        _call("mount", "-o", "remount,size=500m", str(box.root / "box"))

    @staticmethod
    def possible(box: Box) -> bool:
        """Whether this machine lets us mount one."""
        folder = box.root / "mount"
        folder.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            return False
        _call("umount", str(folder))
        return True


def _call(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def summary(verdicts: Sequence[Verdict]) -> list[tuple[str, int, int, int, int]]:
    """Kind, tried, finished as undisturbed, said what to do, lost; one row a kind."""
    rows = []
    for kind in dict.fromkeys(verdict.fault.kind for verdict in verdicts):
        mine = [verdict for verdict in verdicts if verdict.fault.kind == kind]
        same = sum(verdict.result == "same" for verdict in mine)
        said = sum(verdict.result == "said" for verdict in mine)
        rows.append((kind, len(mine), same, said, len(mine) - same - said))
    return rows
