import json
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

from landmarking.config import PROJECT, settings
from landmarking.errors import CohortError, ConfigError
from landmarking.imaging.pipeline import PreprocessSettings, template_slice
from landmarking.landmarks import landmark_set
from landmarking.preparation.prepare import PrepareConfig, run_preparation
from landmarking.preparation.prepared import load_prepared

SHELL = PROJECT / "experiments" / "prepare.py"
NAMES = landmark_set("msp8").names


@pytest.fixture
def drawn(tmp_path):
    """Twelve drawn slices, which take no registration and no plane search."""
    root = tmp_path / "drawn"
    rng = np.random.default_rng(0)
    for folder in ("images", "landmarks"):
        (root / folder).mkdir(parents=True)
    rows = ["slice_id\tparticipant_id\tgroup"]
    for number in range(12):
        plt.imsave(root / "images" / f"s{number}.png", rng.random((256, 256)), cmap="gray")
        points = "\n".join(
            f"{name} {x:.2f} {y:.2f}"
            for name, (x, y) in zip(NAMES, rng.uniform(80, 170, (8, 2)), strict=True)
        )
        (root / "landmarks" / f"s{number}.txt").write_text(points)
        rows.append(f"s{number}\tp{number}\t{('train', 'HS', 'DS')[number % 3]}")
    (root / "slices.tsv").write_text("\n".join(rows) + "\n")
    return root


def config(drawn, tmp_path, **changes):
    values = {
        "outputs": str(tmp_path / "outputs"),
        "cohort": {"kind": "slices", "name": "drawn", "root": str(drawn)},
        "workers": 1,
        "progress": False,
        **changes,
    }
    return settings(PrepareConfig, values)


def paths(summary):
    lines = [line.partition(":") for line in summary.splitlines()]
    return {key: Path(value.split()[0]) for key, _, value in lines if value.strip().startswith("/")}


def test_the_summary_counts_times_and_ends_with_the_paths(drawn, tmp_path):
    summary = run_preparation(config(drawn, tmp_path))
    assert "cohort drawn: 12 slices (train 4, DS 4, HS 4), 8 landmarks of msp8" in summary.replace(
        "(train 4, HS 4, DS 4)", "(train 4, DS 4, HS 4)"
    )
    assert "intensity" in summary
    assert "nothing flagged" in summary or "flagged, look at them" in summary
    found = paths(summary)
    assert list(found) == ["slices", "quality", "contact sheet"]
    assert all(path.exists() for path in found.values())
    again = run_preparation(config(drawn, tmp_path))
    assert "was prepared already" in again
    assert paths(again) == found


def test_drawn_slices_keep_their_pixels_and_points(drawn, tmp_path):
    found = paths(run_preparation(config(drawn, tmp_path)))
    prepared = load_prepared(found["slices"])
    index = [record.scan_id for record in prepared.records].index("s3")
    lines = (drawn / "landmarks" / "s3.txt").read_text().splitlines()
    expected = [[float(number) - 50 for number in line.split()[1:]] for line in lines]
    np.testing.assert_allclose(prepared.points_px[index], expected, atol=1e-9)
    raw = plt.imread(drawn / "images" / "s3.png")[50:200, 50:200, 0]
    order = np.argsort(raw.ravel(), kind="stable")
    assert (np.diff(prepared.images[index].ravel()[order]) >= -1e-4).all(), "order of greys kept"


def test_check_only_reads_everything_and_makes_nothing(drawn, tmp_path):
    text = run_preparation(config(drawn, tmp_path, check_only=True))
    assert "problems: none" in text
    assert not (tmp_path / "outputs" / "prepared").exists()
    (drawn / "images" / "s1.png").write_bytes(b"no picture")
    (drawn / "landmarks" / "s2.txt").write_text("AC one two")
    with pytest.raises(CohortError, match="problems: 2") as caught:
        run_preparation(config(drawn, tmp_path, check_only=True))
    assert "s1.png" in str(caught.value)
    assert "s2.txt line 1" in str(caught.value)


