"""What one answer of a model costs: time, multiplications, and, from a cold start, memory."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

import torch

from tinybert_cli.loops.inference import device_of, forward
from tinybert_cli.types import Batch

TURNS = 8
WARM_UP = 3, 0.02  # passes and seconds at the begin of a turn that are not counted


def latencies(nets: Mapping[str, torch.nn.Module], batches: Mapping[str, Sequence[Batch]]) -> dict[str, list[float]]:
    """Milliseconds of every forward pass of each model over its batches.

    The models take turns, so that the ratios hold on a machine whose speed drifts. A turn is several batches after a
    warm-up: each model as it runs alone, for the threads of the one before spin for a while and hold its cores.
    """
    taken: dict[str, list[float]] = {name: [] for name in nets}
    places = {name: device_of(net) for name, net in nets.items()}
    count = min(map(len, batches.values()))  # models may cut long rows into different numbers of windows
    with torch.no_grad():
        for turn in range(min(TURNS, count)):
            for name, net in nets.items():
                mine = [batches[name][index] for index in range(turn, count, min(TURNS, count))]
                shown = [{key: value.to(places[name]) for key, value in batch.items()} for batch in mine]
                _warm_up(net.eval(), shown)
                for batch in shown:
                    begin = time.perf_counter()
                    forward(net, batch)["logits"].cpu()
                    taken[name].append(1000 * (time.perf_counter() - begin))
    return taken


def _warm_up(net: torch.nn.Module, batches: Sequence[Batch]) -> None:
    passes, seconds = WARM_UP
    begin, done = time.perf_counter(), 0
    while done < passes or time.perf_counter() - begin < seconds:
        forward(net, batches[done % len(batches)])["logits"].cpu()
        done += 1


def multiply_adds(net: torch.nn.Module, batches: Sequence[Batch]) -> float:
    """Multiply-accumulate operations per row, in matrix products, embeddings and the like not counted."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    place = device_of(net)
    # The plain kernel, because the counter does not know all of the fused ones.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        for batch in batches:
            forward(net.eval(), {key: value.to(place) for key, value in batch.items()})
    return float(counter.get_total_flops()) / 2 / sum(len(batch["input_ids"]) for batch in batches)


def cold_start(model: str, text: str) -> tuple[float, int]:
    """Milliseconds from the start of a new process to its answer, and the most bytes of memory that it held."""
    command = [sys.executable, "-m", "tinybert_cli", "predict", model, text]
    said = subprocess.run([sys.executable, "-c", _STARTER, *command], check=True, capture_output=True, text=True)
    code, seconds, held = json.loads(said.stdout)
    if code:
        raise RuntimeError(f"tinybert predict {model} ended with exit code {code}")
    return 1000 * seconds, held * (1 if sys.platform == "darwin" else 1024)


# A process of its own and a small one, because a child's memory on record begins with that of its parent.
_STARTER = """
import json, resource, subprocess, sys, time
begin = time.perf_counter()
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
seconds = time.perf_counter() - begin
print(json.dumps([code, seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss]))
"""
