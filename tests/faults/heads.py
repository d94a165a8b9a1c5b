"""Headers, landmark files and tables that somebody has damaged, judged by the numbers they give.

A header is damaged in one to eight bytes, or a field gets a value that tools have written there. A
text is changed as other programs, editors and spreadsheets change it; a digit within a coordinate
is not, because no reader can know the right one. Each ends in one of four ways: refused in words,
flagged, the same numbers within 0.5 mm, or wrong.
"""

from __future__ import annotations

import logging
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from mutations import mutated_bytes
from trial import says_way_out

from landmarking.cohort.tree import read_cohort
from landmarking.errors import LandmarkingError
from landmarking.geometry import apply_affine
from landmarking.imaging.pipeline import MIDSAGITTAL_COMMON, PreprocessSettings, slice_geometry
from landmarking.imaging.quality import landmark_figures, misplaced
from landmarking.imaging.scan import Scan, load_scan, to_pil
from landmarking.imaging.template import block_average, load_template
from landmarking.landmarks import landmark_set, read_landmarks, write_fcsv, write_markups
from landmarking.prediction.package import open_model
from landmarking.prediction.predict import predict_scan
from landmarking.preparation.jobs import landmark_problem
from landmarking.preparation.review import FAR_OFF_PLANE_MM
from landmarking.preparation.sources import CohortConfig, group_remarks
from landmarking.preparation.stages import StagedSlice

FAR_MM = 0.5
MSP8 = landmark_set("msp8")
POINTS = dict(zip(MSP8.names, MSP8.template_mm, strict=True))
WAYS = ("refused", "flagged", "same", "wrong")


@dataclass
class Count:
    """How damaged inputs of one kind ended.

    Attributes:
        name: Kind of input.
        ways: Number by way.
        wrong: What went wrong, in words.
    """

    name: str
    ways: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def add(self, way: str, detail: str = "") -> None:
        """Count one."""
        self.ways[way] += 1
        if way == "wrong":
            self.wrong.append(detail)

    def judge(self, what: str, verdict: Callable[[], str]) -> None:
        """Count one by its verdict; an exception that is none of ours is wrong."""
        try:
            way = verdict()
        except LandmarkingError as error:
            message = str(error)
            clear = says_way_out(message) and "Error" not in message
            self.add("refused" if clear else "wrong", f"{what}: no way out: {message[:200]}")
        except Exception as error:
            self.add("wrong", f"{what}: {type(error).__name__}: {error}")
        else:
            self.add(way, f"{what}: other numbers and no flag")


# Headers.

FIELDS: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("vox_offset", (0, 348, 351, 353, 368, 1e9, np.nan)),
    ("sform_code", (0, 1, 2, 4, 9, -1)),
    ("qform_code", (0, 1, 2, 4, 9, -1)),
    ("xyzt_units", (0, 1, 2, 3, 10, 11, 255)),
    ("scl_slope", (0, 1, -1, 2, 1e-6, 1e6, np.nan, np.inf)),
    ("scl_inter", (0, -1024, 1e6, np.nan)),
    ("datatype", (2, 4, 8, 16, 64, 128, 256, 512, 768, 1024, 0, 9999)),
    ("bitpix", (8, 16, 32, 64)),
    ("qoffset_x", (0, 5, -50)),
    ("quatern_b", (0, 0.1, 1, -1)),
    ("quatern_d", (0, 0.1, 1, -1)),
)  # fmt: skip


