"""One look for all figures, and files that are the same byte for byte when drawn again."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from landmarking.evaluation.summary import NO_SKILL, ordered
from landmarking.storage import atomic_path

COLUMN_IN = 3.5
"""Width of one text column, at which every figure must be legible."""

_COLOURS = {"SL": "#E69F00", "ML": "#0072B2", NO_SKILL: "#777777"}
_OTHERS = ("#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000")
_GROUPS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#000000")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (5, 1, 1, 1)))

_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 7.0,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7.0,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.2,
    "pdf.fonttype": 42,
    "svg.hashsalt": "landmarking",
    "figure.dpi": 100.0,
    "savefig.dpi": 300.0,
    "path.simplify": True,
}


@dataclass(frozen=True)
class Drawing:
    """A figure with what the report says about it.

    Attributes:
        name: Stem of its files.
        title: Heading.
        caption: What is drawn, with units.
        figure: The drawing itself.
    """

    name: str
    title: str
    caption: str
    figure: Figure


def model_colours(models: Iterable[str]) -> dict[str, str]:
    """One colour a model from the palette of Okabe and Ito (2008), which colour-blind people see.

    SL is orange and ML blue, as in the paper's Figures 4 and 5.
    """
    names = ordered(models, ("SL", "ML"), (NO_SKILL,))
    others = [name for name in names if name not in _COLOURS]
    spare = {name: _OTHERS[index % len(_OTHERS)] for index, name in enumerate(others)}
    return {name: _COLOURS.get(name) or spare[name] for name in names}


def group_colours(groups: Iterable[str]) -> dict[str, str]:
    """One colour a group from the same palette, for charts whose models are told apart by place."""
    return {group: _GROUPS[index % len(_GROUPS)] for index, group in enumerate(groups)}


def dashes(index: int) -> Any:
    """Line style of the index-th group, so that lines differ without colour too."""
    return _DASHES[index % len(_DASHES)]


@contextmanager
def house_style() -> Iterator[None]:
    """Draw and save within the house's style, whatever the user's matplotlibrc says."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


def new_figure(height_in: float, width_in: float = COLUMN_IN) -> Figure:
    """An empty figure with a layout that keeps labels apart; no window, no global state."""
    return Figure(figsize=(width_in, height_in), layout="constrained")


def png_bytes(figure: Figure) -> bytes:
    """A figure as PNG at 300 dpi, without a version in it; its layout is settled from then on."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    # Laying out costs as much as drawing, and would come out the same for the next format.
    figure.set_layout_engine("none")
    return buffer.getvalue()


def save(figure: Figure, folder: Path, name: str) -> bytes:
    """Write a figure as PNG and PDF, without dates or versions in the files.

    Args:
        figure: The drawing, made in `house_style`; saved in it too.
        folder: Where to.
        name: Stem of both files.

    Returns:
        The PNG, for the page.
    """
    png = png_bytes(figure)
    with atomic_path(folder / f"{name}.png") as temporary:
        temporary.write_bytes(png)
    plain = {"CreationDate": None, "Creator": None, "Producer": None}
    with atomic_path(folder / f"{name}.pdf") as temporary:
        figure.savefig(temporary, metadata=plain)
    return png
