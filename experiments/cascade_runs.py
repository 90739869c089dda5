"""The stages of `cascade.py`, and the ways in which student2 is trained (its arms)."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from cascade_sets import EXPERIMENTS, Experiment, base_model

from tinybert_cli.stage_processes import run_command

STUDENT_LAYERS, STUDENT2_LAYERS = 3, 2
STATE_LOSSES = {"hidden_states": 1.0, "embeddings": 1.0}
LAYER_LOSSES = {"attentions": 1.0, **STATE_LOSSES}


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
            return {self.experiment.teacher_rate if model == "teacher" else self.experiment.rate: self.root / model}
        return {rate: self.folder(model, rate) for rate in self.rates}

    def folder(self, arm: str, rate: float) -> Path:
        return self.root / f"{arm}-{rate:g}"

    def base(self) -> str:
        return base_model(self.experiment, self.data, self.root.with_name("base"))

    def teacher(self) -> Path:
        training = self.training(self.experiment.teacher_rate)
        return self.stage("finetune", self.root / "teacher", model=self.base(), training=training)

    def student(self) -> Path:
        start = _cut(self.teacher(), STUDENT_LAYERS)
        return self.distill(
            self.root / "student", self.labels("teacher"), start, self.experiment.rate, layer_mapping="spread"
        )

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


def in_own_process(command: str, words: Sequence[str]) -> tuple[int, Mapping[str, Any]]:
    """As StageServer.run, in a process whose CPU time can be measured."""
    return run_command(command, words, sys.stderr)


def _cut(source: Path | str, layers: int) -> dict[str, Any]:
    return {"from": str(source), "num_hidden_layers": layers}


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


# -- the arms ------------------------------------------------------------------------------------------------


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


def _direct_longer(runs: Runs, rate: float) -> Path:
    start = _cut(runs.teacher(), STUDENT2_LAYERS)
    return runs.distill(
        runs.folder("direct-longer", rate), runs.labels("teacher"), start, rate, layer_mapping="spread",
        epochs=2 * runs.experiment.epochs,
    )  # fmt: skip


def _direct_same_start(runs: Runs, rate: float) -> Path:
    return _from_student(runs, "direct-same-start", rate, runs.labels("teacher"))


def _both(runs: Runs, rate: float) -> Path:
    return _from_student(runs, "both", rate, runs.labels("teacher", "student"))


def _layers_first(runs: Runs, rate: float) -> Path:
    return _from_layers(runs, "layers-first", rate, LAYER_LOSSES)


def _states_first(runs: Runs, rate: float) -> Path:
    return _from_layers(runs, "states-first", rate, STATE_LOSSES)


def _gold(runs: Runs, rate: float) -> Path:
    model, training = _cut(runs.base(), STUDENT2_LAYERS), runs.training(rate)
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
    "gold": Arm("gold labels only", "what the teacher starts from", _gold),
    "direct": Arm("the teacher's soft labels", "the teacher", _direct),
    "direct-longer": Arm("the teacher's soft labels, for twice the epochs", "the teacher", _direct_longer),
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
