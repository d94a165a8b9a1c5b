import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from landmarking.cohort.bids import Participant, scan_path, write_description, write_participants
from landmarking.config import settings
from landmarking.errors import CacheError, CohortError, ConfigError
from landmarking.imaging.midsagittal import MidsagittalSettings
from landmarking.imaging.pipeline import PreprocessSettings, histogram_reference
from landmarking.landmarks import landmark_set
from landmarking.preparation.prepared import SliceRecord, save_prepared
from landmarking.preparation.sources import (
    CohortConfig,
    is_prepared,
    open_cohort,
    open_prepared,
    pack_prepared,
    site_of,
    unpack_prepared,
    with_landmarks,
)


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


def test_sites_are_one_cohort_with_people_called_after_them(tmp_path):
    one = tree(tmp_path / "one", {"sub-1": "train", "sub-2": "HS"})
    two = tree(tmp_path / "two", {"sub-1": "train", "sub-3": "DS"})
    config = CohortConfig("mixed", "both", str(tmp_path), parts=[one, f"b:{two}"])
    cohort = open_cohort(config, workers=1)
    assert [(s.participant_id, s.scan_id, s.group) for s in cohort.scans] == [
        ("one_sub-1", "one_sub-1", "train"),
        ("one_sub-2", "one_sub-2", "HS"),
        ("b_sub-1", "b_sub-1", "train"),
        ("b_sub-3", "b_sub-3", "DS"),
    ]
    assert site_of(cohort.scans[2].participant_id) == "b"
    assert not cohort.simulated
    apart = CohortConfig("mixed", "both", str(tmp_path), parts=[one, f"b:{two}"], leave_out="b")
    assert apart.test_groups == ["b"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"parts": ["phantom"]}, "name two sites or more"),
        ({"parts": ["x", "y/x"]}, "sites have names of their own"),
        ({"parts": ["x", "y"], "weights": [1.0]}, "2 sites need 2 weights, found 1"),
        ({"parts": ["x", "y"], "leave_out": "z"}, "z is no site; they are x, y"),
        ({"parts": ["x", "y"], "weights": [0.0, 1.0]}, "weights are above 0"),
    ],
)
def test_sites_that_cannot_be_mixed_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        CohortConfig("mixed", "both", "somewhere", **values)


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


MSP8 = landmark_set("msp8")
SAGITTAL = np.array([[0, 0, -1, 0], [-1, 0, 0, 62], [0, -1, 0, 70], [0, 0, 0, 1]], dtype=float)
SETTINGS = PreprocessSettings()
OLD = {"crop": [50, 200], "registration": "rigid"}
"""As a version wrote them that knew no other settings."""


@pytest.fixture
def cohort(tmp_path):
    rng = np.random.default_rng(0)
    return save_prepared(
        tmp_path / "cohort",
        name="demo",
        simulated=False,
        digest="ab" * 32,
        landmarks=MSP8,
        images=rng.normal(0, 30, (3, 20, 20)).astype(np.float32),
        points_mm=rng.normal(0, 20, (3, 8, 3)),
        pixel_to_world=np.stack([SAGITTAL] * 3),
        records=[SliceRecord(f"s{i}", f"p{i}", None, "train") for i in range(3)],
        settings={**OLD, "histogram_reference_sha256": "cd"},
        tissues=rng.integers(0, 256, (3, 4, 20, 20), dtype=np.uint8),
    )


def test_a_cohort_is_carried_whole_but_for_half_a_grey_level(cohort, tmp_path):
    path = tmp_path / "demo.prepared.zip"
    pack_prepared(cohort, path)
    carried = unpack_prepared(path, tmp_path / "there")
    step = np.ptp(cohort.images, axis=(1, 2), keepdims=True) / 255
    assert (np.abs(carried.images - cohort.images) <= 0.501 * step).all()
    np.testing.assert_array_equal(carried.points_px, cohort.points_px)
    assert (carried.digest, carried.records) == (cohort.digest, cohort.records)
    off = np.abs(carried.tissues.astype(int) - cohort.tissues).max(axis=(0, 2, 3))
    # Half a sixteenth of a share, and half a millimetre in quarters.
    assert off.tolist() == [8, 8, 8, 2]


def test_a_cohort_without_tissue_maps_is_carried_without_them(cohort, tmp_path):
    path = tmp_path / "demo.prepared.zip"
    pack_prepared(replace(cohort, tissues=None), path)
    assert zipfile.ZipFile(path).namelist() == ["index.json", "images.npy"]
    assert unpack_prepared(path, tmp_path / "there").tissues is None


