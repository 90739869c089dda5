"""The tables of `cascade.py`: all arms, an overview, and what a run would cost."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import baseline_cells
from cascade_runs import ARMS, Runs
from cascade_scores import REFERENCES
from cascade_sets import count_rows

BATCH = 32  # rows per update
METRICS = {"f1": "F1", "pearson": "Pearson"}
COLUMNS = {
    "student": "student",
    "student-hard": "student2, learns its predictions",
    "layers-first": "student2, its layers first",
    "direct": "student2-direct",
    "gold": "student2-plain",
}  # of the overview: model → title


def overview(results: Mapping[str, Any]) -> Iterator[str]:
    """A line per dataset: the mean score of each model, and its share of the teacher's."""
    yield f"| dataset, reported rows, seeds | teacher | {' | '.join(COLUMNS.values())} | best baseline |"
    yield f"|---|{'---:|' * (len(COLUMNS) + 2)}"
    for name, dataset in results.items():
        models, baselines = dataset["models"], dataset["baselines"]
        teacher, best = mean_score(models["teacher"]), max(baselines, key=lambda one: float(baselines[one]["score"]))
        seeds = len(models["teacher"]["seeds"])
        cells = [f"{name}, {dataset['rows']['test']:,}, {seeds}"]
        cells += [f"{METRICS.get(dataset['metric'], dataset['metric'])} {teacher:.4f}"]
        cells += [_model_cell(models, model, seeds) if model in models else "" for model in COLUMNS]
        score = baselines[best]["score"]
        yield f"| {' | '.join(cells)} | {_cell(score, score / teacher)}, {baseline_cells.TITLES[best]} |"


def mean_score(measured: Mapping[str, Any]) -> float:
    """Of a model, over its seeds."""
    return statistics.mean(one["score"] for one in measured["seeds"].values())


def share(models: Mapping[str, Any], model: str) -> float:
    """Of the teacher's score, in the mean of the seeds that the model has."""
    seeds = models[model]["seeds"]
    return mean_score(models[model]) / statistics.mean(models["teacher"]["seeds"][seed]["score"] for seed in seeds)


def _model_cell(models: Mapping[str, Any], model: str, seeds: int) -> str:
    own = len(models[model]["seeds"])
    fewer = f", seeds: {own}" if own < seeds else ""
    return _cell(mean_score(models[model]), share(models, model)) + fewer


def _cell(score: float, kept: float) -> str:
    return f"{score:.4f} ({100 * kept:.1f} %)"


def table(results: Mapping[str, Any]) -> Iterator[str]:
    """A line per dataset and finished model, in the order of ARMS; baselines first."""
    if not results:
        yield "No model of this experiment is finished yet."
        return
    yield (
        "| dataset | student2 learns | its layers are from | score on the reported rows | on selection rows | "
        "minus direct (95 %) | minus gold (95 %) | seeds | CPU minutes |"
    )
    yield "|---|---|---|---:|---:|---:|---:|---:|---:|"
    for name, dataset in results.items():
        rows = dataset["rows"]
        title = f"{name}, {rows['test']:,} rows, {METRICS.get(dataset['metric'], dataset['metric'])}"
        for baseline, score in dataset["baselines"].items():
            yield _row([title, f"*baseline: {baseline_cells.TITLES[baseline]}*", "", _score([score])])
            title = ""
        for model, measured in dataset["models"].items():
            arm = ARMS.get(model)
            seeds = list(measured["seeds"].values())
            learns, start = (arm.learns, arm.start) if arm else (f"*{model}*", "")
            if model in REFERENCES:
                learns += f": *{model}*"
            selection = statistics.mean(one["selection"][f"{one['rate']:g}"] for one in seeds)
            minutes = statistics.mean(one["minutes"] for one in seeds)
            differences = [_difference(measured.get(f"minus {reference}")) for reference in REFERENCES]
            cells = [title, learns, start, _score(seeds), f"{selection:.3f}", *differences, f"{len(seeds)}"]
            yield _row([*cells, f"{minutes:.1f}"])
            title = ""


def _row(cells: Sequence[str]) -> str:
    padded = [*cells, *[""] * (9 - len(cells))]
    return "|" + "|".join(f" {cell} " if cell else " " for cell in padded) + "|"


def _score(seeds: Sequence[Mapping[str, Any]]) -> str:
    """The score with its interval over rows; of several seeds the mean, and the lowest and highest."""
    scores = [one["score"] for one in seeds]
    if len(scores) > 1:
        return f"{statistics.mean(scores):.4f} (seeds {min(scores):.4f}-{max(scores):.4f})"
    interval = f" ({seeds[0]['low']:.3f}-{seeds[0]['high']:.3f})" if "low" in seeds[0] else ""
    return f"{scores[0]:.4f}{interval}"


def _difference(measured: Mapping[str, Any] | None) -> str:
    if measured is None:
        return ""
    interval = f" ({measured['low']:+.3f} to {measured['high']:+.3f})" if "low" in measured else ""
    seeds = list(measured["seeds"].values())
    spread = f"; seeds {min(seeds):+.3f} to {max(seeds):+.3f}" if len(seeds) > 1 else ""
    return f"{measured['difference']:+.4f}{interval}{spread}"


def cost_table(runs: Runs, arms: Sequence[str]) -> Iterator[str]:
    """Runs a few steps of all models, and yields the CPU minutes of one seed: start, labelling, steps."""
    for model in ("teacher", "student", *arms):
        runs.train(model)
    rows = count_rows(Path(runs.data["train_file"]))
    yield f"{runs.name}: {rows:,} training rows, {runs.experiment.epochs:g} epochs, one thread, CPU minutes of one seed"
    total = 0.0
    for folder in sorted(path.parent for path in runs.root.glob("*/manifest.json")):
        measured = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        if "train_cpu_seconds" not in measured:
            seconds, detail = runs.seconds.get(folder.name, math.nan), "whole"
        else:
            share = 0.5 if folder.name.startswith("layers") else 1.0
            steps = math.ceil(rows / BATCH) * runs.experiment.epochs * share
            per_step = measured["train_cpu_seconds"] / measured["steps"]
            around = runs.seconds.get(folder.name, math.nan) - measured["train_cpu_seconds"]
            seconds = per_step * steps + around
            detail = f"{steps:,.0f} steps of {per_step:.3f} s, {around:.0f} s for start, reading and selection rows"
        total += seconds
        yield f"  {folder.name:28} {seconds / 60:7.1f}  {detail}"
    yield f"  {'all':28} {total / 60:7.1f}"
