"""Named landmark sets, and the files that landmarks live in.

Names and positions on the template come from the AFIDs protocol (Lau et al. 2019; Taha et al. 2023,
CC BY 4.0). Files are read and written in 3D Slicer's formats: Markups `.mrk.json` and the older
`.fcsv`; both may state LPS or RAS, and world RAS mm is what leaves this module.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from landmarking.errors import LandmarkError
from landmarking.files import parse_json, write_text
from landmarking.geometry import Array

_LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])

_SETS: dict[str, tuple[str, ...]] = {
    "msp8": ("AC", "PC", "ICS", "PMJ", "CUL", "IMS", "GENU", "SPLE"),
    "msp10": ("AC", "PC", "ICS", "PMJ", "SIPF", "CUL", "IMS", "PG", "GENU", "SPLE"),
}


@dataclass(frozen=True)
class Landmark:
    """One anatomical landmark.

    Attributes:
        name: Short name used in files, tables and configurations, such as `AC`.
        title: Full anatomical name.
        afid: Number in the AFIDs protocol, 1 to 32.
        aliases: Other spellings under which files may carry it.
        template_mm: Position on the template, world RAS mm.
    """

    name: str
    title: str
    afid: int
    aliases: tuple[str, ...]
    template_mm: tuple[float, float, float]

    @property
    def spellings(self) -> frozenset[str]:
        """Everything that a file may call this landmark, in lower case."""
        return frozenset(
            text.casefold() for text in (self.name, self.title, str(self.afid), *self.aliases)
        )


@dataclass(frozen=True)
class LandmarkSet:
    """Landmarks in a fixed order; the order of every array of shape (..., L, 2 or 3)."""

    name: str
    landmarks: tuple[Landmark, ...]

    def __len__(self) -> int:
        return len(self.landmarks)

    @property
    def names(self) -> tuple[str, ...]:
        """Short names in order."""
        return tuple(landmark.name for landmark in self.landmarks)

    @property
    def template_mm(self) -> Array:
        """Positions on the template, world RAS mm, shape (L, 3)."""
        return np.array([landmark.template_mm for landmark in self.landmarks])

    def index(self, name: str) -> int:
        """Position of a landmark by its short name.

        Raises:
            LandmarkError: If the set has no such landmark.
        """
        if name not in self.names:
            raise LandmarkError(
                f"landmark {name!r} is not in the set {self.name}; it has {', '.join(self.names)}"
            )
        return self.names.index(name)

    def subset(self, names: Sequence[str]) -> LandmarkSet:
        """The named landmarks, in the order given.

        Raises:
            LandmarkError: If a name is unknown or comes twice.
        """
        if len(set(names)) != len(names):
            raise LandmarkError(f"landmarks come once each, got {', '.join(names)}; name each once")
        chosen = tuple(self.landmarks[self.index(name)] for name in names)
        return LandmarkSet(self.name, chosen)

    def arrange(self, points: Mapping[str, Array]) -> Array:
        """World points by name, as `read_landmarks` gives them, in the order of this set.

        Args:
            points: World RAS mm by label; each label matches a landmark by short name, full name,
                alias or AFIDs number, whatever the case. Labels of other landmarks are left out.

        Returns:
            World RAS mm, shape (L, 3); NaN where `points` has no such landmark.

        Raises:
            LandmarkError: If two labels name the same landmark.
        """
        result = np.full((len(self), 3), np.nan)
        for index, landmark in enumerate(self.landmarks):
            found = [label for label in points if _spelling(label) in landmark.spellings]
            if len(found) > 1:
                raise LandmarkError(
                    f"landmark {landmark.name} comes {len(found)} times, as {', '.join(found)}; "
                    "keep one"
                )
            if found:
                result[index] = points[found[0]]
        return result


def _spelling(label: str) -> str:
    """A label without its case, and without the number that Slicer adds to it: ac of AC-1."""
    name, dash, number = label.casefold().rpartition("-")
    return name if dash and name and number.isdigit() else label.casefold()


@cache
def _afids() -> tuple[Landmark, ...]:
    text = files("landmarking").joinpath("landmarks.json").read_text(encoding="utf-8")
    return _of_rows(parse_json(text)["landmarks"])


def _set_of_file(path: Path) -> LandmarkSet:
    try:
        body = parse_json(path.read_text(encoding="utf-8"))
        found = LandmarkSet(str(body["name"]), _of_rows(body["landmarks"]))
    except OSError as error:
        raise LandmarkError(
            f"{path}: the landmark set cannot be read ({error.strerror}); check the path"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise LandmarkError(
            f"{path}: is no landmark set (name, and landmarks with name, title, afid, aliases and "
            "template_mm); docs/landmarks.md has an example"
        ) from error
    if not found.landmarks or len(set(found.names)) < len(found):
        raise LandmarkError(f"{path}: needs landmarks, each with a name of its own; correct it")
    return found


def _of_rows(rows: Iterable[Mapping[str, Any]]) -> tuple[Landmark, ...]:
    return tuple(
        Landmark(
            name=row["name"],
            title=row["title"],
            afid=row["afid"],
            aliases=tuple(row["aliases"]),
            template_mm=_three(row["template_mm"]),
        )
        for row in rows
    )


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    x, y, z = map(float, values)
    return x, y, z


def landmark_set(name: str) -> LandmarkSet:
    """A landmark set by name: `msp8` (the default), `msp10` or `afids32`; or a `.json` file.

    Args:
        name: Of the set, or path of a file as `landmarking/landmarks.json`, with a `name` of its
            own.

    Raises:
        LandmarkError: If there is no such set, or the file holds none.
    """
    if name.endswith(".json"):
        return _set_of_file(Path(name))
    every = LandmarkSet("afids32", _afids())
    if name == every.name:
        return every
    if name not in _SETS:
        known = ", ".join((*_SETS, every.name))
        raise LandmarkError(f"there is no landmark set {name!r}; choose one of {known}")
    return LandmarkSet(name, every.subset(_SETS[name]).landmarks)


def read_landmarks(path: Path) -> dict[str, Array]:
    """Read the points of a Markups `.mrk.json` or `.fcsv` file.

    Points that Slicer calls undefined or missing are left out. A `.mrk.json` that states no frame
    is in LPS and one that states no unit in mm, as Slicer's schema has them.

    Args:
        path: File to read; its suffix decides the format.

    Returns:
        World RAS mm, shape (3,), by the label in the file, whichever frame the file is in. In an
        `.fcsv` whose labels are AFIDs numbers the label stays the number.

    Raises:
        LandmarkError: If the file is missing or damaged, states no frame or an unknown one, holds a
            position that is not three finite numbers, or a label twice.
    """
    name = path.name.casefold()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise LandmarkError(
            f"{path}: cannot be read as text ({error}); save the points again from Slicer"
        ) from error
    if name.endswith(".json"):
        return _read_markups(path, text)
    if name.endswith(".fcsv"):
        return _read_fcsv(path, text)
    raise LandmarkError(f"{path}: landmarks are read from .mrk.json or .fcsv files")


AGAIN = "save the points again from Slicer"


def _read_markups(path: Path, text: str) -> dict[str, Array]:
    try:
        values = parse_json(text)
    except ValueError as error:
        raise LandmarkError(
            f"{path}: not a 3D Slicer Markups file, which is JSON ({error}); {AGAIN}"
        ) from error
    lists = values.get("markups") if isinstance(values, dict) else None
    if not isinstance(lists, list) or not all(isinstance(markup, dict) for markup in lists):
        raise LandmarkError(
            f"{path}: not a 3D Slicer Markups file, which has `markups`; {AGAIN} as .mrk.json"
        )
    if len(lists) != 1:
        raise LandmarkError(
            f"{path}: not a 3D Slicer Markups file with one list of points, found {len(lists)} "
            "lists; save each list to a file of its own"
        )
    markup = lists[0]
    points = markup.get("controlPoints")
    if not isinstance(points, list) or not all(isinstance(point, dict) for point in points):
        raise LandmarkError(f"{path}: its list has no `controlPoints`; {AGAIN}")
    unit = markup.get("coordinateUnits", "mm")
    if isinstance(unit, list) and len(unit) == 3:
        # The schema also allows code, scheme and meaning, as in ["mm", "UCUM", "millimeter"].
        unit = unit[0]
    if not isinstance(unit, str) or unit not in _UNITS_MM:
        raise LandmarkError(
            f"{path}: coordinateUnits is one of {', '.join(_UNITS_MM)}, found {unit!r}; {AGAIN}"
        )
    rows = [
        (str(point.get("label", "")), point.get("position"))
        for point in points
        if point.get("positionStatus", "defined") == "defined"
    ]
    return _to_world(path, markup.get("coordinateSystem", "LPS"), rows, _UNITS_MM[unit])


_INVISIBLE = "".join(map(chr, (*range(33), 0x85, 0xA0, *range(0x2000, 0x2010), 0x3000, 0xFEFF)))
"""Blanks of all kinds, also those of no width."""

_UNITS_MM = {"mm": 1.0, "cm": 10.0, "m": 1000.0, "um": 0.001, "\N{MICRO SIGN}m": 0.001}

_FCSV_COLUMNS = (
    *("id", "x", "y", "z", "ow", "ox", "oy", "oz", "vis", "sel", "lock", "label", "desc"),
    *("associatedNodeID", "positionStatus", "autoCreated"),
)
"""Columns of `.fcsv`; Slicer 4.13 added the last two."""

_DEFINED = "2"
"""positionStatus of a point that was placed; 0 is undefined, 1 a preview, 3 missing."""


def _read_fcsv(path: Path, text: str) -> dict[str, Array]:
    frame: object = None
    columns: tuple[str, ...] = _FCSV_COLUMNS
    body = []
    for line in text.splitlines():
        if line.startswith("#"):
            key, _, value = line.lstrip("# ").partition("=")
            if key.strip() == "CoordinateSystem":
                frame = value.strip()
            elif key.strip() == "columns":
                columns = tuple(cell.strip() for cell in value.split(","))
        elif line.strip():
            body.append(line)
    wanted = ("x", "y", "z", "label")
    if not set(wanted) <= set(columns):
        raise LandmarkError(f"{path}: its header names no columns {', '.join(wanted)}; {AGAIN}")
    x, y, z, label = (columns.index(name) for name in wanted)
    status = columns.index("positionStatus") if "positionStatus" in columns else None
    rows = []
    for cells in csv.reader(body):
        if not label < len(cells) <= max(len(columns), len(_FCSV_COLUMNS)):
            raise LandmarkError(
                f"{path}: an .fcsv row has 14 columns (16 since Slicer 4.13), found "
                f"{len(cells)} in {','.join(cells)!r}; write decimals with a point, or {AGAIN}"
            )
        placed = status is None or status >= len(cells) or cells[status].strip() == _DEFINED
        if placed:
            rows.append((cells[label], [cells[x], cells[y], cells[z]]))
    return _to_world(path, frame, rows)


def _to_world(
    path: Path, frame: object, rows: Sequence[tuple[str, object]], unit_mm: float = 1.0
) -> dict[str, Array]:
    # Slicer wrote "0" for RAS and "1" for LPS before version 4.11, and the words since.
    flips = {"RAS": np.ones(3), "0": np.ones(3), "LPS": _LPS_TO_RAS, "1": _LPS_TO_RAS}
    frame = frame.strip().upper() if isinstance(frame, str) else frame
    if not isinstance(frame, str) or frame not in flips:
        raise LandmarkError(f"{path}: the frame must be stated as RAS or LPS, found {frame!r}")
    points: dict[str, Array] = {}
    for name, position in rows:
        # Also of blanks that do not break a line, which tables leave at the ends of names.
        label = name.strip(_INVISIBLE)
        try:
            point = np.array(position, dtype=np.float64)
        except (TypeError, ValueError):
            point = np.full(0, np.nan)
        if point.shape != (3,) or not np.isfinite(point).all():
            raise LandmarkError(
                f"{path}: {label!r} needs three finite coordinates in mm, found {position!r}"
            )
        if label in points:
            raise LandmarkError(f"{path}: the label {label!r} comes twice; keep one")
        points[label] = unit_mm * point * flips[frame]
    return points


AUTO = "desc-auto"
"""Part of the name of every landmark file that a model has written, after BIDS."""

_GENERATED = "GeneratedBy"


def is_prediction(path: Path) -> bool:
    """Whether a landmark file was written by this program, and by no person.

    Told by `desc-auto` in its name; by what the file says of itself, which Slicer drops when
    somebody saves it; and, of files of the first version, by the record beside it that has the
    same positions.

    Args:
        path: The file; one that cannot be read is no prediction.
    """
    if AUTO in path.name.casefold():
        return True
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.name.casefold().endswith(".json"):
            body = parse_json(text)
            if isinstance(body, dict) and _ours(body.get(_GENERATED)):
                return True
        elif any(_ours(line.partition("=")[2].strip()) for line in _heads(text, _GENERATED)):
            return True
        record = parse_json(_record_beside(path).read_text(encoding="utf-8"))
        points = read_landmarks(path)
        return all(
            np.allclose(points[row["name"]], row["world_mm"], rtol=0.0, atol=1e-6)
            for row in record["landmarks"]
        )
    except (OSError, ValueError, TypeError, KeyError, LandmarkError):
        return False


def _ours(text: object) -> bool:
    return isinstance(text, str) and text.startswith("landmarking ")


def _heads(text: str, key: str) -> Iterator[str]:
    """Lines of an `.fcsv` header that state something."""
    for line in text.splitlines():
        if line.startswith("#") and line.lstrip("# ").startswith(key):
            yield line


def _record_beside(path: Path) -> Path:
    return path.with_name(f"{path.name.rpartition('_landmarks')[0]}_prediction.json")


def write_markups(
    path: Path,
    points: Mapping[str, Array],
    descriptions: Mapping[str, str] | None = None,
    *,
    generated_by: str = "",
) -> None:
    """Write points as 3D Slicer Markups (`.mrk.json`, schema 1.0.3), in LPS as Slicer does.

    Args:
        path: File to write, replaced as a whole.
        points: World RAS mm, shape (3,), by label; a NaN point is left out.
        descriptions: What Slicer's table says of a point, by label.
        generated_by: Program and model, of points that no person has placed.
    """
    control_points = [
        {
            "id": str(number),
            "label": label,
            **({"description": descriptions[label]} if descriptions else {}),
            "position": (np.asarray(point) * _LPS_TO_RAS).tolist(),
            "positionStatus": "defined",
            "selected": True,
            "locked": False,
            "visibility": True,
        }
        for number, (label, point) in enumerate(points.items(), start=1)
        if np.isfinite(point).all()
    ]
    markup = {
        "type": "Fiducial",
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
        "locked": False,
        "labelFormat": "%N-%d",
        "controlPoints": control_points,
    }
    schema = (
        "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/"
        "Resources/Schema/markups-schema-v1.0.3.json#"
    )
    made = {_GENERATED: generated_by} if generated_by else {}
    body = {"@schema": schema, **made, "markups": [markup]}
    write_text(path, json.dumps(body, indent=1) + "\n")


def write_fcsv(
    path: Path,
    points: Mapping[str, Array],
    descriptions: Mapping[str, str] | None = None,
    *,
    generated_by: str = "",
) -> None:
    """Write points as 3D Slicer's older `.fcsv`, in LPS; arguments as in `write_markups`."""
    lines = [
        "# Markups fiducial file version = 4.11",
        "# CoordinateSystem = LPS",
        "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID",
    ]
    if generated_by:
        lines.insert(2, f"# {_GENERATED} = {generated_by}")
    for number, (label, point) in enumerate(points.items(), start=1):
        if np.isfinite(point).all():
            x, y, z = (float(value) for value in np.asarray(point) * _LPS_TO_RAS)
            # A comma would end the column.
            text = (descriptions or {}).get(label, "").replace(",", ";")
            lines.append(f"{number},{x!r},{y!r},{z!r},0,0,0,1,1,1,0,{label},{text},")
    write_text(path, "\n".join(lines) + "\n")
