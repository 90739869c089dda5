"""The table of docs/scale.md: memory and time of each stage by the number of rows, from `benchmarks/scale.py`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

STAGES = ("finetune", "distill", "gen-soft-labels", "eval")
ROWS_SCORED = ("gen-soft-labels", "eval")  # stages that read every row with the model; the others stop after 20 steps


def table(results: Mapping[str, Any]) -> Iterator[str]:
    """Text classification: a line per stage and number of rows, beside what the tokenizer alone takes."""
    stages = results["text-classification"]
    yield (
        "| stage | rows | peak memory | of it private | CPU time before the first step | tokenizer alone "
        "| whole stage, CPU time |"
    )
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for stage in STAGES:
        for rows, numbers in by_rows(stages.get(stage, {})):
            alone = stages.get("tokenizer", {}).get(rows)
            before = "" if stage == "eval" else f"{numbers['cpu_s_before']:.0f} s"  # it has no steps
            whole = f"{numbers['cpu_s']:.0f} s" if stage in ROWS_SCORED else "20 steps"
            cells = [
                stage, f"{int(rows):,}", *_memory(numbers), before,
                f"{alone['cpu_s']:.1f} s" if alone else "", whole,
            ]  # fmt: skip
            yield "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|"


def resumed(results: Mapping[str, Any]) -> Iterator[str]:
    """Trainings that are resumed, beside new ones of the same rows."""
    stages = results["text-classification"]
    yield "| stage | rows | CPU time before the first step: new run | resumed run |"
    yield "|---|---:|---:|---:|"
    for stage in STAGES:
        for rows, numbers in by_rows(stages.get(f"{stage}-resumed", {})):
            new = stages[stage][rows]
            yield f"| {stage} | {int(rows):,} | {new['cpu_s_before']:.0f} s | {numbers['cpu_s_before']:.0f} s |"


def tags(results: Mapping[str, Any]) -> Iterator[str]:
    """Tagged sentences: only the memory."""
    yield "| stage | sentences | peak memory | of it private |"
    yield "|---|---:|---:|---:|"
    for stage, sizes in results["token-classification"].items():
        for rows, numbers in by_rows(sizes):
            yield f"| {stage} | {int(rows):,} | {' | '.join(_memory(numbers))} |"


def texts(results: Mapping[str, Any]) -> Iterator[str]:
    """Task-agnostic distillation of plain text."""
    yield "| paragraphs | text | peak memory | of it private | CPU time before the first step |"
    yield "|---:|---:|---:|---:|---:|"
    for rows, numbers in by_rows(results["language-modeling"]["distill"]):
        size, before = f"{numbers['table_mb'] / 1000:.2f} GB", f"{numbers['cpu_s_before']:,.0f} s"
        yield f"| {int(rows):,} | {size} | {' | '.join(_memory(numbers))} | {before} |"


def by_rows(sizes: Mapping[str, Mapping[str, float]]) -> list[tuple[str, Mapping[str, float]]]:
    """The number of rows with what was measured, the smallest first."""
    return sorted(sizes.items(), key=lambda item: int(item[0]))


def _memory(numbers: Mapping[str, float]) -> tuple[str, str]:
    return f"{numbers['peak_mb'] / 1000:.2f} GB", f"{numbers['private_mb'] / 1000:.2f} GB"
