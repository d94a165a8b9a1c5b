"""The script that waits for a GPU, rehearsed on the CPU."""

import json

import pytest
import torch

import gpu


@pytest.fixture(scope="module")
def found():
    plan = gpu.rehearsal(5.0)
    plan.processes = 1
    return gpu.measure(plan)


def test_the_rehearsal_goes_all_the_way(found, tmp_path):
    assert all(check["holds"] for check in found["correct"])
    ways = {(check["kind"], check["way"]) for check in found["correct"]}
    assert {("ml", "bf16, channels last"), ("stacked", "fp32"), ("ml", "resumed, bitwise")} <= ways
    assert {(row["kind"], row["batch"]) for row in found["steps"]} == {
        (kind, batch) for kind in ("ml", "stacked") for batch in (4, 8)
    }
    assert all(row["seconds"] > 0 and row["flop"] > 0 for row in found["steps"])
    assert json.loads(json.dumps(found)) == found
    text = gpu.table(found)
    assert "A rehearsal" in text
    assert "hours" not in text
    assert text.count(gpu.NOT_MEASURED) == 2 * len(found["steps"])


def test_a_device_that_computes_something_else_is_found(monkeypatch):
    plan = gpu.rehearsal(5.0)
    right = gpu.Step._loss
    calls = []

    def wrong(self, images, points):
        calls.append(self)
        late = len(calls) > plan.correct_steps  # the CPU's own steps come first
        return right(self, images, points) * (1.01 if late else 1.0)

    monkeypatch.setattr(gpu.Step, "_loss", wrong)
    first = next(gpu.correctness(plan))
    assert not first["holds"]
    assert "NO" in gpu.table({"environment": gpu.environment(plan), "correct": [first], "steps": [],
                              "protocol": []})  # fmt: skip


def test_without_time_nothing_is_measured_and_nothing_invented():
    plan = gpu.rehearsal(0.0)
    rows = list(gpu.speed(plan, "ml", 4))
    assert {row["why"] for row in rows} == {"no time left"}
    assert not any("seconds" in row for row in rows)


def test_work_counted_is_that_of_the_network():
    plan = gpu.rehearsal(5.0)
    one = gpu._flop(plan, "ml", 4)
    assert gpu._flop(plan, "ml", 8) == pytest.approx(2 * one)
    # Forward and both halves of the way back of the first dense layer alone, 2 a multiplication.
    dense = 2 * 3 * 4 * (8 * 8 * 8) * 16
    assert one > dense


def test_without_cuda_the_way_out_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["gpu.py"])
    with pytest.raises(SystemExit, match="--rehearse"):
        gpu.main()
