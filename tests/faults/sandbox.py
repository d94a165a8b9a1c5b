"""A tiny cohort, prepared and trained once; every fault gets a fresh copy at one and the same path.

    ROOT/template/{scans, registered, prepared, trained}   states to start from
    ROOT/box/{cohort, outputs}                             where the commands of a fault work

Configurations hold paths, so the copy has to lie where the template was made.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

COHORT = (
    "cohort=phantom",
    "cohort.name=tiny",
    "cohort.preset.train=4",
    "cohort.preset.healthy=2",
    "cohort.preset.down_syndrome=2",
    "cohort.preset.warp.knot_mm=12",
    "cohort.preset.scanner.voxel_mm=[4.0,5.0]",
    "cohort.preset.keep_tissues=false",
)

TRAIN = (
    "experiment=demo_ml",
    "launcher=sequential",
    "logger=none",
    "run=ml-seed0",
    "trainer.max_epochs=4",
    "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false",
    "callbacks.resume.every_n_epochs=1",
    "callbacks.history.every_n_epochs=1",
    "trainer.check_val_every_n_epoch=1",
    "data.batch_size=2",
    "model.channels=[4,8]",
    "model.hidden=[16]",
    "model.pools=2",
    "threads=1",
    "workers=1",
)


@dataclass(frozen=True)
class Box:
    """The folders that the commands of one fault work in.

    Attributes:
        root: Holds the template and the box.
        kind: Arguments that say which cohort; its root is added.
    """

    root: Path
    kind: tuple[str, ...] = COHORT

    @property
    def cohort(self) -> Path:
        """BIDS tree of the phantom heads."""
        return self.root / "box" / "cohort"

    @property
    def outputs(self) -> Path:
        """Cache, prepared cohorts and runs."""
        return self.root / "box" / "outputs"

    @property
    def prepared(self) -> Path:
        """The prepared cohort."""
        return next((self.outputs / "prepared").glob("tiny-*"))

    @property
    def run(self) -> Path:
        """Folder of the multi-landmark run."""
        return self.outputs / "demo" / "ml-seed0"

    @property
    def report(self) -> Path:
        """Folder of the study's report."""
        return self.outputs / "demo" / "report"

    def command(self, name: str, *more: str) -> tuple[str, ...]:
        """A command line by its short name: shell and arguments."""
        cohort = (*self.kind, f"cohort.root={self.cohort}", f"outputs={self.outputs}")
        sweep = "hydra.sweeper.params.landmark='AC,PMJ'"
        known: dict[str, tuple[str, ...]] = {
            "prepare": ("prepare", *cohort, "workers=1", "progress=false"),
            "train": ("train", *TRAIN, *cohort),
            "sweep": ("train", "experiment=demo_sl", *TRAIN[1:], sweep, *cohort),
            "evaluate": (
                "evaluate",
                *cohort,
                f"runs={self.outputs / 'demo'}",
                "workers=1",
                "progress=false",
            ),
            "report": (
                "report",
                f"runs={self.outputs / 'demo'}",
                "resamples=100",
                "permutations=100",
                "allow_mixed=true",
            ),
            "predict": (
                "predict",
                *map(str, sorted(self.cohort.rglob("*_T1w.nii.gz"))[:2]),
                f"--model={self.run}",
                f"--output={self.outputs / 'predicted'}",
            ),
        }
        return (*known[name], *more)

    def reset(self, state: str) -> None:
        """Put a state of the template where the commands look for it."""
        shutil.rmtree(self.root / "box", ignore_errors=True)
        shutil.copytree(self.root / "template" / state, self.root / "box", symlinks=True)

    def put_back(self, path: Path, state: str) -> None:
        """Copy a file or folder that was removed from a state of the template, if it was there."""
        original = self.root / "template" / state / path.relative_to(self.root / "box")
        if path.exists() or not original.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if original.is_dir() else shutil.copy2)(original, path)

    def keep(self, state: str) -> None:
        """Make the present state one of the template's."""
        shutil.copytree(self.root / "box", self.root / "template" / state, symlinks=True)

    def digests(self) -> dict[str, str]:
        """SHA-256 of everything that holds a number: what must not change, by relative path."""
        patterns = (
            "prepared/tiny-*/index.json",
            "prepared/tiny-*/images.npy",
            "prepared/tiny-*/qc.csv",
            "demo*/*/predictions.csv",
            "demo*/*/history.csv",
            "demo/report/tables/*",
            "predicted/*.fcsv",
            "predicted/*.mrk.json",
            "predicted/landmarks.csv",
        )
        found = [path for pattern in patterns for path in self.outputs.glob(pattern)]
        return {str(path.relative_to(self.outputs)): digest(path) for path in found}

    def leftovers(self) -> list[str]:
        """Temporary files and folders that nobody has removed."""
        return sorted(str(path.relative_to(self.outputs)) for path in self.outputs.rglob(".tmp-*"))


def digest(path: Path) -> str:
    """SHA-256 of a file; a word where a folder stands in its place."""
    if path.is_dir():
        return "a folder"
    return hashlib.sha256(path.read_bytes()).hexdigest()
