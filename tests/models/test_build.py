from __future__ import annotations

import os
import pickle
import random
import zipfile

import pytest
import torch
from torch import nn

from landmarking.errors import ConfigError
from landmarking.models.build import (
    build_network,
    can_go_on,
    functions_in,
    network_class,
    read_checkpoint,
    write_checkpoint,
)
from landmarking.models.coordinate_cnn import CoordinateCNN

# A model's settings lead to a network, or to the nearest right name.


TARGET = "landmarking.models.coordinate_cnn.CoordinateCNN"


def made(image_size: object, mean_px: list[list[float]], width: int = 4) -> CoordinateCNN:
    return CoordinateCNN(
        image_size=image_size, mean_px=mean_px, channels=[width], hidden=[3], dropout=0.0
    )


def made_with_more(**settings: object) -> nn.Module:
    return made(**settings)


def unannotated(image_size, mean_px):
    return made(image_size, mean_px)


def liar(image_size, mean_px) -> nn.Module:
    return "network"


@pytest.mark.parametrize("name", ["made", "made_with_more"])
def test_a_function_makes_a_network(name):
    spec = {"_target_": f"{__name__}.{name}", "width": 2}
    network = build_network(spec, image_size=(8, 8), mean_px=[[1.0, 2.0]])
    assert network(torch.zeros(1, 1, 8, 8)).shape == (1, 1, 2)
    assert network.feature_count == 2 * 4 * 4


def test_a_function_that_makes_something_else_is_refused():
    with pytest.raises(ConfigError, match="liar made a str, not a torch module"):
        build_network({"_target_": f"{__name__}.liar"}, image_size=(8, 8), mean_px=[[1.0, 2.0]])


def test_functions_are_found_however_deep():
    inner = {"_target_": TARGET, "x": [{"y": {"_target_": "os.system"}}]}
    spec = {"_target_": f"{__name__}.made", "member": inner}
    assert list(functions_in(spec)) == [f"{__name__}.made", "os.system"]
    assert list(functions_in({"_target_": TARGET, "channels": [2]})) == []


def test_builds_what_is_named():
    spec = {"_target_": TARGET, "channels": [2], "hidden": [3]}
    network = build_network(spec, image_size=(8, 8), mean_px=[[1.0, 2.0]])
    assert isinstance(network, CoordinateCNN)
    assert network.feature_count == 2 * 4 * 4


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"_target_": TARGET, "chanels": [2]}, r"model\.chanels.*did you mean model\.channels"),
        ({"_target_": TARGET, "qqqq": 2}, r"model\.qqqq.*keys: .*channels"),
        ({"_target_": TARGET, "mean_px": [[0, 0]]}, r"model\.mean_px"),
        (
            {"_target_": "landmarking.models.nothing.Net"},
            r"no network .* imported; name a class or",
        ),
        ({"_target_": TARGET + "s"}, "no network"),
        ({"_target_": "absent_library.Net"}, "absent_library is not installed; pip install abs"),
        ({"_target_": "math.sqrt"}, "not a torch module class, nor a function annotated"),
        ({"_target_": "subprocess.getoutput", "cmd": "true"}, "not a torch module"),
        ({"_target_": "pathlib.Path"}, "not a torch module"),
        ({"_target_": f"{__name__}.unannotated"}, "annotated with `-> nn.Module`; name a"),
        ({"_target_": f"{__name__}.made", "widht": 3}, r"model\.widht.*did you mean model\.width"),
        ({"_target_": f"{__name__}.made_with_more", "mean_px": 3}, r"model\.mean_px"),
        ({"_target_": TARGET, "nested": {"_target_": "os.system"}}, "'os.system' is not a torch"),
        ({"_target_": ""}, "no network"),
        ({}, "no network"),
    ],
)
def test_refuses(spec, words):
    with pytest.raises(ConfigError, match=words):
        network_class(spec)


