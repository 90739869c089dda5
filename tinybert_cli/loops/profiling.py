"""Inference cost: latency, multiply-accumulate operations (MACs), cold-start time and peak memory."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence

import torch

from tinybert_cli.loops.inference import device_of, forward
from tinybert_cli.types import Batch

TURNS = 8
WARM_UP = 3, 0.02  # passes and seconds at the beginning of a turn that are not measured


def latencies(models: Mapping[str, torch.nn.Module], batches: Mapping[str, Sequence[Batch]]) -> dict[str, list[float]]:
    """Milliseconds of every forward pass of each model over its batches.

    The models take turns, so that their ratios are right even if the speed of the machine drifts. A turn is a warm-up
    and several batches: the threads of the model before it keep spinning for a while and occupy the cores.
    """
    times: dict[str, list[float]] = {name: [] for name in models}
    devices = {name: device_of(model) for name, model in models.items()}
    count = min(map(len, batches.values()))  # models may split long rows into different numbers of windows
    with torch.no_grad():
        for turn in range(min(TURNS, count)):
            for name, model in models.items():
                selected = [batches[name][index] for index in range(turn, count, min(TURNS, count))]
                inputs = [{key: value.to(devices[name]) for key, value in batch.items()} for batch in selected]
                _warm_up(model.eval(), inputs)
                for batch in inputs:
                    begin = time.perf_counter()
                    forward(model, batch)["logits"].cpu()
                    times[name].append(1000 * (time.perf_counter() - begin))
    return times


def multiply_adds(model: torch.nn.Module, batches: Sequence[Batch]) -> float:
    """MACs per row: those of matrix products; embeddings and element-wise operations are not counted.

    They depend on the shape of a batch only, so that one batch of each shape is run.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    device = device_of(model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:  # the counter asks for the gradient of slices of a weight, which have none here
        parameter.requires_grad_(False)
    # The math kernel, because the counter does not support all of the fused ones.
    by_shape = {batch["input_ids"].shape: batch for batch in batches}
    counts = Counter(batch["input_ids"].shape for batch in batches)
    total = 0
    for shape, batch in by_shape.items():
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            forward(model.eval(), {key: value.to(device) for key, value in batch.items()})
        total += counter.get_total_flops() * counts[shape]
    for parameter in trained:
        parameter.requires_grad_()
    return total / 2 / sum(shape[0] * count for shape, count in counts.items())


def cold_start(model: str, text: str) -> tuple[float, int]:
    """Milliseconds from the start of a new process to its first prediction, and the peak memory of it in bytes.

    Raises:
        RuntimeError: `tinybert predict` fails.
    """
    command = [sys.executable, "-m", "tinybert_cli", "predict", model]
    starter = [sys.executable, "-c", _STARTER_ON_WINDOWS if sys.platform == "win32" else _STARTER]
    completed = subprocess.run([*starter, *command], input=text, check=True, capture_output=True, encoding="utf-8")
    code, seconds, peak = json.loads(completed.stdout)
    if code:
        raise RuntimeError(f"tinybert predict {model} ended with exit code {code}")
    return 1000 * seconds, peak


def _warm_up(model: torch.nn.Module, batches: Sequence[Batch]) -> None:
    passes, seconds = WARM_UP
    begin, done = time.perf_counter(), 0
    while done < passes or time.perf_counter() - begin < seconds:
        forward(model, batches[done % len(batches)])["logits"].cpu()
        done += 1


# A small process in between: the recorded peak of a child process includes what its parent used when it was forked.
_STARTER = """
import json, resource, subprocess, sys, time
begin = time.perf_counter()
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
seconds = time.perf_counter() - begin
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps([code, seconds, peak]))
"""
_STARTER_ON_WINDOWS = """
import contextlib, json, subprocess, sys, time
import psutil
begin = time.perf_counter()
process = psutil.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
code, peak = None, 0
while code is None:
    with contextlib.suppress(psutil.Error):
        memory = process.memory_info()
        peak = max(peak, getattr(memory, "peak_wset", memory.rss))
    with contextlib.suppress(psutil.TimeoutExpired):
        code = process.wait(0.005)
print(json.dumps([code, time.perf_counter() - begin, peak]))
"""
