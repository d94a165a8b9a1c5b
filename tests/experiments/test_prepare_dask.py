"""Shards on a Dask cluster of two workers on this machine."""

from __future__ import annotations

import subprocess
import sys

import matplotlib.image
import numpy as np
import pytest

from landmarking.config import PROJECT
from landmarking.preparation.prepared import load_prepared

SCRIPT = PROJECT / "experiments" / "prepare_dask.py"


def run(*words):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *words], capture_output=True, text=True, check=False
    )


def test_without_dask_it_says_what_to_install():
    code = "import sys; sys.modules['dask'] = None; sys.argv[1:] = ['cohort=phantom'];"
    code += f"import runpy; runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert 'pip install "landmarking[dask]"' in done.stderr


def drawn_slices(root):
    """A small cohort of slices that another tool has cut."""
    rng = np.random.default_rng(0)
    rows = ["slice_id\tparticipant_id\tgroup"]
    (root / "images").mkdir(parents=True)
    (root / "landmarks").mkdir()
    for number in range(6):
        name = f"s{number}"
        image = rng.random((256, 256))
        matplotlib.image.imsave(root / "images" / f"{name}.png", image, cmap="gray")
        points = rng.uniform(80, 170, (8, 2))
        np.savetxt(root / "landmarks" / f"{name}.txt", points, fmt="%.2f")
        rows.append(f"{name}\tp{number}\t{('train', 'HS', 'DS')[number % 3]}")
    (root / "slices.tsv").write_text("\n".join(rows) + "\n")
    return root


def test_two_workers_prepare_what_one_process_does(tmp_path):
    pytest.importorskip("dask.distributed", reason='needs pip install "landmarking[dask]"')
    words = ["cohort=slices", f"cohort.root={drawn_slices(tmp_path / 'drawn')}"]
    words += [f"outputs={tmp_path}/shared"]
    done = run("--shards", "3", "--workers", "2", *words)
    assert done.returncode == 0, done.stderr
    assert "all from the cache" in done.stdout
    (index,) = (tmp_path / "shared").glob("prepared/*/index.json")
    assert len(load_prepared(index.parent)) == 6
    bad = run("--shards", "2", "--workers", "2", *words, "kohort=1")
    assert bad.returncode == 1
    assert "shard 0 of 2 failed: kohort: there is no such setting" in bad.stderr
