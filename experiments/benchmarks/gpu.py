"""Everything about a GPU in ten minutes: is it right, how fast is it, how long is the protocol?

`python experiments/benchmarks/gpu.py --minutes 9` on a machine with CUDA leaves one JSON file and
one table; `--rehearse` goes the same way on the CPU with tiny sizes, so that nothing is tried out
on the GPU's time. What does not fit into the time or into the memory is written as "not measured".
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from landmarking.config import PROJECT
from landmarking.data.batches import DeviceBatches, EpochOrder
from landmarking.errors import LandmarkingError
from landmarking.models.build import build_network
from landmarking.models.coordinate_cnn import CoordinateCNN, StackedEnsemble
from landmarking.models.module import to_channels_last
from train import PROTOCOL_EPOCHS, PROTOCOL_SCANS, plain_network

NOT_MEASURED = "not measured"

PEAKS = {
    # Peaks of the makers' data sheets, TFLOP/s: bf16 (dense, tensor cores), fp32 (vector units).
    "H100": (989.0, 67.0),
    "H200": (989.0, 67.0),
    "A100": (312.0, 19.5),
}

TOLERANCE = {"fp32": 1e-3, "bf16": 3e-2}
"""Largest relative difference of outputs and losses from those of the CPU in fp32."""


@dataclass
class Plan:
    """Sizes of one go.

    Attributes:
        device: `cuda` or `cpu`.
        minutes: Time for everything.
        side: Rows and columns of a slice.
        slices: Slices held on the device.
        batches: Sizes of a batch.
        steps: Timed steps of one measurement.
        rounds: Measurements, alternating.
        correct_steps: Training steps that are compared with the CPU's.
        epochs: Epochs of the protocol's ML run that are tried at the end; 0 leaves it out.
        processes: Single-landmark networks that are trained side by side, a process each.
        channels: Channels of the network's blocks.
        hidden: Units of its dense layers.
    """

    device: str
    minutes: float
    side: int = 150
    slices: int = PROTOCOL_SCANS
    batches: tuple[int, ...] = (64, 256, 1024, 4096)
    steps: int = 30
    rounds: int = 3
    correct_steps: int = 20
    epochs: int = 1000
    processes: int = 8
    channels: tuple[int, ...] = (32, 64, 128, 256)
    hidden: tuple[int, ...] = (1000, 500)
    end: float = field(init=False)

    def __post_init__(self) -> None:
        """Start the clock."""
        self.end = time.monotonic() + 60.0 * self.minutes

    @property
    def left(self) -> float:
        """Seconds left."""
        return self.end - time.monotonic()


def rehearsal(minutes: float) -> Plan:
    """Sizes that a CPU goes through in seconds."""
    return Plan(
        "cpu", minutes, side=32, slices=12, batches=(4, 8), steps=2, rounds=1, correct_steps=4,
        epochs=0, processes=2, channels=(4, 8), hidden=(16, 8),
    )  # fmt: skip


def main() -> None:
    """Measure what is asked for; status 2 where there is no GPU and no rehearsal either."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=9.0, help="time for everything")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes on the CPU")
    parser.add_argument("--outputs", type=Path, default=PROJECT / "outputs" / "benchmarks")
    parser.add_argument("--epochs", type=int, default=1000, help="of the ML run; 0 for none")
    chosen = parser.parse_args()
    if not chosen.rehearse and not torch.cuda.is_available():
        sys.exit("no CUDA device is at hand; --rehearse goes the same way on the CPU")
    plan = rehearsal(chosen.minutes) if chosen.rehearse else Plan("cuda", chosen.minutes)
    plan.epochs = 0 if chosen.rehearse else chosen.epochs
    found = measure(plan, lambda part: print(f"{part}; {plan.left:.0f} s left", file=sys.stderr))
    chosen.outputs.mkdir(parents=True, exist_ok=True)
    name = "gpu-rehearsal" if chosen.rehearse else "gpu"
    text = table(found)
    (chosen.outputs / f"{name}.json").write_text(json.dumps(found, indent=2) + "\n", "utf-8")
    (chosen.outputs / f"{name}.md").write_text(text + "\n", "utf-8")
    print(text, "", chosen.outputs / f"{name}.json", chosen.outputs / f"{name}.md", sep="\n")
    if not all(check["holds"] for check in found["correct"]):
        sys.exit("what the device computes is not what the CPU computes; see above")


