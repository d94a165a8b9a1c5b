"""Runs and checkpoints of versions whose modules had other names."""

import importlib

import torch

from landmarking.config import MOVED, with_current_paths
from landmarking.models.build import build, read_checkpoint
from landmarking.models.module import LandmarkModule, Schedule
from landmarking.training.settings import upgrade

OLD = "landmarking.models.schedule.Schedule"
NOW = "landmarking.models.module.Schedule"
NETWORK = {"_target_": "landmarking.models.coordinate_cnn.CoordinateCNN"}


def test_every_module_of_the_table_is_gone_and_its_place_is_there():
    for old, now in MOVED.items():
        assert importlib.util.find_spec(now) is not None
        package = importlib.import_module(old.rpartition(".")[0])
        assert not hasattr(package, old.rpartition(".")[2])


def test_paths_are_renewed_however_deep_and_others_stay():
    values = {"a": [{"_target_": OLD, "x": (1, 2)}], "b": {"_target_": "torch.optim.Adam"}}
    expected = {"a": [{"_target_": NOW, "x": (1, 2)}], "b": {"_target_": "torch.optim.Adam"}}
    assert with_current_paths(values) == expected


def test_a_configuration_of_before_names_todays_classes():
    callbacks = {"history": {"_target_": "landmarking.callbacks.History"}}
    found = upgrade({"schedule": {"_target_": OLD}, "callbacks": callbacks})
    assert found["schedule"] == {"_target_": NOW}
    assert found["callbacks"]["history"]["_target_"] == "landmarking.training.callbacks.History"


def test_a_checkpoint_of_before_loads_as_data_and_as_a_module(tmp_path):
    sizes = {"image_size": [64, 64], "mean_px": [[20.0, 30.0]], "landmarks": ["AC"]}
    module = LandmarkModule(network=NETWORK, schedule=Schedule(), **sizes)
    settings = {**module.hparams, "schedule": {**module.hparams["schedule"], "_target_": OLD}}
    path = tmp_path / "model.ckpt"
    content = {
        "state_dict": module.state_dict(),
        "hyper_parameters": settings,
        "pytorch-lightning_version": "2.6.0",
    }
    torch.save(content, path)
    assert read_checkpoint(path)["hyper_parameters"]["schedule"]["_target_"] == NOW
    loaded = LandmarkModule.load_from_checkpoint(path)
    assert loaded.state_dict().keys() == module.state_dict().keys()
    assert isinstance(build({"_target_": OLD}, "schedule"), Schedule)