def head_image() -> nib.Nifti1Image:
    """The template's head with both forms, as a scanner's converter writes it."""
    template = load_template()
    data, affine = block_average(template.brain, template.affine, 1.5)
    grey = (1000.0 * np.asarray(data, np.float32) / float(np.max(data))).round()
    image = nib.Nifti1Image(grey.astype(np.int16), affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    image.header.set_xyzt_units("mm")
    return image


def damaged_header(good: bytes, rng: random.Random) -> tuple[str, bytes]:
    """What was done to the header, and the file."""
    if rng.random() < 0.5:
        return "bytes", mutated_bytes(good, rng, head=352)
    header = nib.Nifti1Header(good[:348], check=False)
    action = rng.randrange(5)
    if action == 0:
        name, values = rng.choice(FIELDS)
        header[name] = rng.choice(values)
        what = f"{name} {header[name]}"
    elif action == 1:
        axis, step = rng.randrange(1, 4), rng.choice((-3, -1, 1, 7))
        header["dim"][axis] += step
        what = f"dim[{axis}] {step:+d}"
    elif action == 2:
        first, second = rng.sample((1, 2, 3), 2)
        header["dim"][[first, second]] = header["dim"][[second, first]]
        what = f"dim[{first}] and dim[{second}] swapped"
    elif action == 3:
        axis, scale = rng.randrange(1, 4), rng.choice((0.0, -1.0, 0.1, 0.9, 1.02, 1.2, 10.0))
        header["pixdim"][axis] *= scale
        what = f"pixdim[{axis}] times {scale}"
    else:
        row = rng.choice(("srow_x", "srow_y", "srow_z"))
        how = rng.choice(("scaled", "moved", "turned", "sheared", "emptied"))
        values = np.array(header[row])
        if how == "scaled":
            values[:3] *= rng.choice((0.1, 0.95, 1.05, 10.0))
        elif how == "moved":
            values[3] += rng.choice((-90.0, -3.0, 0.3, 0.8, 4.0))
        elif how == "turned":
            values[:3] *= -1.0
        elif how == "sheared":
            values[rng.randrange(3)] += rng.choice((0.01, 0.1, 0.4))
        else:
            values[:] = 0.0
        header[row] = values
        what = f"{row} {how}"
    return what, header.binaryblock + good[348:]


def try_headers(count: int, seed: int, tick: Callable[[], None] = lambda: None) -> Count:
    """Read scans with damaged headers, and predict them where the voxels came out otherwise.

    Args:
        count: How many.
        seed: Seed of the damage.
        tick: Called after each.
    """
    model = open_model(())
    tally = Count("scan headers")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "scan.nii")
        nib.save(head_image(), path)
        good = path.read_bytes()
        clean = load_scan(path)
        first = predict_scan(clean, model)
        assert not first.flags
        assert not any(mark.flags for mark in first.landmarks)
        voxels = apply_affine(np.linalg.inv(clean.affine), list(first.points_mm.values()))

        def verdict() -> str:
            scan = load_scan(path)
            if scan.notes:
                return "flagged"
            if scan.data.shape == clean.data.shape and _same_picture(scan, clean):
                moved = apply_affine(scan.affine, voxels) - apply_affine(clean.affine, voxels)
                return "same" if np.linalg.norm(moved, axis=1).max() <= FAR_MM else "wrong"
            return _predicted(scan)

        def _predicted(scan: Scan) -> str:
            found = predict_scan(scan, model)
            if found.flags:
                return "flagged"
            far = [
                mark.name
                for mark in found.landmarks
                if not mark.flags
                and np.linalg.norm(mark.world_mm - first.points_mm[mark.name]) > FAR_MM
            ]
            return "wrong" if far else "same"

        for number in range(count):
            rng = random.Random(f"{seed} header {number}")
            what, content = damaged_header(good, rng)
            path.write_bytes(content)
            tally.judge(f"{number}, {what}", verdict)
            tick()
    return tally


def _same_picture(scan: Scan, clean: Scan) -> bool:
    """Whether voxels are the same up to a scale and an offset that do not turn them round."""
    fit = np.polyfit(clean.data.ravel()[::97], scan.data.ravel()[::97], 1)
    expected = fit[0] * clean.data + fit[1]
    return bool(fit[0] > 0 and np.allclose(scan.data, expected, atol=1e-3 * np.ptp(scan.data)))


# Landmark files.


def _lines(change: Callable[[list[str], random.Random], list[str]]) -> Callable[..., bytes]:
    def damage(good: bytes, rng: random.Random) -> bytes:
        return "\n".join(change(good.decode().split("\n"), rng)).encode()

    return damage


def _without(lines: list[str], rng: random.Random) -> list[str]:
    del lines[rng.randrange(len(lines))]
    return lines


def _twice(lines: list[str], rng: random.Random) -> list[str]:
    lines.insert(rng.randrange(len(lines)), rng.choice(lines))
    return lines


def _mixed(lines: list[str], rng: random.Random) -> list[str]:
    rng.shuffle(lines)
    return lines


def _replaced(*pairs: tuple[str, str]) -> Callable[[bytes, random.Random], bytes]:
    def damage(good: bytes, rng: random.Random) -> bytes:
        old, new = rng.choice(pairs)
        text = good.decode()
        places = [i for i in range(len(text)) if text.startswith(old, i)]
        if not places:
            return good
        if rng.random() < 0.5:
            return text.replace(old, new).encode()
        place = rng.choice(places)
        return (text[:place] + new + text[place + len(old) :]).encode()

    return damage