def test_a_wrong_value_is_the_users_mistake():
    with pytest.raises(ConfigError, match="refused its arguments"):
        build_network(
            {"_target_": TARGET, "channels": [2], "hidden": 3},
            image_size=(8, 8),
            mean_px=[[0.0, 0.0]],
        )


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"image_size": (8,)}, "rows and columns .*again"),
        ({"image_size": (8, 0)}, "rows and columns .*again"),
        ({"mean_px": [[1.0]]}, "landmarks have x and y, .*again"),
        ({"hidden": [0]}, r"model\.hidden are 1 or more each, found \[2\] and \[0\]; correct"),
        ({"channels": [-2]}, r"model\.channels .*found \[-2\]"),
        ({"dropout": 1.0}, "dropout < 1, found 1.0; correct"),
    ],
)
def test_what_no_network_can_be_made_of_is_refused_with_a_way_out(given, words):
    arguments = {"image_size": (8, 8), "mean_px": [[1.0, 2.0]], "channels": [2], "hidden": [3]}
    arguments |= given
    size, means = arguments.pop("image_size"), arguments.pop("mean_px")
    with pytest.raises(ConfigError, match=words):
        build_network({"_target_": TARGET, **arguments}, image_size=size, mean_px=means)


CONTENT = {
    "state_dict": {"weight": torch.arange(4096, dtype=torch.float32)},
    "hyper_parameters": {"landmarks": ["AC"], "mean_px": [[1.5, 2.5]]},
}


@pytest.fixture
def path(tmp_path):
    write_checkpoint(tmp_path / "model.ckpt", CONTENT)
    return tmp_path / "model.ckpt"


def test_what_was_written_is_read(path):
    content = read_checkpoint(path)
    assert torch.equal(content["state_dict"]["weight"], CONTENT["state_dict"]["weight"])
    assert content["hyper_parameters"] == CONTENT["hyper_parameters"]


def test_one_lost_bit_of_a_weight_is_found_though_torch_does_not_look(path):
    content = bytearray(path.read_bytes())
    place = content.index(CONTENT["state_dict"]["weight"].numpy().tobytes()) + 4000
    content[place] ^= 1
    path.write_bytes(content)
    unseen = torch.load(path, weights_only=True)["state_dict"]["weight"]
    assert not torch.equal(unseen, CONTENT["state_dict"]["weight"])
    with pytest.raises(ConfigError, match=r"damaged.*train the run again"):
        read_checkpoint(path)


def test_no_lost_bit_ever_gives_other_weights(path):
    whole, rng = path.read_bytes(), random.Random(0)
    for _ in range(200):
        content = bytearray(whole)
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        try:
            weight = read_checkpoint(path)["state_dict"]["weight"]
        except ConfigError:
            continue
        assert torch.equal(weight, CONTENT["state_dict"]["weight"])


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_a_hostile_pickle_runs_nothing(path, tmp_path):
    mark = tmp_path / "it ran"
    torch.save({**CONTENT, "extra": Hostile(mark)}, path)
    with pytest.raises(ConfigError, match="or a damaged one; restore it"):
        read_checkpoint(path)
    bare = tmp_path / "bare.ckpt"
    bare.write_bytes(pickle.dumps(Hostile(mark)))
    with pytest.raises(ConfigError, match="not a model of ours"):
        read_checkpoint(bare)
    assert not mark.exists()
    torch.load(path, weights_only=False)
    assert mark.exists(), "the pickle was hostile indeed"


@pytest.mark.parametrize(
    "content", [[1], {"state_dict": 1}, {"state_dict": {}}, {**CONTENT, "hyper_parameters": 3}]
)
def test_another_content_is_refused(path, content):
    torch.save(content, path)
    with pytest.raises(ConfigError, match="not a model of ours"):
        read_checkpoint(path)


def test_no_file_and_no_archive_are_refused(tmp_path):
    for name, make in (("none", None), ("text", b"text")):
        if make is not None:
            (tmp_path / name).write_bytes(make)
        with pytest.raises(ConfigError, match=name):
            read_checkpoint(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        archive.writestr("a", "b")
    with pytest.raises(ConfigError):
        read_checkpoint(tmp_path / "zip")


def test_a_run_goes_on_from_its_own_checkpoint_only(path):
    state = dict.fromkeys(("optimizer_states", "lr_schedulers", "loops", "callbacks"), 0)
    settings = CONTENT["hyper_parameters"]
    assert not can_go_on(path, settings), "a finished model holds no optimiser"
    write_checkpoint(path, {**CONTENT, **state})
    assert can_go_on(path, settings)
    assert not can_go_on(path, {**settings, "landmarks": ["PC"]})
