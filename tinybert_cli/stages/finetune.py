"""finetune: train a model on gold labels (the teacher), or on the answers of another model (student2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tinybert_cli import artifacts, data, loops, losses, models, tasks
from tinybert_cli.config import Finetune
from tinybert_cli.errors import InputError
from tinybert_cli.stages.training import Lesson, Teaching, fit
from tinybert_cli.types import Batch, Rows


def run(config: Finetune, *, force: bool = False, dry_run: bool = False) -> Iterator[artifacts.Row]:
    """Writes a model folder; yields what happens on the way."""
    source = models.locate(config.model.from_)
    inputs = {"model": artifacts.describe_model(source.folder, source.name, models.commit(source))}
    if config.label_dataset is not None:
        inputs["label_dataset"] = artifacts.describe(data.existing_folder(config.label_dataset, "label_dataset"))
    splits: list[data.Split] = ["train", "validation"] if config.label_dataset is None else ["validation"]
    inputs |= artifacts.describe_all(data.sources(config.data, splits))
    with artifacts.open_output("finetune", config, inputs, force=force, dry_run=dry_run) as output:
        if output.finished:
            yield output.up_to_date()
        else:
            yield from output.record(_finetune(config, source, output))


def _finetune(config: Finetune, source: models.Source, output: artifacts.Output) -> Iterator[artifacts.Row]:
    task = tasks.find_prediction_task(config.task)
    manifest: dict[str, Any] = {"inputs": {}}
    originals: Rows | None = None
    if config.label_dataset is None:
        rows = data.read(config.data, "train")
        names = task.label_names(rows, config.data, model_names=None)
        labels = task.labels(rows, config.data, names)
        if labels is None:
            raise tasks.without_gold(rows, config.data)
    else:
        folder = Path(config.label_dataset)
        manifest = artifacts.verify_folder(folder)
        sources = data.sources(config.data, ["train", "unlabeled"])
        artifacts.check_origin(folder, manifest, artifacts.describe_all(sources))
        answers = data.read_soft_labels(folder, [entry["path"] for entry in manifest["outputs"]])
        answers = answers.head(config.data.max_train_samples)
        names, originals = manifest["label_names"], answers.originals
        logits = task.settled(answers.logits, answers.offsets, manifest.get("decision", {}))
        labels, sure = task.hard_answers(logits, answers.offsets, config.min_confidence)
        chosen = sure.nonzero()[0]
        rows, labels = answers.rows.select(chosen.tolist()), labels[answers.prediction_indices(chosen)]
        yield {"event": "labels", "rows": len(sure), "kept": len(chosen), "min_confidence": config.min_confidence}
        if not len(chosen):
            raise InputError(
                f"none of the {len(sure):,} answers in '{folder}' is at least {config.min_confidence:g} sure",
                hint="lower min_confidence",
            )
    task.check_trainable(labels, names, rows)
    if config.label_dataset is None:
        yield from ({"event": "warning", "message": message} for message in task.odd(rows, config.data, names))
    outputs, options = losses.LOSS_SETS[task.outputs], _options(config)
    targets = {"labels": labels}
    if config.class_weights == "balanced":
        assert outputs.balanced is not None  # checked in checks.py
        targets["label_weights"] = outputs.balanced(labels)
    lesson = Lesson(
        rows,
        targets,
        names,
        lambda model: Teaching(model, _loss(outputs, options, config.regularization.r_drop)),
        config.model,
        source,
        dropout=config.regularization.dropout,
        originals=originals,
        origin=manifest["inputs"],
        card={
            "starts from": config.model.from_,
            "learned from": "gold labels" if config.label_dataset is None else config.label_dataset,
            "loss": _spoken(config, outputs),
        },
    )
    yield from fit(config, lesson, output)


def _spoken(config: Finetune, outputs: losses.LossSet) -> str:
    parts = [f"{name.replace('_', ' ')} {value:g}" for name, value in config.regularization if value]
    weighted = ["class weights balanced"] if config.class_weights == "balanced" else []
    return ", ".join([outputs.name, *weighted, *parts])


def _options(config: Finetune) -> dict[str, Any]:
    """Those of the loss that were asked for; a loss need not have the others."""
    asked = {"label_smoothing": config.regularization.label_smoothing, "class_weights": config.class_weights}
    return {name: value for name, value in asked.items() if value not in (0.0, "none")}


def _loss(compare: losses.LossSet, options: Mapping[str, Any], r_drop: float) -> loops.StepLoss:
    def loss(model: torch.nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        said = loops.forward(model, batch)
        hard = compare.hard_labels(said, said, batch, **options)
        if not r_drop:
            return {"loss": hard}
        again = loops.forward(model, batch)  # the same rows under another dropout
        hard = (hard + compare.hard_labels(again, again, batch, **options)) / 2
        apart = compare.r_drop(said, again, batch)
        return {"loss": hard + r_drop * apart, "hard_labels": hard, "r_drop": apart}

    return loss
