"""A small study as training leaves it on disk, with errors drawn from a seeded generator."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from landmarking.evaluation.predictions import (
    RunIdentity,
    ScoredScan,
    build_predictions,
    write_predictions,
)
from landmarking.geometry import SliceGeometry

GOLDEN = Path(__file__).parent / "golden"
NAMES = ("AC", "PC", "ICS", "PMJ", "CUL", "IMS", "GENU", "SPLE")
MEAN_PX = np.array(
    [[57, 75], [85, 74], [97, 80], [86, 92], [110, 70], [68, 85], [28, 72], [98, 68]], dtype=float
)


def slice_geometry(left_mm: float = 0.0) -> SliceGeometry:
    """Slice at 1 mm whose column x has A = 62 - x and row y has S = 70 - y."""
    matrix = np.array([[0, 0, -1, -left_mm], [-1, 0, 0, 62], [0, -1, 0, 70], [0, 0, 0, 1.0]])
    return SliceGeometry(matrix, (150, 150))


def slice_image(rng: np.random.Generator) -> np.ndarray:
    """A bright ellipse with noise, uint8, shape (150, 150); stands for a head."""
    y, x = np.mgrid[:150, :150]
    head = ((x - 72) / 62.0) ** 2 + ((y - 72) / 58.0) ** 2 < 1
    return np.clip(head * 130 + rng.normal(30, 12, (150, 150)), 0, 255).astype(np.uint8)


@dataclass
class StudyMaker:
    """Writes the run folders of one study; every knob has a plain default."""

    folder: Path
    people: dict[str, int] = field(default_factory=lambda: {"HS": 6, "DS": 5})
    names: tuple[str, ...] = NAMES
    seeds: tuple[int, ...] = (0,)
    simulated: bool = True
    digest: str = "c0ffee123456"
    split: str = "5eed00000000"
    sd_px: dict[str, float] = field(default_factory=lambda: {"SL": 1.0, "ML": 2.0})
    missing: tuple[tuple[str, str], ...] = ()
    slices: bool = True

    def scans(self) -> list[ScoredScan]:
        """One scan a person."""
        return [
            ScoredScan(group, f"sub-{group}{n:02d}", f"sub-{group}{n:02d}_ses-01", slice_geometry())
            for group, count in self.people.items()
            for n in range(count)
        ]

    def truth_px(self) -> np.ndarray:
        """True pixels, shape (B, L, 2); the same for every run."""
        rng = np.random.default_rng(7)
        chosen = MEAN_PX[[NAMES.index(name) for name in self.names]]
        shift = rng.normal(0, 4, (len(self.scans()), 1, 2))
        truth = chosen + shift + rng.normal(0, 2, (len(self.scans()), len(self.names), 2))
        for row, scan in enumerate(self.scans()):
            for column, name in enumerate(self.names):
                if (scan.scan_id, name) in self.missing:
                    truth[row, column] = np.nan
        return truth

    def write(self) -> Path:
        """All runs: SL one a landmark and seed, every other model one a seed."""
        for seed in self.seeds:
            for model in self.sd_px:
                groups = [(name,) for name in self.names] if model == "SL" else [self.names]
                for names in groups:
                    stem = f"{model.lower()}-{names[0]}" if model == "SL" else model.lower()
                    self.write_run(f"{stem}-seed{seed}", model, names, seed)
        return self.folder

    def write_run(self, run: str, model: str, names: tuple[str, ...], seed: int) -> None:
        """One finished run folder."""
        scans, columns = self.scans(), [self.names.index(name) for name in names]
        true_px = self.truth_px()[:, columns]
        rng = np.random.default_rng([seed, *map(ord, run)])
        noise = rng.normal(0, self.sd_px[model], true_px.shape)
        ds = np.array([scan.group == "DS" for scan in scans])
        predicted = np.nan_to_num(true_px, nan=70.0) + noise * np.where(ds, 1.4, 1.0)[:, None, None]
        off = rng.normal(0, 0.2, true_px.shape[:2])
        self._write_predictions(run, model, names, seed, true_px, predicted, off)

    def write_errors(self, run: str, model: str, errors_mm: np.ndarray, seed: int = 0) -> None:
        """One finished run with exactly these errors, shape (B, L); directions vary."""
        angle = np.arange(errors_mm.size).reshape(errors_mm.shape)
        shift = errors_mm[..., None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
        true_px = self.truth_px()
        off = np.zeros(errors_mm.shape)
        self._write_predictions(run, model, self.names, seed, true_px, true_px + shift, off)

    def _write_predictions(self, run, model, names, seed, true_px, predicted, off) -> None:
        scans, geometry = self.scans(), slice_geometry()
        true_mm = geometry.to_world(true_px) + off[..., None] * geometry.plane.normal
        identity = RunIdentity(
            self.folder.name, run, model, f"demo_{model.lower()}", seed, "phantom-demo",
            self.digest, self.simulated, self.split,
        )  # fmt: skip
        frame = build_predictions(
            identity, scans, names, true_px=true_px, true_mm=true_mm,
            predicted_px=predicted, mean_px=MEAN_PX[[NAMES.index(name) for name in names]],
        )  # fmt: skip
        self._write_neighbours(self.folder / run, scans, seed)
        write_predictions(self.folder / run / "predictions.csv", frame)

    def _write_neighbours(self, folder: Path, scans: list[ScoredScan], seed: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(11)
        if self.slices:
            images = {scan.scan_id: slice_image(rng) for scan in scans}
            np.savez_compressed(folder / "slices.npz", **images)
        provenance = {
            "git_commit": "0123456789abcdef0123456789abcdef01234567",
            "packages": {"numpy": "2.4.6", "torch": "2.13.0"},
            "seed": seed,
            "wall_time_s": 12.5,
            "hardware": {"cpu": "a <processor> & co", "cores": 2},
        }
        (folder / "provenance.json").write_text(json.dumps(provenance))
        (folder / "config.yaml").write_text(f"study: {self.folder.name}\nseed: {seed}\n")
        rows = [f"{n},{20 / (n + 1)},{22 / (n + 1)},{0.005 * 0.95**n}" for n in range(12)]
        header = "epoch,train_loss_px,validation_loss_px,learning_rate"
        (folder / "history.csv").write_text("\n".join([header, *rows]) + "\n")


@pytest.fixture
def make_study(tmp_path):
    """Give a `StudyMaker` for a folder of this test; keywords are its fields."""

    def make(name: str = "demo", **knobs) -> StudyMaker:
        return StudyMaker(tmp_path / name, **knobs)

    return make


@pytest.fixture(scope="module")
def make_module_study(tmp_path_factory):
    """The same for a folder that the tests of one module share."""

    def make(name: str = "demo", **knobs) -> StudyMaker:
        return StudyMaker(tmp_path_factory.mktemp("studies") / name, **knobs)

    return make


@pytest.fixture(scope="session")
def reported(tmp_path_factory):
    """Report of the committed golden study, and what the console said; leave it as it is."""
    from landmarking.evaluation.report import ReportConfig, run_report

    folder = tmp_path_factory.mktemp("reported") / "report"
    settings = ReportConfig(runs=str(GOLDEN), output=str(folder), resamples=100, permutations=100)
    return folder, run_report(settings)
