from dataclasses import dataclass, field

import pytest
from omegaconf import OmegaConf

from landmarking.config import PROJECT, refuse_outside, register_resolvers, settings
from landmarking.errors import ConfigError


@dataclass
class Inner:
    dropout: float = 0.5
    channels: list[int] = field(default_factory=lambda: [8, 16])


@dataclass
class Outer:
    seed: int = 0
    model: Inner = field(default_factory=Inner)


def test_plain_mappings_become_typed_settings_with_defaults():
    built = settings(Outer, {"model": {"channels": [4]}})
    assert built == Outer(seed=0, model=Inner(dropout=0.5, channels=[4]))
    assert type(built.model.channels) is list


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": {"dropot": 0.3}}, r"model\.dropot: .* did you mean model\.dropout\?"),
        ({"sead": 1}, "sead: .* did you mean seed"),
        ({"zzz": 1}, "zzz: .* keys: model, seed"),
        ({"seed": "many"}, "seed: .*many"),
        ({"model": {"channels": ["a"]}}, r"model\.channels"),
    ],
)
def test_wrong_keys_and_types_are_refused_by_path(values, message):
    with pytest.raises(ConfigError, match=message):
        settings(Outer, values)


def test_messages_carry_the_place_in_the_whole_configuration():
    with pytest.raises(ConfigError, match=r"^train\.model\.dropot"):
        settings(Outer, {"model": {"dropot": 1}}, "train")


def test_project_folders_do_not_depend_on_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    register_resolvers()
    assert OmegaConf.create({"a": "${project:outputs}"}).a == str(PROJECT / "outputs")
    assert (PROJECT / "pyproject.toml").is_file()


@dataclass
class Ranged:
    share: float = 0.5

    def __post_init__(self):
        if self.share > 1.0:
            raise ConfigError(f"share is at most 1, found {self.share}")
        if self.share < 0.0:
            raise ConfigError("share is not negative; take none with 0")


@pytest.mark.parametrize(
    ("share", "message"),
    [
        (2.0, "share is at most 1, found 2.0; correct the value; --help"),
        (-1.0, "share is not negative; take none with 0$"),
    ],
)
def test_every_range_comes_with_a_way_out(share, message):
    with pytest.raises(ConfigError, match=message):
        settings(Ranged, {"share": share})


@pytest.mark.parametrize("name", ["../elsewhere", "a/../../b", "/tmp/study", ""])
def test_names_that_lead_out_of_the_outputs_are_refused(name):
    with pytest.raises(ConfigError, match=r"study names a folder within outputs, .*outputs=DIR"):
        refuse_outside("study", name)


@pytest.mark.parametrize("name", ["study", "2026/study", "a..b", "Sant Pau"])
def test_other_names_are_not(name):
    refuse_outside("study", name)
