"""The tables of what `experiments/sst2.py` measured: README.md, docs/results.md and docs/experiments.md."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import baseline_cells
import sst2

FILE = "sst2.json"
SHORT = {
    "teacher": "teacher: MiniLM, 6 layers",
    "student": "student: 3 layers",
    "export": "student2: 2 layers, int8 ONNX",
    "export-small": "student2-small: 2 narrower layers, 4-bit ONNX",
    "student2-direct": "student2-direct: the same 2 layers straight from the teacher",
    "student2-plain": "student2-plain: the same 2 layers without distillation",
}
ALL = {
    "teacher": ("teacher, 6 layers", "1-teacher.yaml"),
    "student": ("student, layers 1, 3, 6", "3-student.yaml"),
    "student2": ("student2, the last 2 layers of the student", "5-student2.yaml"),
    "export": ("student2 as int8 ONNX, 6-bit embeddings", "8-export.yaml"),
    "student2-small": ("student2-small, 320 units instead of 384", "6-student2-small.yaml"),
    "export-small": ("student2-small as ONNX in 4 bits", "8-export-small.yaml"),
    "student2-direct": ("student2-direct, same architecture, the teacher's soft labels", "6-student2-direct.yaml"),
    "student2-plain": ("student2-plain, same architecture, gold labels, no distillation", "6-student2-plain.yaml"),
}
MODEL_OF = {"students": "student", "students2": "student2", "small": "student2, 2 layers"}


def short(results: Mapping[str, Any]) -> Iterator[str]:
    """The table of README.md."""
    title = f"accuracy, mean of {len(results['report'])} seeds (lowest-highest)"
    yield _row("model", title, "of the teacher", "size", "latency, batch 1")
    yield "|---|---:|---:|---:|---:|"
    teacher = mean_accuracy(results, "teacher")
    for name, title in SHORT.items():
        share = "" if name == "teacher" else f"{mean_retention(results, name):.1%}"
        yield _row(
            title,
            _spread(results, name),
            share,
            f"{megabytes(results, name):.1f} MB",
            f"{latency(results, name):.2f} ms",
        )
    for title, numbers in baseline_cells.measured("sst2"):
        share, size = f"{numbers['score'] / teacher:.1%}", baseline_cells.size(numbers)
        yield _row(title, f"{numbers['score']:.4f}", share, size, "")


def report(results: Mapping[str, Any]) -> Iterator[str]:
    """All models, each seed, with paired differences."""
    yield _row(
        "model", "config", "accuracy, each seed", "mean", "of the teacher: mean, worst", "minus teacher", "minus plain",
        "size", "ms, batch 1", "ms, batch 32", "CPU minutes",
    )  # fmt: skip
    yield "|---|---|---|---:|---:|---|---|---:|---:|---:|---:|"
    for name, (title, config) in ALL.items():
        minutes = [seed["models"][name].get("minutes") for seed in results["report"].values()]
        yield _row(
            title, f"`{config}`", ", ".join(f"{accuracy:.4f}" for accuracy in _accuracies(results, name)),
            f"{mean_accuracy(results, name):.4f}",
            "" if name == "teacher" else f"{mean_retention(results, name):.1%}, {min(_retentions(results, name)):.1%}",
            _differences(results, name, "teacher"), _differences(results, name, "student2-plain"),
            f"{megabytes(results, name):.1f} MB", f"{latency(results, name):.2f}{_times(results, name, 'b1')}",
            f"{latency(results, name, 'b32'):.1f}{_times(results, name, 'b32')}",
            "" if None in minutes else f"{statistics.mean(minutes):.0f}",
        )  # fmt: skip
    for title, numbers in baseline_cells.measured("sst2"):
        share = f"{numbers['score'] / mean_accuracy(results, 'teacher'):.1%}"
        yield _row(title, "", "", f"{numbers['score']:.4f}", share, "", "", baseline_cells.size(numbers), "", "", "")


def candidates(part: str) -> Callable[[Mapping[str, Any]], Iterator[str]]:
    """Draws the candidates of a part with their accuracies on the sentences set aside."""

    def draw(results: Mapping[str, Any]) -> Iterator[str]:
        seeds = sorted(results[part])
        yield _row(MODEL_OF[part], *(f"seed {seed}" for seed in seeds), "mean", "minus teacher", "CPU minutes")
        yield f"|---|{'---:|' * len(seeds)}---:|---:|---:|"
        for name in sst2.CANDIDATES[part]:
            measured = [results[part][seed].get(name) for seed in seeds]
            if not (known := [one for one in measured if one]):
                continue
            yield _row(
                name, *(f"{one['accuracy']:.4f}" if one else "" for one in measured),
                f"{statistics.mean(one['accuracy'] for one in known):.4f}",
                f"{statistics.mean(one['accuracy'] - one['teacher'] for one in known):+.4f}",
                f"{statistics.mean(one['minutes'] for one in known):.0f}",
            )  # fmt: skip

    return draw


def bits(results: Mapping[str, Any]) -> Iterator[str]:
    """Exports of student2 with fewer bits: means of the seeds, and the lowest."""
    seeds = list(results["bits"].values())
    yield _row(
        "`matrix_bits`", "`embedding_bits`", "size", "equal predictions, mean; lowest",
        "accuracy minus float32, each seed",
    )  # fmt: skip
    yield "|---:|---:|---:|---:|---|"
    for matrices, tables in sst2.BITS:
        own = [seed[f"{matrices} {tables}"] for seed in seeds]
        equal = [one["agreement"] for one in own]
        yield _row(
            str(matrices), str(tables), f"{statistics.mean(one['bytes'] for one in own) / 1e6:.1f} MB",
            f"{statistics.mean(equal):.1%}; {min(equal):.1%}",
            ", ".join(f"{one['metric_difference']:+.4f}" for one in own),
        )  # fmt: skip


def small(results: Mapping[str, Any]) -> Iterator[str]:
    """The small student2 beside the export of student2, each seed."""
    titles = {
        "teacher": "teacher: MiniLM, 6 layers", "export": "student2: 384 units, `embedding_bits: 6`",
        "student2-small": "320 units, float32", "export-small": "320 units, `matrix_bits: 4`, `embedding_bits: 4`",
    }  # fmt: skip
    seeds = list(results["report"].values())
    yield _row("model", "accuracy, each seed", "minus the export of student2", "equal to its float32", "size",
               "ms, batch 1", "CPU minutes")  # fmt: skip
    yield "|---|---|---|---:|---:|---:|---:|"
    for name, title in titles.items():
        minutes = [seed["models"][name].get("minutes") for seed in seeds]
        agreements = [seed["agreement"][name] for seed in seeds if name in seed["agreement"]]
        yield _row(
            title, ", ".join(f"{accuracy:.4f}" for accuracy in _accuracies(results, name)),
            _differences(results, name, "export"), f"{statistics.mean(agreements):.1%}" if agreements else "",
            f"{megabytes(results, name):.1f} MB", f"{latency(results, name):.2f}",
            "" if None in minutes else f"{statistics.mean(minutes):.0f}",
        )  # fmt: skip


def mean_accuracy(results: Mapping[str, Any], name: str) -> float:
    return statistics.mean(_accuracies(results, name))


def mean_retention(results: Mapping[str, Any], name: str) -> float:
    """The mean share of the teacher's accuracy, each seed with its own teacher."""
    return statistics.mean(_retentions(results, name))


