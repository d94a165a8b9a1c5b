"""Two processes that train one model: Lightning's own strategy, one set of files, one result."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from landmarking.config import PROJECT
from landmarking.evaluation.predictions import read_predictions
from landmarking.imaging.pipeline import PreprocessSettings
from landmarking.preparation.cache import key_settings


def test_two_processes_leave_the_files_and_the_result_of_one(make_cohort, tmp_path):
    made = make_cohort(train=9, size=48, settings=key_settings(PreprocessSettings()))
    common = [
        sys.executable,
        str(PROJECT / "experiments" / "train.py"),
        "experiment=demo_ml",
        "logger=none",
        "run=ml-seed0",
        "cohort=bids",
        f"cohort.root={made.folder}",
        "trainer.max_epochs=3",
        "trainer.accelerator=cpu",
        "trainer.enable_progress_bar=false",
        "callbacks.history.every_n_epochs=1",
        "callbacks.resume.every_n_epochs=1",
        "data.batch_size=4",
        "model._target_=norm_free.NormFree",
        "model.channels=[4,8]",
        "model.hidden=[16]",
        "model.pools=2",
        "model.dropout=0.0",
        "threads=1",
    ]
    two = ["trainer.devices=2", "trainer.strategy=ddp"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    runs = {}
    for name, more in (("one", []), ("two", two)):
        done = subprocess.run(
            [*common, *more, f"outputs={tmp_path / name}"],
            capture_output=True,
            text=True,
            env=environment,
        )
        assert (done.returncode, done.stdout.count("trained")) == (0, 1), done.stderr
        runs[name] = tmp_path / name / "demo" / "ml-seed0"
    folders = list(runs.values())
    files = [{str(path.relative_to(folder)) for path in folder.rglob("*")} for folder in folders]
    assert files[0] == files[1]
    histories = [
        np.genfromtxt(folder / "history.csv", delimiter=",")[1:, 1:4] for folder in folders
    ]
    np.testing.assert_allclose(histories[0], histories[1], rtol=1e-4)
    found = [read_predictions(folder / "predictions.csv") for folder in folders]
    columns = ["pred_x_px", "pred_y_px"]
    np.testing.assert_allclose(found[0][columns], found[1][columns], atol=1e-2)
