from pathlib import Path

import numpy as np
import pytest

from landmarking.errors import ConfigError
from landmarking.phantom.shape import load_shape_model
from phantom import run, statistics_table
from phantom_pictures import gradient_spectrum


def samples(count, seed):
    rng = np.random.default_rng(seed)
    return np.stack([load_shape_model().sample(rng) for _ in range(count)])


@pytest.mark.parametrize(
    ("argument", "says"),
    [("head=3", "did you mean heads"), ("heads", "heads: .*type 'int'"), ("heads=x", "heads: ")],
)
def test_wrong_arguments_are_refused(argument, says):
    with pytest.raises(ConfigError, match=says):
        run([argument])


def test_pictures_name_pairs_of_files(monkeypatch):
    asked = []
    drawing = "phantom_pictures.draw_pictures"
    monkeypatch.setattr(drawing, lambda folder, heads: asked.append((folder, heads)) or [folder])
    assert run(["out=here", "pictures=a.nii=a.fcsv,b.nii=b.fcsv"]) == "here"
    pairs = [(Path("a.nii"), Path("a.fcsv")), (Path("b.nii"), Path("b.fcsv"))]
    assert asked == [(Path("here"), pairs)]


def test_the_table_sees_the_same_people_as_the_same():
    people = samples(60, 1)
    table = statistics_table(people, people, "people")
    assert "| largest difference of a pair's mean distance, mm | | 0.00 |" in table
    assert "| RMS relative difference of a pair's SD | | 0 % |" in table


def test_the_table_sees_a_larger_head():
    people = samples(60, 1)
    rows = statistics_table(people, 1.1 * people, "people").splitlines()
    row = next(line for line in rows if line.startswith("| AC-PC"))
    first, second = (float(cell.split()[0]) for cell in row.split("|")[2:4])
    assert second == pytest.approx(1.1 * first, abs=0.02)


def test_a_measured_head_is_exact_and_invertible():
    text = run(["heads=2", "timed=0"])
    exact = next(line for line in text.splitlines() if line.startswith("landmark exactness"))
    assert float(exact.split()[2]) < 0.02
    jacobian = next(line for line in text.splitlines() if line.startswith("Jacobian"))
    assert float(jacobian.split()[1]) > 0.0


def test_the_spectrum_of_a_wave_peaks_at_its_frequency():
    x = np.arange(120)
    wave = np.sin(2 * np.pi * 0.1 * x)[None, :] * np.ones((120, 1))
    frequency, power = gradient_spectrum(wave)
    assert frequency[power.argmax()] == pytest.approx(0.1, abs=0.01)
    assert power.sum() == pytest.approx(1.0)
