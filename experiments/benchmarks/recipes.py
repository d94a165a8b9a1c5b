"""Two recipes for one network: validation error by epoch, drawn from the runs' histories."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from arguments import main, read_arguments
from landmarking.config import PROJECT
from landmarking.errors import ConfigError
from landmarking.files import atomic_path


@dataclass
class RecipeCurves:
    """What to compare.

    Attributes:
        fast: Folder of the run of `experiment=fast_ml`.
        paper: Folder of the run of `experiment=fast_paper_ml`.
        picture: Where the figure goes.
    """

    fast: str = str(PROJECT / "outputs" / "fast" / "fast-seed0")
    paper: str = str(PROJECT / "outputs" / "fast" / "paper-recipe-seed0")
    picture: str = str(PROJECT / "docs" / "images" / "fast-recipe.png")


def run(arguments: list[str]) -> str:
    """Draw both curves and say where they end.

    Args:
        arguments: `key=value` for the fields of `RecipeCurves`.

    Returns:
        A Markdown table.

    Raises:
        ConfigError: If an argument is unknown or a run has no history.
    """
    config = read_arguments(RecipeCurves, arguments)
    curves = {"paper's recipe": history(config.paper), "fast recipe": history(config.fast)}
    draw(curves, Path(config.picture))
    rows = ["| recipe | epochs | first, px | last, px | lowest, px |", "|---|---|---|---|---|"]
    for name, loss in curves.items():
        first, last = loss.iloc[0], loss.iloc[-1]
        rows.append(f"| {name} | {len(loss)} | {first:.2f} | {last:.2f} | {loss.min():.2f} |")
    return "\n".join(rows)


def history(run_folder: str) -> pd.Series[float]:
    """Validation error in pixels by epoch, counted from one.

    Raises:
        ConfigError: If the run has no history.
    """
    path = Path(run_folder) / "history.csv"
    if not path.exists():
        raise ConfigError(
            f"{path}: there is no such history; train experiment=fast_ml and fast_paper_ml first"
        )
    frame = pd.read_csv(path)
    return pd.Series(frame["validation_loss_px"].to_numpy(), index=frame["epoch"] + 1).dropna()


def draw(curves: dict[str, pd.Series[float]], path: Path) -> None:
    """Validation error against epoch, both axes logarithmic, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for (name, loss), colour in zip(curves.items(), ("#0072b2", "#d55e00"), strict=True):
        axes.plot(loss.index, loss, color=colour, label=name)
    axes.set(xscale="log", yscale="log", xlabel="epoch", ylabel="validation error, px")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


if __name__ == "__main__":
    main(run)
