"""finetune: train a model on gold labels (the teacher), or on the predictions of another model (student2)."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tinybert_cli import artifacts, data, events, loops, losses, models, tasks
from tinybert_cli.config import Finetune
from tinybert_cli.errors import InputError
from tinybert_cli.events import Event
from tinybert_cli.inspection import duplicates
from tinybert_cli.inspection.unlabelled_rows import check_labelled
from tinybert_cli.stages import label_dataset, preparation, stored_examples, training, translation_training
from tinybert_cli.stages.preparation import StoredExamples, TrainingRows, TrainingRun
from tinybert_cli.stages.translation_training import TranslationEvaluation
from tinybert_cli.tasks.gold_answers import IMPOSSIBLE
from tinybert_cli.types import Batch
from tinybert_cli.wording import counted


def run(config: Finetune, *, force: bool = False, dry_run: bool = False) -> Iterator[Event]:
    """Writes a model folder; yields events."""
    task = tasks.find_scored_task(config.task)
    objective = task.objective(config.training.metric_for_best_model)
    inputs: dict[str, Any] = {}
    splits: list[data.Split] = ["train", "validation"]
    if config.label_dataset is not None:
        inputs["label_dataset"] = artifacts.describe(data.existing_folder(config.label_dataset, "label_dataset"))
        splits = ["validation"]
    inputs |= artifacts.describe_all(data.sources(config.data, splits))
    source = None if config.model.from_ is None else models.locate(config.model.from_)  # may download it: data first
    if source is not None:
        inputs = {"model": artifacts.describe_model(source.folder, source.name, models.commit(source)), **inputs}
    with artifacts.open_output("finetune", config, inputs, force=force, dry_run=dry_run, same_processes=True) as output:
        if output.finished:
            yield output.up_to_date()
        elif isinstance(task, tasks.Translation):
            if config.label_dataset is not None:
                objective = task.objective_of_labels(config.training.metric_for_best_model)
            yield from output.record(_finetune_translator(config, task, objective, source, output))
        else:
            assert isinstance(task, tasks.PredictionTask) and source is not None  # see checks.py
            yield from output.record(_finetune(config, task, objective, source, output))


def _finetune(
    config: Finetune,
    task: tasks.PredictionTask,
    objective: tuple[str, float],
    source: models.Source,
    output: artifacts.Output,
) -> Iterator[Event]:
    family = models.float32_family(source)
    accelerator = loops.make_accelerator(config.training, output.trackers, float32_family=family)
    run = TrainingRun(config, task, objective, output, accelerator)
    loss_set = losses.LOSS_SETS[task.output_type]
    rows: TrainingRows | StoredExamples | None = stored_examples.read(output)
    if rows is None:
        rows = yield from _training_rows(config, task, loss_set)
    new, training_data = yield from preparation.prepare(
        run, config.model, source, rows, section="model", dropout=config.regularization.dropout
    )
    yield from _r_drop_warning(config, new.model)
    made = {
        "starts from": config.model.source,
        "trained on": config.label_dataset or "gold labels",
        "loss": _loss_in_words(config, loss_set),
    }
    loss = _loss(loss_set, _loss_options(config), config.regularization.r_drop)
    yield from training.train(run, new, training_data, new.model, loss, made=made)


def _finetune_translator(
    config: Finetune,
    task: tasks.Translation,
    objective: tuple[str, float],
    source: models.Source | None,
    output: artifacts.Output,
) -> Iterator[Event]:
    accelerator = loops.make_accelerator(config.training, output.trackers)
    run = TrainingRun(config, task, objective, output, accelerator)
    if config.label_dataset is None:
        rows = yield from translation_training.gold_rows(config.data, task)
    else:
        rows = yield from translation_training.translated_rows(
            config, task, Path(config.label_dataset), "teacher", with_top_k=False
        )
    new, training_data = yield from translation_training.prepare(
        run, config.model, source, rows, section="model", dropout=config.regularization.dropout
    )
    loss_set = losses.LOSS_SETS[task.output_type]
    yield from _r_drop_warning(config, new.model)
    made = {
        "starts from": config.model.from_ or f"random weights, a new {config.model.family} model",
        "trained on": config.label_dataset or "references",
        "loss": _loss_in_words(config, loss_set),
    }
    loss = _loss(loss_set, _loss_options(config), config.regularization.r_drop)
    validation = training_data.validation
    evaluation = None if validation is None else TranslationEvaluation(run, validation, new.tokenizer)
    yield from training.train(run, new, training_data, new.model, loss, made=made, evaluation=evaluation)


def _training_rows(
    config: Finetune, task: tasks.PredictionTask, loss_set: losses.LossSet
) -> Generator[Event, None, TrainingRows]:
    if config.label_dataset is None:
        rows = yield from _gold_rows(config, task)
    else:
        rows = yield from _predicted_rows(config, task, Path(config.label_dataset))
    if config.class_weights == "balanced":
        assert loss_set.balanced is not None  # see checks.py
        rows.targets["label_weights"] = loss_set.balanced(rows.targets["labels"])
    return rows


def _gold_rows(config: Finetune, task: tasks.PredictionTask) -> Generator[Event, None, TrainingRows]:
    rows = data.read(config.data, "train")
    names = task.label_names(rows, config.data, model_names=None)
    labels = task.labels(rows, config.data, names)
    if labels is None:
        raise tasks.no_labels_error(rows, config.data)
    if tasks.missing(labels).any():
        check_labelled(rows, config.data, task.name)
    task.check_trainable(labels, names, rows)
    yield from map(events.warning, task.label_warnings(rows, config.data, names))
    yield from map(events.warning, duplicates.contradiction_warnings("train", rows, config.data, task.name))
    return TrainingRows(rows, {"labels": labels}, names)


def _predicted_rows(config: Finetune, task: tasks.PredictionTask, folder: Path) -> Generator[Event, None, TrainingRows]:
    """The rows of a label dataset with the predictions of its model as labels."""
    manifest = artifacts.verify_folder(folder)
    sources = data.sources(config.data, ["train", "unlabeled"])
    artifacts.check_origin(folder, manifest, artifacts.describe_all(sources))
    yield from label_dataset.check(folder, manifest, config, task)
    dataset = data.read_soft_labels(folder, [entry["path"] for entry in manifest["outputs"]])
    dataset = dataset.with_gold_of_train([*config.data.label_columns, IMPOSSIBLE])
    dataset = dataset.head(config.data.max_train_samples)
    names: list[str] = manifest["label_names"]
    tuned = manifest.get("tuned_settings", manifest.get("decision", {}))  # `decision` in label datasets of tinybert 0.1
    logits = task.apply_thresholds(dataset.logits, dataset.layout, tuned)
    labels, confident = task.hard_labels(logits, dataset.layout, config.min_confidence)
    selected = confident.nonzero()[0]
    yield {
        "event": "labels",
        "rows": len(confident),
        "selected": len(selected),
        "min_confidence": config.min_confidence,
        **({"unlabelled": dataset.unlabelled} if dataset.unlabelled else {}),
    }
    if not len(selected):
        raise InputError(
            f"no prediction in '{folder}' has a confidence of {config.min_confidence:g} or more "
            f"({counted(len(confident), 'row')})",
            hint="lower min_confidence",
        )
    rows = dataset.rows
    if len(selected) < len(rows):
        rows = rows.select(selected.tolist())
        labels = labels[selected if task.labels_of_rows else dataset.prediction_indices(selected)]
    try:
        task.check_trainable(labels, names, rows)
    except InputError as error:
        raise InputError(
            f"nothing can be learned from the predictions in '{folder}': {error.what}",
            hint="lower min_confidence" if config.min_confidence else "check the model that made them",
        ) from error
    return TrainingRows(
        rows, {"labels": labels}, names, originals=dataset.originals, origin=manifest["inputs"],
        teacher_parameters=manifest.get("teacher_parameters"),
    )  # fmt: skip


def _r_drop_warning(config: Finetune, model: Any) -> Iterator[Event]:
    """A warning if R-Drop compares two equal passes, as of ModernBERT, whose published models have no dropout."""
    if config.regularization.r_drop and not models.has_dropout(model):
        yield events.warning(
            "`regularization.r_drop` has no effect: without dropout both passes of a batch are equal; set "
            "regularization.dropout, for example 0.1, or leave r_drop out"
        )


def _loss_in_words(config: Finetune, loss_set: losses.LossSet) -> str:
    parts = [f"{name.replace('_', ' ')} {value:g}" for name, value in config.regularization if value]
    weighted = ["class weights balanced"] if config.class_weights == "balanced" else []
    return ", ".join([loss_set.name, *weighted, *parts])


def _loss_options(config: Finetune) -> dict[str, Any]:
    """The options that are set; a loss need not have the others."""
    options = {"label_smoothing": config.regularization.label_smoothing, "class_weights": config.class_weights}
    return {name: value for name, value in options.items() if value not in (0.0, "none")}


def _loss(loss_set: losses.LossSet, options: Mapping[str, Any], r_drop: float) -> loops.StepLoss:
    parts = {"hard_labels": losses.part(loss_set.hard_labels, 1.0, options)}
    if r_drop:
        parts["r_drop"] = losses.part(loss_set.r_drop, r_drop, {})
    loss = losses.WeightedLoss(parts)

    def means(model: torch.nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        outputs = loops.forward(model, batch)
        hard = parts["hard_labels"].mean(outputs, outputs, batch)
        if not r_drop:
            return {"hard_labels": hard}
        second = loops.forward(model, batch)  # the same rows with another dropout mask
        hard = (hard + parts["hard_labels"].mean(second, second, batch)) / 2
        return {"hard_labels": hard, "r_drop": parts["r_drop"].mean(outputs, second, batch)}

    return loops.StepLoss(means, loss.denominators, loss.weights)