def test_a_carried_file_is_named_with_its_size(drawn, tmp_path):
    path = tmp_path / "drawn.prepared.zip"
    summary = run_preparation(config(drawn, tmp_path, carry=str(path)))
    assert f"one file:      {path} (" in summary
    assert path.stat().st_size < 12 * 150 * 150 * 1.05


def test_a_wrong_key_is_refused_with_the_nearest(drawn, tmp_path):
    with pytest.raises(ConfigError, match="did you mean workers"):
        config(drawn, tmp_path, worker=2)


def run_shell(*overrides):
    return subprocess.run(
        [sys.executable, str(SHELL), *overrides], capture_output=True, text=True, timeout=120
    )


def test_the_shell_prepares_and_fails_in_one_message(drawn, tmp_path):
    common = ("cohort=slices", f"cohort.root={drawn}", f"outputs={tmp_path / 'outputs'}")
    done = run_shell(*common, "workers=1", "progress=false")
    assert (done.returncode, done.stderr) == (0, "")
    assert (paths(done.stdout)["slices"] / "index.json").exists()
    (drawn / "images" / "s1.png").write_bytes(b"no picture")
    skipped = run_shell(*common, "workers=1", "progress=false")
    assert (skipped.returncode, skipped.stderr) == (1, "")
    assert "11 slices" in skipped.stdout
    assert "left out: 1" in skipped.stdout
    failed = run_shell(*common, "workers=1", "progress=false", "skip_bad=false")
    assert failed.returncode == 2
    assert failed.stdout == ""
    assert "1 of 12 scans cannot be used" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_help_imports_nothing_heavy():
    code = (
        "import sys, json, runpy; runpy.run_path(sys.argv[1], run_name='shell');"
        "heavy = ('numpy', 'torch', 'matplotlib', 'pandas', 'nilearn');"
        "print(json.dumps([name for name in heavy if name in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(SHELL)], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == []


@pytest.mark.parametrize("name", ["msp8", "msp10", "afids32"])
def test_every_landmark_configuration_composes(name):
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from landmarking.preparation.prepare import LandmarksConfig
    from landmarking.shells import register

    register("prepare")
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        values = OmegaConf.to_container(
            compose("prepare", [f"landmarks={name}"]), resolve=True, throw_on_missing=False
        )
    assert settings(LandmarksConfig, values["landmarks"]).build().name == name
    assert settings(PrepareConfig, values).landmarks.set == name


def test_slices_can_be_matched_to_the_mean_histogram_of_the_training_set(drawn, tmp_path):
    mean = tmp_path / "mean.npy"
    first = run_preparation(config(drawn, tmp_path, mean_reference=str(mean)))
    assert f"mean histogram: {mean} (4 slices of train)" in first
    preprocess = {"histogram_reference": str(mean)}
    second = run_preparation(config(drawn, tmp_path, preprocess=preprocess))
    prepared = load_prepared(paths(second)["slices"])
    assert prepared.digest != load_prepared(paths(first)["slices"]).digest
    region = template_slice(PreprocessSettings(), "brain_mask") > 0.5
    expected = np.load(mean)
    for image in prepared.images:
        np.testing.assert_allclose(
            np.quantile(image[region], [0.1, 0.5, 0.9]),
            np.quantile(expected, [0.1, 0.5, 0.9]),
            atol=0.01,
        )
    assert expected.min() < 0.1
    assert expected.max() > 0.9


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"mean_reference": "mean.csv"}, "ends in .npy"),
        ({"mean_reference": "mean.npy", "groups": ["ADNI"]}, "no scan of the groups ADNI"),
    ],
)
def test_a_mean_histogram_without_name_or_slices_is_refused(drawn, tmp_path, change, says):
    chosen = config(drawn, tmp_path, mean_reference=str(tmp_path / change["mean_reference"]))
    chosen.cohort.train_groups = change.get("groups", ["train"])
    with pytest.raises(ConfigError, match=says):
        run_preparation(chosen)
    assert not (tmp_path / change["mean_reference"]).exists()
