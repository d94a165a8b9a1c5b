"""Distances, angles and areas between landmarks: by person, with their uncertainty, by group.

All are those of the mid-sagittal plane. The points are defined by Lau et al. 2019 (AFIDs); the
distance of the commissures is that of Talairach and Tournoux 1988; the other measures are chosen
here because both ends lie on the plane, and none of them is a clinical standard.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from landmarking.cohort.records import known, read_table
from landmarking.errors import ConfigError, LandmarkError
from landmarking.evaluation.statistics import holm, unpaired_test
from landmarking.files import atomic_path, write_text
from landmarking.geometry import Array
from landmarking.landmarks import landmark_set, read_landmarks

Compute = Callable[..., float]

RADIUS_TO_SD = float(np.sqrt(-2.0 * np.log(0.1)))
"""The 90 % radius of a point whose error is normal and alike along both axes, in its SDs."""


def distance(first: Array, second: Array) -> float:
    """Between two points, mm."""
    return float(np.linalg.norm(second - first))


def angle(first: Array, second: Array, third: Array, fourth: Array) -> float:
    """Between the lines from first to second and from third to fourth, 0 to 180 degrees."""
    a, b = second - first, fourth - third
    cosine = a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))))


def area(*corners: Array) -> float:
    """Of a flat polygon with these corners in order, mm2."""
    around = zip(corners, (*corners[1:], corners[0]), strict=True)
    return float(np.linalg.norm(sum(np.cross(a, b) for a, b in around)) / 2.0)


@dataclass(frozen=True)
class Measure:
    """One measure.

    Attributes:
        name: As tables have it.
        unit: mm, mm2 or degrees.
        points: Landmarks that it takes, in order.
        compute: From their positions.
        meaning: In words.
    """

    name: str
    unit: str
    points: tuple[str, ...]
    compute: Compute
    meaning: str


MEASURES = (
    Measure("AC-PC", "mm", ("AC", "PC"), distance, "distance of the commissures"),
    Measure("callosal length", "mm", ("GENU", "SPLE"), distance, "genu to splenium"),
    Measure("interpeduncular height", "mm", ("IMS", "PMJ"), distance, "front of the midbrain"),
    Measure("midbrain depth", "mm", ("PMJ", "ICS"), distance, "across the lower midbrain"),
    Measure("posterior fossa depth", "mm", ("PMJ", "CUL"), distance, "brain stem to the culmen"),
    Measure("tectal height", "mm", ("PC", "ICS"), distance, "from PC to the colliculi"),
    Measure(
        "callosal tilt", "degrees", ("PC", "AC", "SPLE", "GENU"), angle,
        "callosal length against the line of the commissures",
    ),
    Measure(
        "brain-stem angle", "degrees", ("AC", "PC", "IMS", "PMJ"), angle,
        "front of the midbrain against the line of the commissures",
    ),
    Measure("midbrain area", "mm2", ("IMS", "PMJ", "ICS", "PC"), area, "between four points"),
    Measure("subcallosal area", "mm2", ("GENU", "AC", "PC", "SPLE"), area, "below the callosum"),
)  # fmt: skip


def measure(
    points_mm: Mapping[str, Array], radii_mm: Mapping[str, float] | None = None
) -> pd.DataFrame:
    """All measures of one person.

    Args:
        points_mm: World mm by landmark, shape (3,) each.
        radii_mm: 90 % radius of each, where it is known.

    Returns:
        Rows with measure, unit, value and sd (of the landmarks' own error; NaN where a radius is
        not known); NaN for measures of which a landmark is missing.
    """
    known = {
        name: np.asarray(p, np.float64) for name, p in points_mm.items() if np.isfinite(p).all()
    }
    plane = _plane(list(known.values()))
    rows = []
    for each in MEASURES:
        there = all(name in known for name in each.points)
        places = [known[name] for name in each.points] if there else []
        value = each.compute(*places) if there else float("nan")
        spread = [float((radii_mm or {}).get(n, np.nan)) / RADIUS_TO_SD for n in each.points]
        sd = _propagated(each.compute, places, spread, plane) if there else float("nan")
        rows.append({"measure": each.name, "unit": each.unit, "value": value, "sd": sd})
    return pd.DataFrame(rows)


def _plane(points: Sequence[Array]) -> Array:
    """Two directions that span the points, shape (2, 3)."""
    if len(points) < 2:
        return np.eye(3)[:2]
    stacked = np.stack(points)
    return np.asarray(np.linalg.svd(stacked - stacked.mean(axis=0))[2][:2])


def _propagated(
    compute: Compute, points: Sequence[Array], sds: Sequence[float], plane: Array
) -> float:
    """SD of a measure, to first order, from that of its points along the plane."""
    step, total = 1e-4, 0.0
    for number, sd in enumerate(sds):
        for direction in plane:
            ends = []
            for sign in (-1.0, 1.0):
                moved = list(points)
                moved[number] = moved[number] + sign * step * direction
                ends.append(compute(*moved))
            total += ((ends[1] - ends[0]) / (2.0 * step) * sd) ** 2
    return float(np.sqrt(total))


def read_points(path: Path) -> dict[str, tuple[dict[str, Array], dict[str, float]]]:
    """Points and radii by scan, from `landmarks.csv` of predict or one landmark file.

    Raises:
        LandmarkError: If the file cannot be read or has other columns.
    """
    if path.suffix != ".csv":
        found = landmark_set("msp8").arrange(read_landmarks(path))
        name = path.name.split(".")[0].removesuffix("_landmarks")
        return {name: (dict(zip(landmark_set("msp8").names, found, strict=True)), {})}
    wanted = ["scan", "landmark", "x_mm", "y_mm", "z_mm", "radius_mm"]
    try:
        table = pd.read_csv(path, dtype={"scan": str, "landmark": str}, keep_default_na=True)
        table = table[wanted]
    except (OSError, ValueError, KeyError) as error:
        raise LandmarkError(
            f"{path}: no landmarks.csv of predict (columns {', '.join(wanted)}); give that, or "
            "landmark files"
        ) from error
    people: dict[str, tuple[dict[str, Array], dict[str, float]]] = {}
    for scan, part in table.groupby("scan", sort=False):
        places = part[["x_mm", "y_mm", "z_mm"]].to_numpy(np.float64)
        radii = part["radius_mm"].to_numpy(np.float64)
        names = part["landmark"].tolist()
        people[str(scan)] = (
            dict(zip(names, places, strict=True)), dict(zip(names, radii.tolist(), strict=True)),
        )  # fmt: skip
    return people


def person_of(scan: str) -> str:
    """`sub-03` of `sub-03/anat/sub-03_T1w`; the last part of a name without one."""
    found = re.findall(r"sub-[0-9A-Za-z]+", scan)
    name = scan.rsplit("/", 1)[-1]
    return found[-1] if found else re.sub(r"(_T1w|_afids|_landmarks|_desc-[a-z]+)+$", "", name)


def read_column(path: Path, column: str) -> dict[str, str]:
    """A column of participants.tsv by person; gaps are left out.

    Raises:
        LandmarkError: If the file cannot be read or has no such column.
    """
    problems: list[str] = []
    rows = read_table(path, ("participant_id", column), problems)
    if problems:
        raise LandmarkError(
            f"{path.parent / problems[0]}; give a participants.tsv with that column"
        )
    return {row["participant_id"]: row[column] for row in rows if known(row[column])}


def by_person(
    people: Mapping[str, tuple[Mapping[str, Array], Mapping[str, float]]],
) -> pd.DataFrame:
    """Measures of all people, one row a person and measure."""
    parts = [measure(points, radii).assign(scan=scan) for scan, (points, radii) in people.items()]
    columns = ["scan", "measure", "unit", "value", "sd"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def overview(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean and spread of each measure, and how much of the spread is the landmarks' own error.

    Args:
        rows: The result of `by_person`.

    Returns:
        Rows by measure with unit, n, mean, spread (SD between people), error_sd (root mean square
        of the people's own sd) and error_share (of the variance; NaN where radii are not known).
    """
    table = []
    for each in MEASURES:
        part = rows[(rows["measure"] == each.name) & rows["value"].notna()]
        spread = float(part["value"].std(ddof=1)) if len(part) > 1 else float("nan")
        error = float(np.sqrt((part["sd"] ** 2).mean())) if len(part) else float("nan")
        table.append(
            {
                "measure": each.name, "unit": each.unit, "n": len(part),
                "mean": float(part["value"].mean()) if len(part) else float("nan"),
                "spread": spread, "error_sd": error, "error_share": error**2 / spread**2,
            }
        )  # fmt: skip
    return pd.DataFrame(table)