def _cut(good: bytes, rng: random.Random) -> bytes:
    return good[: rng.randrange(len(good))]


def _encoded(good: bytes, rng: random.Random) -> bytes:
    how = rng.choice(("utf-8-sig", "utf-16", "utf-32", "cp1252", "crlf", "cr", "nul"))
    text = good.decode()
    ends = {"crlf": "\r\n", "cr": "\r", "nul": "\n\0"}
    return text.replace("\n", ends[how]).encode() if how in ends else text.encode(how)


def _odd_bytes(good: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(good))
    return good[:place] + bytes(rng.randrange(128, 256) for _ in range(4)) + good[place:]


_LABELS = (("AC", "AC-1"), ("AC", "ac "), ("AC", "PC"), ("PMJ", "ICS"), ("PC", "\u00a0PC"),
           ("GENU", ""), ("AC", "1"), ("CUL", "culmen"))  # fmt: skip

FCSV: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "a line is missing": _lines(_without),
    "a line comes twice": _lines(_twice),
    "lines are mixed": _lines(_mixed),
    "frame": _replaced(("LPS", "RAS"), ("LPS", "1"), ("LPS", "0"), ("LPS", "IJK"), ("LPS", "")),
    "separator": _replaced((",", ";"), (",", "\t"), (",", ", "), (",", ",,"), (",", "")),
    "decimal comma": _replaced((".", ",")),
    "labels": _replaced(*_LABELS),
    "quotes": _replaced(("AC", '"AC"'), ("AC", '"AC'), (",,", ',"a, b",')),
    "end is missing": _cut,
    "encoding": _encoded,
    "bytes of no text": _odd_bytes,
}

MARKUPS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    **{key: FCSV[key] for key in ("a line is missing", "a line comes twice", "lines are mixed")},
    "frame": _replaced(('"LPS"', '"RAS"'), ('"LPS"', '"IJK"'), ('"LPS"', "null"), ('"LPS"', "1")),
    "unit": _replaced(('"mm"', '"cm"'), ('"mm"', '"um"'), ('"mm"', '"m"'), ('"mm"', "null")),
    "status": _replaced(*(('"defined"', new) for new in ('"undefined"', "0", '"missing"'))),
    "keys": _replaced(("position", "Position"), ("controlPoints", "points"), ("label", "name")),
    "labels": FCSV["labels"],
    "end is missing": _cut,
    "encoding": _encoded,
    "bytes of no text": _odd_bytes,
}  # fmt: skip

PEOPLE: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "a line is missing": _lines(_without),
    "a line comes twice": _lines(_twice),
    "separator": _replaced(("\t", ","), ("\t", ";"), ("\t", "  "), ("\t", "\t\t")),
    "ids": _replaced(("sub-", ""), ("sub-0", "sub-"), ("sub-", "Sub-"), ("sub-01", "sub-02")),
    "groups": _replaced(("HS", "hs"), ("HS", "HS "), ("train", "Train"), ("HS", "NA"), ("DS", "")),
    "gaps": _replaced(("n/a", "NA"), ("n/a", ""), ("n/a", "NaN"), ("n/a", "0.0"), ("n/a", "FALSE")),
    "quotes": _replaced(("HS", '"HS"'), ("HS", '"HS'), ("sub-", '"sub-')),
    "end is missing": _cut,
    "encoding": _encoded,
    "bytes of no text": _odd_bytes,
}


def staged_template() -> StagedSlice:
    """A slice of the template, where its landmarks lie."""
    settings = PreprocessSettings()
    geometry = slice_geometry(MIDSAGITTAL_COMMON, np.eye(4), settings)
    template = to_pil(Scan(load_template().brain, load_template().affine, "template"))
    shape = template.data.shape
    image = np.zeros(geometry.shape, np.float32)
    return StagedSlice(image, geometry, {}, (shape[0], shape[1], shape[2]), template.affine)


