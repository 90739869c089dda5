"""Chooses the settings of the recipe sst2-minilm on held-out training sentences, and reports the recipe.

    python experiments/sst2.py path/to/sst2 [--runs FOLDER] [--seeds SEED,...] [--candidate NAME] [PART]...

`path/to/sst2` contains train.jsonl.gz and validation.jsonl.gz with the columns sentence and label. The parts, in order:

- `students`, `students2`: trains each candidate on a part of the training rows and scores its last checkpoint on the
  sentences set aside. Students2 start from the student that is best in the mean of the recorded seeds.
- `small`: the same for narrower students2, which learn from the soft labels of that student.
- `report`: the recipe configs/sst2-minilm, on all training rows, and the scores of the last checkpoints on the
  validation rows, which choose no checkpoint.
- `bits`: exports of the recipe's student2 with fewer bits, compared with float32 on the validation rows.
- `latencies`: of the models of the first seed, side by side; nothing else should run.

A training row is a sentence or a phrase of one. Phrases of a sentence set aside would tell its label, so they are left
out of training. Finished stages are skipped. What was measured goes to experiments/results/sst2.json, and from there
into the tables of README.md and docs/ (`experiments/tables.py`).
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import recipe_stages
import result_files

RECIPE = Path(__file__).parents[1] / "configs" / "sst2-minilm"
RESULTS = "sst2.json"
PARTS = ("students", "students2", "small", "report", "bits", "latencies")
HELD_OUT = 1500  # sentences; about as long as those of the validation file
SPLIT_SEED = 42
FREE_WORDS = 2  # a phrase of up to this many words occurs in many sentences, and stays in training
LAST = ("training.eval_strategy=no", "training.keep=last", "training.save_steps=1000")
LAYER_LOSSES = "losses={hidden_states: 1.0, attentions: 1.0, embeddings: 1.0}"
EXPORTS = ("export", "export-small")
MODELS = ("teacher", "student", "student2", "student2-small", "student2-direct", "student2-plain", *EXPORTS)
REFERENCES = ("teacher", "student2-plain", "export")  # the models that the others are compared with
BITS = ((8, 8), (8, 6), (8, 4), (4, 8), (4, 6), (4, 4))  # of matrices and of embedding tables


@dataclass(frozen=True)
class Candidate:
    """Settings of a model over those of the recipe."""

    copies: int  # augmented examples of each row
    epochs: float
    rate: float
    more: tuple[str, ...] = ()
    command: str = "finetune"  # of a student2: on predictions; `distill`: on soft labels
    above: str = "student"  # of a student2: the model that it is cut out of, and that labels its text
    layer_epochs: float = 0  # of a student: on the teacher's layers, before the labels

    @property
    def settings(self) -> list[str]:
        return [f"training.num_train_epochs={self.epochs:g}", f"training.learning_rate={self.rate:g}", *self.more]


TRIMMED, WHOLE = "student.trim_vocabulary=true", "student.trim_vocabulary=false"
STUDENTS = {
    "3 epochs": Candidate(0, 3, 5e-5, (WHOLE,)),
    "3 epochs, trimmed vocabulary": Candidate(0, 3, 5e-5, (TRIMMED,)),
    "3 epochs, rate 1e-4": Candidate(0, 3, 1e-4, (WHOLE,)),
    "augmented, trimmed vocabulary": Candidate(2, 1, 1e-4, (TRIMMED,)),
    "augmented, 3 epochs": Candidate(2, 3, 1e-4, (WHOLE,)),
    "2 epochs, rate 1.6e-4": Candidate(0, 2, 1.6e-4),
    "3 epochs on layers, then 3 epochs, rate 1e-4": Candidate(0, 3, 1e-4, layer_epochs=3),
}
TRIMMED2 = "model.trim_vocabulary=true"
LAST_LAYERS = ("student.num_hidden_layers=2", "layer_mapping=last", TRIMMED)
STUDENTS2 = {
    "3 epochs, rate 1e-4, trimmed vocabulary": Candidate(0, 3, 1e-4, (TRIMMED2,)),
    "3 epochs, trimmed vocabulary": Candidate(0, 3, 5e-5, (TRIMMED2,)),
    "3 epochs, rate 1e-4": Candidate(0, 3, 1e-4),
    "augmented, trimmed vocabulary": Candidate(2, 1, 1e-4, (TRIMMED2,)),
    "soft labels, 3 epochs, rate 1e-4, trimmed vocabulary": Candidate(0, 3, 1e-4, LAST_LAYERS, command="distill"),
    "augmented, 3 epochs, trimmed vocabulary": Candidate(2, 3, 1e-4, (TRIMMED2,)),
    "augmented, soft labels, 3 epochs, trimmed vocabulary": Candidate(2, 3, 1e-4, LAST_LAYERS, command="distill"),
    "augmented, the teacher's soft labels and layers, 3 epochs, trimmed vocabulary": Candidate(
        2, 3, 1e-4, ("student.num_hidden_layers=2", "layer_mapping=spread", TRIMMED), command="distill", above="teacher"
    ),
}


def _width(units: int) -> tuple[str, ...]:
    return (f"student.hidden_size={units}", *LAST_LAYERS)


SMALL = {
    "320 units": Candidate(0, 3, 2e-4, _width(320)),
}
CANDIDATES = {"students": STUDENTS, "students2": STUDENTS2, "small": SMALL}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("parts", nargs="*", default=list(PARTS), metavar="PART")
    parser.add_argument("--runs", type=Path, default=Path("runs/sst2-settings"))
    parser.add_argument("--seeds", default="42,43,44")
    parser.add_argument("--candidate", action="append", metavar="NAME", help="repeatable; default: all of a part")
    arguments = parser.parse_intermixed_args()
    if unknown := [part for part in arguments.parts if part not in PARTS]:
        parser.error(f"unknown part {', '.join(unknown)}; known: {', '.join(PARTS)}")
    rows = write_split(arguments.data, arguments.runs / "held-out")
    result_files.record(RESULTS, "rows", rows)
    known = {name for part in arguments.parts for name in CANDIDATES.get(part, ())}
    if unknown := [name for name in arguments.candidate or () if name not in known]:
        parser.error(f"unknown candidate {'; '.join(unknown)}; known: {'; '.join(sorted(known))}")
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    for part in arguments.parts:
        for seed in seeds[:1] if part == "latencies" else seeds:
            if part in REPORTED:
                runs = Runs(arguments.data, arguments.runs / "report" / f"seed-{seed}", seed)
                _record(part, seed, REPORTED[part](runs))
                continue
            runs = Runs(arguments.runs / "held-out", arguments.runs / "held-out" / f"seed-{seed}", seed)
            for name in arguments.candidate or CANDIDATES[part]:
                _record(part, seed, {name: runs.measured(runs.candidate(part, name))})


def _record(part: str, seed: int, measured: Mapping[str, Any]) -> None:
    """Adds to what is known of a seed."""
    known = result_files.read(RESULTS).get(part, {})
    known[str(seed)] = {**known.get(str(seed), {}), **measured}
    result_files.record(RESULTS, part, known)


# -- the sentences set aside ---------------------------------------------------------------------------------


def write_split(data: Path, folder: Path) -> dict[str, int]:
    """Writes train.jsonl.gz and validation.jsonl.gz, all from the training rows; returns how many rows each has."""
    with gzip.open(data / "train.jsonl.gz", "rt", encoding="utf-8") as opened:
        lines = opened.readlines()
    train, held_out = split([json.loads(line)["sentence"] for line in lines], HELD_OUT)
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", train), ("validation", held_out)):
        content = gzip.compress("".join(lines[row] for row in rows).encode(), mtime=0)
        file = folder / f"{name}.jsonl.gz"
        if not file.exists() or file.read_bytes() != content:
            file.write_bytes(content)
    return {"training": len(train), "held out": len(held_out), "left out": len(lines) - len(train) - len(held_out)}


def split(texts: Sequence[str], count: int) -> tuple[list[int], list[int]]:
    """Rows for training, and `count` rows with whole sentences of which no longer phrase is in training."""
    sentences = whole_sentences(texts)
    chosen = sorted(random.Random(SPLIT_SEED).sample(sentences, count))
    index = PhraseIndex()
    for row in chosen:
        index.add(texts[row])
    train = [row for row, text in enumerate(texts)
             if len(text.split()) <= FREE_WORDS or not index.contains(text)]  # fmt: skip
    return sorted(set(train) - set(chosen)), chosen


def whole_sentences(texts: Sequence[str]) -> list[int]:
    """The first row of each text that is a part of no other one."""
    index, rows = PhraseIndex(), []
    for row in sorted(range(len(texts)), key=lambda row: -len(texts[row])):
        if not index.contains(texts[row]):
            index.add(texts[row])
            rows.append(row)
    return sorted(rows)


class PhraseIndex:
    """Which sentences contain a sequence of whole words."""

    def __init__(self) -> None:
        self.by_start: dict[tuple[str, ...], set[str]] = defaultdict(set)  # one or two words → sentences with them

    def add(self, sentence: str) -> None:
        words = sentence.split()
        for count in (1, 2):
            for begin in range(len(words) - count + 1):
                self.by_start[tuple(words[begin : begin + count])].add(f" {' '.join(words)} ")

    def contains(self, phrase: str) -> bool:
        words = phrase.split()
        return any(f" {' '.join(words)} " in sentence for sentence in self.by_start.get(tuple(words[:2]), ()))


# -- training ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Runs:
    """The stages of one seed."""

    data: Path
    root: Path
    seed: int

    def stage(self, command: str, config: str, name: str, *settings: str) -> Path:
        variables = {"RUNS": str(self.root), "SST2_DATA": str(self.data)}
        return recipe_stages.run(
            command, RECIPE / config, self.root / name, [f"seed={self.seed}", *settings], variables
        )

    def labels(self, config: str, teacher: Path, copies: int) -> Path:
        augment = f"augment={{copies: {copies}}}" if copies else "augment=null"
        return self.stage("gen-soft-labels", config, f"{teacher.name}-labels-{copies}", f"teacher={teacher}", augment)

    def candidate(self, part: str, name: str) -> Path:
        """A trained student or student2; the teacher, and of a student2 the student, come before."""
        folder = f"{part}-{name}".replace(", ", "-").replace(" ", "-")
        teacher = self.stage("finetune", "1-teacher.yaml", "teacher", *LAST)
        if part == "students":
            return self.student(folder, teacher, STUDENTS[name])
        candidate = CANDIDATES[part][name]
        if candidate.above == "teacher":
            above, labels = teacher, self.labels("2-teacher-labels.yaml", teacher, candidate.copies)
        else:
            above = self.candidate("students", best_of("students"))
            labels = self.labels("4-student-labels.yaml", above, candidate.copies)
        settings = [f"label_dataset={labels}", *LAST, *candidate.settings]
        if part == "students2" and candidate.command == "finetune":
            return self.stage(
                "finetune", "../sst2/5-student2.yaml", folder, f"model.from={above}", "model.num_hidden_layers=2",
                "layer_mapping=last", *settings,
            )  # fmt: skip
        return self.stage("distill", "3-student.yaml", folder, f"teacher={above}", f"student.from={above}",
                          *settings)  # fmt: skip

    def student(self, folder: str, teacher: Path, candidate: Candidate) -> Path:
        labels = self.labels("2-teacher-labels.yaml", teacher, candidate.copies)
        common = (f"teacher={teacher}", f"label_dataset={labels}", *LAST)
        start = f"student.from={teacher}"
        if candidate.layer_epochs:
            layers = self.stage(
                "distill", "3-student.yaml", layers_of(folder), start, *common, LAYER_LOSSES,
                f"training.num_train_epochs={candidate.layer_epochs:g}", f"training.learning_rate={candidate.rate:g}",
            )  # fmt: skip
            start = f"student={layers}"
        return self.stage("distill", "3-student.yaml", folder, start, *common, *candidate.settings)

    def measured(self, folder: Path) -> dict[str, float]:
        """Accuracy on the sentences set aside, of the model and of its teacher; the time of its trainings."""
        of_teacher = recipe_stages.read_metrics(self.root / "teacher")["eval_accuracy"]
        before = folder.with_name(layers_of(folder.name))
        trainings = [before, folder] if recipe_stages.is_finished(before) else [folder]
        return {"accuracy": recipe_stages.read_metrics(folder)["eval_accuracy"], "teacher": of_teacher,
                "minutes": sum(map(recipe_stages.cpu_minutes, trainings))}  # fmt: skip

    def report(self) -> dict[str, Any]:
        """The models of the recipe on the validation rows."""
        for config in sorted(RECIPE.glob("*.yaml")):
            name, command = config.stem.partition("-")[2], recipe_stages.command_of(config)
            if command != "eval":
                self.stage(command, config.name, f"sst2-minilm/{name}")
        beside = {reference: self.evaluate(f"eval-{reference}", f"reference={reference}", "latency=null")
                  for reference in REFERENCES}  # fmt: skip
        scores = beside["teacher"]
        return {
            "models": {
                name: {"accuracy": scores[f"{name}.accuracy"], "low": scores[f"{name}.accuracy_low"],
                       "high": scores[f"{name}.accuracy_high"], "bytes": scores[f"{name}.bytes"],
                       **({} if name in EXPORTS else {"minutes": recipe_stages.cpu_minutes(self.folder(name))})}
                for name in MODELS
            },
            "differences": {
                f"{name} minus {reference}": {
                    key: metrics[f"{name}.accuracy_difference{key and f'_{key}'}"] for key in ("", "low", "high")
                }
                for reference, metrics in beside.items() for name in MODELS if name != reference
            },
            "agreement": {name: recipe_stages.read_metrics(self.folder(name))["agreement"] for name in EXPORTS},
        }  # fmt: skip

    def bits(self) -> dict[str, dict[str, float]]:
        """Exports of student2, as whole models, whatever they change."""
        exports = {}
        for matrices, tables in BITS:
            metrics = recipe_stages.read_metrics(self.stage(
                "export", "8-export.yaml", f"bits-{matrices}-{tables}", f"model={self.folder('student2')}",
                f"matrix_bits={matrices}", f"embedding_bits={tables}", "verify.max_samples=872",
                "verify.min_agreement=0.9", "verify.max_metric_drop=0.1",
            ))  # fmt: skip
            names = ("bytes", "agreement", "mean_abs_logit_difference", "metric_difference")
            exports[f"{matrices} {tables}"] = {name: metrics[name] for name in names}
        return exports

    def latencies(self) -> dict[str, Any]:
        """Milliseconds of each model for batches of 1 and 32 texts."""
        metrics = self.evaluate("eval-latency")
        return {name: {size: metrics[f"{name}.latency_ms_{size}"] for size in ("b1", "b32")} for name in MODELS}

    def folder(self, name: str) -> Path:
        return self.root / "sst2-minilm" / name

    def evaluate(self, name: str, *settings: str) -> dict[str, Any]:
        """The metrics of all models and the export, scored side by side."""
        exports = [f"models.{export}={self.folder(export)}" for export in EXPORTS]
        return recipe_stages.read_metrics(self.stage("eval", "7-eval.yaml", f"sst2-minilm/{name}", *exports, *settings))


def layers_of(folder: str) -> str:
    """The folder of a candidate before it has learned labels."""
    return f"{folder}-layers"


def best_of(part: str) -> str:
    """The candidate with the best mean accuracy over all recorded seeds."""
    by_seed: Mapping[str, Mapping[str, Mapping[str, float]]] = result_files.read(RESULTS)[part]
    recorded = {name for seed in by_seed.values() for name in seed}

    def mean(name: str) -> float:
        return statistics.mean(seed[name]["accuracy"] for seed in by_seed.values() if name in seed)

    return max((name for name in CANDIDATES[part] if name in recorded), key=mean)


REPORTED: Mapping[str, Callable[[Runs], dict[str, Any]]] = {
    "report": Runs.report, "bits": Runs.bits, "latencies": Runs.latencies
}  # fmt: skip


if __name__ == "__main__":
    main()
