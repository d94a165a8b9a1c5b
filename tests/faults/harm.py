"""Damage to files that the project wrote: what is done to them, and to which."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from sandbox import Box
from trial import Fault


def flip(path: Path, rng: random.Random) -> None:
    """One bit is another."""
    content = bytearray(path.read_bytes())
    if content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(bytes(content))


def cut(path: Path, rng: random.Random) -> None:
    """The end is missing."""
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content) or 1)])


def empty(path: Path, rng: random.Random) -> None:
    """Nothing is left in the file."""
    path.write_bytes(b"")


def zeros(path: Path, rng: random.Random) -> None:
    """A block of zeros, as a file system leaves after a power cut."""
    content = bytearray(path.read_bytes())
    begin = rng.randrange(len(content) or 1)
    end = min(len(content), begin + 512)
    content[begin:end] = bytes(end - begin)
    path.write_bytes(bytes(content))


def digit(path: Path, rng: random.Random) -> None:
    """One digit of a text is another; in what is no text, one byte."""
    content = bytearray(path.read_bytes())
    places = [i for i, byte in enumerate(content) if 48 <= byte <= 57] or range(len(content))
    place = rng.choice(places)
    content[place] = 48 + (content[place] - 48 + rng.randrange(1, 10)) % 10
    path.write_bytes(bytes(content))


def another(path: Path, rng: random.Random) -> None:
    """Another file of the same kind stands there: a restore went wrong."""
    others = [
        other
        for other in sorted(path.parent.parent.rglob(f"*{path.suffix}"))
        if other != path and other.is_file()
    ]
    shutil.copy(rng.choice(others), path) if others else path.write_bytes(b"{}")


def folder(path: Path, rng: random.Random) -> None:
    """A folder of that name stands there."""
    path.unlink()
    path.mkdir()


def missing(path: Path, rng: random.Random) -> None:
    """The file is gone."""
    path.unlink()


HARM = (flip, cut, empty, zeros, digit, another, folder, missing)


def damage() -> Iterator[Fault]:
    """Files that the project wrote, damaged between two starts."""

    def entries(stage: str, suffix: str) -> Callable[[Box], list[Path]]:
        return lambda box: sorted((box.outputs / "cache" / stage).rglob(f"*{suffix}"))

    def one(name: str) -> Callable[[Box], list[Path]]:
        return lambda box: [box.run / name]

    def ready(name: str) -> Callable[[Box], list[Path]]:
        return lambda box: [box.prepared / name]

    targets: tuple[tuple[str, str, str, Callable[[Box], list[Path]]], ...] = (
        ("prepare", "unfinished", "cache: intensity, values", entries("intensity", ".json")),
        ("prepare", "unfinished", "cache: intensity, image", entries("intensity", ".npy")),
        ("prepare", "registered", "cache: registration", entries("registration", ".json")),
        ("prepare", "prepared", "files.json", lambda b: [b.outputs / "cache" / "files.json"]),
        ("prepare", "prepared", "prepared: index.json", ready("index.json")),
        ("prepare", "prepared", "prepared: images.npy", ready("images.npy")),
        ("prepare", "prepared", "prepared: qc.csv", ready("qc.csv")),
        ("train", "prepared", "prepared: images.npy", ready("images.npy")),
        ("train", "stopped", "last.ckpt", one("checkpoints/last.ckpt")),
        ("train", "stopped", "config.yaml of a stopped run", one("config.yaml")),
        ("train", "stopped", "provenance.json of a stopped run", one("provenance.json")),
        ("train", "stopped", "split.json of a stopped run", one("split.json")),
        ("train", "trained", "predictions.csv", one("predictions.csv")),
        ("report", "trained", "predictions.csv", one("predictions.csv")),
        ("report", "trained", "history.csv", one("history.csv")),
        ("report", "trained", "slices.npz", one("slices.npz")),
        ("report", "trained", "config.yaml", one("config.yaml")),
        ("report", "trained", "provenance.json", one("provenance.json")),
        ("evaluate", "trained", "model.ckpt", one("checkpoints/model.ckpt")),
        ("evaluate", "trained", "split.json", one("split.json")),
        ("evaluate", "trained", "config.yaml", one("config.yaml")),
        ("evaluate", "trained", "predictions.csv", one("predictions.csv")),
        ("predict", "trained", "model.ckpt", one("checkpoints/model.ckpt")),
    )
    for command, state, name, find in targets:
        for harm in HARM:

            def spoil(box: Box, rng: random.Random, find=find, harm=harm) -> None:  # type: ignore[no-untyped-def]
                harm(rng.choice(find(box)), rng)

            kind = (
                "a cache or prepared file"
                if ("run" not in name and "prepared" in (state,))
                or state in ("unfinished", "registered")
                else "a file of a run"
            )
            yield Fault(
                f"damage to {kind}",
                f"{command}: {name}, {harm.__name__}",
                state,
                command,
                spoil=spoil,
                mend=mended(state),
            )


def mended(state: str) -> Callable[[Box], None]:
    """What messages ask for: take what is damaged away, or put it back from a copy."""

    def mend(box: Box) -> None:
        template = box.root / "template" / state / "outputs"
        shutil.rmtree(box.outputs)
        shutil.copytree(template, box.outputs, symlinks=True)

    return mend
