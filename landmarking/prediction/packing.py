"""A model to pass on: what it is in words, and runs packed into one file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from landmarking.errors import ConfigError
from landmarking.prediction.calibration import facts_of
from landmarking.prediction.model import LandmarkModel, model_from_runs
from landmarking.prediction.package import read_package, write_package
from landmarking.prediction.scoring import accuracy_rows, learnt_from, score, unseen

if TYPE_CHECKING:
    from landmarking.preparation.prepared import PreparedCohort


def describe(model: LandmarkModel) -> dict[str, Any]:
    """Everything known about a model, plain values.

    Args:
        model: Any model; one that was not packed has no accuracy and no limits.
    """
    from dataclasses import asdict

    members = [
        {
            "network": dict(member.settings["network"]),
            "landmarks": list(member.landmarks),
            "parameters": sum(tensor.numel() for tensor in member.network.parameters()),
            **{key: value for key, value in member.facts.items() if value is not None},
        }
        for member in model.members
    ]
    card = {key: model.card.get(key) for key in ("licence", "note", "calibrated_on", "rounding_px")}
    return {
        "name": model.name,
        "digest": model.digest,
        "landmarks": {name.name: name.title for name in model.landmarks.landmarks},
        "members": members,
        "preprocess": asdict(model.preprocess),
        "coverage": None if model.calibration is None else model.calibration.coverage,
        **card,
        "limits": list(model.card.get("limits", ())),
        "accuracy": list(model.card.get("accuracy", ())),
    }


def card_text(facts: Mapping[str, Any]) -> str:
    """A few lines for the console.

    Args:
        facts: What `describe` gives.
    """
    return "\n".join([f"{facts['name']} ({facts['digest'][:12]})", "", *_plain_lines(facts)])


def card_page(facts: Mapping[str, Any]) -> str:
    """The model card as Markdown.

    Args:
        facts: What `describe` gives.
    """
    lines = [f"# Model card: {facts['name']}", "", "Written by `landmarking info --markdown`.", ""]
    lines += [f"- {line}" for line in _fact_lines(facts)]
    lines += ["", "## Landmarks", ""]
    lines += [f"- {name}: {title}" for name, title in facts["landmarks"].items()]
    lines += ["", "## Accuracy", "", *_accuracy_table(facts["accuracy"], "| ", " | ", " |")]
    lines += ["", "## Limits", "", *(f"- {limit}" for limit in facts["limits"])]
    return "\n".join(lines) + "\n"


def _plain_lines(facts: Mapping[str, Any]) -> Iterator[str]:
    yield from _fact_lines(facts)
    yield f"landmarks: {', '.join(facts['landmarks'])}"
    yield ""
    yield from _accuracy_table(facts["accuracy"], "", "  ", "")
    if facts["limits"]:
        yield ""
        yield from facts["limits"]


def _fact_lines(facts: Mapping[str, Any]) -> Iterator[str]:
    members = facts["members"]
    kinds = dict.fromkeys(member["network"]["_target_"].rpartition(".")[2] for member in members)
    count = sum(member["parameters"] for member in members)
    yield f"{len(members)} network(s), {', '.join(kinds)}, {count:,} weights together"
    if facts["note"]:
        yield facts["note"]
    for member in members:
        yield _member_line(member)
    if facts["coverage"] is None:
        yield "no confidence radii: the runs were not calibrated"
    else:
        yield _calibration_line(facts)
    if facts["rounding_px"] is not None:
        yield f"rounding the weights to 16 bits moves a landmark by {facts['rounding_px']:.4f} px"
    if facts["licence"]:
        yield f"licence of the weights: {facts['licence']}"


def _member_line(member: Mapping[str, Any]) -> str:
    parts = [f"run {member.get('run', 'unknown')}"]
    for key, title in (
        ("experiment", "experiment"),
        ("cohort", "cohort"),
        ("epochs", "epochs"),
        ("seed", "seed"),
    ):
        if member.get(key) is not None:
            parts.append(f"{title} {member[key]}")
    parts += _people(member)
    if member.get("commit"):
        parts.append(f"commit {str(member['commit'])[:12]}")
    return ", ".join(parts)


def _people(member: Mapping[str, Any]) -> Iterator[str]:
    augment = member.get("augment")
    kind = augment.get("kind") if isinstance(augment, Mapping) else None
    painted = kind == "synth" and float(augment.get("share") or 0.0) >= 1.0 if augment else False
    count = member.get("people")
    if painted:
        yield "every training image a newly painted person" + (f", {count} an epoch" * bool(count))
        return
    if count:
        yield f"{count} people trained on"
    if kind:
        yield f"augment {kind}"


def _calibration_line(facts: Mapping[str, Any]) -> str:
    where = facts["calibrated_on"] or {}
    people = f"{where.get('scans', 'unknown')} held-out scans of {where.get('cohort', 'unknown')}"
    kind = " (simulated)" if where.get("simulated") else ""
    return f"confidence radii: {facts['coverage']:.0%}, calibrated on {people}{kind}"


def _accuracy_table(
    rows: Sequence[Mapping[str, Any]], first: str, between: str, last: str
) -> Iterator[str]:
    if not rows:
        yield "accuracy: not measured"
        return
    covered = any("coverage" in row for row in rows)
    names = ["cohort", "group", "landmark", "n", "mean mm", "SD", "median", "max", "<= 2 mm, %"]
    names += ["within radius, %"] if covered else []
    cells = [names, *(_cells(row, covered) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(names))]
    for number, row in enumerate(cells):
        padded = (text.ljust(width) for text, width in zip(row, widths, strict=True))
        yield f"{first}{between.join(padded)}{last}".rstrip()
        if number == 0 and first:
            yield f"{first}{between.join('-' * width for width in widths)}{last}"


def _cells(row: Mapping[str, Any], covered: bool) -> list[str]:
    deviation = "" if row["sd_mm"] is None else f"{row['sd_mm']:.2f}"
    cells = [
        f"{row['cohort']}{' (simulated)' if row['simulated'] else ''}",
        row["group"],
        row["landmark"],
        str(row["n"]),
        f"{row['mean_mm']:.2f}",
        deviation,
        f"{row['median_mm']:.2f}",
        f"{row['largest_mm']:.2f}",
        f"{100 * row['hits_1_to_5_mm'][1] / row['n']:.0f}",
    ]
    return [*cells, f"{100 * row['coverage']:.0f}" if "coverage" in row else ""][
        : 10 if covered else 9
    ]


LARGEST_ROUNDING_PX = 0.05
"""16-bit weights that move a landmark further are refused."""

LIMITS = (
    "For research; not a medical device, and not checked for clinical use.",
    "For T1-weighted scans of whole heads or brains; no other contrasts, slabs or slices.",
    "All landmarks come to lie on the mid-sagittal plane that the pipeline finds.",
    "No tumours, surgery, malformations or children were seen in training.",
    "Radii keep their promise for people like those of the calibration; look at the picture.",
)


@dataclass(frozen=True)
class Packing:
    """What to pack and how to call it.

    Attributes:
        runs: Folders of runs or studies.
        name: What reports call the model.
        licence: Licence of the weights.
        note: A sentence on what it was trained on, beside what the runs say themselves.
    """

    runs: tuple[Path, ...]
    name: str
    licence: str = "MIT"
    note: str = ""


def pack(path: Path, packing: Packing, cohorts: Sequence[PreparedCohort] = ()) -> LandmarkModel:
    """Write a packed model; its accuracy is that of the packed weights, not of the runs.

    Args:
        path: File to write, ending in `.zip`.
        packing: What to pack.
        cohorts: Prepared cohorts with truth to state the accuracy on; people whom a run has learnt
            from, and groups that radii were calibrated on, are left out.

    Returns:
        The model as it is read back.

    Raises:
        ConfigError: If runs do not belong together, a cohort's slices are of another kind, or
            rounding the weights moves landmarks.
    """
    model = replace(model_from_runs(packing.runs), name=packing.name)
    card: dict[str, Any] = {
        "licence": packing.licence,
        "note": packing.note,
        "limits": list(LIMITS),
        "calibrated_on": facts_of(packing.runs[0]) if model.calibration else None,
    }
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / "model.zip"
        write_package(trial, model, card)
        packed = read_package(trial)
    card["rounding_px"] = _rounding_px(model, packed, cohorts)
    learnt = learnt_from(packing.runs) if cohorts else set()
    card["accuracy"] = [
        row
        for cohort in cohorts
        for row in accuracy_rows(packed, score(packed, cohort, _fresh(cohort, learnt, card)))
    ]
    write_package(path, model, card)
    return read_package(path)


def _fresh(cohort: PreparedCohort, learnt: set[str], card: Mapping[str, Any]) -> NDArray[np.int64]:
    """Scans that neither weights nor radii come from."""
    calibrated = card["calibrated_on"] or {}
    same = calibrated.get("cohort_digest") == cohort.digest
    groups = calibrated.get("groups", ()) if same else ()
    kept = [
        index
        for index in unseen(cohort, learnt).tolist()
        if cohort.records[index].group not in groups
    ]
    return np.array(kept, dtype=np.int64)


def _rounding_px(
    model: LandmarkModel, packed: LandmarkModel, cohorts: Sequence[PreparedCohort]
) -> float:
    """How far 16-bit weights move a landmark, at most, on the template and some slices."""
    if model.reference.image.ndim == 2:
        images = [model.reference.image]
    else:
        from landmarking.imaging.pipeline import template_slice

        images = [template_slice(model.preprocess)]
    images += [np.asarray(image) for cohort in cohorts for image in cohort.images[:8]]
    stack = np.stack(images).astype(np.float32)
    moved = model.locate(stack).points_px - packed.locate(stack).points_px
    largest = float(np.linalg.norm(moved, axis=-1).max())
    if not largest <= LARGEST_ROUNDING_PX:
        raise ConfigError(
            f"{model.name}: weights of 16 bits move a landmark by {largest:.3f} pixels, more than "
            f"{LARGEST_ROUNDING_PX}; train with weight decay, or use the run's folder as --model"
        )
    return largest
