"""Sweeps and shards on a real SLURM node of our own; `make test-slurm` runs them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from landmarking.imaging.pipeline import PreprocessSettings
from landmarking.preparation.cache import key_settings

PROJECT = Path(__file__).resolve().parents[2]
NODE = Path(__file__).with_name("node.sh")
LANDMARKS = "AC,PC,ICS,PMJ,CUL,IMS,GENU,SPLE"
PATIENCE_S = 1800.0

pytestmark = pytest.mark.skipif(
    os.environ.get("SLURM_TESTS") != "1", reason="make test-slurm brings the node up"
)


@pytest.fixture(scope="module", autouse=True)
def node(tmp_path_factory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("slurm")
    done = subprocess.run([str(NODE), "up", str(folder)], capture_output=True, text=True)
    try:
        if done.returncode:
            pytest.fail(done.stderr)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
            yield
            subprocess.run(["scancel", "--full", "--user=root"], capture_output=True)
    finally:
        subprocess.run([str(NODE), "down", str(folder)], check=True)


@pytest.fixture(scope="module")
def prepared(make_cohort) -> Path:
    return Path(make_cohort(size=48, settings=key_settings(PreprocessSettings())).folder)


def sweep(prepared: Path, outputs: Path, launcher: str, landmarks: str = LANDMARKS) -> list[str]:
    """A command line of single-landmark runs of a second."""
    more = []
    if launcher == "slurm":
        more = [
            "hydra.launcher.partition=test",
            "hydra.launcher.cpus_per_task=1",
            "hydra.launcher.mem_gb=null",
            "hydra.launcher.array_parallelism=2",
            "hydra.callbacks.lost_tasks.every_s=2",
        ]
    return [
        sys.executable,
        str(PROJECT / "experiments" / "train.py"),
        "experiment=demo_sl",
        f"launcher={launcher}",
        *more,
        "cohort=bids",
        f"cohort.root={prepared}",
        f"outputs={outputs}",
        f"hydra.sweeper.params.landmark='{landmarks}'",
        "model.channels=[4,8]",
        "model.hidden=[16]",
        "model.pools=2",
        "trainer.max_epochs=60",
        "trainer.accelerator=cpu",
        "callbacks.resume.every_n_epochs=2",
        "logger=none",
        "threads=1",
    ]


def start(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(command: list[str]) -> str:
    """What a command prints that has to succeed."""
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def until(condition: Callable[[], object], what: str, sweeping: subprocess.Popen[str]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert sweeping.poll() is None, f"the sweep ended before {what}: {sweeping.communicate()}"
        assert time.monotonic() < end, f"waited in vain until {what}"
        time.sleep(0.2)


def queue(states: str) -> list[str]:
    done = subprocess.run(
        ["squeue", "--noheader", "--array", "--format=%i", f"--states={states}"],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def task_of(outputs: Path, run: str) -> str:
    """Number of the task that works on a run: arrays keep the order of the landmarks."""
    index = LANDMARKS.split(",").index(run.split("-")[1])
    return next(name for name in queue("RUNNING") if name.endswith(f"_{index}"))


def table(outputs: Path) -> str:
    command = [sys.executable, str(PROJECT / "experiments" / "report.py")]
    command += [f"runs={outputs / 'demo'}", "resamples=100", "permutations=100"]
    finished(command)
    return (outputs / "demo" / "report" / "tables" / "table1.csv").read_text()


def test_eight_runs_of_which_one_is_killed_and_queued_again_equal_the_local_ones(
    prepared, tmp_path
):
    there, here = tmp_path / "slurm", tmp_path / "local"
    sweeping = start(sweep(prepared, there, "slurm"))
    checkpoints = "demo/*/checkpoints/last.ckpt"
    until(lambda: list(there.glob(checkpoints)), "a run has a checkpoint", sweeping)
    victim = next(there.glob(checkpoints)).parents[1]
    task = task_of(there, victim.name)
    subprocess.run(["scontrol", "requeue", task], check=True)
    until(lambda: task not in queue("RUNNING,COMPLETING"), "the run is killed", sweeping)
    assert not (victim / "predictions.csv").exists()
    out, err = sweeping.communicate(timeout=PATIENCE_S)
    assert sweeping.returncode == 0, out + err
    logs = "".join(path.read_text() for path in there.rglob(".submitit/*/*_log.out"))
    assert logs.count(": resumed;") == 1
    assert logs.count(": trained;") == 7
    finished(sweep(prepared, here, "sequential"))
    runs = sorted(path.parent.name for path in here.glob("demo/*/predictions.csv"))
    assert len(runs) == 8
    for run in runs:
        ours, theirs = (
            (root / "demo" / run / "predictions.csv").read_bytes() for root in (here, there)
        )
        assert ours == theirs, run
    assert table(here) == table(there)


def test_a_pending_task_that_is_cancelled_is_said_and_the_next_start_does_it(prepared, tmp_path):
    command = sweep(prepared, tmp_path, "slurm", "AC,PC,ICS")
    sweeping = start(command)
    until(lambda: len(queue("PENDING,RUNNING")) == 3, "three tasks are submitted", sweeping)
    last = max(queue("PENDING,RUNNING"))
    subprocess.run(["scancel", last], check=True)
    _, err = sweeping.communicate(timeout=PATIENCE_S)
    assert sweeping.returncode != 0
    assert f"task {last} was cancelled or killed" in err
    assert "the same command does again what is missing" in err
    assert "Traceback" not in err
    assert len(list(tmp_path.glob("demo/*/predictions.csv"))) == 2
    finished(command)
    assert len(list(tmp_path.glob("demo/*/predictions.csv"))) == 3


def test_a_task_that_is_killed_outright_is_said_too(prepared, tmp_path):
    sweeping = start(sweep(prepared, tmp_path, "slurm", "AC,PC"))
    checkpoint = tmp_path / "demo" / "sl-AC-seed0" / "checkpoints" / "last.ckpt"
    until(checkpoint.exists, "AC has a checkpoint", sweeping)
    task = next(name for name in queue("RUNNING") if name.endswith("_0"))
    subprocess.run(["scancel", "--signal=KILL", "--full", task], check=True)
    _, err = sweeping.communicate(timeout=PATIENCE_S)
    assert sweeping.returncode != 0
    assert f"task {task} was cancelled or killed" in err
    assert (tmp_path / "demo" / "sl-PC-seed0" / "predictions.csv").exists()


def drawn_slices(root: Path) -> Path:
    """Twelve slices that another tool might have cut: no registration, no plane search."""
    rng = np.random.default_rng(0)
    rows = ["slice_id\tparticipant_id\tgroup"]
    for folder in ("images", "landmarks"):
        (root / folder).mkdir(parents=True)
    for number in range(12):
        name = f"s{number:02d}"
        matplotlib.image.imsave(
            root / "images" / f"{name}.png", rng.random((256, 256)), cmap="gray"
        )
        points = rng.uniform(80, 170, (8, 2))
        lines = [
            f"{name} {x} {y}" for name, (x, y) in zip(LANDMARKS.split(","), points, strict=True)
        ]
        (root / "landmarks" / f"{name}.txt").write_text("\n".join(lines))
        rows.append(f"{name}\tp{number}\t{('train', 'HS', 'DS')[number % 3]}")
    (root / "slices.tsv").write_text("\n".join(rows) + "\n")
    return root


def test_shards_of_a_cohort_meet_in_the_cache(tmp_path):
    root = drawn_slices(tmp_path / "drawn")
    prepare = [sys.executable, str(PROJECT / "experiments" / "prepare.py")]
    common = ["cohort=slices", f"cohort.root={root}", "workers=1", "progress=false"]
    shards = ["launcher=slurm", "shards=4", "shard=range(0,4)"]
    shards += ["hydra.launcher.partition=test", "hydra.launcher.cpus_per_task=1"]
    shards += ["hydra.launcher.mem_gb=null", f"outputs={tmp_path / 'shared'}"]
    finished([*prepare, "-m", *common, *shards])
    made = list((tmp_path / "shared" / "cache" / "intensity").rglob("*.npy"))
    assert len(made) == 12
    out = finished([*prepare, *common, f"outputs={tmp_path / 'shared'}"])
    assert "all from the cache" in out
    finished([*prepare, *common, f"outputs={tmp_path / 'alone'}"])
    for name in ("images.npy", "index.json", "qc.csv"):
        (ours,) = (tmp_path / "alone").glob(f"prepared/*/{name}")
        (theirs,) = (tmp_path / "shared").glob(f"prepared/*/{name}")
        assert ours.read_bytes() == theirs.read_bytes()
