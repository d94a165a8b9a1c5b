from dataclasses import replace
from pathlib import Path

import pytest

from landmarking.cohort.bids import Participant, scan_path, write_description, write_participants
from landmarking.config import settings
from landmarking.errors import CohortError, ConfigError
from landmarking.preparation.sources import CohortConfig, open_cohort


def tree(root, people):
    write_participants(root, [Participant(person, group) for person, group in people.items()])
    write_description(root, root.name)
    for person in people:
        path = scan_path(root, person)
        path.parent.mkdir(parents=True)
        path.write_bytes(b"")
    return str(root)


def test_two_trees_are_joined_with_one_training_group(tmp_path):
    adni = tree(tmp_path / "adni", {"sub-1": "CN", "sub-2": "AD"})
    own = tree(tmp_path / "own", {"sub-a": "HS", "sub-b": "DS"})
    config = CohortConfig("adni_santpau", "both", adni, test_root=own)
    cohort = open_cohort(config, workers=1)
    assert [(scan.participant_id, scan.group) for scan in cohort.scans] == [
        ("sub-1", "train"),
        ("sub-2", "train"),
        ("sub-a", "HS"),
        ("sub-b", "DS"),
    ]
    assert cohort.name == "both"


def test_people_in_both_trees_are_named(tmp_path):
    adni = tree(tmp_path / "adni", {"sub-1": "CN", "sub-2": "AD"})
    own = tree(tmp_path / "own", {"sub-2": "HS", "sub-3": "train"})
    with pytest.raises(CohortError) as caught:
        open_cohort(CohortConfig("adni_santpau", "both", adni, test_root=own), workers=1)
    assert len(caught.value.problems) == 2
    assert "sub-2" in caught.value.problems[0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "bidz", "root": "x"}, "'bidz' is none of phantom, bids"),
        ({"kind": "bids", "root": ""}, "cohort.root"),
        ({"kind": "adni_santpau", "root": "x"}, "cohort.test_root"),
    ],
)
def test_settings_that_cannot_work_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        CohortConfig(name="mine", **values)


def test_a_misspelt_phantom_setting_is_refused_with_the_right_name():
    values = {"kind": "phantom", "root": "x", "preset": {"scanner": {"noize": [0.1, 0.2]}}}
    with pytest.raises(ConfigError, match=r"did you mean cohort.preset.scanner.noise\?"):
        settings(CohortConfig, values, "cohort")


@pytest.mark.parametrize("preset", ["demo", "small", "paper"])
def test_presets_fit_the_settings(preset):
    from omegaconf import OmegaConf

    file = Path(__file__).parents[2] / f"conf/cohort/preset/{preset}.yaml"
    values = OmegaConf.to_container(OmegaConf.load(file))
    config = settings(CohortConfig, {"kind": "phantom", "root": "x", "preset": values}, "cohort")
    counts = {"demo": (128, 24, 24), "small": (400, 87, 54), "paper": (1837, 87, 54)}[preset]
    found = config.preset
    assert (found.train, found.healthy, found.down_syndrome) == counts
    assert found.label == preset
    assert (found.scans_per_person > 1) == (preset == "paper")


def test_a_phantom_cohort_is_made_and_read(tmp_path, coarse):
    preset = replace(coarse, train=0, down_syndrome=0, keep_tissues=False, scans_per_person=1.0)
    config = CohortConfig("phantom", "heads", str(tmp_path / "heads"), preset=preset)
    cohort = open_cohort(config, workers=1, progress=False)
    assert (cohort.name, cohort.simulated, len(cohort.scans)) == ("heads", True, 1)
