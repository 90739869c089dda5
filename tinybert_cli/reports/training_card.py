"""The model card of a trained model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tinybert_cli import artifacts, tasks
from tinybert_cli.config import Data, Distill, Finetune, ResolvedTraining
from tinybert_cli.escaping import in_python, markdown, shell_word
from tinybert_cli.reports import model_card
from tinybert_cli.reports.baseline_table import Comparison
from tinybert_cli.reports.model_card import Card, Result
from tinybert_cli.reports.training_choices import CHECKPOINT
from tinybert_cli.wording import counted


@dataclass(frozen=True)
class Training:
    """What the card of a trained model states, besides its config."""

    made: Mapping[str, object]  # starting point, labels and loss, in the words of the stage
    label_names: Sequence[str] | None  # None if the task makes no predictions
    copied_layers: Sequence[int]  # of the source model, counted from 1; of a translation model those of the encoder
    rows: int
    facts: Mapping[str, Any]  # size, metrics, device, precision, number of layers
    result: Result | None
    settings: ResolvedTraining
    selected: str | None  # what was selected on the rows of `result`, see `training_choices`
    made_from: Sequence[str] = ()  # models selected on the rows of `result`, which it was made from
    trained: bool = False  # whether the rows of `result` are training rows of it, or of a model that it was made from
    origin: Mapping[str, Any] = field(default_factory=dict)  # inputs of the label dataset, from its manifest
    baselines: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # name → metrics, size, training rows
    copied_decoder_layers: Sequence[int] = ()  # of a translation model, the same for the decoder
    no_baselines: str | None = None  # why some or all are left out, in a sentence without an end mark


def card(config: Finetune | Distill, training: Training, output: artifacts.Output) -> Card:
    task, facts, folder = tasks.find(config.task), training.facts, str(output.folder)
    inputs = {**model_card.data_inputs(training.origin), **output.inputs}
    teacher = None
    if "teacher" in training.origin and _learns_from_teacher(config):
        teacher = markdown(model_card.model_names(training.origin["teacher"]))
    precision = "float32" if facts["precision"] == "no" else facts["precision"]
    settings = training.settings
    return Card(
        name=output.folder.name,
        task=config.task,
        pipeline=task.pipeline,
        summary=f"A model for {config.task} with {_layers(facts)} and "
        f"{facts['parameters'] / 1e6:.1f} M parameters{f', distilled from {teacher}' if teacher else ''}.",
        inputs=inputs,
        made={
            "command": f"`tinybert {output.command}`",
            **{name: markdown(str(value)) for name, value in training.made.items()},
            "teacher": teacher,
            "layers copied": ", ".join(map(str, training.copied_layers)),
            "decoder layers copied": ", ".join(map(str, training.copied_decoder_layers)),
            "data": markdown(model_card.data_names(inputs)),
            "labels": None if training.label_names is None else markdown(model_card.listed(training.label_names)),
            "training rows": f"{training.rows:,}",
            "steps": f"{facts['steps']:,} of {_batch(settings)} on each device",
            "learning rate": f"{settings.learning_rate:g}, {settings.lr_scheduler_type}",
            "seed": config.seed,
            "machine": f"{artifacts.machine()}; {precision} on {facts['device']}",
            "time": f"{facts['train_runtime'] / 60:,.1f} minutes",
        },
        result=training.result,
        comparison=_comparison(task, training),
        no_comparison=_no_comparison(training.no_baselines),
        costs={
            "parameters": f"{facts['parameters']:,}, of which embeddings {facts['embedding_parameters']:,}",
            "weights": f"{facts['bytes'] / 1e6:.1f} MB",
            "latency": "not measured in training; `tinybert eval` measures it",
        },
        usage=_usage(task, folder, config.data),
        limits=[*_limitations(config, task, training, teacher), *model_card.UNTESTED],
        library="transformers",
    )


def _learns_from_teacher(config: Finetune | Distill) -> bool:
    """Whether the teacher of the label dataset has a part in the training, which may learn gold labels alone."""
    return _learns_predictions(config) or (isinstance(config, Distill) and bool({*config.losses} - {"hard_labels"}))


def _learns_predictions(config: Finetune | Distill) -> bool:
    """Whether the targets of a loss are what the teacher predicts: its labels, or its translations."""
    if isinstance(config, Finetune) or "soft_labels" in config.losses:
        return True
    return config.task == "translation" and config.targets != "gold"


def _layers(facts: Mapping[str, Any]) -> str:
    if "decoder_layers" not in facts:
        return counted(facts["layers"], "layer")
    return f"{counted(facts['layers'], 'encoder layer')}, {counted(facts['decoder_layers'], 'decoder layer')}"


def _comparison(task: tasks.Task, training: Training) -> Comparison | None:
    """The scores of the model and of the baselines on the validation rows."""
    result, metric = training.result, task.main_metric
    if result is None or not training.baselines:
        return None
    ends = zip((f"{metric}_low", f"{metric}_high"), result.intervals.get(metric, ()), strict=False)
    return Comparison(
        lead="Beside baselines without a neural network, fitted on the gold labels of the training rows, on the same "
        f"{counted(result.rows, 'row')} of {result.split}:",
        metric=metric,
        more_is_better=task.metrics[metric],
        model={**result.scores, **dict(ends), "bytes": training.facts["bytes"], "training_rows": training.rows},
        baselines=training.baselines,
        selected=bool(training.selected or training.made_from),
        trained=training.trained,
    )


def _no_comparison(reason: str | None) -> str | None:
    return None if reason is None else f"{reason[:1].upper()}{markdown(reason[1:])}."


def _batch(settings: ResolvedTraining) -> str:
    tokens = settings.per_device_train_batch_tokens
    return counted(settings.per_device_train_batch_size, "row") if tokens is None else f"at most {tokens:,} tokens"


def _usage(task: tasks.Task, folder: str, data: Data) -> dict[str, str]:
    usage = {"transformers": f"```python\n{task.usage(in_python(folder), data)}\n```"}
    if isinstance(task, tasks.PredictionTask):
        usage |= {
            "ONNX Runtime": "`tinybert export` writes ONNX in float32 or int8 and verifies it on real rows.",
            "tinybert": f"```sh\ntinybert predict {shell_word(folder)} "
            f"{task.example_input(pair=len(data.text_columns) == 2)}\n```",
        }
    return usage


def _limitations(config: Finetune | Distill, task: tasks.Task, training: Training, teacher: str | None) -> list[str]:
    facts, sentences = training.facts, [f"{task.long_input(config.data.max_seq_length)} in training."]
    if isinstance(task, tasks.PredictionTask):
        sentences.append(task.limitations(training.label_names or []))
    if training.result is not None and training.trained:
        sentences.append(
            "The rows that the metrics are from are training rows of this model, or of one that it was made from: "
            "the scores say little about new text."
        )
    if training.result is not None and training.selected:
        sentences.append(
            f"The {training.selected} {'was' if training.selected == CHECKPOINT else 'were'} selected on the same "
            f"{counted(training.result.rows, 'row')} that the metrics are from: "
            "expect slightly lower scores on new text."
        )
    elif training.result is not None and training.made_from:
        models = markdown(", ".join(training.made_from))
        sentences.append(
            f"The rows that the metrics are from selected a model that it was made from ({models}): "
            "scores on new text may be slightly lower."
        )
    if teacher and _learns_predictions(config):
        sentences.append(f"It was trained on the predictions of {teacher}, mistakes included.")
    if "vocabulary_size" in facts:
        before, after = facts["source_vocabulary_size"], facts["vocabulary_size"]
        sentences.append(
            f"The vocabulary was trimmed from {before:,} to {after:,} tokens, those that the training text needs: "
            "other words are split into smaller tokens, or become the unknown token."
        )
    return sentences