def try_landmarks(count: int, seed: int, tick: Callable[[], None] = lambda: None) -> list[Count]:
    """Read damaged landmark files, and judge them as `prepare` does.

    Args:
        count: How many of each format.
        seed: Seed of the damage.
        tick: Called after each.
    """
    staged, settings = staged_template(), PreprocessSettings()
    rng = np.random.default_rng(0)
    truth = {name: point + rng.normal(0, 1, 3) for name, point in POINTS.items()}
    wanted = MSP8.arrange(truth)
    tallies = []
    with tempfile.TemporaryDirectory() as folder:
        for name, write, kinds in (
            ("x.fcsv", write_fcsv, FCSV),
            ("x.mrk.json", write_markups, MARKUPS),
        ):
            path, tally = Path(folder, name), Count(f"landmarks, {name[1:]}")
            write(path, truth)
            good = path.read_bytes()

            def verdict(path: Path = path) -> str:
                found = MSP8.arrange(read_landmarks(path))
                if landmark_problem(found, MSP8, staged, settings) is not None:
                    return "refused"
                figures = landmark_figures(staged.geometry, found, MSP8.template_mm, MSP8.names)
                off = figures["off_plane_max_mm"]
                if misplaced(found, MSP8.template_mm, MSP8.names) or (
                    isinstance(off, float) and off > FAR_OFF_PLANE_MM
                ):
                    return "flagged"
                apart = np.linalg.norm(found - wanted, axis=1)
                if np.isnan(apart).any():
                    # Named as missing by the check, and masked.
                    return "flagged" if not (apart > FAR_MM).any() else "wrong"
                return "same" if apart.max() <= FAR_MM else "wrong"

            for number, (what, content) in enumerate(_damaged(good, kinds, count, seed, name)):
                path.write_bytes(content)
                tally.judge(f"{number}, {what}", verdict)
                tick()
            tallies.append(tally)
    return tallies


def _damaged(
    good: bytes, kinds: dict[str, Any], count: int, seed: int, name: str
) -> Iterable[tuple[str, bytes]]:
    for number in range(count):
        rng = random.Random(f"{seed} {name} {number}")
        what = rng.choice(list(kinds))
        yield what, kinds[what](good, rng)


def try_people(count: int, seed: int, tick: Callable[[], None] = lambda: None) -> Count:
    """Read trees with a damaged participants.tsv; the numbers are who is in which group.

    Args:
        count: How many.
        seed: Seed of the damage.
        tick: Called after each.
    """
    tally = Count("participants.tsv")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        groups = {"sub-01": "train", "sub-02": "HS", "sub-03": "DS", "sub-04": "HS"}
        for person in groups:
            (root / person / "anat").mkdir(parents=True)
            (root / person / "anat" / f"{person}_T1w.nii.gz").write_bytes(b"")
        lines = ["participant_id\tgroup\tage\tsex\texclude"]
        lines += [
            f"{person}\t{group}\t3{i}\tF\tn/a" for i, (person, group) in enumerate(groups.items())
        ]
        good = ("\n".join(lines) + "\n").encode()
        config = CohortConfig("bids", root=folder)

        def verdict() -> str:
            cohort = read_cohort(root, skip_bad=True)
            bad, notes = group_remarks(config, cohort)
            if cohort.bad or cohort.notes or bad or notes:
                return "flagged"
            found = {scan.participant_id: scan.group for scan in cohort.scans}
            return "same" if found == groups else "wrong"

        for number, (what, content) in enumerate(_damaged(good, PEOPLE, count, seed, "people")):
            (root / "participants.tsv").write_bytes(content)
            tally.judge(f"{number}, {what}", verdict)
            tick()
    return tally


def try_all(headers: int, texts: int, seed: int, tick: Callable[[], None]) -> list[Count]:
    """Everything: so many headers, and so many landmark files and tables together."""
    logging.disable(logging.CRITICAL)
    try:
        each = texts // 3
        tallies = [try_headers(headers, seed, tick)] if headers else []
        if each:
            tallies += [*try_landmarks(each, seed, tick), try_people(texts - 2 * each, seed, tick)]
        return tallies
    finally:
        logging.disable(logging.NOTSET)


def table(tallies: Iterable[Count]) -> str:
    """Counts in Markdown."""
    lines = [
        "| damaged | tried | refused in words | flagged | same within 0.5 mm | wrong |",
        "|---|---|---|---|---|---|",
    ]
    for tally in tallies:
        counts = [tally.ways[way] for way in WAYS]
        lines.append(f"| {tally.name} | {sum(counts)} | {' | '.join(map(str, counts))} |")
    return "\n".join(lines) + "\n"
