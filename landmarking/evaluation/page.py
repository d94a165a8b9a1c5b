"""The report page: one HTML file that carries its style, script and pictures with it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from landmarking.evaluation.pictures import worst_prediction
from landmarking.evaluation.runs import Run, Study
from landmarking.evaluation.style import Drawing, png_bytes
from landmarking.evaluation.summary import group_order, model_order, with_no_skill
from landmarking.evaluation.typeset import DASH, Table

_WORST = 10
_MAIN_PACKAGES = ("torch", "pytorch-lightning", "numpy", "scipy", "nibabel", "nilearn")


@dataclass(frozen=True)
class Picture:
    """A figure on the page: PNG as a data URI, its size, and its words."""

    name: str
    title: str
    caption: str
    uri: str
    width: int


def render_page(study: Study, shown: Sequence[Table], pictures: Sequence[Picture]) -> str:
    """The whole page as text; call within `house_style`, for the worst cases are drawn here.

    Args:
        study: The runs.
        shown: Tables, Table 1 first.
        pictures: Figures.
    """
    environment = Environment(
        loader=PackageLoader("landmarking.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.j2").render(
        study=study,
        headlines=headlines(study.frame),
        cohorts=cohort_facts(study),
        runs=run_rows(study.runs),
        tables=shown,
        pictures=pictures,
        worst=worst_cases(study),
        shared=shared_facts([flat(run.provenance) for run in study.runs]),
        packages=package_versions(study.runs),
        differing=differing_facts(study.runs),
        configs=configurations(study.runs),
    )
    return page if page.endswith("\n") else page + "\n"


def picture(drawing: Drawing, png: bytes) -> Picture:
    """A drawing and its PNG as a data URI."""
    uri = f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
    # Twice the printed width in CSS pixels reads well on a screen.
    width = round(drawing.figure.get_figwidth() * 180)
    return Picture(drawing.name, drawing.title, drawing.caption, uri, width)


def headlines(frame: pd.DataFrame) -> list[str]:
    """Mean errors in one sentence a group: `HS: SL 1.21 mm, ML 2.42 mm, no skill 5.15 mm`."""
    means = with_no_skill(frame).groupby(["group", "model"])["error_mm"].mean().dropna()
    lines = []
    for group in group_order(means.index.get_level_values("group")):
        ranked = means.loc[group].sort_values(kind="stable")
        lines.append(f"{group}: " + ", ".join(f"{name} {v:.2f} mm" for name, v in ranked.items()))
    return lines


def cohort_facts(study: Study) -> list[dict[str, Any]]:
    """One entry a cohort: name, digest, simulated, people by group, scans."""
    facts = []
    for (name, digest), rows in study.frame.groupby(["cohort", "cohort_digest"], sort=True):
        people = rows.groupby("group")["participant_id"].nunique()
        facts.append(
            {
                "name": name,
                "digest": digest,
                "simulated": bool(rows["simulated"].any()),
                "groups": [(group, int(people[group])) for group in group_order(people.index)],
                "scans": int(rows["scan_id"].nunique()),
                "splits": sorted(set(rows["split_digest"])),
            }
        )
    return facts


def run_rows(runs: Iterable[Run]) -> Table:
    """What was run, one row a run."""
    header = ("Run", "Model", "Experiment", "Landmarks", "seed", "epochs", "validation (px)")
    rows = []
    for run in sorted(runs, key=lambda run: (model_order([run.model]), run.model, run.name)):
        first = run.predictions.iloc[0]
        epochs, loss = _last_epoch(run)
        names = ", ".join(run.landmarks)
        cells = (run.name, run.model, str(first["experiment"]), names, str(first["seed"]))
        rows.append((*cells, epochs, loss))
    return Table("runs", "What was run", header, tuple(rows), text_columns=4)


def _last_epoch(run: Run) -> tuple[str, str]:
    history = run.history
    if history is None or history.empty or "validation_loss_px" not in history:
        return DASH, DASH
    losses = history["validation_loss_px"].dropna()
    loss = f"{losses.iloc[-1]:.2f}" if len(losses) else DASH
    return str(len(history)), loss


def worst_cases(study: Study) -> list[dict[str, Any]]:
    """The ten greatest errors, each with its slice where one was kept."""
    frame, slices = study.frame, study.slices
    order = frame.sort_values(["error_mm", "run", "scan_id"], ascending=[False, True, True])
    cases = []
    for _, row in order.dropna(subset=["error_mm"]).head(_WORST).iterrows():
        case: dict[str, Any] = {str(key): value for key, value in row.items()}
        case["picture"] = None
        if row["scan_id"] in slices:
            drawing = worst_prediction(row, slices)
            case["picture"] = picture(drawing, png_bytes(drawing.figure))
        cases.append(case)
    return cases


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A nested mapping as dotted keys and text; the packages are shown apart and left out."""
    result: dict[str, str] = {}
    for key, item in value.items():
        if prefix == "" and key == "packages":
            continue
        if isinstance(item, Mapping):
            result |= flat(item, f"{prefix}{key}.")
        elif isinstance(item, list):
            result[f"{prefix}{key}"] = " ".join(map(str, item))
        else:
            result[f"{prefix}{key}"] = DASH if item is None else str(item)
    return result


def shared_facts(facts: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Provenance on which all runs agree."""
    first = facts[0] if facts else {}
    return {key: value for key, value in first.items() if all(f.get(key) == value for f in facts)}


def differing_facts(runs: Sequence[Run]) -> Table | None:
    """Provenance on which runs differ, one row a run; None where they agree on all."""
    facts = [flat(run.provenance) for run in runs]
    agreed = shared_facts(facts)
    keys = list(dict.fromkeys(key for fact in facts for key in fact if key not in agreed))
    if not keys:
        return None
    rows = tuple(
        (run.name, *(fact.get(key, DASH) for key in keys))
        for run, fact in zip(runs, facts, strict=True)
    )
    title = "Provenance that differs between runs"
    return Table("provenance", title, ("Run", *keys), rows, text_columns=1 + len(keys))


def package_versions(runs: Iterable[Run]) -> dict[str, str]:
    """Versions by package, main ones first; several where runs differ."""
    found: dict[str, set[str]] = {}
    for run in runs:
        packages = run.provenance.get("packages")
        if isinstance(packages, Mapping):
            for name, version in packages.items():
                found.setdefault(str(name), set()).add(str(version))
    names = [name for name in _MAIN_PACKAGES if name in found]
    names += [name for name in found if name not in names]
    return {name: " and ".join(sorted(found[name])) for name in names}


def configurations(runs: Iterable[Run]) -> list[tuple[str, str]]:
    """Distinct resolved configurations: names of the runs that share one, and its YAML."""
    texts: dict[str, list[str]] = {}
    for run in runs:
        if run.config:
            varying = {k: v for k, v in run.config.items() if k not in ("run", "landmark")}
            text = yaml.safe_dump(json.loads(json.dumps(varying, default=str)), sort_keys=False)
            texts.setdefault(text, []).append(run.name)
    return [(", ".join(names), text) for text, names in texts.items()]
