import os
import pickle
import random
import zipfile

import pytest
import torch

from landmarking.checkpoints import can_go_on, read_checkpoint, write_checkpoint
from landmarking.errors import ConfigError

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
    with pytest.raises(ConfigError, match="UnpicklingError"):
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
