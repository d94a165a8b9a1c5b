"""A model in one file: the same positions, the same bytes, and no trust in strangers."""

import importlib
import io
import json
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from landmarking.errors import ConfigError
from landmarking.geometry import Array
from landmarking.prediction.calibration import Calibration
from landmarking.prediction.model import model_from_runs
from landmarking.prediction.package import (
    SHIPPED,
    open_model,
    read_card,
    read_package,
    write_package,
)

IMAGES: Array = np.random.default_rng(2).normal(5.0, 2.0, (2, 150, 150)).astype(np.float32)


@pytest.fixture
def packed(model, tmp_path):
    calibration = Calibration(np.linspace(1.0, 2.0, 8), 0.9, np.full(8, 30))
    path = tmp_path / "model.zip"
    write_package(path, replace(model, calibration=calibration), {"licence": "MIT"})
    return path


def rewrite(path, change):
    """The same archive with changed members; `change` maps name and bytes to bytes."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, change(name, content))


def test_it_reads_back_to_the_same_positions_and_radii(packed, model):
    again = read_package(packed)
    before, after = model.locate(IMAGES), again.locate(IMAGES)
    # 16 bits for weights.
    assert np.abs(after.points_px - before.points_px).max() < 0.05
    assert again.landmarks == model.landmarks
    assert again.preprocess == model.preprocess
    assert again.reference.digest == model.reference.digest
    assert again.calibration is not None
    np.testing.assert_array_equal(again.calibration.factors, np.linspace(1.0, 2.0, 8))
    assert again.card["licence"] == "MIT"


def test_packing_again_gives_the_same_bytes_and_loses_nothing_more(packed, tmp_path):
    first = read_package(packed)
    again = tmp_path / "again.zip"
    write_package(again, first, {"licence": "MIT"})
    assert again.read_bytes() == packed.read_bytes()
    assert read_package(again).digest == first.digest


def test_a_pool_of_runs_is_packed_with_all_its_members(make_run, dense, tmp_path):
    make_run(tmp_path / "runs" / "a", names=("AC",), landmark="AC")
    make_run(tmp_path / "runs" / "b", names=("PC",), landmark="PC", network=dense)
    model = model_from_runs([tmp_path / "runs"])
    write_package(tmp_path / "pool.zip", model, {})
    found = read_package(tmp_path / "pool.zip").locate(IMAGES)
    np.testing.assert_allclose(found.points_px, model.locate(IMAGES).points_px, atol=0.05)


def test_damage_is_said(packed, tmp_path):
    whole = packed.read_bytes()
    for content in (b"", b"no zip", whole[: len(whole) // 2]):
        packed.write_bytes(content)
        with pytest.raises(ConfigError, match="not a packed model"):
            read_package(packed)
    with pytest.raises(ConfigError, match="there is no such model"):
        read_package(tmp_path / "none.zip")
    with pytest.raises(ConfigError, match=r"ends in \.zip"):
        write_package(tmp_path / "model.pt", read_package(SHIPPED), {})


def test_changed_weights_are_refused(packed):
    def change(name, content):
        if not name.endswith("head.bias.npy"):
            return content
        buffer = io.BytesIO()
        np.save(buffer, np.load(io.BytesIO(content)) + 1)
        return buffer.getvalue()

    rewrite(packed, change)
    with pytest.raises(ConfigError, match="do not have their checksum"):
        read_package(packed)


def test_nothing_that_is_unpickled_is_read(packed):
    """An array of objects would run code; it is refused before anything is built."""

    def change(name, content):
        if not name.endswith("head.bias.npy"):
            return content
        buffer = io.BytesIO()
        np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
        return buffer.getvalue()

    rewrite(packed, change)
    with pytest.raises(ConfigError, match="not a packed model"):
        read_package(packed)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", 99, "its format is 99, this version reads 1"),
        ("landmarks", {"set": "unknown", "names": []}, "no landmark set"),
        ("members", [{}], "the card lacks something"),
        ("preprocess", {"slice_sise": 256}, "slice_size"),
    ],
)
def test_a_card_that_does_not_fit_is_said(key, value, message, packed):
    def change(name, content):
        return json.dumps({**json.loads(content), key: value}) if name == "card.json" else content

    rewrite(packed, change)
    with pytest.raises(ConfigError, match=message):
        read_package(packed)


def test_a_network_made_by_a_function_is_neither_packed_nor_read(packed, model, tmp_path):
    ran = tmp_path / "ran"
    outer = {
        "_target_": "landmarking.models.external.LibraryCoordinates",
        "network": {"_target_": f"{__name__}.make_folder", "path": str(ran)},
        "outputs": "mode",
    }

    def change(name, content):
        if name != "card.json":
            return content
        card = json.loads(content)
        card["members"][0]["network"] = outer
        return json.dumps(card)

    member = replace(model.members[0], settings={**model.members[0].settings, "network": outer})
    with pytest.raises(ConfigError, match=r"classes, and .*make_folder is not one; use the run"):
        write_package(tmp_path / "other.zip", replace(model, members=(member,)), {})
    rewrite(packed, change)
    with pytest.raises(ConfigError, match=r"names classes of .*, found .*make_folder; if you"):
        read_package(packed)
    assert not ran.exists()


@pytest.mark.parametrize("target", ["stranger.Network", "os.path", "subprocess.Popen", "torch.os"])
def test_reading_a_package_imports_nothing_that_it_names(packed, tmp_path, monkeypatch, target):
    (tmp_path / "stranger.py").write_text(
        "from pathlib import Path\n"
        f"Path({str(tmp_path / 'ran')!r}).mkdir()\n"
        "from landmarking.models.heatmap import HeatmapNetwork as Network\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    def change(name, content):
        if name != "card.json":
            return content
        card = json.loads(content)
        card["members"][0]["network"]["_target_"] = target
        return json.dumps(card)

    rewrite(packed, change)
    with pytest.raises(ConfigError, match=f"found {target}; if you trust it, import its module"):
        read_package(packed)
    assert not (tmp_path / "ran").exists()
    if target == "stranger.Network":
        importlib.import_module("stranger")
        assert read_package(packed).members
        sys.modules.pop("stranger")


def make_folder(path: str, mode: int) -> nn.Module:
    Path(path).mkdir()
    return nn.Identity()


def test_the_model_that_ships_is_small_complete_and_described():
    assert SHIPPED.stat().st_size <= 10_000_000
    model, card = open_model(), read_card(SHIPPED)
    assert model.landmarks.names == ("AC", "PC", "ICS", "PMJ", "CUL", "IMS", "GENU", "SPLE")
    assert {"licence", "note", "limits", "accuracy", "rounding_px"} <= set(card)
    assert model is open_model(())


def test_a_packed_model_is_used_alone(packed, run_folder):
    with pytest.raises(ConfigError, match="a packed model is used alone"):
        open_model([packed, run_folder])


def test_models_that_ship_are_called_by_name(tmp_path, monkeypatch):
    painted = open_model(("painted",))
    assert painted.name == "heatmap-painted"
    # What was calibrated and predicted with it stays good: its digest is that of before.
    assert painted.digest.startswith("42cd7d119bde")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "painted").mkdir()
    with pytest.raises(ConfigError, match="no trained run"):
        open_model(("painted",))