def compare(
    rows: pd.DataFrame, groups: Mapping[str, str], covariate: Mapping[str, float] | None = None
) -> pd.DataFrame:
    """Two groups of people, measure by measure; Holm over all measures.

    Args:
        rows: The result of `by_person`.
        groups: Group of each scan.
        covariate: A number of each scan, such as age; its straight line over all people is taken
            out first.

    Returns:
        Rows by measure with first, second, and the fields of `statistics.Outcome` (first minus
        second, in the measure's unit), and p_holm.

    Raises:
        LandmarkError: If there are not two groups of two people or more.
    """
    names = sorted(set(groups.values()))
    sizes = {name: sum(g == name for g in groups.values()) for name in names}
    if len(names) != 2 or min(sizes.values()) < 2:
        found = ", ".join(f"{name} ({count})" for name, count in sizes.items()) or "none"
        raise LandmarkError(
            f"a comparison takes two groups of two people or more, found {found}; name a column "
            "with two values"
        )
    table = []
    for each in MEASURES:
        part = rows[(rows["measure"] == each.name) & rows["scan"].isin(groups)].copy()
        values = part["value"].to_numpy(np.float64)
        if covariate is not None:
            values = _without_line(
                values, np.array([covariate.get(s, np.nan) for s in part["scan"]])
            )
        of = part["scan"].map(groups).to_numpy()
        outcome = unpaired_test(*(values[of == name] for name in names))
        head = {"measure": each.name, "unit": each.unit, "first": names[0], "second": names[1]}
        table.append({**head, **vars(outcome)})
    frame = pd.DataFrame(table).rename(
        columns={"difference_mm": "difference", "low_mm": "low", "high_mm": "high"}
    )
    return frame.assign(p_holm=holm(frame["p_value"]))


