"""Shape statistics beside figures computed elsewhere: `shape.py ../shared/shape`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from arguments import main, read_arguments
from landmarking.config import PROJECT
from landmarking.errors import ConfigError
from landmarking.geometry import Array
from landmarking.shape.classifier import CLASSIFIERS, Data, nested
from landmarking.shape.edma import compare_forms
from landmarking.shape.procrustes import align, mean_shape_test, procrustes_anova

BOOKSTEIN, BRAINS = "bookstein_midsagittal.csv", "brains_3d.csv"


@dataclass
class ShapeBenchmark:
    """What to compute.

    Attributes:
        root: Folder of the two tables; they are not part of the project.
        draws: Exchanges and bootstrap samples.
        seed: Of all draws.
    """

    root: str = "../shared/shape"
    draws: int = 2_000
    seed: int = 0


def run(arguments: list[str]) -> str:
    """Compute both data sets.

    Args:
        arguments: The folder, then `key=value` for the fields of `ShapeBenchmark`.

    Returns:
        Tables in Markdown; what is missing is said.

    Raises:
        ConfigError: If a key is unknown.
    """
    given = [a if "=" in a else f"root={a}" for a in arguments]
    chosen = read_arguments(ShapeBenchmark, given, "shape")
    root = PROJECT / chosen.root
    if not (root / BOOKSTEIN).is_file() or not (root / BRAINS).is_file():
        raise ConfigError(
            f"{root}: lacks {BOOKSTEIN} or {BRAINS}, which are not part of the project; name their "
            "folder"
        )
    return "\n\n".join([_bookstein(root / BOOKSTEIN, chosen), _brains(root / BRAINS, chosen)])


def points_of(table: pd.DataFrame, axes: list[str]) -> tuple[Array, list[str], pd.DataFrame]:
    """Configurations, shape (N, L, D), landmark names, and one row a person."""
    names = [str(name) for name in dict.fromkeys(table["landmark"])]
    people = table.drop_duplicates("participant").reset_index(drop=True)
    wide = [
        table[table["participant"] == person].set_index(
            table[table["participant"] == person]["landmark"].astype(str)
        ).loc[names, axes].to_numpy(float)
        for person in people["participant"]
    ]  # fmt: skip
    return np.array(wide), names, people


def _bookstein(path: Path, chosen: ShapeBenchmark) -> str:
    points, names, people = points_of(pd.read_csv(path), ["x", "y"])
    groups = people["group"].tolist()
    control = people["group"].to_numpy() == groups[0]
    aligned = align(points)
    test = mean_shape_test(aligned, groups, permutations=5 * chosen.draws, seed=chosen.seed)
    rows = [("Procrustes distance of the mean shapes, p", f"{test['p']:.4f}", "0.038")]
    for estimator, published in (("mean", "1.48, 0.005"), ("moment", "")):
        forms = compare_forms(
            points[~control], points[control], names, estimator=estimator, draws=chosen.draws,
            seed=chosen.seed,
        )  # fmt: skip
        figure = f"{forms.t:.3f}, {forms.p_exchanged:.4f} (bootstrap {forms.p:.4f})"
        rows.append((f"EDMA-I: T of the {estimator} form, p by exchange", figure, published))
        rows.append(("EDMA: share of the distances that differ", f"{forms.share:.0%}", ""))
    data = Data(points, (~control).astype(np.int64), people["participant"].tolist())
    for kind in ("shape", "distances"):
        for by in CLASSIFIERS:
            found = nested(data, kind=kind, by=by, seed=chosen.seed)
            figure = f"{found.auc:.2f} ({found.auc_low:.2f} to {found.auc_high:.2f})"
            rows.append((f"nested AUC, {kind}, {by}", figure, "0.71 to 0.87"))
    title = f"Bookstein's {len(names)} midsagittal landmarks of {len(points)} people"
    return _table(title, rows, "elsewhere")


def _brains(path: Path, chosen: ShapeBenchmark) -> str:
    points, names, people = points_of(pd.read_csv(path), ["x", "y", "z"])
    aligned = align(points)
    kept = people.iloc[aligned.people]
    anova = procrustes_anova(
        aligned,
        {"size": [], "sex": kept["sex"].tolist()},
        permutations=chosen.draws,
        seed=chosen.seed,
    )
    sizes = pd.Series(aligned.size).groupby(kept["sex"].to_numpy()).mean()
    rows = [
        (
            f"{row['factor']}: R2, F, p",
            f"{100 * row['r2']:.1f} %, {row['f']:.2f}, {row['p']:.4f}",
            "",
        )
        for row in anova.to_dict("records")[:-1]
    ]
    rows += [
        (f"mean centroid size, sex {sex}", f"{size:.1f} mm", "") for sex, size in sizes.items()
    ]
    return _table(f"{len(names)} points in 3-D of {len(points)} healthy people", rows, "elsewhere")


def _table(title: str, rows: list[tuple[str, str, str]], other: str) -> str:
    lines = [f"{title}", "", f"| what | here | {other} |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {a} | {b} | {c} |" for a, b, c in rows)])


if __name__ == "__main__":
    main(run)