def measure(plan: Plan, say: Callable[[str], None] = lambda part: None) -> dict[str, Any]:
    """All parts in the order of their weight; a part without time left is not measured.

    Args:
        plan: Sizes.
        say: Called ahead of each part.
    """
    found: dict[str, Any] = {"environment": environment(plan), "correct": [], "steps": []}
    say("correctness")
    found["correct"] = list(correctness(plan))
    for batch in plan.batches:
        for kind in ("ml", "stacked"):
            say(f"{kind}, batch {batch}")
            found["steps"] += list(speed(plan, kind, batch))
    say("protocol")
    found["protocol"] = [] if plan.device == "cpu" else protocol(found["steps"])
    if plan.epochs:
        say(f"ML, {plan.epochs} epochs")
        found["run"] = partial_run(plan)
    return found


def environment(plan: Plan) -> dict[str, Any]:
    """Versions and devices."""
    here: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": "CPU (rehearsal)" if plan.device == "cpu" else torch.cuda.get_device_name(),
        "threads": torch.get_num_threads(),
        "sizes": {"side": plan.side, "slices": plan.slices, "steps": plan.steps},
    }
    if plan.device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        here |= {
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
            "memory_gib": properties.total_memory / 2**30,
            "processors": properties.multi_processor_count,
        }
    return here


# Networks and steps.


def network_of(plan: Plan, kind: str, dropout: float = 0.5) -> nn.Module:
    """Ours: `ml`, `sl` or `stacked`, with weights from seed 0."""
    torch.manual_seed(0)
    member = {
        "_target_": "landmarking.models.coordinate_cnn.CoordinateCNN",
        "channels": list(plan.channels),
        "hidden": list(plan.hidden),
        "dropout": dropout,
        "initialisation": "torch",
    }
    size, mean = [plan.side, plan.side], [[plan.side / 2, plan.side / 2]]
    if kind == "stacked":
        return StackedEnsemble(image_size=size, mean_px=mean * 8, member=member)
    return build_network(member, image_size=size, mean_px=mean * (1 if kind == "sl" else 8))


@lru_cache(maxsize=4)
def _drawn(side: int, count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count, 1, side, side, generator=generator)
    return images, side * (0.3 + 0.4 * torch.rand(count, 8, 2, generator=generator))


def data_of(plan: Plan, count: int) -> tuple[Tensor, Tensor]:
    """Slices (N, 1, H, W) and points (N, 8, 2) on the CPU, the same at every call."""
    return _drawn(plan.side, count)


def loss_of(network: nn.Module, images: Tensor, points: Tensor) -> Tensor:
    """Eq. 3: mean Euclidean distance in pixels."""
    distance: Tensor = (network(images) - points).square().sum(-1).sqrt()
    return distance.mean()


def adam(network: nn.Module, device: str, *, graph: bool = False) -> torch.optim.Adam:
    """What the configuration has: fused Adam at the paper's rate."""
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    # A captured step has to count on the device.
    return torch.optim.Adam(weights, lr=0.005, fused=True, capturable=graph and device == "cuda")


class Step:
    """One training step on a batch that is on the device already."""

    def __init__(self, plan: Plan, kind: str, *, bf16: bool = False, channels_last: bool = True,
                 compiled: bool = False, dropout: float = 0.5) -> None:  # fmt: skip
        self.device, self.bf16 = plan.device, bf16
        self.network = network_of(plan, kind, dropout).to(plan.device).train()
        if channels_last and kind != "stacked":
            to_channels_last(self.network)
        self.optimizer = adam(self.network, plan.device)
        self.loss = torch.compile(self._loss, mode="reduce-overhead") if compiled else self._loss

    def _loss(self, images: Tensor, points: Tensor) -> Tensor:
        with torch.autocast(self.device, torch.bfloat16, enabled=self.bf16):
            return loss_of(self.network, images, points)

    def __call__(self, images: Tensor, points: Tensor) -> Tensor:
        """The step's loss, still on the device."""
        loss = self.loss(images, points)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.detach()


