"""Everything that the project reads, each with a good input."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import yaml
from mutations import Target
from omegaconf import OmegaConf

from landmarking.cohort.bids_tree import read_cohort
from landmarking.config import settings
from landmarking.data.cache import Entry, FileDigests, StageCache, stage_key
from landmarking.data.carried import pack_prepared, unpack_prepared
from landmarking.data.prepared import load_prepared
from landmarking.data.prepared_files import FORMAT
from landmarking.data.splits import read_split
from landmarking.evaluation.predictions import read_predictions
from landmarking.evaluation.runs import Run, load_study
from landmarking.imaging.scan import load_scan
from landmarking.landmarks import landmark_set, read_landmarks, write_fcsv, write_markups
from landmarking.run_folder import RunFolder
from landmarking.training_config import TrainingConfig
from landmarking.transfer import load_model, read_run_config

MSP8 = landmark_set("msp8")
AFFINE = np.diag([8.0, 8.0, 8.0, 1.0])


def all_targets(prepared: Path, run: Path, work: Path) -> Iterator[Target]:
    """Targets of every reader.

    Args:
        prepared: A prepared cohort.
        run: A finished run.
        work: An empty folder for what readers need beside the file.
    """
    yield from scans(work)
    yield from landmark_files(work)
    yield from tables(work)
    yield from caches(work)
    yield from prepared_cohorts(prepared, work)
    yield from run_files(run, work)
    yield from configurations(run)


def scans(work: Path) -> Iterator[Target]:
    """NIfTI-1 and NIfTI-2, plain and packed, whole numbers and real ones."""
    rng = np.random.default_rng(0)
    data = rng.uniform(0, 1000, (12, 14, 12))
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

    def in_tree(name: str, good: bytes) -> Callable[[Path], object]:
        def read(path: Path) -> object:
            shutil.copy(path, root / name)
            try:
                return read_cohort(root)
            finally:
                (root / name).write_bytes(good)

        return read

    name = "participants.tsv"
    yield Target(name, people, in_tree(name, people), "p.tsv")
    name = "dataset_description.json"
    yield Target(name, description, in_tree(name, description), "d.json", ("json", "text", "bytes"))


def caches(work: Path) -> Iterator[Target]:
    """Entries of the cache, and the memory of digests: damaged ones are as good as none."""
    cache = StageCache(work / "cache")
    key = stage_key("slice", 1, "x")
    cache.put("slice", key, Entry({"a": 1.5}, np.ones((4, 4), np.float32)))
    (entry,), (image,) = (list((work / "cache").rglob(f"*{end}")) for end in (".json", ".npy"))

    def read_as(target: Path) -> Callable[[Path], object]:
        whole = target.read_bytes()

        def read(path: Path) -> object:
            shutil.copy(path, target)
            try:
                found = cache.get("slice", key)
            finally:
                target.write_bytes(whole)
            if found is not None and (found.values != {"a": 1.5} or not (found.image == 1).all()):
                raise ValueError("another value came out of the cache")
            return found

        return read

    kinds = ("text", "bytes")
    yield Target("cache: values", entry.read_bytes(), read_as(entry), "e.json", kinds)
    yield Target("cache: image", image.read_bytes(), read_as(image), "i.npy", ("bytes",))
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

    def read_as(name: str, *, vouched: bool = False) -> Callable[[Path], object]:
        whole = (folder / name).read_bytes()

        def read(path: Path) -> object:
            if vouched:
                body = json.loads(path.read_bytes())
                if isinstance(body, dict):
                    body.pop("index_sha256", None)
                    body["index_sha256"] = stage_key("index", FORMAT, body)
                (folder / name).write_text(json.dumps(body))
            else:
                shutil.copy(path, folder / name)
            try:
                return load_prepared(folder).points_px.shape
            finally:
                (folder / name).write_bytes(whole)

        return read

    index, images = (folder / "index.json").read_bytes(), (folder / "images.npy").read_bytes()
    yield Target("prepared: index", index, read_as("index.json"), "i.json", ("text", "bytes"))
    yield Target(
        "prepared: index, checksum made anew",
        index,
        read_as("index.json", vouched=True),
        "i.json",
        ("json",),
    )
    yield Target("prepared: slices", images, read_as("images.npy"), "i.npy", ("head", "bytes"))
    carried = work / "x.prepared.zip"
    pack_prepared(load_prepared(folder), carried)

    def unpack(path: Path) -> object:
        return unpack_prepared(path, work / "unpacked")

    good = carried.read_bytes()
    yield Target("prepared: one file", good, unpack, "x.prepared.zip", ("bytes",))
    yield Target("prepared: one file, its directory", good, unpack, "x.prepared.zip", ("bytes",))
    yield Target(
        "prepared: one file, hostile index", index, _zipped(unpack, images), "i.json", ("json",)
    )


def _zipped(unpack: Callable[[Path], object], images: bytes) -> Callable[[Path], object]:
    names = ("../../outside", "/tmp/outside", "a/../../outside", "index.json/x", "C:\\outside")

    def read(path: Path) -> object:
        target = path.with_name("hostile.prepared.zip")
        with zipfile.ZipFile(target, "w") as archive:
            archive.writestr("index.json", path.read_bytes())
            archive.writestr("images.npy", images)
            for name in names:
                archive.writestr(name, b"x")
        try:
            return unpack(target)
        finally:
            outside = [path.parent.parent / "outside", path.parent.parent.parent / "outside"]
            if any(place.exists() for place in (*outside, Path("/tmp/outside"))):
                raise ValueError("a member of an archive got out of its folder")

    return read


def run_files(run: Path, work: Path) -> Iterator[Target]:
    """What a finished run consists of, without its checksums: the readers stand alone."""
    folder = work / "run"
    shutil.copytree(run, folder)
    (folder / "checksums.txt").unlink(missing_ok=True)
    rows = read_predictions(folder / "predictions.csv")

    def read_as(name: str, read_it: Callable[[Path], object]) -> Callable[[Path], object]:
        whole = (folder / name).read_bytes()

        def read(path: Path) -> object:
            shutil.copy(path, folder / name)
            try:
                return read_it(folder)
            finally:
                (folder / name).write_bytes(whole)

        return read

    def alone() -> Run:
        return Run(folder, rows)

    readers: tuple[tuple[str, Callable[[Path], object], tuple[str, ...]], ...] = (
        ("predictions.csv", lambda f: read_predictions(f / "predictions.csv"), ("text", "bytes")),
        ("predictions.csv", lambda f: load_study(f).frame, ("text",)),
        ("split.json", lambda f: read_split(f / "split.json"), ("json", "text", "bytes")),
        ("config.yaml", lambda f: read_run_config(RunFolder(f)), ("text", "bytes")),
        ("config.yaml", lambda f: alone().config, ("text", "bytes")),
        ("provenance.json", lambda f: alone().provenance, ("json", "text", "bytes")),
        ("history.csv", lambda f: alone().history, ("text", "bytes")),
        ("slices.npz", lambda f: alone().slices, ("bytes",)),
        ("checkpoints/model.ckpt", lambda f: load_model(RunFolder(f)), ("bytes",)),
    )
    for name, read_it, kinds in readers:
        good = (folder / name).read_bytes()
        yield Target(f"run: {name}", good, read_as(name, read_it), Path(name).name, kinds)
    yield Target(
        "run: model.ckpt, hostile settings",
        json.dumps(_hyper_parameters(folder)).encode(),
        _with_settings(folder),
        "h.json",
        ("json",),
    )


def _hyper_parameters(folder: Path) -> dict[str, Any]:
    import torch

    content = torch.load(folder / "checkpoints" / "model.ckpt", weights_only=True)
    return dict(content["hyper_parameters"])


def _with_settings(folder: Path) -> Callable[[Path], object]:
    import torch

    model = folder / "checkpoints" / "model.ckpt"
    whole = model.read_bytes()
    content = torch.load(model, weights_only=True)

    def read(path: Path) -> object:
        torch.save({**content, "hyper_parameters": json.loads(path.read_bytes())}, model)
        try:
            return load_model(RunFolder(folder))
        finally:
            model.write_bytes(whole)

    return read


def configurations(run: Path) -> Iterator[Target]:
    """A whole configuration of a training run, with wrong keys, types and sizes."""
    plain = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"), resolve=True)

    def check(path: Path) -> object:
        values = json.loads(path.read_bytes())
        if not isinstance(values, dict):
            return None
        config = settings(TrainingConfig, values)
        return config.landmarks.build(), config.preprocess.window, config.run_name, config.plain()

    yield Target("configuration", json.dumps(plain).encode(), check, "c.json", ("json",))

    def check_yaml(path: Path) -> object:
        try:
            values = yaml.safe_load(path.read_bytes())
        except (yaml.YAMLError, UnicodeDecodeError, ValueError):
            return None  # Hydra's own message names file and line
        path.write_text(json.dumps(values, default=str))
        return check(path)

    good = yaml.safe_dump(plain).encode()
    yield Target("configuration, as YAML", good, check_yaml, "c.yaml", ("text",))
