"""distill: train a student to say what the teacher says, from the label dataset on disk or from its layers alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tinybert_cli import artifacts, data, loops, losses, models, tasks
from tinybert_cli.config import Distill
from tinybert_cli.errors import ConfigError, InputError
from tinybert_cli.stages import layer_states
from tinybert_cli.stages.checks import no_teacher
from tinybert_cli.stages.training import Lesson, Teaching, fit
from tinybert_cli.types import Array, Batch, Rows


def run(config: Distill, *, force: bool = False, dry_run: bool = False) -> Iterator[artifacts.Row]:
    """Writes a model folder; yields what happens on the way."""
    source = models.locate(config.student.from_)
    inputs: dict[str, Any] = {"student": artifacts.describe_model(source.folder, source.name, models.commit(source))}
    splits: list[data.Split] = ["train", "validation"]
    if config.label_dataset is not None:
        inputs["label_dataset"] = artifacts.describe(data.existing_folder(config.label_dataset, "label_dataset"))
        splits = ["validation"]
    if config.teacher is not None:
        teacher = models.locate(config.teacher)
        inputs["teacher"] = artifacts.describe_model(teacher.folder, teacher.name, models.commit(teacher))
    inputs |= artifacts.describe_all(data.sources(config.data, splits))
    with artifacts.open_output("distill", config, inputs, force=force, dry_run=dry_run) as output:
        if output.finished:
            yield output.up_to_date()
        else:
            yield from output.record(_distill(config, source, output))


def _combined(config: Distill) -> losses.WeightedLoss:
    task = tasks.find(config.task)
    return (
        losses.combine(config.losses, task.outputs)
        if isinstance(task, tasks.PredictionTask)
        else losses.combine(config.losses)
    )


def _distill(config: Distill, source: models.Source, output: artifacts.Output) -> Iterator[artifacts.Row]:
    objective = _combined(config)
    if config.teacher is not None:
        yield from _other_tokenizer(models.locate(config.teacher), source, objective)
    labels = None if config.label_dataset is None else Path(config.label_dataset)
    if labels is not None and config.training.keep == "best" and not objective.trains_head:
        yield {"event": "warning", "message": "these losses leave the classifier untrained and its scores mean "
               "nothing: set `keep: last` under training"}  # fmt: skip
    manifest = {"inputs": {}} if labels is None else artifacts.read_manifest(labels)  # `run` has verified its files
    if objective.layer_outputs and config.teacher is None and "states" not in manifest:
        raise no_teacher(config.losses)
    taught = _from_text(config) if labels is None else _from_labels(config, labels, manifest, output)
    stored, states = None, None
    if objective.layer_outputs and labels is not None and "states" in manifest:
        there = manifest["states"]
        layers = _compared_layers(config, source, there["teacher_layers"])
        missing = layer_states.missing_states(there, objective, layers)
        if missing is None:
            stored = models.StoredTeacher(objective.layer_outputs, there["width"], layers)
            states = layer_states.read(labels, manifest, objective.layer_outputs, layers)
        elif config.teacher is None:
            raise InputError(
                f"there is no teacher to run beside the student, and '{labels}' {missing}",
                hint="run gen-soft-labels again with all the `states` and layers that are compared, or name a teacher",
            )
        else:
            yield {"event": "warning", "message": f"the teacher has to run beside the student: '{labels}' {missing}"}
    lesson = Lesson(
        taught.rows,
        taught.targets,
        taught.names,
        lambda student: _teaching(config, objective, student, stored),
        config.student,
        source,
        states=states,
        originals=taught.originals,
        origin=manifest["inputs"],
        card={
            "starts from": config.student.from_,
            "learned from": config.label_dataset,
            "losses": "; ".join(_spoken(name, weight) for name, weight in config.losses.items()),
        },
    )
    yield from fit(config, lesson, output)


@dataclass(frozen=True)
class _Taught:
    """The rows of a lesson, what is to be learnt of them, and the names of the classes."""

    rows: Rows
    targets: dict[str, Array] = field(default_factory=dict)
    names: list[str] | None = None
    originals: Rows | None = None


def _from_text(config: Distill) -> _Taught:
    """The rows alone; what is to be learnt of them stands in the teacher's layers."""
    return _Taught(data.read(config.data, "train"))