def test_equal_cohorts_give_equal_files(cohort, tmp_path):
    paths = [tmp_path / f"{name}.prepared.zip" for name in "ab"]
    for path in paths:
        pack_prepared(cohort, path)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_sixty_megabytes_hold_the_papers_cohort_of_noise():
    # The paper has 1,837 + 141 slices of 150 x 150; noise is what deflation cannot help.
    assert 1978 * 150 * 150 < 60e6


@pytest.mark.parametrize("as_file", [True, False])
def test_a_prepared_cohort_is_opened_in_place_of_scans(cohort, tmp_path, as_file):
    root = tmp_path / "demo.prepared.zip" if as_file else cohort.folder
    if as_file:
        pack_prepared(cohort, root)
    assert is_prepared(root)
    for _ in range(2):
        found = open_prepared(root, MSP8.subset(["PC", "AC"]), SETTINGS, tmp_path / "outputs")
    np.testing.assert_array_equal(found.points_mm, cohort.points_mm[:, [1, 0]])
    np.testing.assert_array_equal(found.points_px, cohort.points_px[:, [1, 0]])
    assert found.landmarks.names == ("PC", "AC")


def test_other_folders_and_files_are_not_taken_for_prepared_cohorts(tmp_path):
    assert not is_prepared(tmp_path)
    assert not is_prepared(tmp_path / "absent.prepared.zip")


def test_other_settings_are_refused_with_both_values(cohort, tmp_path):
    wanted = replace(SETTINGS, registration="affine", spacing_mm=1.5)
    with pytest.raises(CohortError, match=r'registration is "rigid", not "affine"; spacing_mm is'):
        open_prepared(cohort.folder, MSP8, wanted, tmp_path)


def test_a_setting_that_did_not_exist_yet_had_its_default(cohort, tmp_path):
    @dataclass
    class More(PreprocessSettings):
        sharpening: float = 0.0

    open_prepared(cohort.folder, MSP8, More(), tmp_path)
    with pytest.raises(CohortError, match=r"sharpening is 0\.0, not 1\.0"):
        open_prepared(cohort.folder, MSP8, More(sharpening=1.0), tmp_path)
    pairs = replace(SETTINGS, midsagittal=MidsagittalSettings(pairs=5000))
    with pytest.raises(CohortError, match="midsagittal is"):
        open_prepared(cohort.folder, MSP8, pairs, tmp_path)


def test_a_reference_that_has_moved_is_known_by_its_content(cohort, tmp_path):
    paths = [tmp_path / name for name in ("here.npy", "there.npy", "other.npy")]
    for path, top in zip(paths, (90.0, 90.0, 91.0), strict=True):
        np.save(path, np.linspace(0.0, top, 50, dtype=np.float32))
    here, there, other = (replace(SETTINGS, histogram_reference=str(path)) for path in paths)
    sha256 = histogram_reference(here).digest
    made = {**OLD, "histogram_reference": str(paths[0]), "histogram_reference_sha256": sha256}
    moved = save_prepared(tmp_path / "moved", **{**cohort.content(), "settings": made})
    open_prepared(moved.folder, MSP8, there, tmp_path)
    for wanted in (other, SETTINGS):
        with pytest.raises(CohortError, match="histogram_reference is"):
            open_prepared(moved.folder, MSP8, wanted, tmp_path)
    paths[0].unlink()
    open_prepared(moved.folder, MSP8, here, tmp_path)


def test_a_landmark_that_was_not_prepared_is_named(cohort):
    with pytest.raises(CohortError, match="was prepared without SIPF, PG"):
        with_landmarks(cohort, landmark_set("msp10"))


@pytest.mark.parametrize("harm", [lambda data: data[:-30], lambda data: b"", lambda data: b"text"])
def test_a_damaged_file_is_refused_and_leaves_nothing(cohort, tmp_path, harm):
    path = tmp_path / "demo.prepared.zip"
    pack_prepared(cohort, path)
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(CacheError, match=r"not a carried cohort.*copy the file again"):
        unpack_prepared(path, tmp_path / "there")
    assert not (tmp_path / "there").exists()


def test_a_zip_of_something_else_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "demo.prepared.zip", "w") as archive:
        archive.writestr("index.json", "{}")
    with pytest.raises(CacheError, match="not a carried cohort"):
        unpack_prepared(tmp_path / "demo.prepared.zip", tmp_path / "there")


def test_another_ending_is_refused(cohort, tmp_path):
    with pytest.raises(CacheError, match=r"is named something.prepared.zip"):
        pack_prepared(cohort, tmp_path / "demo.zip")
