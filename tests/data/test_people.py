"""A cohort's own people, painted: boundaries lie where the maps and the landmarks say."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from landmarking.data import augment
from landmarking.data.augment import AugmentConfig, afids_columns, build_augmentation
from landmarking.data.painting import PaintSettings
from landmarking.data.people import CHANNELS, cohort_people, load_slab
from landmarking.data.warp import SliceWarp, pose
from landmarking.errors import ConfigError
from landmarking.imaging.pipeline import MIDSAGITTAL_COMMON, PreprocessSettings, slice_geometry
from landmarking.landmarks import landmark_set
from landmarking.preparation.prepared import PreparedCohort, SliceRecord

MSP8 = landmark_set("msp8")
PREPROCESS = PreprocessSettings()
GEOMETRY = slice_geometry(MIDSAGITTAL_COMMON, np.eye(4), PREPROCESS)
RADIUS = 12.0
PLAIN = PaintSettings(folds=0.0, noise=0.0, blur_px=(0.3, 0.3), bias=0.0, cut=0.0)
STILL: dict[str, object] = {}
MOVED = {"turn_deg": 8.0, "scale": 0.06, "shift_px": 5.0, "warp_px": 2.0}


def cohort(count: int = 6, bare: tuple[int, ...] = ()) -> PreparedCohort:
    """Brains of white matter with a disc of fluid about AC, which lies elsewhere in each."""
    rng = np.random.default_rng(0)
    rows, columns = GEOMETRY.shape
    shift = np.pad(rng.uniform(-8.0, 8.0, (count, 1, 2)), ((0, 0), (0, 0), (1, 0)))
    points_mm = MSP8.template_mm + shift
    centres = GEOMETRY.to_pixel(points_mm[:, MSP8.index("AC")])
    y, x = np.mgrid[:rows, :columns]
    maps = np.zeros((count, 4, rows, columns), dtype=np.uint8)
    for index, (cx, cy) in enumerate(centres):
        if index in bare:
            continue
        away = np.hypot(x - cx, y - cy)
        fluid = np.clip(RADIUS + 0.5 - away, 0.0, 1.0)
        inside = np.clip(60.5 - away, 0.0, 1.0) - fluid
        maps[index, 1], maps[index, 2] = 255 * inside, 255 * fluid
        maps[index, 3] = ((away - 60.0 + 20.0) / 0.25).clip(0, 255)
    return PreparedCohort(
        folder=Path("nowhere"),
        name="discs",
        simulated=True,
        digest="0" * 64,
        landmarks=MSP8,
        images=np.full((count, rows, columns), 7.0, dtype=np.float32),
        points_px=GEOMETRY.to_pixel(points_mm),
        points_mm=points_mm,
        pixel_to_world=np.repeat(GEOMETRY.pixel_to_world[None], count, axis=0),
        records=tuple(SliceRecord(f"s{i}", f"p{i}", None, "train") for i in range(count)),
        settings={},
        tissues=maps,
    )


def painted(people: PreparedCohort, epoch: int = 0, **config: object):
    augment = build_augmentation(
        AugmentConfig(kind="synth", paint=PLAIN, **{"source": "cohort", **config}),  # type: ignore[arg-type]
        seed=0,
        landmarks=MSP8,
        names=["AC", "PC"],
        preprocess=PREPROCESS,
        image_size=GEOMETRY.shape,
        cohort=people,
    )
    assert augment is not None
    points = torch.from_numpy(people.points_px[:, [MSP8.index("AC"), MSP8.index("PC")]]).float()
    images = torch.from_numpy(people.images)[:, None]
    return augment(images, points, torch.arange(len(people)), epoch)


def disc_centre(image: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Centre of what is dark within 20 pixels of a place."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    close = np.hypot(x - near[0], y - near[1]) < 20.0
    inside, outside = np.median(image[np.hypot(x - near[0], y - near[1]) < 6]), image[close].max()
    share = np.clip((outside - image) / (outside - inside), 0.0, 1.0) * close
    share[share < 0.5] = 0.0
    return np.array([(share * x).sum(), (share * y).sum()]) / share.sum()


@pytest.mark.parametrize("changes", [STILL, MOVED])
def test_the_fluids_boundary_goes_with_the_landmark(changes, monkeypatch) -> None:
    # Painted as it is, without contrast, folds and texture: fluid alone.
    monkeypatch.setattr(augment, "paint", lambda maps, *_: 1.0 - maps[:, 1:2] - maps[:, 2:3])
    monkeypatch.setattr(augment, "HistogramMatcher", lambda _: lambda images: -images)
    images, points = painted(cohort(), **changes)
    for image, (ac, _) in zip(images[:, 0].numpy(), points.numpy(), strict=True):
        # A warp bends a disc, and its centre is then no landmark: hence a tenth of its radius.
        limit = 0.1 if changes is STILL else 1.2
        assert np.linalg.norm(disc_centre(image, ac) - ac) < limit


def test_a_painted_boundary_lies_where_the_landmark_says() -> None:
    people = cohort()
    # What is painted by chance falls out of the mean of some epochs.
    epochs = [painted(people, epoch, **STILL) for epoch in range(6)]
    mean = torch.stack([images for images, _ in epochs]).mean(0)[:, 0].numpy()
    shifts = [(dy, dx) for dy in range(-2, 3) for dx in range(-2, 3)]
    y, x = np.mgrid[: GEOMETRY.shape[0], : GEOMETRY.shape[1]]
    for image, (ac, _) in zip(mean, epochs[0][1].numpy(), strict=True):
        away = np.hypot(x - ac[0], y - ac[1])
        disc, near = np.clip(RADIUS + 0.5 - away, 0, 1), away < 20.0
        alike = [np.corrcoef(np.roll(disc, s, (0, 1))[near], image[near])[0, 1] for s in shifts]
        assert shifts[int(np.argmin(alike))] == (0, 0)
        assert min(alike) < -0.7


def test_a_warped_boundary_is_found_again_through_the_same_warp() -> None:
    people = cohort()
    own = cohort_people(people, load_slab(PREPROCESS), afids_columns(MSP8, MSP8.names))
    turn, scale = torch.full((6,), 0.2), torch.full((6, 2), 1.1)
    matrix, shift = pose(turn, scale, torch.full((6, 2), 4.0), (74.5, 74.5))
    knots = 1.5 * torch.randn(6, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    warp = SliceWarp(matrix, shift, knots, 30.0, GEOMETRY.shape)
    maps = own.maps(torch.arange(6), warp)
    fluid = 1.0 - maps[:, 1] - maps[:, 2]
    # Along each ray from AC the fluid's edge looks back to the disc's own edge.
    source = torch.from_numpy(people.points_px).float()[:, MSP8.index("AC")]
    angle = torch.linspace(0.0, 6.0, 25)
    rim = source[:, None] + RADIUS * torch.stack([angle.cos(), angle.sin()], -1)
    at = warp.carry(rim)
    span = torch.tensor([149.0, 149.0])
    seen = torch.nn.functional.grid_sample(
        fluid[:, None], (2.0 * at / span - 1.0)[:, None], align_corners=True
    )
    assert float((seen - 0.5).abs().max()) < 0.25


def test_every_epoch_paints_the_same_person_in_other_contrasts() -> None:
    people = cohort()
    first, points = painted(people, 0)
    later, same = painted(people, 1)
    torch.testing.assert_close(points, same)
    assert float((first - later).abs().mean()) > 0.05
    torch.testing.assert_close(first, painted(people, 0)[0], rtol=0, atol=0)


def test_slices_without_maps_stay_the_cohorts_own_or_are_drawn() -> None:
    people = cohort(bare=(1, 4))
    images, points = painted(people)
    kept = (images - 7.0).abs().amax((1, 2, 3)) < 1e-3
    assert kept.nonzero().flatten().tolist() == [1, 4]
    given = torch.from_numpy(people.points_px[:, [MSP8.index("AC"), MSP8.index("PC")]]).float()
    torch.testing.assert_close(points, given, rtol=0, atol=1e-3)
    both, _ = painted(people, source="both")
    assert ((both - 7.0).abs().amax((1, 2, 3)) > 1.0).all()


def test_both_draws_some_from_the_template_and_some_from_the_cohort() -> None:
    people = cohort(count=16)
    _, points = painted(people, source="both")
    given = torch.from_numpy(people.points_px[:, [MSP8.index("AC"), MSP8.index("PC")]]).float()
    own = ((points - given).abs().amax((1, 2)) < 1e-3).sum()
    assert 3 <= int(own) <= 13


def test_regions_follow_the_landmarks() -> None:
    people = cohort()
    moved = replace(people, points_px=people.points_px - np.array([10.0, 0.0]))
    slab, columns = load_slab(PREPROCESS), afids_columns(MSP8, MSP8.names)
    before, after = (cohort_people(each, slab, columns).regions.float() for each in (people, moved))
    # Ten millimetres forwards are ten pixels to the left.
    torch.testing.assert_close(after[..., 20:100], before[..., 30:110], rtol=0, atol=2.0)


def test_a_slice_with_few_landmarks_keeps_the_templates_regions() -> None:
    people = cohort(count=1)
    bare = replace(people, points_px=np.full_like(people.points_px, np.nan))
    slab = load_slab(PREPROCESS)
    regions = cohort_people(bare, slab, afids_columns(MSP8, MSP8.names)).regions[0]
    margin = (slab.pairs.shape[-1] - 150) // 2
    inner = slice(margin, -margin)
    expected = slab.pairs[0, CHANNELS.index("cortex") : len(CHANNELS), inner, inner]
    torch.testing.assert_close(regions.float() / 255.0, expected, rtol=0, atol=0.01)


def test_a_cohort_without_maps_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"discs has no tissue maps.*label-\{GM,WM,CSF\}_probseg"):
        painted(replace(cohort(), tissues=None))


def test_columns_follow_the_afids_numbers() -> None:
    numbers = [landmark.afid for landmark in landmark_set("afids32").landmarks]
    columns = afids_columns(MSP8, ["SPLE", "AC"])
    assert [numbers[column] for column in columns] == [20, 1]
