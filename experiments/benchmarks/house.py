"""The rooms of the library and who needs whom, drawn from the imports: docs/images/house.png."""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from arguments import main, read_arguments
from landmarking.config import PROJECT

BASE, TOP = "base", "top"
TOPMOST = ("bids_app", "cli", "commands", "housekeeping", "shells")


@dataclass
class HousePicture:
    """What to draw.

    Attributes:
        picture: File that is written.
    """

    picture: str = "docs/images/house.png"


def room(module: str) -> str:
    """Room of a module, given its dotted name below the package; top and base hold single files."""
    first, _, rest = module.partition(".")
    if rest:
        return first
    return TOP if first in TOPMOST else BASE


def modules(package: Path) -> dict[str, int]:
    """Lines of each module but `__init__`, by its dotted name below the package."""
    return {
        ".".join(path.relative_to(package).with_suffix("").parts): len(
            path.read_text(encoding="utf-8").splitlines()
        )
        for path in sorted(package.rglob("*.py"))
        if path.name != "__init__.py"
    }


def needs(package: Path, known: dict[str, int]) -> Counter[tuple[str, str]]:
    """How many modules of the first room import from the second."""
    found: Counter[tuple[str, str]] = Counter()
    for name in known:
        tree = ast.parse((package / f"{name.replace('.', '/')}.py").read_text(encoding="utf-8"))
        rooms = {
            room(target)
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module
            for target in _targets(node, package.name, known)
        }
        found.update((room(name), other) for other in rooms - {room(name)})
    return found


def _targets(node: ast.ImportFrom, package: str, known: dict[str, int]) -> set[str]:
    base = (node.module or "").removeprefix(package).lstrip(".")
    ways = {base, *(f"{base}.{alias.name}".lstrip(".") for alias in node.names)}
    return ways & known.keys() if (node.module or "").startswith(package) else set()


def floors(rooms: set[str], arrows: Counter[tuple[str, str]]) -> dict[str, int]:
    """Floor of each room: one above the highest room that it needs; the base is the ground."""
    below = defaultdict(set)
    for upper, lower in arrows:
        below[upper].add(lower)
    found: dict[str, int] = {}
    while len(found) < len(rooms):
        ready = [r for r in rooms - found.keys() if below[r] <= found.keys()]
        if not ready:
            raise SystemExit(f"a circle among {', '.join(sorted(rooms - found.keys()))}")
        found |= {r: max((found[o] + 1 for o in below[r]), default=0) for r in ready}
    return found


def direct(arrows: Counter[tuple[str, str]]) -> list[tuple[str, str]]:
    """Arrows that no way over another room stands for; only these are drawn."""
    below = defaultdict(set)
    for upper, lower in arrows:
        below[upper].add(lower)

    def reached(start: str) -> set[str]:
        return below[start].union(*(reached(other) for other in below[start]))

    return [
        (upper, lower)
        for upper, lower in arrows
        if not any(lower in reached(other) for other in below[upper] - {lower})
    ]


def draw(package: Path, picture: Path) -> str:
    """Draw the house and say how large it is."""
    known = modules(package)
    arrows = needs(package, known)
    members = defaultdict(list)
    for name, lines in known.items():
        members[room(name)].append((name.rpartition(".")[2], lines))
    height = floors(set(members), arrows)
    by_floor = defaultdict(list)
    for name in sorted(members):
        by_floor[height[name]].append(name)
    figure, axes = plt.subplots(figsize=(10, 1.35 * len(by_floor)))
    place = {
        name: ((number + 0.5) / len(names) * 10.0, floor * 2.0)
        for floor, names in by_floor.items()
        for number, name in enumerate(names)
    }
    for upper, lower in direct(arrows):
        _arrow(axes, place[upper], place[lower], arrows[upper, lower])
    for name, where in place.items():
        _box(axes, name, where, members[name])
    axes.set_xlim(0.0, 10.0)
    axes.set_ylim(-0.9, 2.0 * len(by_floor) - 1.0)
    axes.axis("off")
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=110, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)
    counts = sorted(known.values())
    return (
        f"{len(known)} modules in {len(members)} rooms, {sum(counts)} lines, median "
        f"{counts[len(counts) // 2]}, longest {counts[-1]}; {len(arrows)} arrows, none upwards\n"
        f"{picture}"
    )


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], count: int) -> None:
    axes.annotate(
        "",
        xy=(end[0], end[1] + 0.5),
        xytext=(start[0], start[1] - 0.5),
        arrowprops={
            "arrowstyle": "-|>",
            "color": "#7a8aa0",
            "lw": 0.6 + 0.25 * count,
            "alpha": 0.65,
            "connectionstyle": "arc3,rad=0.06",
        },
    )


def _box(axes: Axes, name: str, where: tuple[float, float], rows: list[tuple[str, int]]) -> None:
    total = sum(lines for _, lines in rows)
    names = sorted(stem for stem, _ in rows)
    half = (len(names) + 1) // 2
    text = ", ".join(names[:half]) + (",\n" + ", ".join(names[half:]) if names[half:] else "")
    if len(text) > 90:
        third = (len(names) + 2) // 3
        text = ",\n".join(
            ", ".join(names[start : start + third]) for start in range(0, len(names), third)
        )
    axes.text(
        *where,
        f"$\\bf{{{name}}}$  ({len(rows)} modules, {total:,} lines)\n{text}",
        ha="center",
        va="center",
        fontsize=8,
        zorder=3,
        bbox={"boxstyle": "round,pad=0.5", "facecolor": "#eef3fa", "edgecolor": "#35506f"},
    )


def run(arguments: list[str]) -> str:
    """Draw.

    Args:
        arguments: `key=value` for the fields of `HousePicture`.

    Returns:
        The figures of the house, and the picture's path.

    Raises:
        ConfigError: If a key is unknown.
    """
    chosen = read_arguments(HousePicture, arguments)
    return draw(PROJECT / "landmarking", PROJECT / chosen.picture)


if __name__ == "__main__":
    main(run)
