"""finetune: train a model on gold labels (the teacher), or on the answers of another model (student2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tinybert_cli import artifacts, data, loops, losses, models, tasks
from tinybert_cli.config import Finetune, Regularization
from tinybert_cli.errors import ConfigError
from tinybert_cli.stages.fit import Lesson, fit

CHECKS: dict[str, Callable[[Any], object]] = {"task": tasks.find_answering, "model": models.check_preset}


def run(config: Finetune, *, force: bool = False, dry_run: bool = False) -> Iterator[artifacts.Row]:
    """Writes a model folder; yields what happens on the way."""
    if config.min_confidence and config.labels == "gold":
        raise ConfigError(
            "`min_confidence` needs the answers of a model, but `labels` is gold",
            key=("min_confidence",),
            hint="set labels to a label dataset, or leave min_confidence out",
        )
    source = models.locate(config.model.from_)
    inputs = {"model": artifacts.describe_model(source.folder, source.name, source.revision)}
    if config.labels != "gold":
        inputs["labels"] = artifacts.describe(data.existing_folder(config.labels, "labels"))
    splits: list[data.Split] = ["train", "validation"] if config.labels == "gold" else ["validation"]
    inputs |= artifacts.describe_all(data.sources(config.data, splits))
    with artifacts.open_output("finetune", config, inputs, force=force, dry_run=dry_run) as output:
        if output.finished:
            yield output.up_to_date()
        else:
            yield from output.record(_finetune(config, source, output))


def _finetune(config: Finetune, source: models.Source, output: artifacts.Output) -> Iterator[artifacts.Row]:
    task = tasks.find_answering(config.task)
    manifest: dict[str, Any] = {"inputs": {}}
    if config.labels == "gold":
        rows = data.read(config.data, "train")
        names = task.label_names(rows, config.data, model_names=None)
        labels = task.labels(rows, config.data, names)
        if labels is None:
            rows.column(config.data.label_column_name)  # raises, with the columns that there are
    else:
        folder = Path(config.labels)
        manifest = artifacts.verify_folder(folder)
        sources = data.sources(config.data, ["train", "unlabeled"])
        artifacts.check_origin(folder, manifest, artifacts.describe_all(sources))
        answers = data.read_labels(folder, [entry["path"] for entry in manifest["outputs"]])
        answers = answers.head(config.data.max_train_samples)
        names = manifest["label_names"]
        labels, sure = task.hard_answers(answers.logits, config.min_confidence)
        rows, labels = answers.rows.select(sure.nonzero()[0].tolist()), labels[sure]
        yield {"event": "labels", "rows": len(sure), "kept": int(sure.sum()), "min_confidence": config.min_confidence}
    assert labels is not None
    task.check_trainable(labels, names, rows)
    lesson = Lesson(
        rows,
        {"labels": labels},
        names,
        lambda model: (model, _loss(config.regularization)),
        config.model,
        source,
        dropout=config.regularization.dropout,
        origin=manifest["inputs"],
        card={
            "starts from": config.model.from_,
            "learned from": "gold labels" if config.labels == "gold" else config.labels,
            "loss": _spoken(config.regularization),
        },
    )
    yield from fit(config, lesson, output)


def _spoken(regularization: Regularization) -> str:
    parts = [f"{name.replace('_', ' ')} {value:g}" for name, value in regularization if value]
    return ", ".join(["cross-entropy", *parts])


def _loss(regularization: Regularization) -> loops.StepLoss:
    smoothing = regularization.label_smoothing

    def loss(model: torch.nn.Module, batch: loops.Batch) -> Mapping[str, Tensor]:
        said = loops.forward(model, batch)
        hard = losses.hard_labels(said, said, batch, label_smoothing=smoothing)
        if not regularization.r_drop:
            return {"loss": hard}
        again = loops.forward(model, batch)  # the same rows under another dropout
        hard = (hard + losses.hard_labels(again, again, batch, label_smoothing=smoothing)) / 2
        apart = losses.r_drop(said["logits"], again["logits"])
        return {"loss": hard + regularization.r_drop * apart, "hard_labels": hard, "r_drop": apart}

    return loss
