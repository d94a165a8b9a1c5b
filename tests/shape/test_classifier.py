"""The diagnosis: finds what is there, finds nothing in chance, and nothing leaks."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from landmarking.errors import ConfigError
from landmarking.landmarks import landmark_set
from landmarking.shape.classifier import (
    CLASSIFIERS,
    Data,
    ProcrustesCoordinates,
    delong_interval,
    features,
    nested,
    noise_curve,
    permutation_p,
    selected_outside,
)
from landmarking.shape.data_driven import DrivenMoves

TEMPLATE = landmark_set("msp8").template_mm[:, 1:]


def data(rng, count=20, apart=4.0, scans=1, patches=False):
    label = np.repeat([0, 1], count)
    own = TEMPLATE + rng.normal(0, 1.5, (2 * count, *TEMPLATE.shape))
    own[label == 1, 7] += [apart, 0.0]
    points = np.repeat(own, scans, axis=0) + rng.normal(
        0, 0.1, (2 * count * scans, *TEMPLATE.shape)
    )
    labels = np.repeat(label, scans)
    people = [f"p{n}" for n in range(2 * count) for _ in range(scans)]
    looks = rng.normal(size=(len(points), 40)) + 2 * labels[:, None] if patches else None
    return Data(points, labels, people, looks)


@pytest.mark.parametrize("by", CLASSIFIERS)
def test_a_landmark_that_moves_is_diagnosed(by):
    found = nested(data(np.random.default_rng(0), apart=8.0), by=by)
    assert found.auc > 0.85
    assert found.auc_low < found.auc <= found.auc_high
    assert found.balanced_accuracy > 0.7
    assert found.auc == roc_auc_score(found.labels, found.scores)
    if by == "svm":
        assert np.isnan(found.probabilities).all()
    else:
        assert roc_auc_score(found.labels, found.probabilities) > 0.8


def test_patches_and_both_are_features_too():
    people = data(np.random.default_rng(1), apart=0.0, patches=True)
    assert nested(people, kind="patches").auc > 0.95
    assert nested(people, kind="both").auc > 0.9
    with pytest.raises(ConfigError, match="need slices"):
        nested(data(np.random.default_rng(1)), kind="patches")


def test_labels_that_mean_nothing_give_one_half():
    rng = np.random.default_rng(2)
    areas, outside = [], []
    for seed in range(8):
        people = data(rng, count=16, apart=0.0)
        shuffled = Data(people.points, rng.permutation(people.labels), people.people)
        areas.append(nested(shuffled, kind="distances", select=4, seed=seed).auc)
        outside.append(selected_outside(shuffled, 4, seed=seed))
    assert np.mean(areas) == pytest.approx(0.5, abs=0.1)
    # The documented mistake: features chosen on everybody know the test people.
    assert np.mean(outside) > np.mean(areas) + 0.1


def test_scans_of_one_person_are_never_in_two_folds(monkeypatch):
    from sklearn.model_selection import GridSearchCV

    people = data(np.random.default_rng(3), count=10, scans=2)
    seen = []
    original = GridSearchCV.fit

    def fit(self, rows, labels):
        seen.append({tuple(row) for row in np.round(rows[:, :4])})
        for train, test in self.cv:
            own = np.round(rows[:, 0], 0)
            assert len(train) + len(test) == len(own)
        return original(self, rows, labels)

    monkeypatch.setattr(GridSearchCV, "fit", fit)
    found = nested(people, seed=1)
    assert len(seen) == 5
    by_person = {}
    for person, score in zip(people.people, found.scores, strict=True):
        by_person.setdefault(person, []).append(score)
    # Both scans were scored, by one model: nearly alike, as the scans are.
    assert max(np.ptp(scores) for scores in by_person.values()) < 1.0


def test_the_mean_shape_is_of_the_training_people_alone():
    rng = np.random.default_rng(4)
    people = data(rng, count=8)
    step = ProcrustesCoordinates(8, 2).fit(people.rows[:8])
    before = step.mean_.copy()
    step.transform(people.rows[8:] + 100)
    np.testing.assert_array_equal(step.mean_, before)
    assert features("shape", people).fit(people.rows[:8]) is not None


def test_delong_holds_its_level():
    rng = np.random.default_rng(5)
    label = np.repeat([0, 1], 30)
    true = 0.7602499389065233  # of two normals one SD apart: Phi(1 / sqrt 2)
    held = []
    for _ in range(400):
        low, high = delong_interval(label, rng.normal(size=60) + label)
        held.append(low <= true <= high)
    assert np.mean(held) == pytest.approx(0.95, abs=0.035)


def test_permutation_exchanges_people_not_scans():
    people = data(np.random.default_rng(6), count=8, scans=2)
    seen = []

    def judge(shuffled):
        by_person = {}
        for person, label in zip(shuffled.people, shuffled.labels, strict=True):
            by_person.setdefault(person, set()).add(int(label))
        seen.append(all(len(labels) == 1 for labels in by_person.values()))
        return 0.4

    p, null = permutation_p(people, 0.5, judge, draws=9)
    assert all(seen)
    assert p == 0.1
    assert len(null) == 9


def test_noise_costs_area():
    cost = noise_curve(data(np.random.default_rng(7), apart=8.0), [0.0, 12.0], repeats=1)
    mean = cost.groupby("noise_mm")["auc"].mean()
    assert mean[0.0] > mean[12.0] + 0.1
    assert cost["noise_mm"].tolist() == [0.0, 12.0]


def test_too_few_people_and_unknown_names_are_refused():
    people = data(np.random.default_rng(8), count=4)
    with pytest.raises(ConfigError, match="take fewer folds"):
        nested(people)
    with pytest.raises(ConfigError, match="logistic, svm, forest"):
        nested(people, by="tree", folds=2)
    with pytest.raises(ConfigError, match="shape, distances, patches, both, data-driven"):
        nested(people, kind="colour", folds=2)


def test_data_driven_points_are_found_by_the_training_people_alone():
    rng = np.random.default_rng(10)
    places = np.array([[x, y] for x in range(0, 60, 6) for y in range(0, 60, 6)], float)
    label = np.repeat([0, 1], 16)
    moves = rng.normal(size=(32, len(places), 2))
    people = [f"p{n}" for n in range(32)]
    points = rng.normal(size=(32, 4, 2))
    chance = [
        nested(
            Data(points, rng.permutation(label), people, None, moves, places),
            kind="data-driven",
            seed=seed,
        ).auc
        for seed in range(8)
    ]
    assert np.mean(chance) == pytest.approx(0.5, abs=0.12)
    moves[label == 1, 33] += [4.0, 0.0]
    there = Data(points, label, people, None, moves, places)
    assert nested(there, kind="data-driven").auc > 0.75
    found = DrivenMoves(places).fit(moves.reshape(32, -1), label)
    assert found.chosen_[0] == 33
    apart = np.linalg.norm(places[found.chosen_][:, None] - places[found.chosen_], axis=-1)
    assert (apart[~np.eye(3, dtype=bool)] >= 10.0).all()
    with pytest.raises(ConfigError, match="need deformations"):
        nested(Data(points, label, people), kind="data-driven")