# Is it right?


def correctness(plan: Plan) -> Iterator[dict[str, Any]]:
    """Losses of training steps, and outputs after them, against fp32 on the CPU."""
    images, points = data_of(plan, 8)
    cpu = Plan(
        "cpu", 1.0, plan.side, correct_steps=plan.correct_steps, channels=plan.channels,
        hidden=plan.hidden,
    )  # fmt: skip
    ways: dict[str, dict[str, Any]] = {
        "fp32": {"channels_last": False},
        "fp32, channels last": {},
        "bf16, channels last": {"bf16": True},
        "fp32, compiled": {"compiled": True},
    }
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    for kind in ("ml", "stacked"):
        expected, first = _steps(
            cpu, Step(cpu, kind, channels_last=False, dropout=0.0), images, points
        )
        for way, options in ways.items():
            if options.get("compiled") and (kind == "stacked" or plan.device == "cpu"):
                continue
            row: dict[str, Any] = {"kind": kind, "way": way, "steps": plan.correct_steps}
            try:
                step = Step(plan, kind, dropout=0.0, **options)
                losses, start = _steps(plan, step, images, points)
            except (RuntimeError, torch.OutOfMemoryError) as error:
                yield row | {"holds": False, "why": str(error).splitlines()[0]}
                continue
            tolerance = TOLERANCE["bf16" if options.get("bf16") else "fp32"]
            output = float((start - first).abs().max() / first.abs().max())
            # Steps grow apart by themselves; the first ones tell.
            early = max(abs(a - b) / b for a, b in zip(losses[:3], expected[:3], strict=True))
            whole = abs(float(np.mean(losses) / np.mean(expected)) - 1.0)
            holds = bool(max(output, early) <= tolerance and whole <= 10 * tolerance)
            yield row | {"output": output, "early": early, "whole": whole, "tolerance": tolerance,
                         "holds": holds}  # fmt: skip
        torch.set_float32_matmul_precision("high")
    yield resumed(plan)


def _steps(plan: Plan, step: Step, images: Tensor, points: Tensor) -> tuple[list[float], Tensor]:
    images, points = images.to(plan.device), points.to(plan.device)
    with torch.no_grad(), torch.autocast(plan.device, torch.bfloat16, enabled=step.bf16):
        first = step.network.eval()(images).float().cpu()
    step.network.train()
    return [float(step(images, points)) for _ in range(plan.correct_steps)], first