def _without_line(values: Array, covariate: Array) -> Array:
    known = np.isfinite(values) & np.isfinite(covariate)
    result = np.full_like(values, np.nan)
    if known.sum() > 2 and np.ptp(covariate[known]) > 0:
        centred = covariate[known] - covariate[known].mean()
        result[known] = values[known] - centred * (centred @ values[known]) / (centred @ centred)
    return result


def agreement(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """How far two sets of landmarks of the same people agree (Bland and Altman 1986).

    Args:
        first: The result of `by_person`, such as of predicted landmarks.
        second: Likewise, such as of manual ones.

    Returns:
        Rows by measure with unit, n, bias (first minus second), low and high (limits of agreement,
        bias plus and minus 1.96 SD), and icc: ICC(2,1), two-way random, absolute agreement, single
        measure (Shrout and Fleiss 1979).
    """
    both = first.merge(second, on=["scan", "measure", "unit"], suffixes=("_1", "_2"))
    table = []
    for each in MEASURES:
        part = both[both["measure"] == each.name].dropna(subset=["value_1", "value_2"])
        pairs = part[["value_1", "value_2"]].to_numpy(np.float64)
        apart = pairs[:, 0] - pairs[:, 1]
        few = len(pairs) < 2
        bias = float(apart.mean()) if len(pairs) else float("nan")
        reach = float("nan") if few else 1.96 * float(apart.std(ddof=1))
        table.append(
            {
                "measure": each.name, "unit": each.unit, "n": len(pairs), "bias": bias,
                "low": bias - reach, "high": bias + reach,
                "icc": float("nan") if few else icc_2_1(pairs),
            }
        )  # fmt: skip
    return pd.DataFrame(table)


def icc_2_1(values: Array) -> float:
    """ICC(2,1) of values by person and rater, shape (n, k)."""
    n, k = values.shape
    people, raters = values.mean(axis=1), values.mean(axis=0)
    total = values.mean()
    rows = k * float(np.sum((people - total) ** 2)) / (n - 1)
    columns = n * float(np.sum((raters - total) ** 2)) / (k - 1)
    rest = values - people[:, None] - raters[None] + total
    error = float(np.sum(rest**2)) / ((n - 1) * (k - 1))
    below = rows + (k - 1) * error + k * (columns - error) / n
    return (rows - error) / below if below else float("nan")


def draw(rows: pd.DataFrame, path: Path, groups: Mapping[str, str] | None = None) -> None:
    """One panel a measure: a point a person with its own SD, and the mean of each group.

    Args:
        rows: The result of `by_person`.
        path: PNG to write.
        groups: Group of each scan; all people are one group where it is not given.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5.2), layout="constrained")
    axes = figure.subplots(2, 5)
    kinds = sorted(set((groups or {}).values())) or ["all"]
    colours = ("#0072b2", "#e69f00", "#009e73", "#cc79a7")
    for each, panel in zip(MEASURES, axes.flat, strict=True):
        part = rows[rows["measure"] == each.name]
        of = part["scan"].map(groups) if groups else pd.Series("all", index=part.index)
        for number, kind in enumerate(kinds):
            chosen = part[of == kind]
            spread = stats.norm.ppf((np.arange(len(chosen)) + 0.5) / max(len(chosen), 1)) * 0.12
            order = np.random.default_rng(0).permutation(len(chosen))
            colour = colours[number % len(colours)]
            panel.errorbar(
                number + spread[order], chosen["value"], yerr=chosen["sd"], fmt="o", ms=3,
                lw=0.6, color=colour, alpha=0.7,
            )  # fmt: skip
            panel.hlines(chosen["value"].mean(), number - 0.3, number + 0.3, color="black", lw=1.5)
        panel.set_title(each.name, fontsize=9)
        panel.set_ylabel(each.unit, fontsize=8)
        panel.set_xticks(range(len(kinds)), kinds, fontsize=8)
        panel.set_xlim(-0.6, len(kinds) - 0.4)
        panel.tick_params(axis="y", labelsize=7)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")


def write(
    files: Sequence[Path],
    output: Path,
    *,
    truth: Sequence[Path] = (),
    participants: Path | None = None,
    by: str | None = None,
    covariate: str | None = None,
) -> str:
    """Measure people, compare groups and raters, and write tables and the picture.

    Args:
        files: `landmarks.csv` of predict, or landmark files; one scan a person.
        output: Folder, made if need be.
        truth: Manual landmark files of the same people.
        participants: participants.tsv.
        by: Its column with two groups.
        covariate: Its column to take out of the comparison.

    Returns:
        The tables as text, and the paths of what was written.

    Raises:
        ConfigError: If options do not go together, or a person comes twice.
        LandmarkError: If a file cannot be read, or there are not two groups.
    """
    if (by or covariate) and participants is None:
        raise ConfigError("--by and --covariate name columns of --participants; give that file")
    rows = _measured(files)
    tables = {"measures": rows, "overview": overview(rows)}
    groups: dict[str, str] | None = None
    if by and participants:
        column = read_column(participants, by)
        groups = {person: column[person] for person in rows["scan"].unique() if person in column}
        numbers: dict[str, float] | None = None
        if covariate:
            numbers = {
                p: _number(v, covariate) for p, v in read_column(participants, covariate).items()
            }
        tables["groups"] = compare(rows, groups, numbers)
    if truth:
        tables["agreement"] = agreement(rows, _measured(truth))
    output.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        write_text(output / f"morphometry_{name}.csv", table.to_csv(index=False))
    draw(rows, output / "morphometry.png", groups)
    shown = [tables[name].to_string(index=False, float_format="%.3g") for name in list(tables)[1:]]
    places = [f"morphometry_{name}.csv" for name in tables] + ["morphometry.png"]
    return "\n\n".join([*shown, "\n".join(str(output / place) for place in places)])


def _measured(files: Sequence[Path]) -> pd.DataFrame:
    people: dict[str, tuple[dict[str, Array], dict[str, float]]] = {}
    for file in files:
        for scan, found in read_points(file).items():
            person = person_of(scan)
            if person in people:
                raise ConfigError(
                    f"{file}: morphometry takes one scan a person, found {person} again; give the "
                    "files of one data set and session"
                )
            people[person] = found
    return by_person(people)


def _number(value: str, column: str) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise LandmarkError(
            f"{column} is a column of numbers, found {value!r}; name another"
        ) from error
