"""Students whose layers are chosen by `uniform` and by `spread`, on subsets of three datasets, with two depths.

    python experiments/layer_mappings.py path/to/datasets [--runs FOLDER] [--seeds SEED,...] [DATASET]...

The teachers and their label datasets are those of `experiments/defaults.py --kinds default`, in the same folder; every
student is trained with the defaults. Its checkpoint is chosen on rows of the training file, and the test rows come from
another file. Finished stages are skipped. Scores go to experiments/results/layer_mappings.json and into the table.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import baseline_cells
import result_files
from defaults import SUBSETS, Subset, numbers, run, train, write_subset

DATASETS = ("mrpc", "conll2003", "cola")
DEPTHS = (3, 2)
MAPPINGS = ("uniform", "spread")
RESULTS = "layer_mappings.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("datasets", type=Path)
    parser.add_argument("names", nargs="*", default=list(DATASETS), metavar="DATASET")
    parser.add_argument("--runs", type=Path, default=Path("runs/defaults"))
    parser.add_argument("--seeds", default="42,43")
    arguments = parser.parse_intermixed_args()
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    for name in arguments.names:
        subset, runs = SUBSETS[name], arguments.runs / name
        data = write_subset(subset, arguments.datasets / name, runs / "data")
        for model in ("teacher", "student"):  # the student is not compared; before it, the teacher labels its rows
            train(subset, data, runs, "default", model)
        compared = {str(depth): compare(subset, data, runs, depth, seeds) for depth in DEPTHS}
        result_files.record(RESULTS, name, compared)
    print("\n".join(table(result_files.read(RESULTS))))


def compare(subset: Subset, data: dict[str, Any], runs: Path, depth: int, seeds: list[int]) -> dict[str, Any]:
    """Scores of each mapping and seed on the selection rows and on the test rows."""
    common = {"task": subset.task, "data": data}
    folders = {
        f"{mapping}-{seed}": runs / "mappings" / f"{mapping}-{depth}-{seed}" for mapping in MAPPINGS for seed in seeds
    }
    for name, folder in folders.items():
        mapping, _, seed = name.partition("-")
        student = {"from": str(runs / "default" / "teacher"), "num_hidden_layers": depth}
        settings = {"student": student, "layer_mapping": mapping, "seed": int(seed)}
        labels = {"label_dataset": str(runs / "default" / "teacher-labels")}
        run("distill", common | labels | settings | {"output_dir": str(folder)}, runs)
    evaluation = runs / "mappings" / f"eval-{depth}"
    models = {name: str(folder) for name, folder in folders.items()}
    run(
        "eval",
        common | {"models": models, "split": "test", "latency": None, "baselines": [], "output_dir": str(evaluation)},
        runs,
    )
    scores = numbers(evaluation)
    return {
        "metric": subset.metric,
        "test_rows": sum(1 for _ in (runs / "data" / "test.jsonl").open(encoding="utf-8")),
        "test": {name: scores[f"{name}.{subset.metric}"] for name in folders},
        "selection": {name: numbers(folder)[f"eval_{subset.metric}"] for name, folder in folders.items()},
    }


def table(results: dict[str, Any]) -> Iterator[str]:
    yield "| dataset | layers | metric | `uniform` | `spread` | difference | best baseline |"
    yield "|---|---:|---|---:|---:|---:|---:|"
    for name, depths in results.items():
        for depth, result in depths.items():
            means = {mapping: _of(result["test"], mapping) for mapping in MAPPINGS}
            uniform, spread = (sum(means[mapping]) / len(means[mapping]) for mapping in MAPPINGS)
            baseline = baseline_cells.best(f"defaults/{name}")  # the same rows
            cells = [_cell(mean, means[mapping]) for mapping, mean in zip(MAPPINGS, (uniform, spread), strict=True)]
            score = f"{' | '.join(cells)} | {spread - uniform:+.3f} | {baseline}"
            yield f"| {name} | {depth} | {result['metric']} | {score} |"


def _cell(mean: float, scores: list[float]) -> str:
    """The mean, and the score of each seed if there are several."""
    return f"{mean:.3f}" + (f" ({', '.join(f'{score:.3f}' for score in scores)})" if len(scores) > 1 else "")


def _of(scores: dict[str, float], mapping: str) -> list[float]:
    return [score for name, score in scores.items() if name.startswith(f"{mapping}-")]


if __name__ == "__main__":
    main()
