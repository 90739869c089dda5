"""distill: train a student to say what the teacher says, from the label dataset on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tinybert_cli import artifacts, data, loops, losses, models, students, tasks
from tinybert_cli.config import Distill
from tinybert_cli.stages.fit import Lesson, fit

CHECKS: dict[str, Callable[[Any], object]] = {
    "task": tasks.find,
    "student": students.check,
    "losses": losses.combine,
}


def run(config: Distill, *, force: bool = False, dry_run: bool = False) -> Iterator[artifacts.Row]:
    """Writes a model folder; yields what happens on the way."""
    source = models.locate(config.student.from_)
    inputs = {
        "student": artifacts.describe_model(source.folder, source.name, source.revision),
        "soft_labels": artifacts.describe(data.existing_folder(config.soft_labels, "soft_labels")),
    }
    if config.teacher is not None:
        teacher = models.locate(config.teacher)
        inputs["teacher"] = artifacts.describe_model(teacher.folder, teacher.name, teacher.revision)
    inputs |= artifacts.describe_all(data.sources(config.data, ["validation"]))
    with artifacts.open_output("distill", config, inputs, force=force, dry_run=dry_run) as output:
        if output.finished:
            yield output.up_to_date()
        else:
            yield from output.record(_distill(config, source, output))


def _distill(config: Distill, source: models.Source, output: artifacts.Output) -> Iterator[artifacts.Row]:
    task = tasks.find(config.task)
    combined = losses.combine(config.losses)
    folder = Path(config.soft_labels)
    manifest = artifacts.verify_folder(folder)
    wanted = artifacts.describe_all(data.sources(config.data, ["train", "unlabeled"]))
    if config.teacher is not None:
        wanted["teacher"] = [output.inputs["teacher"]]
    artifacts.check_origin(folder, manifest, wanted)
    if config.teacher is not None:
        yield from _other_tokenizer(models.locate(config.teacher), source)
    answers = data.read_labels(folder, [entry["path"] for entry in manifest["outputs"]])
    answers = answers.head(config.data.max_train_samples)
    names = manifest["label_names"]
    labels = task.labels(answers.rows, config.data, names)
    if labels is None:
        labels = np.full(len(answers.rows), losses.NO_LABEL)

    def loss(model: torch.nn.Module, batch: loops.Batch) -> Mapping[str, Tensor]:
        return combined(loops.forward(model, batch), {"logits": batch["teacher_logits"]}, batch)

    lesson = Lesson(
        answers.rows,
        {"labels": labels, "teacher_logits": answers.logits},
        names,
        loss,
        config.student,
        source,
        layer_mapping=config.layer_mapping,
        card={"made by": "distill", "from": config.student.from_, "soft labels": config.soft_labels},
    )
    yield from fit(config, lesson, output)


def _other_tokenizer(teacher: models.Source, student: models.Source) -> Iterator[artifacts.Row]:
    """Allowed, for the soft labels are of whole texts; but rarely what was meant."""
    difference = models.tokenizer_difference(models.load_tokenizer(teacher), models.load_tokenizer(student))
    if difference is not None:
        yield {"event": "warning", "message": f"teacher and student split text differently: {difference}"}
