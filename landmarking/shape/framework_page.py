"""What the framework leaves: maps as NIfTI, tables, the figure with its four panels, one page."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import ChoiceLoader, Environment, PackageLoader
from matplotlib.axes import Axes
from sklearn.calibration import calibration_curve
from sklearn.metrics import roc_curve

from landmarking.evaluation.charts import Drawing, house_style, new_figure, save
from landmarking.evaluation.report import picture
from landmarking.evaluation.tables import (
    DASH,
    SIMULATED_NOTE,
    Table,
    fixed,
    p_text,
    span,
    to_latex,
    to_markdown,
)
from landmarking.files import atomic_path, write_text
from landmarking.geometry import Array
from landmarking.shape.maps import Grid, write_map
from landmarking.shape.procrustes import bent_grid, components

if TYPE_CHECKING:
    from landmarking.shape.framework import Results

_FIRST, _SECOND, _MARK = "#0072B2", "#D55E00", "#E69F00"

BY_CONSTRUCTION = (
    "The phantoms of the group DS are made with a short callosum, a small cerebellum and brain "
    "stem and a smaller head (docs/phantom.md): these differences were put in and are no finding."
)


def write(results: Results, folder: Path) -> str:
    """Write everything.

    Args:
        results: What was computed.
        folder: Where to.

    Returns:
        A few lines for people.
    """
    grid = results.grid
    compared = {"volume": results.group_map, "grey": results.grey_map}
    for name, found in compared.items():
        write_map(folder / "maps" / f"{name}_t.nii.gz", found.t, grid)
        write_map(folder / "maps" / f"{name}_p.nii.gz", -np.log10(found.p), grid)
        if found.p_tfce is not None:
            write_map(folder / "maps" / f"{name}_p-tfce.nii.gz", -np.log10(found.p_tfce), grid)
    if results.truth is not None:
        write_map(folder / "maps" / "true_difference.nii.gz", results.truth[0], grid)
    shown = list(tables(results))
    for table in shown:
        write_text(folder / "tables" / f"{table.name}.md", to_markdown(table))
        write_text(folder / "tables" / f"{table.name}.tex", to_latex(table))
    for name, frame in (("distances", results.forms.table), ("cost", results.cost)):
        with atomic_path(folder / "tables" / f"{name}.csv") as temporary:
            frame.to_csv(temporary, index=False, lineterminator="\n")
    with house_style():
        drawn = [
            picture(each, save(each.figure, folder / "figures", each.name))
            for each in (
                four_panels(results),
                shape_change(results),
                shape_components(results),
                calibration(results),
                cost_curve(results),
            )
        ]
    loaders = [PackageLoader("landmarking.shape"), PackageLoader("landmarking.evaluation")]
    environment = Environment(
        loader=ChoiceLoader(loaders), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("framework.html.j2").render(
        title=f"{results.config.cohort.name}: {' and '.join(results.config.groups)}",
        simulated=results.simulated,
        notes=results.notes,
        tables=shown,
        pictures=drawn,
        settings=json.dumps(_plain(results), indent=1),
    )
    write_text(folder / "index.html", page)
    test, best = (
        results.shape_test,
        results.verdicts["shape", results.config.classifiers[0], "automatic"],
    )
    significant = float((results.group_map.p < 0.05).mean())
    lines = [
        f"maps ({results.method}): {significant:.0%} of the brain differs at p < 0.05, corrected",
        f"data-driven landmarks: {len(results.found.points_mm) if results.found else 'none'}",
        f"mean shapes: Procrustes distance {test['distance']:.4f}, p {p_text(test['p'])}",
        (
            f"EDMA: T {results.forms.t:.3f}, p {p_text(results.forms.p)}; "
            f"{results.forms.share:.0%} of the distances differ"
        ),
        (
            f"diagnosis by automatic landmarks: AUC {best.auc:.2f} ({best.auc_low:.2f} to "
            f"{best.auc_high:.2f}), p {p_text(results.p_value)}"
        ),
        f"maps:    {folder / 'maps'}",
        f"tables:  {folder / 'tables'}",
        f"figures: {folder / 'figures'}",
        f"page:    {folder / 'index.html'}",
    ]
    return "\n".join(["Simulated people: no finding.", *lines] if results.simulated else lines)


def _plain(results: Results) -> dict[str, Any]:
    config = results.config
    return {
        "cohort": config.cohort.name,
        "groups": list(config.groups),
        "people": results.people["group"].value_counts().to_dict(),
        "registration": results.method,
        "spacing_mm": config.spacing_mm,
        "fwhm_mm": config.fwhm_mm,
        "permutations": config.permutations,
        "automatic landmarks by": config.automatic,
        "seed": config.seed,
    }


def tables(results: Results) -> Iterator[Table]:
    """All tables, panel by panel."""
    notes = (SIMULATED_NOTE, BY_CONSTRUCTION) if results.simulated else ()
    yield _maps_table(results, notes)
    if results.found is not None:
        points = zip(results.found.points_mm, results.found.t2, strict=True)
        yield Table(
            name="data_driven",
            title="B. Landmarks found where the groups' deformations differ",
            header=("Landmark", "front (mm)", "up (mm)", "Hotelling's T2"),
            rows=tuple(
                (f"D{n}", fixed(p[1], 0), fixed(p[2], 0), fixed(t2, 1))
                for n, (p, t2) in enumerate(points, start=1)
            ),
            notes=(
                *notes,
                f"Exchanged labels reach {results.found.threshold:.1f} in 5 % of draws.",
            ),
            text_columns=1,
        )
    if results.learnt.startswith("{"):
        learnt: Mapping[str, Sequence[float]] = json.loads(results.learnt)
        yield Table(
            name="learnt",
            title="C. A multi-landmark network trained on them",
            header=("Group", "error (mm)", "no skill (mm)"),
            rows=tuple((g, fixed(v[0]), fixed(v[1])) for g, v in learnt.items()),
            notes=(*notes, "Truth: the template's points carried by each scan's deformation."),
            text_columns=1,
        )
    yield _anova_table(results, notes)
    yield _edma_table(results, notes)
    yield _classifier_table(results, notes)


def _maps_table(results: Results, notes: Sequence[str]) -> Table:
    rows = []
    compared = (("local volume", results.group_map), ("grey matter", results.grey_map))
    for name, found in compared:
        clusters = DASH if found.p_tfce is None else fixed(100 * (found.p_tfce < 0.05).mean(), 1)
        share = fixed(100 * (found.p < 0.05).mean(), 1)
        rows.append((name, share, clusters, fixed(found.t.min(), 1), fixed(found.t.max(), 1)))
    covariates = "Covariates: age, sex, head size, where they vary."
    more = [] if results.truth is None else [f"{k}: {v:.2f}." for k, v in results.truth[1].items()]
    first, second = results.config.groups
    return Table(
        name="maps",
        title=f"A. {second} against {first}, voxel by voxel",
        header=("Map", "max-T (%)", "TFCE (%)", "lowest t", "highest t"),
        rows=tuple(rows),
        notes=(
            *notes,
            "Share of the brain with p < 0.05, corrected for all voxels by permutation.",
            (
                f"Registration: {results.method}, voxels of {results.grid.spacing_mm:g} mm, "
                f"smoothed by {results.config.fwhm_mm:g} mm. {covariates}"
            ),
            *more,
        ),
        text_columns=1,
    )


def _anova_table(results: Results, notes: Sequence[str]) -> Table:
    rows = tuple(
        (
            str(row["factor"]),
            str(row["df"]),
            fixed(100 * row["r2"], 1),
            DASH if np.isnan(row["f"]) else fixed(row["f"]),
            DASH if np.isnan(row["p"]) else p_text(row["p"]),
        )
        for row in results.anova.to_dict("records")
    )
    test = results.shape_test
    return Table(
        name="procrustes",
        title="D. What shape goes with: Procrustes ANOVA of the manual landmarks",
        header=("Factor", "df", "R2 (%)", "F", "p"),
        rows=rows,
        notes=(
            *notes,
            (
                f"Mean shapes: Procrustes distance {test['distance']:.4f}, p "
                f"{p_text(test['p'])} by exchanging people."
            ),
            (
                "Sequential sums of squares; p by exchanging residuals of the model before. size: "
                "log of centroid size (allometry)."
            ),
        ),
        text_columns=1,
    )


def _edma_table(results: Results, notes: Sequence[str]) -> Table:
    forms = results.forms
    ranked = forms.table.assign(far=np.abs(np.log(forms.table["ratio"]))).nlargest(10, "far")
    rows = tuple(
        (row["first"], row["second"], fixed(row["ratio"], 3), span(row["low"], row["high"], 3))
        for row in ranked.sort_values("ratio").to_dict("records")
    )
    first, second = results.config.groups
    return Table(
        name="edma",
        title=f"D. Distances of {second} by those of {first}: the ten that differ most",
        header=("From", "To", "ratio", "90 % interval"),
        rows=rows,
        notes=(
            *notes,
            (
                f"EDMA-I: T {forms.t:.3f}, p {p_text(forms.p)} (bootstrap), "
                f"{p_text(forms.p_exchanged)} (exchange); {forms.share:.0%} of {len(forms.table)} "
                "distances differ."
            ),
            f"EDMA-II: Z {forms.z:+.4f} ({forms.z_low:+.4f} to {forms.z_high:+.4f}).",
        ),
    )


def _classifier_table(results: Results, notes: Sequence[str]) -> Table:
    rows = tuple(
        (
            *(source, kind, by, fixed(v.auc)),
            span(v.auc_low, v.auc_high),
            fixed(v.balanced_accuracy),
        )
        for (kind, by, source), v in results.verdicts.items()
    )
    return Table(
        name="diagnosis",
        title=f"D. Who is {results.config.groups[1]}? Nested cross-validation by person",
        header=("Landmarks", "Features", "Classifier", "AUC", "95 % CI", "balanced accuracy"),
        rows=rows,
        notes=(
            *notes,
            (
                "Alignment, scaling and settings are of the training people of each fold alone. "
                "95 % CI after DeLong et al. 1988."
            ),
            (
                f"Shuffled labels ({len(results.null)} times, shape, "
                f"{results.config.classifiers[0]}, automatic): AUC "
                f"{results.null.mean():.2f} on average, p {p_text(results.p_value)}."
            ),
        ),
        text_columns=3,
    )


def four_panels(results: Results) -> Drawing:
    """Figure 1 of the paper on these people: A maps, B landmarks, C network, D shape."""
    figure = new_figure(4.9, 7.2)
    axes = figure.subplot_mosaic([["a1", "a2", "a3"], ["b", "c", "d"]])
    _draw_map(results, [axes["a1"], axes["a2"], axes["a3"]])
    _draw_found(results, axes["b"])
    _draw_slice(results, axes["c"])
    _draw_roc(results, axes["d"])
    first, second = results.config.groups
    return Drawing(
        "framework",
        "The frame of Figure 1",
        f"A: where local volume differs between {second} and {first} (t, p < 0.05 corrected; blue "
        "is smaller), sagittal, coronal, axial. B: Hotelling's T2 of the deformation on the "
        "mid-sagittal plane, and the landmarks found there. C: manual (white) and automatic "
        "(orange) landmarks on one slice. D: ROC curves of nested cross-validation.",
        figure,
    )


def _draw_map(results: Results, axes: Sequence[Axes]) -> None:
    grid, found = results.grid, results.group_map
    t = np.full(grid.mask.shape, np.nan)
    t[grid.mask] = np.where(found.p < 0.05, found.t, np.nan)
    limit = float(np.abs(found.t).max()) or 1.0
    focus = np.unravel_index(np.nanargmax(np.where(np.isnan(t), -1, np.abs(t))), t.shape)
    middle = round(-grid.affine[0, 3] / grid.affine[0, 0])
    cuts = ((middle, 0), (int(focus[1]), 1), (int(focus[2]), 2))
    shown = None
    for axis, (index, along), title in zip(axes, cuts, ("A", "", ""), strict=True):
        base, over = (np.take(each, index, axis=along).T for each in (grid.brain, t))
        axis.imshow(base, cmap="gray", origin="lower", interpolation="bilinear")
        shown = axis.imshow(over, cmap="RdBu_r", origin="lower", vmin=-limit, vmax=limit, alpha=0.8)
        letter = "xyz"[along]
        mm = round(grid.affine[along, 3] + grid.affine[along, along] * index)
        axis.set_title(f"{title}  {letter} = {mm} mm".strip(), loc="left", fontsize=8)
        _scale_bar(axis, grid)
    axes[0].invert_xaxis()  # the front on the left, as on the slices
    if shown is not None:
        axes[-1].figure.colorbar(shown, ax=list(axes), shrink=0.8, label="t")


def _scale_bar(axis: Axes, grid: Grid, mm: float = 50.0) -> None:
    axis.plot([1, 1 + mm / grid.spacing_mm], [1, 1], color="white", linewidth=2)
    middle = 1 + mm / grid.spacing_mm / 2
    axis.text(middle, 2, f"{mm:.0f} mm", color="white", fontsize=6, ha="center")
    axis.set_axis_off()


def _draw_found(results: Results, axis: Axes) -> None:
    axis.set_title("B", loc="left", fontsize=8)
    if results.found is None:
        axis.text(0.5, 0.5, "nothing above chance", ha="center", fontsize=7)
        axis.set_axis_off()
        return
    found = results.found
    ends = (found.y_mm[0], found.y_mm[-1], found.z_mm[0], found.z_mm[-1])
    axis.imshow(found.plane.T, origin="lower", extent=ends, cmap="magma", vmin=0)
    axis.plot(found.points_mm[:, 1], found.points_mm[:, 2], "o", color="#56B4E9", markersize=3)
    for number, point in enumerate(found.points_mm, start=1):
        axis.annotate(f"D{number}", point[1:], (3, 3), textcoords="offset points", fontsize=6,
                      color="white")  # fmt: skip
    axis.invert_xaxis()
    axis.set_xlabel("to the front, mm", fontsize=7)
    axis.set_ylabel("up, mm", fontsize=7)


def _draw_slice(results: Results, axis: Axes) -> None:
    axis.set_title("C", loc="left", fontsize=8)
    image, pixels = results.slices["image"], results.slices["pixels"]
    axis.imshow(image, cmap="gray")
    for points, colour, mark in ((pixels[0], "white", "+"), (pixels[1], _MARK, "x")):
        axis.plot(points[:, 0], points[:, 1], mark, color=colour, markersize=5)
    axis.plot([5, 55], [145, 145], color="white", linewidth=2)
    axis.text(5, 142, "50 mm", color="white", fontsize=6)
    axis.set_axis_off()


def _draw_roc(results: Results, axis: Axes) -> None:
    axis.set_title("D", loc="left", fontsize=8)
    for source, colour in (("manual", _FIRST), ("automatic", _SECOND)):
        verdict = results.verdicts["shape", results.config.classifiers[0], source]
        false, true, _ = roc_curve(verdict.labels, verdict.scores)
        axis.plot(false, true, color=colour, label=f"{source}: {verdict.auc:.2f}")
    axis.plot([0, 1], [0, 1], color="0.7", linewidth=0.8, linestyle=":")
    axis.set_xlabel("false positives", fontsize=7)
    axis.set_ylabel("true positives", fontsize=7)
    axis.legend(fontsize=6, title="AUC", title_fontsize=6, loc="lower right")
    axis.set_aspect("equal")


def shape_change(results: Results) -> Drawing:
    """Mean shape of the first group, and the grid that bends it to the second's, three times."""
    figure = new_figure(3.2, 7.2)
    left, right = figure.subplots(1, 2)
    groups = results.people["group"].to_numpy()[results.aligned.people]
    first, second = (
        results.aligned.points[groups == group].mean(axis=0) for group in results.config.groups
    )
    more = first + 3.0 * (second - first)
    _draw_shape(results, left, first, first, results.config.groups[0])
    _draw_shape(results, right, first, more, f"{results.config.groups[1]}, difference times 3")
    return Drawing(
        "shape-change",
        "Shape change",
        "Mean Procrustes shapes of the manual landmarks, at the mean size; the grid is bent by a "
        "thin-plate spline. The front is on the left.",
        figure,
    )