def resumed(plan: Plan) -> dict[str, Any]:
    """Whether a run that is stopped and goes on ends with the very same weights."""
    images, points = (each.to(plan.device) for each in data_of(plan, 8))
    half = max(1, plan.correct_steps // 2)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    try:
        whole, broken = Step(plan, "ml", dropout=0.0), Step(plan, "ml", dropout=0.0)
        for number in range(2 * half):
            whole(images, points)
            if number < half:
                broken(images, points)
        again = Step(plan, "ml", dropout=0.0)
        again.network.load_state_dict(broken.network.state_dict())
        again.optimizer.load_state_dict(broken.optimizer.state_dict())
        for _ in range(half):
            again(images, points)
        pairs = zip(whole.network.parameters(), again.network.parameters(), strict=True)
        equal = all(torch.equal(first, second) for first, second in pairs)
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.deterministic = False
    return {"kind": "ml", "way": "resumed, bitwise", "steps": 2 * half, "holds": equal}


# How fast is it?


def speed(plan: Plan, kind: str, batch: int) -> Iterator[dict[str, Any]]:
    """Seconds a step, each way in turn, and each way's peak of memory."""
    seconds: dict[str, list[float]] = {}
    why: dict[str, str] = {}
    memory: dict[str, float] = {}
    steps: dict[str, Callable[[], object]] = {}
    ways = _ways(plan, kind)
    for _ in range(plan.rounds):
        for name, way in ways.items():
            if name in why:
                continue
            if plan.left < 20.0:
                why[name] = "no time left"
                continue
            try:
                if name not in steps:
                    steps[name] = way(batch)
                took, memory[name] = _timed(plan, steps[name])
            except (RuntimeError, torch.OutOfMemoryError) as error:
                why[name] = str(error).splitlines()[0][:120]
                steps.pop(name, None)
                continue
            seconds.setdefault(name, []).append(took)
    steps.clear()
    if kind == "stacked" and batch == plan.batches[1]:
        name = f"{plan.processes} processes"
        ways[name] = ways["plain loop"]
        try:
            seconds[name], memory[name] = [_processes(plan, batch)], 0.0
        except (RuntimeError, OSError) as error:
            why[name] = str(error).splitlines()[0][:120]
    flop = _flop(plan, kind, batch)
    plain = seconds.get("plain loop")
    for name in ways:
        row: dict[str, Any] = {"kind": kind, "batch": batch, "way": name}
        if not seconds.get(name):
            yield row | {"why": why.get(name, "no time left")}
            continue
        took = float(np.median(seconds[name]))
        row |= {"seconds": took, "slices_s": batch / took, "gib": memory[name], "flop": flop}
        row["ratios"] = [a / b for a, b in zip(plain or (), seconds[name], strict=False)]
        yield row | _roofline(plan, flop / took, "bf16" in name)


def _processes(plan: Plan, batch: int) -> float:
    """Seconds a step where each network has a process of its own, all at once."""
    with ProcessPoolExecutor(plan.processes, get_context("spawn")) as pool:
        return max(pool.map(_process_step, [plan] * plan.processes, [batch] * plan.processes))


def _process_step(plan: Plan, batch: int) -> float:
    if plan.device == "cpu":
        torch.set_num_threads(1)
    return _timed(plan, _ours(plan, "sl", batch, bf16=plan.device == "cuda"))[0]


Way = Callable[[int], Callable[[], object]]


def _ways(plan: Plan, kind: str) -> dict[str, Way]:
    """What is timed: takes the size of a batch, gives one step."""
    ways: dict[str, Way] = {
        "plain loop": lambda batch: _plain(plan, kind, batch),
        "scripts' loop": lambda batch: _scripts(plan, kind, batch),
        "ours, fp32": lambda batch: _ours(plan, kind, batch),
        "ours, bf16": lambda batch: _ours(plan, kind, batch, bf16=True),
    }
    if plan.device == "cuda":
        ways["ours, bf16, compiled"] = lambda batch: _ours(
            plan, kind, batch, bf16=True, compiled=True
        )
        ways["ours, bf16, graph"] = lambda batch: _graph(plan, kind, batch)
    return ways


def _plain(plan: Plan, kind: str, batch: int) -> Callable[[], object]:
    """The network in torch's own layers, eager, fp32, batches from the host, a loss read each step.

    Of eight single-landmark networks it does one after the other.
    """
    networks = (
        [_plain_network(plan, 1) for _ in range(8)]
        if kind == "stacked"
        else [_plain_network(plan, 8)]
    )
    optimizers = [torch.optim.Adam(network.parameters(), lr=0.005) for network in networks]
    images, points = data_of(plan, batch)

    def step() -> float:
        total = 0.0
        for number, (network, optimizer) in enumerate(zip(networks, optimizers, strict=True)):
            wanted = points[:, number : number + 1] if kind == "stacked" else points
            predicted = network(images.to(plan.device)).reshape(len(images), -1, 2)
            loss = (predicted - wanted.to(plan.device)).pow(2).sum(-1).sqrt().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        return total

    return step


def _scripts(plan: Plan, kind: str, batch: int) -> Callable[[], object]:
    """As the paper's public scripts do it: a batch is normalised as a whole, on the host."""
    step = _plain(plan, kind, batch)
    images, _ = data_of(plan, batch)

    def whole() -> list[object]:
        normal = (images - images.mean()) / images.std()
        return [float(normal[0, 0, 0, 0]), step()]

    return whole


def _plain_network(plan: Plan, landmarks: int) -> nn.Module:
    if plan.side == 150:
        return plain_network(landmarks).to(plan.device).train()
    mean = [[plan.side / 2, plan.side / 2]] * landmarks
    network = CoordinateCNN(
        image_size=[plan.side] * 2, mean_px=mean, channels=plan.channels, hidden=plan.hidden
    )
    return network.to(plan.device).train()


def _ours(
    plan: Plan, kind: str, batch: int, *, bf16: bool = False, compiled: bool = False
) -> Callable[[], object]:
    """Slices of the whole cohort on the device; a batch is an index select there."""
    step = Step(plan, kind, bf16=bf16, compiled=compiled)
    loader = _loader(plan, batch)
    batches = _endless(loader)

    def once() -> Tensor:
        images, points = next(batches)
        return step(images, points)

    return once


def _loader(plan: Plan, batch: int) -> DeviceBatches:
    count = max(plan.slices, batch)
    images, points = (each.to(plan.device) for each in data_of(plan, count))
    order = EpochOrder(count, shuffle=True, seed=0)
    return DeviceBatches(images, points, order, size=batch, normalisation="image", drop_last=True)


def _endless(loader: DeviceBatches) -> Iterator[tuple[Tensor, Tensor]]:
    epoch = 0
    while True:
        loader.batch_sampler.set_epoch(epoch)
        for batch in loader:
            yield batch.images, batch.points_px
        epoch += 1


def _graph(plan: Plan, kind: str, batch: int) -> Callable[[], object]:
    """The whole step captured once, replayed; new slices are copied into its input."""
    step = Step(plan, kind, bf16=True)
    step.optimizer = adam(step.network, plan.device, graph=True)
    batches = _endless(_loader(plan, batch))
    images, points = (each.clone() for each in next(batches))
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step(images, points)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    step.optimizer.zero_grad(set_to_none=True)
    with torch.cuda.graph(graph):
        step(images, points)

    def once() -> None:
        new_images, new_points = next(batches)
        images.copy_(new_images)
        points.copy_(new_points)
        graph.replay()

    return once


def _timed(plan: Plan, step: Callable[[], object]) -> tuple[float, float]:
    """Seconds a step, and the peak of memory in GiB (zero on a CPU)."""
    cuda = plan.device == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    for _ in range(3 if cuda else 1):
        step()
    if cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    done = 0
    while done < plan.steps and (done < 2 or time.perf_counter() - start < 2.0):
        step()
        done += 1
    if cuda:
        torch.cuda.synchronize()
    took = (time.perf_counter() - start) / done
    return took, torch.cuda.max_memory_allocated() / 2**30 if cuda else 0.0


def _flop(plan: Plan, kind: str, batch: int) -> float:
    """Floating-point operations of one step, counted by torch for two slices and scaled."""
    single = network_of(plan, "sl" if kind == "stacked" else "ml")
    images, points = data_of(plan, 2)
    with FlopCounterMode(display=False) as counter:
        loss_of(single, images, points[:, :1] if kind == "stacked" else points).backward()  # type: ignore[no-untyped-call]
    return float(counter.get_total_flops()) * batch / 2 * (8 if kind == "stacked" else 1)


def _roofline(plan: Plan, rate: float, bf16: bool) -> dict[str, Any]:
    if plan.device != "cuda":
        return {}
    name = torch.cuda.get_device_name()
    peak = next((values for key, values in PEAKS.items() if key in name), None)
    if peak is None:
        return {"tflops": rate / 1e12}
    return {"tflops": rate / 1e12, "peak_share": rate / 1e12 / peak[0 if bf16 else 1]}


# How long is the protocol?


def protocol(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Hours of the paper's protocol at batch 256 (or the largest tried below), each way."""
    known = [row for row in steps if "seconds" in row]
    plans = []
    for kind in ("ml", "stacked"):
        sizes = sorted(
            {row["batch"] for row in known if row["kind"] == kind and row["batch"] <= 256}
        )
        for row in known:
            if sizes and row["kind"] == kind and row["batch"] == sizes[-1]:
                epoch = PROTOCOL_SCANS / row["slices_s"]
                hours = epoch * PROTOCOL_EPOCHS[kind] / 3600
                plans.append(
                    {"kind": kind, "way": row["way"], "batch": row["batch"], "hours": hours}
                )
    return plans


def partial_run(plan: Plan) -> dict[str, Any]:
    """The protocol's ML run, a part of its epochs, by the command that a lab types."""
    command = [
        sys.executable, str(PROJECT / "experiments" / "train.py"), "experiment=paper_ml",
        "cohort/preset=demo", f"trainer.max_epochs={plan.epochs}", "trainer.accelerator=gpu",
        "trainer.precision=bf16-mixed", "study=gpu_part", "trainer.enable_progress_bar=false",
    ]  # fmt: skip
    if plan.left < 30.0:
        return {"epochs": plan.epochs, "why": "no time left"}
    start = time.monotonic()
    try:
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, timeout=plan.left - 10.0
        )
    except subprocess.TimeoutExpired:
        return {"epochs": plan.epochs, "why": "no time left"}
    told = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    return {
        "epochs": plan.epochs, "of": PROTOCOL_EPOCHS["ml"], "seconds": time.monotonic() - start,
        "status": done.returncode, "told": told[-1] if told else "", "simulated": True,
    }  # fmt: skip


def table(found: dict[str, Any]) -> str:
    """What was measured, in Markdown."""
    here = found["environment"]
    lines = [f"{here['device']}, torch {here['torch']}", ""]
    if "rehearsal" in here["device"]:
        lines += ["A rehearsal with tiny sizes: its times say nothing about a GPU.", ""]
    lines += [
        "| correct | way | steps | output | first losses | all losses | holds |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found["correct"]:
        cells = [f"{row[key]:.1e}" if key in row else "" for key in ("output", "early", "whole")]
        holds = "yes" if row["holds"] else f"NO {row.get('why', '')}"
        lines.append(
            f"| {row['kind']} | {row['way']} | {row['steps']} | {' | '.join(cells)} | {holds} |"
        )
    head = "network, batch, way, ms a step, slices/s, times the plain loop, TFLOP/s, of peak, GiB"
    lines += ["", f"| {head.replace(', ', ' | ')} |", "|---" * 9 + "|"]
    for row in found["steps"]:
        start = f"| {row['kind']} | {row['batch']} | {row['way']} |"
        if "seconds" not in row:
            lines.append(f"{start} {NOT_MEASURED} ({row['why']}) | | | | | |")
            continue
        ratios = ", ".join(f"{ratio:.2f}" for ratio in row["ratios"])
        peak = f"{row['peak_share']:.0%}" if "peak_share" in row else NOT_MEASURED
        rate = f"{row['tflops']:.1f}" if "tflops" in row else NOT_MEASURED
        lines.append(
            f"{start} {1000 * row['seconds']:.2f} | {row['slices_s']:,.0f} | {ratios} | {rate} | "
            f"{peak} | {row['gib']:.1f} |"
        )
    if found["protocol"]:
        lines += ["", "| protocol | way | batch | hours |", "|---|---|---|---|"]
    names = {"ml": "ML, 10,000 epochs", "stacked": "SL, 8 x 5,000 epochs, stacked"}
    lines += [
        f"| {names[row['kind']]} | {row['way']} | {row['batch']} | {row['hours']:,.2f} |"
        for row in found["protocol"]
    ]
    if "run" in found:
        run = found["run"]
        said = run.get("why") or f"{run['seconds']:.0f} s, status {run['status']}: {run['told']}"
        lines += [
            "",
            f"ML, {run['epochs']} epochs, a part of the protocol, simulated people: {said}",
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        main()
    except LandmarkingError as error:
        sys.exit(str(error))
