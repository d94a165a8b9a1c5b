"""Inputs that somebody has damaged or made up, one after the other through every reader.

Each ends in success or in a `LandmarkingError` that says what to do; anything else is a defect:
another exception, a warning, a reader that takes seconds or gigabytes, a message without a way out.
"""

from __future__ import annotations

import json
import random
import resource
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trial import says_way_out

from landmarking.errors import LandmarkingError

SLOW_S = 20.0
MEMORY = 6 * 2**30

TOKENS = (
    "", " ", "0", "-1", "1", "3", "1e999", "-1e308", "1e-320", "nan", "NaN", "inf", "-Infinity",
    "null", "true", "{}", "[]", "[[]]", "9" * 40, "0x1F", "1,5", "\x00", "\ufeff", "\u202e",
    "é", "sub-", "n/a", "../../etc/passwd", "<script>alert(1)</script>", "'; --", "${oc.env:HOME}",
    "!!python/object/apply:os.system [id]", "&a [*a, *a]", "%s%n", "\t", "\r\n", '"', "\\",
    "A" * 5000, "[" * 3000,
)  # fmt: skip

VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 10**30, -(10**30), 0.5, float("nan"), float("inf"), 1e-320, "",
    "x", "nan", "../..", "<b>", [], [[]], [1], [None], {}, {"a": 1}, ["x"] * 3, "A" * 2000,
)  # fmt: skip


@dataclass(frozen=True)
class Target:
    """A reader and a good input.

    Attributes:
        name: What is read, for the table.
        good: Bytes of a good file.
        read: Reads a file that holds the bytes; may raise a LandmarkingError.
        file: Name of that file.
        kinds: How it is mutated: `bytes`, `text`, `json`, `head`.
    """

    name: str
    good: bytes
    read: Callable[[Path], object]
    file: str
    kinds: tuple[str, ...] = ("bytes", "text")


@dataclass(frozen=True)
class Finding:
    """A mutated input that did not end as it should."""

    target: str
    what: str
    detail: str
    content: bytes


@dataclass
class Tally:
    """Counts of one target."""

    name: str
    tried: int = 0
    read: int = 0
    refused: int = 0
    slowest_s: float = 0.0


def mutated_bytes(good: bytes, rng: random.Random, head: int | None = None) -> bytes:
    """One to eight changes of bytes; all of them in the first `head` bytes if given."""
    content = bytearray(good)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 8))):
        last = min(len(content), head or len(content))
        place = rng.randrange(last) if last else 0
        end = min(len(content), place + rng.choice((1, 2, 4, 8, 64)))
        action = rng.randrange(7 if head is None else 3)
        if action == 0 and content:
            content[place] ^= 1 << rng.randrange(8)
        elif action == 1:
            content[place:end] = rng.randbytes(end - place)
        elif action == 2:
            content[place:end] = rng.choice((b"\x00", b"\xff", b"\x7f")) * (end - place)
        elif action == 3:
            del content[place:end]
        elif action == 4:
            content[place:place] = content[place:end]
        elif action == 5:
            del content[place:]
        else:
            content[place:place] = rng.randbytes(end - place)
    return bytes(content)


def mutated_text(good: bytes, rng: random.Random) -> bytes:
    """A word, number or line of a text is replaced, doubled, moved or left out."""
    text = good.decode("utf-8", errors="replace")
    for _ in range(rng.choice((1, 1, 2, 4))):
        action = rng.randrange(4)
        lines = text.split("\n")
        if action == 0:
            # At a border of words and numbers, where the meaning is.
            cuts = [i for i in range(1, len(text)) if text[i].isalnum() != text[i - 1].isalnum()]
            if len(cuts) > 1:
                first = rng.randrange(len(cuts) - 1)
                text = text[: cuts[first]] + rng.choice(TOKENS) + text[cuts[first + 1] :]
        elif action == 1:
            lines.insert(rng.randrange(len(lines) + 1), rng.choice(lines))
            text = "\n".join(lines)
        elif action == 2:
            del lines[rng.randrange(len(lines))]
            text = "\n".join(lines)
        else:
            rng.shuffle(lines)
            text = "\n".join(lines)
    return text.encode("utf-8", errors="surrogatepass")


def mutated_value(value: Any, rng: random.Random) -> Any:
    """A plain value in which one node is another, is gone or has another name."""
    paths = list(_paths(value))
    path = rng.choice(paths)
    if not path:
        return rng.choice(VALUES)
    copy = json.loads(json.dumps(value))
    parent = copy
    for key in path[:-1]:
        parent = parent[key]
    action = rng.randrange(4)
    if action == 0:
        del parent[path[-1]]
    elif action == 1 and isinstance(parent, dict):
        parent[f"{path[-1]}{rng.choice('sx_1')}"] = parent.pop(path[-1])
    else:
        parent[path[-1]] = rng.choice(VALUES)
    return copy


def _paths(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield before
    children: Sequence[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        children = list(value.items())
    elif isinstance(value, list):
        children = list(enumerate(value))[:20]
    for key, child in children:
        yield from _paths(child, (*before, key))


def mutated(target: Target, rng: random.Random) -> bytes:
    """Another input for a target."""
    kind = rng.choice(target.kinds)
    if kind == "bytes":
        return mutated_bytes(target.good, rng)
    if kind == "head":
        return mutated_bytes(target.good, rng, head=352)
    if kind == "json":
        return json.dumps(mutated_value(json.loads(target.good), rng)).encode()
    return mutated_text(target.good, rng)


def try_inputs(target: Target, folder: Path, count: int, seed: int) -> tuple[Tally, list[Finding]]:
    """Read mutated inputs of one target.

    Args:
        target: Reader and good input.
        folder: Where the inputs are put.
        count: How many.
        seed: Seed of the mutations.
    """
    tally, findings = Tally(target.name), []
    path = folder / target.file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(target.good)
    target.read(path)  # the good one is read
    with limited_memory():
        for number in range(count):
            content = mutated(target, random.Random(f"{seed} {target.name} {number}"))
            path.write_bytes(content)
            began = time.monotonic()
            wrong = judged(lambda: target.read(path), tally)
            tally.slowest_s = max(tally.slowest_s, time.monotonic() - began)
            if wrong is None and time.monotonic() - began > SLOW_S:
                wrong = ("slow", f"{time.monotonic() - began:.0f} s")
            if wrong is not None:
                findings.append(Finding(target.name, *wrong, content))
    return tally, findings


def judged(read: Callable[[], object], tally: Tally) -> tuple[str, str] | None:
    """Call a reader; None if it succeeds or refuses in words, else what is wrong with it."""
    tally.tried += 1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            read()
    except LandmarkingError as error:
        tally.refused += 1
        return None if says_way_out(str(error)) else ("no way out", str(error)[:300])
    except Exception as error:
        return type(error).__name__, _where(error)
    tally.read += 1
    return None


def _where(error: Exception) -> str:
    trace = error.__traceback__
    place = ""
    while trace is not None:
        code = trace.tb_frame.f_code
        if "landmarking" in code.co_filename and "tests" not in code.co_filename:
            place = f"{Path(code.co_filename).name}:{trace.tb_lineno} {code.co_name}"
        trace = trace.tb_next
    return f"{place}: {str(error)[:200]}"


@contextmanager
def limited_memory() -> Iterator[None]:
    """No input may make a reader ask for more memory than a machine has."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