def _draw_shape(results: Results, axis: Axes, start: Array, goal: Array, title: str) -> None:
    """A shape in mm with its landmarks, on the grid that is bent from another one."""
    scale = float(results.aligned.size.mean())
    for line in bent_grid(start * scale, goal * scale):
        axis.plot(line[:, 0], line[:, 1], color="0.75", linewidth=0.5)
    axis.plot(*(goal * scale).T, "o", color=_SECOND, markersize=3)
    names = np.array(results.names)[results.aligned.landmarks]
    for name, point in zip(names, goal * scale, strict=True):
        axis.annotate(name, point, (3, 3), textcoords="offset points", fontsize=6)
    axis.set_title(title, fontsize=8)
    axis.set_aspect("equal")
    axis.invert_yaxis()
    axis.set_axis_off()


def shape_components(results: Results) -> Drawing:
    """The first two principal components, two standard deviations to either side."""
    found = components(results.aligned)
    figure = new_figure(5.4, 7.2)
    axes = figure.subplots(len(found.share), 2, squeeze=False)
    for number, (row, share, ends) in enumerate(
        zip(axes, found.share, found.shapes, strict=True), start=1
    ):
        for axis, goal, sign in zip(row, ends, ("-", "+"), strict=True):
            title = f"component {number} ({share:.0%}), {sign}2 SD"
            _draw_shape(results, axis, results.aligned.mean, goal, title)
    return Drawing(
        "components",
        "What shapes vary in",
        "Principal components of the aligned manual landmarks of all people, with the share of the "
        "variance; thin-plate grids bent from the mean shape. The front is on the left.",
        figure,
    )


