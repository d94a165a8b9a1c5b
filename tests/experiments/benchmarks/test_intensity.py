import numpy as np
import pytest

import intensity
import pipeline
from landmarking.errors import ConfigError


@pytest.fixture
def slice_and_brain():
    image = np.random.default_rng(0).uniform(10, 20, (40, 50))
    image[:3] = 300.0
    brain = np.zeros(image.shape, dtype=bool)
    brain[10:25, 10:40] = True
    return image, brain


def test_changes_outside_the_brain_leave_the_brain_alone(slice_and_brain):
    image, brain = slice_and_brain
    for name in ("stripped", "cut below the brain", "scalp twice as bright"):
        changed = intensity.CHANGES[name](image, brain)
        assert np.array_equal(changed[brain], image[brain])
        assert not np.array_equal(changed, image)


def test_a_gain_moves_nothing_after_normalisation(slice_and_brain):
    image, brain = slice_and_brain
    doubled = intensity._move(image, lambda i, _: 2.0 * i, None, intensity._over_all, brain)
    stripped = intensity._move(image, intensity._stripped, None, intensity._over_all, brain)
    assert doubled == pytest.approx(0.0, abs=1e-9)
    assert stripped > 0.1


def test_no_real_heads_are_said_to_be_skipped(tmp_path):
    assert intensity.run([f"heads={tmp_path}/absent"]).startswith("Real heads: skipped")
    assert list(pipeline.real_heads(tmp_path / "absent")) == []


@pytest.mark.parametrize("module", [intensity, pipeline])
def test_unknown_settings_are_refused(module):
    with pytest.raises(ConfigError, match="did you mean heads"):
        module.run(["head=x"])
