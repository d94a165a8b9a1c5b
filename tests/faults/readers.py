"""What the project reads beside its own runs, each with a good input."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
from matplotlib.image import imsave
from mutations import Target

from landmarking.cohort.bids import read_cohort
from landmarking.cohort.slices import read_slice_image, read_slice_points, read_slices
from landmarking.imaging.scan import load_scan
from landmarking.landmarks import landmark_set, read_landmarks, write_fcsv, write_markups
from landmarking.preparation.cache import Entry, FileDigests, StageCache, stage_key
from landmarking.preparation.prepared import FORMAT, IMAGES, INDEX, load_prepared
from landmarking.preparation.sources import pack_prepared, unpack_prepared

MSP8 = landmark_set("msp8")
AFFINE = np.diag([5.0, 5.0, 5.0, 1.0])


def input_targets(prepared: Path, work: Path) -> Iterator[Target]:
    """Targets of every reader of inputs.

    Args:
        prepared: A prepared cohort.
        work: An empty folder for what readers need beside the file.
    """
    yield from scans(work)
    yield from landmark_files(work)
    yield from tables(work)
    yield from cut_slices(work)
    yield from caches(work)
    yield from prepared_cohorts(prepared, work)


def in_place(target: Path, read: Callable[[], object]) -> Callable[[Path], object]:
    """A reader of the file in a place of its own, where the good one is put back."""
    whole = target.read_bytes()

    def read_there(path: Path) -> object:
        shutil.copy(path, target)
        try:
            return read()
        finally:
            target.write_bytes(whole)

    return read_there


def scans(work: Path) -> Iterator[Target]:
    """NIfTI-1 and NIfTI-2, plain and packed, whole numbers and real ones."""
    rng = np.random.default_rng(0)
    data = rng.uniform(0, 1000, (32, 34, 32))
    for kind, dtype, name in (
        (nib.Nifti1Image, np.int16, "scan.nii"),
        (nib.Nifti1Image, np.float32, "scan.nii.gz"),
        (nib.Nifti2Image, np.float64, "scan.nii"),
        (nib.Nifti1Image, np.uint8, "scan.nii.gz"),
    ):
        image = kind(data.clip(0, 255).astype(dtype), AFFINE)
        image.set_qform(AFFINE, code=1)
        path = work / "good" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(image, path)
        kinds = ("bytes",) if name.endswith(".gz") else ("head", "head", "bytes")
        title = f"{kind.__name__.removesuffix('Image')} {np.dtype(dtype).name}"
        yield Target(f"scan: {title}", path.read_bytes(), load_scan, name, kinds)


def landmark_files(work: Path) -> Iterator[Target]:
    """Markups and fcsv."""
    points = dict(zip(MSP8.names, MSP8.template_mm, strict=True))

    def read(path: Path) -> object:
        return MSP8.arrange(read_landmarks(path))

    write_markups(work / "good.mrk.json", points)
    write_fcsv(work / "good.fcsv", points)
    markups, fcsv = (work / name for name in ("good.mrk.json", "good.fcsv"))
    kinds = ("json", "json", "text", "bytes")
    yield Target("landmarks: .mrk.json", markups.read_bytes(), read, "x.mrk.json", kinds)
    yield Target("landmarks: .fcsv", fcsv.read_bytes(), read, "x.fcsv")


def tables(work: Path) -> Iterator[Target]:
    """participants.tsv and dataset_description.json."""
    root = work / "tree"
    for person in ("sub-01", "sub-02"):
        (root / person / "anat").mkdir(parents=True)
        (root / person / "anat" / f"{person}_T1w.nii.gz").write_bytes(b"")
    people = (
        b"participant_id\tgroup\tage\tsex\texclude\n"
        b"sub-01\ttrain\t30\tF\tn/a\nsub-02\tHS\tn/a\tM\tmotion\n"
    )
    (root / "participants.tsv").write_bytes(people)
    (root / "dataset_description.json").write_text('{"Name": "x", "Simulated": false}')
    description = (root / "dataset_description.json").read_bytes()

    table = in_place(root / "participants.tsv", lambda: read_cohort(root))
    yield Target("participants.tsv", people, table, "p.tsv")
    name = "dataset_description.json"
    about = in_place(root / name, lambda: read_cohort(root))
    yield Target(name, description, about, "d.json", ("json", "text", "bytes"))


def cut_slices(work: Path) -> Iterator[Target]:
    """slices.tsv, an image and a file of landmarks, as another tool has cut them."""
    root = work / "cut"
    for folder in ("images", "landmarks"):
        (root / folder).mkdir(parents=True)
    image, points, table = root / "images/a.png", root / "landmarks/a.txt", root / "slices.tsv"
    imsave(image, np.random.default_rng(0).random((24, 24)), cmap="gray")
    points.write_text("".join(f"{name} {10 + i} {12.5 - i}\n" for i, name in enumerate(MSP8.names)))
    table.write_text("slice_id\tparticipant_id\tgroup\tage\na\tp1\ttrain\t31\n")
    read_table = in_place(table, lambda: read_slices(root))
    yield Target("slices: slices.tsv", table.read_bytes(), read_table, "s.tsv")
    read_points = in_place(points, lambda: read_slice_points(points, MSP8))
    yield Target("slices: landmarks", points.read_bytes(), read_points, "a.txt")
    read_image = in_place(image, lambda: read_slice_image(image, 24))
    yield Target("slices: image", image.read_bytes(), read_image, "a.png", ("bytes",))


def caches(work: Path) -> Iterator[Target]:
    """Entries of the cache, and the memory of digests: damaged ones are as good as none."""
    cache = StageCache(work / "cache")
    key = stage_key("slice", 1, "x")
    cache.put("slice", key, Entry({"a": 1.5}, np.ones((4, 4), np.float32)))
    (entry,), (image,) = (list((work / "cache").rglob(f"*{end}")) for end in (".json", ".npy"))

    def get() -> object:
        found = cache.get("slice", key)
        if found is not None and (found.values != {"a": 1.5} or not (found.image == 1).all()):
            raise ValueError("another value came out of the cache")
        return found

    kinds = ("text", "bytes")
    yield Target("cache: values", entry.read_bytes(), in_place(entry, get), "e.json", kinds)
    yield Target("cache: image", image.read_bytes(), in_place(image, get), "i.npy", ("bytes",))
    known = work / "known"
    known.write_text("x")
    memory = work / "files.json"
    digest = FileDigests(memory).digests([known])[known]

    def read_memory(path: Path) -> object:
        shutil.copy(path, memory)
        if FileDigests(memory).digests([known])[known] != digest:
            raise ValueError("another digest came out of the memory")
        return None

    yield Target("files.json", memory.read_bytes(), read_memory, "f.json", ("json", "text"))


def prepared_cohorts(prepared: Path, work: Path) -> Iterator[Target]:
    """Index and slices of a prepared cohort, also under a right checksum, and the one file."""
    folder = work / "prepared"
    shutil.copytree(prepared, folder)

    def load() -> object:
        return load_prepared(folder).points_px.shape

    read_index, read_images = (in_place(folder / name, load) for name in (INDEX, IMAGES))

    def read_vouched(path: Path) -> object:
        body = json.loads(path.read_bytes())
        if isinstance(body, dict):
            body.pop("index_sha256", None)
            body["index_sha256"] = stage_key("index", FORMAT, body)
        path.write_text(json.dumps(body))
        return read_index(path)

    index, images = (folder / INDEX).read_bytes(), (folder / IMAGES).read_bytes()
    yield Target("prepared: index", index, read_index, "i.json", ("text", "bytes"))
    yield Target("prepared: index, checksum made anew", index, read_vouched, "i.json", ("json",))
    yield Target("prepared: slices", images, read_images, "i.npy", ("head", "bytes"))
    carried = work / "x.prepared.zip"
    pack_prepared(load_prepared(folder), carried)

    def unpack(path: Path) -> object:
        return unpack_prepared(path, work / "unpacked")

    good = carried.read_bytes()
    yield Target("prepared: one file", good, unpack, "x.prepared.zip", ("bytes",))
    yield Target("prepared: one file, its directory", good, unpack, "x.prepared.zip", ("bytes",))
    yield Target(
        "prepared: one file, hostile index",
        index,
        zipped(unpack, "index.json", {"images.npy": images}, ".prepared.zip"),
        "i.json",
        ("json",),
    )


def zipped(
    read: Callable[[Path], object], name: str, others: dict[str, bytes], suffix: str
) -> Callable[[Path], object]:
    """A reader of archives with a mutated member, and members that try to get out of the folder."""
    hostile = ("../../outside", "/tmp/outside", "a/../../outside", f"{name}/x", "C:\\outside")

    def read_archive(path: Path) -> object:
        target = path.with_name(f"hostile{suffix}")
        with zipfile.ZipFile(target, "w") as archive:
            archive.writestr(name, path.read_bytes())
            for other, content in {**others, **dict.fromkeys(hostile, b"x")}.items():
                archive.writestr(other, content)
        folders = (path.parents[1], path.parents[2], Path("/tmp"))
        outside = [place for folder in folders if not (place := folder / "outside").exists()]
        try:
            return read(target)
        finally:
            if any(place.exists() for place in outside):
                raise ValueError("a member of an archive got out of its folder")

    return read_archive
