"""A plan for a run on 100 million rows: what each part needs, from what was measured on fewer rows.

    python experiments/large_run.py

CPU time grows with the rows, so it is multiplied. The GPU column is a calculation from the operations of the models and
was not measured. Draws the tables `scale-plan` of docs/scale.md.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from typing import Any

import performance
import result_files
from scale_table import by_rows

ROWS = 100_000_000
CORE_PRICE, GPU_PRICE = 0.05, 3.00  # dollars per hour: assumed, not looked up
GPU_PEAK = 989e12  # bf16 operations per second of an H100, without sparsity, as NVIDIA states them
GPU_SHARE = 0.40  # of it
MODELS = {  # part → benchmark and program of `make bench`
    "label with BERT-base in bf16": ("labelling", "gen-soft-labels"),
    "label with its int8 export instead": ("labelling", "gen-soft-labels, int8 export"),
    "an epoch of TinyBERT4 on the stored logits": ("distilling", "distill, stored logits"),
}


def table(results: Mapping[str, Any]) -> Iterator[str]:
    """Core hours and dollars of each part, and what a GPU would take."""
    yield performance.row("part", "CPU ms per row", "core hours", "price", "on one GPU, calculated")
    yield "|---|---:|---:|---:|---|"
    yield _line("read and tokenize, once per stage", reading_seconds(results), "on the CPU beside it")
    speeds = result_files.read(performance.FILE)
    for part, (benchmark, program) in MODELS.items():
        cases = _cases(speeds[benchmark], program)
        seconds = statistics.median(case["cpu_seconds"] / case["rows"] for case in cases)
        hours = ROWS * cases[0]["flops"] / (GPU_PEAK * GPU_SHARE) / 3600
        on_gpu = "" if "int8" in program else f"{hours:.2g} h, {hours * GPU_PRICE:.2g} $"
        yield _line(part, seconds, on_gpu)


def space(results: Mapping[str, Any]) -> Iterator[str]:
    """Bytes on the disk."""
    largest = by_rows(results["text-classification"]["gen-soft-labels"])[-1]
    count, numbers = int(largest[0]), largest[1]
    yield performance.row("what", f"{count:,} rows, measured", f"{ROWS:,} rows")
    yield "|---|---:|---:|"
    for name, megabytes in (("the rows as CSV", numbers["table_mb"]), ("the label dataset", numbers["output_mb"])):
        yield performance.row(name, f"{megabytes / 1e3:.2f} GB", f"{megabytes / 1e3 * ROWS / count:.0f} GB")


def reading_seconds(results: Mapping[str, Any]) -> float:
    """CPU seconds of one more row before the first batch of gen-soft-labels, from the two largest tables."""
    (few, first), (many, second) = by_rows(results["text-classification"]["gen-soft-labels"])[-2:]
    seconds: float = (second["cpu_s_before"] - first["cpu_s_before"]) / (int(many) - int(few))
    return seconds


def _cases(result: Mapping[str, Any], program: str) -> list[Mapping[str, Any]]:
    """What a program took in each round of a benchmark."""
    (side,) = (side for side in result["sides"] if side["name"] == program)
    return [run["cases"][""] for run in side["rounds"]]


def _line(part: str, seconds: float, on_gpu: str) -> str:
    hours = seconds * ROWS / 3600
    return performance.row(part, f"{seconds * 1e3:.2g}", f"{hours:,.3g}", f"{hours * CORE_PRICE:,.2g} $", on_gpu)


if __name__ == "__main__":
    content = result_files.read("scale.json")
    print("\n".join([*table(content), "", *space(content)]))