def mean_interval(results: Mapping[str, Any], name: str) -> tuple[float, float]:
    """The ends of the 95 % intervals, means of the seeds."""
    own = [seed["models"][name] for seed in results["report"].values()]
    return statistics.mean(one["low"] for one in own), statistics.mean(one["high"] for one in own)


def _accuracies(results: Mapping[str, Any], name: str) -> list[float]:
    return [seed["models"][name]["accuracy"] for seed in results["report"].values()]


def _retentions(results: Mapping[str, Any], name: str) -> list[float]:
    pairs = zip(_accuracies(results, name), _accuracies(results, "teacher"), strict=True)
    return [own / teacher for own, teacher in pairs]


def _spread(results: Mapping[str, Any], name: str) -> str:
    accuracies = _accuracies(results, name)
    return f"{statistics.mean(accuracies):.4f} ({min(accuracies):.4f}-{max(accuracies):.4f})"


def _differences(results: Mapping[str, Any], name: str, reference: str) -> str:
    """The difference of each seed with its 95 % interval."""
    all_seeds = [seed["differences"].get(f"{name} minus {reference}") for seed in results["report"].values()]
    return ", ".join(f"{one['']:+.4f} ({one['low']:+.3f} to {one['high']:+.3f})" for one in all_seeds if one)


def megabytes(results: Mapping[str, Any], name: str) -> float:
    sizes: list[int] = [seed["models"][name]["bytes"] for seed in results["report"].values()]
    return statistics.mean(sizes) / 1e6


def latency(results: Mapping[str, Any], name: str, size: str = "b1") -> float:
    """Milliseconds for one batch of a text, or of 32 (`b32`)."""
    measured = next(iter(results["latencies"].values()))
    milliseconds: float = measured[name][size]
    return milliseconds


def _times(results: Mapping[str, Any], name: str, size: str) -> str:
    """How many times as fast as the teacher."""
    if name == "teacher":
        return ""
    return f" ({latency(results, 'teacher', size) / latency(results, name, size):.1f}x)"


def _row(*cells: str) -> str:
    return "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|"
