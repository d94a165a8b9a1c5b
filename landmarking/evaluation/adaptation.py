"""How many people does a model of their own take? Error against the number of people learnt from.

The runs are those of `experiment=adapt_ds`: folds by person, so that everybody of the group is
tested on once for each way and number. What they are held against is the model that they started
from, on the same people.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.ticker import FixedLocator, NullLocator

from landmarking.evaluation.charts import Drawing, dashes, model_colours, new_figure
from landmarking.evaluation.statistics import holm, paired_test, summarise
from landmarking.evaluation.study import PREDICTIONS, Run, Study, read_run
from landmarking.evaluation.tables import INTERVAL_NOTE, Table, p_text, plus_minus, signed, span

UNADAPTED = "unadapted"
"""The way of the row without any people learnt from."""

_CHANGE_NOTE = (
    "Change: against the model that all started from, on the same people, paired by person; p: "
    "two-sided sign-flip permutation test over people; p Holm: adjusted over all rows of this "
    "table."
)


def adaptation(study: Study, *, permutations: int = 10_000, seed: int = 0) -> pd.DataFrame:
    """Error by way of learning and number of people learnt from; empty where no run adapted.

    Args:
        study: Runs, some of them with `adapt.people` above zero.
        permutations: Random permutations per test.
        seed: Their seed.

    Returns:
        One row by group, way and number, with `learnt_from`, the columns of `summarise`, and where
        the model that they started from has predictions of the same people the fields of `Outcome`
        (this row minus the unadapted, paired by person) and `change_percent`; and one row
        `UNADAPTED` a group.
    """
    runs = [run for run in study.runs if run.adapt and run.adapt["people"] is not None]
    rows = []
    for group in sorted({str(run.adapt["group"]) for run in runs}):
        of_group = [run for run in runs if run.adapt["group"] == group]
        before = _before(of_group, group)
        if len(before):
            cell = summarise(before)
            rows.append({"group": group, "way": UNADAPTED, "learnt_from": 0, **cell})
        for way, people in sorted({(_way(run), run.adapt["people"]) for run in of_group}):
            chosen = [r for r in of_group if (_way(r), r.adapt["people"]) == (way, people)]
            after = pd.concat([run.predictions for run in chosen], ignore_index=True)
            after = after[after["group"] == group]
            row = {"group": group, "way": way, "learnt_from": people}
            row |= summarise(after)
            rows.append(row | _change(before, after, permutations, seed))
    points = pd.DataFrame(rows)
    return points.assign(p_holm=holm(points["p_value"])) if "p_value" in points else points


def _way(run: Run) -> str:
    """The model's label without the number of people: `tuned` of `tuned-40`."""
    return run.model.removesuffix(f"-{run.adapt['people']}")


def _before(runs: Sequence[Run], group: str) -> pd.DataFrame:
    """What the model that all started from says of the people tested on; empty if not known."""
    starts = sorted({str(run.adapt.get("start") or "") for run in runs} - {""})
    tested = pd.concat([run.predictions for run in runs])
    tested = tested[tested["group"] == group]
    if len(starts) != 1 or not (Path(starts[0]) / PREDICTIONS).is_file():
        return tested.iloc[:0]
    before = read_run(Path(starts[0]) / PREDICTIONS).predictions
    # A model that has seen another cohort, or landmarks in other places, is no yardstick here.
    known = ["cohort_digest", "scan_id", "landmark"]
    wanted = tested[known].drop_duplicates()
    found = before.merge(wanted, on=known)
    return found if len(found) == len(wanted) * before["seed"].nunique() else tested.iloc[:0]


def _change(
    before: pd.DataFrame, after: pd.DataFrame, permutations: int, seed: int
) -> dict[str, float]:
    if not len(before):
        return {}
    points = ["participant_id", "scan_id", "landmark"]
    means = [part.groupby(points)["error_mm"].mean() for part in (after, before)]
    both = pd.concat(means, axis=1, keys=["after", "before"]).dropna()
    people = both.groupby("participant_id").mean()
    test = paired_test(people["after"], people["before"], permutations=permutations, seed=seed)
    change = 100.0 * (both["after"].mean() / both["before"].mean() - 1.0)
    return {**vars(test), "change_percent": float(change)}


def adaptation_table(points: pd.DataFrame, notes: Sequence[str] = ()) -> Table:
    """The result of `adaptation` as a table."""
    nan = float("nan")
    rows = [
        (
            str(r["way"]), str(r["group"]), str(r["learnt_from"]), str(r["people"]),
            plus_minus(r["mean_mm"], r["sd_mm"]), span(r["mean_mm_low"], r["mean_mm_high"]),
            signed(r.get("difference_mm", nan)), span(r.get("low_mm", nan), r.get("high_mm", nan)),
            signed(r.get("change_percent", nan), 0), p_text(r.get("p_value", nan)),
            p_text(r.get("p_holm", nan)),
        )
        for r in points.to_dict("records")
    ]  # fmt: skip
    return Table(
        name="adaptation",
        title="People learnt from, and the error on the others of their group",
        header=(
            "Way", "Group", "learnt from", "people", "Error (mm)", "95 % CI", "change (mm)",
            "95 % CI", "%", "p", "p Holm",
        ),
        rows=tuple(rows),
        notes=(
            *notes,
            INTERVAL_NOTE,
            _CHANGE_NOTE,
        ),
    )  # fmt: skip


def adaptation_curve(points: pd.DataFrame) -> Drawing | None:
    """Error against the number of people learnt from; None where no way has two numbers.

    Args:
        points: The result of `adaptation`.
    """
    if not len(points):
        return None
    learnt = points[points["learnt_from"] > 0]
    ways = [way for way, part in learnt.groupby("way", sort=True) if part.learnt_from.nunique() > 1]
    if not ways:
        return None
    figure = new_figure(2.3)
    axes = figure.add_subplot()
    colours = model_colours(learnt["way"])
    for index, ((group, way), part) in enumerate(learnt.groupby(["group", "way"], sort=True)):
        part = part.sort_values("learnt_from")
        # Side by side, so that whiskers at the same number of people can be told apart.
        x = part["learnt_from"] * 1.03 ** (index - len(ways) / 2)
        means = part["mean_mm"]
        whiskers = [means - part["mean_mm_low"], part["mean_mm_high"] - means]
        label = str(way) if learnt["group"].nunique() == 1 else f"{way}, {group}"
        axes.errorbar(
            x, means, whiskers, marker="o", ms=3, lw=1.0, elinewidth=0.8, capsize=2,
            color=colours[str(way)], label=label, ls=dashes(index),
        )  # fmt: skip
    for row in points[points["learnt_from"] == 0].to_dict("records"):
        axes.axhline(row["mean_mm"], color="black", lw=0.8, ls=":", label=UNADAPTED)
        axes.axhspan(row["mean_mm_low"], row["mean_mm_high"], color="black", alpha=0.08, lw=0)
    axes.set_xscale("log")
    numbers = sorted(set(learnt["learnt_from"]))
    axes.xaxis.set_major_locator(FixedLocator(numbers))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}")
    if points["mean_mm"].max() > 3.0 * points["mean_mm"].min():
        axes.set_yscale("log", subs=[2, 5])
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
    axes.set(xlabel="people learnt from", ylabel="error (mm)")
    axes.legend(loc="best")
    caption = (
        "Mean error in mm of the people tested on, by the number of people of their group learnt "
        "from; whiskers and band: 95 % intervals over people; dotted: the model started from."
    )
    return Drawing("adaptation_curve", "People learnt from", caption, figure)