def calibration(results: Results) -> Drawing:
    """Do the probabilities of the diagnosis mean what they say?"""
    figure = new_figure(2.8, 3.4)
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color="0.7", linewidth=0.8, linestyle=":")
    scores = []
    for source, colour in (("manual", _FIRST), ("automatic", _SECOND)):
        for by in results.config.classifiers:
            verdict = results.verdicts["shape", by, source]
            if np.isnan(verdict.probabilities).any():
                continue
            seen, said = calibration_curve(
                verdict.labels, verdict.probabilities, n_bins=4, strategy="quantile"
            )
            brier = float(np.mean((verdict.probabilities - verdict.labels) ** 2))
            axis.plot(said, seen, "o-", color=colour, markersize=3, label=f"{source}, {by}")
            scores.append(f"{source}, {by}: {brier:.3f}")
            break
    axis.set_xlabel("probability that is said", fontsize=7)
    axis.set_ylabel("share that is so", fontsize=7)
    axis.legend(fontsize=6)
    axis.set_aspect("equal")
    return Drawing(
        "calibration",
        "Calibration",
        "Out-of-fold probabilities in quarters of the people, against how many of them are "
        f"{results.config.groups[1]}. Brier score: {'; '.join(scores)}.",
        figure,
    )


def cost_curve(results: Results) -> Drawing:
    """AUC over the error of the landmarks."""
    figure = new_figure(2.6, 4.2)
    axis = figure.subplots()
    cost = results.cost
    mean = cost.groupby("noise_mm")["auc"].mean()
    axis.plot(cost["noise_mm"], cost["auc"], ".", color="0.7", markersize=4)
    axis.plot(mean.index, mean.to_numpy(), "o-", color=_FIRST, markersize=3)
    automatic = results.verdicts["shape", results.config.classifiers[0], "automatic"]
    axis.axhline(automatic.auc, color=_SECOND, linewidth=0.8, linestyle="--")
    axis.annotate(
        "automatic landmarks", (0.02, automatic.auc), xycoords=("axes fraction", "data"),
        fontsize=6, va="bottom", color=_SECOND,
    )  # fmt: skip
    axis.set_xlabel("noise added to manual landmarks, mm (SD by coordinate)", fontsize=7)
    axis.set_ylabel("AUC", fontsize=7)
    axis.set_ylim(0.3, 1.02)
    return Drawing(
        "cost",
        "What landmark error costs",
        "AUC of nested cross-validation (shape, logistic) with noise on the manual landmarks; dots "
        "are draws, the line their mean.",
        figure,
    )