def _from_labels(config: Distill, folder: Path, manifest: Mapping[str, Any], output: artifacts.Output) -> _Taught:
    """The rows of the label dataset, with the teacher's answers and the gold labels."""
    wanted = artifacts.describe_all(data.sources(config.data, ["train", "unlabeled"]))
    if config.teacher is not None:
        wanted["teacher"] = [output.inputs["teacher"]]
    artifacts.check_origin(folder, manifest, wanted)
    answers = data.read_soft_labels(folder, [entry["path"] for entry in manifest["outputs"]])
    answers = answers.head(config.data.max_train_samples)
    names: list[str] = manifest["label_names"]
    targets = {"teacher_logits": answers.logits}
    labels = tasks.find_prediction_task(config.task).labels(answers.rows, config.data, names)
    if labels is not None:
        targets["labels"] = labels
        balanced = losses.LOSS_SETS[tasks.find_prediction_task(config.task).outputs].balanced
        if balanced is not None:
            targets["label_weights"] = balanced(labels)
    elif "hard_labels" in _combined(config).parts:
        raise tasks.without_gold(answers.rows, config.data)
    return _Taught(answers.rows, targets, names, answers.originals)


def _spoken(name: str, setting: float | Mapping[str, Any]) -> str:
    """One loss with its weight and its options."""
    options = {"weight": setting} if isinstance(setting, (int, float)) else setting
    return " ".join([name, *(f"{key}={value}" for key, value in options.items())])


def _teaching(
    config: Distill, objective: losses.WeightedLoss, student: Any, stored: models.StoredTeacher | None
) -> Teaching:
    """The student with what its losses compare, and the loss; a teacher runs beside it unless its states are stored."""
    if not objective.layer_outputs:
        return Teaching(student, lambda model, batch: objective(loops.forward(model, batch), _from_disk(batch), batch))
    teacher: models.Teacher | models.StoredTeacher
    if stored is None:
        assert config.teacher is not None
        base = models.load(models.locate(config.teacher), tasks.find(config.task).head).to(loops.device())
        loops.to_bf16_if_faster(base, config.training.mixed_precision)
        layers = models.layer_map(config.layer_mapping, student.config.num_hidden_layers, base.config.num_hidden_layers)
        teacher = models.Teacher(base, layers, objective.layer_outputs)
    else:
        teacher = stored

    def loss(model: torch.nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        shown = teacher(batch, loops.MODEL_INPUTS)
        return objective(loops.forward(model, batch), {**_from_disk(batch), **shown}, batch)

    facts = {"layers_compared_with": [layer + 1 for layer in teacher.layers],
             "teacher_states": "running beside it" if stored is None else "stored"}  # fmt: skip
    return Teaching(models.Student(student, teacher, shared=config.projections == "shared"), loss, facts)


def _from_disk(batch: Batch) -> dict[str, Tensor]:
    return {"logits": batch["teacher_logits"]} if "teacher_logits" in batch else {}


def _compared_layers(config: Distill, source: models.Source, teacher_layers: int) -> list[int]:
    """For each layer of the student that is to be the teacher layer, counted from 0, that it is compared with."""
    try:
        count = models.number_of_layers(config.student, source)
    except ConfigError as error:
        raise ConfigError(error.what, key=("student", *error.key), hint=error.hint) from error
    return models.layer_map(config.layer_mapping, count, teacher_layers)


def _other_tokenizer(
    teacher: models.Source, student: models.Source, objective: losses.WeightedLoss
) -> Iterator[artifacts.Row]:
    """Allowed where whole texts are compared, but rarely what was meant; impossible where tokens are."""
    difference = models.tokenizer_difference(models.load_tokenizer(teacher), models.load_tokenizer(student))
    if difference is None:
        return
    if objective.layer_outputs:
        raise InputError(
            f"teacher and student split text differently, so their layers cannot be compared: {difference}",
            where=student.name,
            hint="take a student with the teacher's tokenizer, or the losses soft_labels and hard_labels alone",
        )
    yield {"event": "warning", "message": f"teacher and student split text differently: {difference}"}
