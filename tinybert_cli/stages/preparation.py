"""What finetune and distill train: the rows, encoded for a model in its new shape, and that model."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tinybert_cli import artifacts, data, events, loops, metrics, models, tasks
from tinybert_cli.config import Data, Distill, Finetune, Model, encoder_rule
from tinybert_cli.errors import ConfigError, InputError
from tinybert_cli.events import Event
from tinybert_cli.inspection import duplicates
from tinybert_cli.inspection.vocabulary import unknown_warnings
from tinybert_cli.scratch_files import counts
from tinybert_cli.stages.streamed_blocks import StreamedBlocks
from tinybert_cli.types import Array, Encoded, Layout, Rows

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class TrainingRun:
    """What a run has resolved once: its settings, task, objective, folder and device."""

    config: Finetune | Distill
    task: tasks.Task
    objective: tuple[str, float]  # the metric that selects checkpoints, and +1 if more of it is better, else -1
    output: artifacts.Output
    accelerator: Accelerator


@dataclass(frozen=True)
class TrainingRows:
    """Rows to learn from, and the targets of the losses."""

    rows: Rows
    targets: dict[str, Array]  # name → (P, ...): labels, label_weights, teacher_logits, see `Task.align`
    label_names: list[str] | None  # None if the task makes no predictions
    layout: Layout | None = None  # of teacher_logits
    originals: Rows | None = None  # the rows whose tokens a trimmed vocabulary keeps; None = all
    states: data.LayerStates | data.StackStates | None = None  # stored layer outputs of the teacher
    texts: list[str] | None = None  # the target text of each row, in translation
    top_k: data.TopK | None = None  # stored distributions of the teacher for the tokens of these texts
    origin: Mapping[str, Any] = field(default_factory=dict)  # inputs of the label dataset, from its manifest
    teacher_parameters: int | None = None  # None if unknown
    scale: models.OutputScale | None = None  # of regression targets that are in standard units


@dataclass(frozen=True)
class Validation:
    """Encoded validation rows with their metric."""

    rows: Rows
    examples: data.Examples
    encoded: Encoded
    metric: metrics.Metric | None  # None if the task makes no predictions: then the loss is the score
    label_names: list[str]

    @property
    def layout(self) -> Layout | None:
        return self.encoded.layout


@dataclass(frozen=True)
class TrainingData:
    """Training rows, encoded for one tokenizer, and validation rows."""

    source: TrainingRows
    examples: data.Examples
    validation: Validation | None
    stream: StreamedBlocks | None = None  # what is trained on; `source` and `examples` are then its first rows


@dataclass(frozen=True)
class NewModel:
    """The model to train, in its new shape."""

    model: Any
    tokenizer: Any
    copied_layers: list[int]  # of the source model, counted from 1; of a translation model those of the encoder
    vocabulary: dict[str, int]  # numbers of a trimmed vocabulary, see `models.trim_vocabulary`
    decoder_layers: list[int] | None = None  # of a translation model, the same for the decoder


def prepare(
    run: TrainingRun,
    setting: Model,
    source: models.Source,
    rows: TrainingRows,
    *,
    section: str,
    dropout: float | None = None,
) -> Generator[Event, None, tuple[NewModel, TrainingData]]:
    """Builds the model and encodes training and validation rows for it; yields warnings about the rows.

    Args:
        setting: the shape of the model; `section` is its key in the config, for error messages.
        source: where `setting.from` is.
        dropout: of the new model; None = as in the source.
    """
    config, task = run.config, run.task
    tokenizer = models.load_tokenizer(source)
    models.check_inputs(source, tokenizer, config.data)
    if isinstance(task, tasks.PredictionTask):
        models.record_length(tokenizer, config.data.max_seq_length)
    encoded = task.encode(rows.rows, config.data, tokenizer)
    yield from data.row_warnings("train", encoded, config.data)
    unknown = unknown_warnings("train", encoded, rows.rows, config.data, tokenizer, source.name)
    yield from map(events.warning, unknown)
    torch.manual_seed(config.seed)
    model, copied_layers = _build(run, setting, source, rows, tokenizer, section, dropout)
    vocabulary: dict[str, int] = {}
    if setting.trim_vocabulary:
        same = rows.originals is None or rows.originals is rows.rows
        needed = encoded if same else task.encode(rows.originals or rows.rows, config.data, tokenizer)
        used = counts(needed.tokens["input_ids"][0]).nonzero()[0].tolist()
        tokenizer, vocabulary = models.trim_vocabulary(model, tokenizer, used)
        encoded = task.encode(rows.rows, config.data, tokenizer)
    models.compute_head_in_float32(model)
    if rows.states is not None:
        rows.states.check(encoded)
    rows = _in_standard_units(rows, run, model, setting, source)
    examples = data.Examples.of(encoded, rows.states, **task.align(rows.targets, rows.layout, encoded))
    validation = yield from _read_validation(run, rows, tokenizer)
    return NewModel(model, tokenizer, copied_layers, vocabulary), TrainingData(rows, examples, validation)


def _read_validation(
    run: TrainingRun, training: TrainingRows, tokenizer: Any
) -> Generator[Event, None, Validation | None]:
    """The validation rows, if the config names any that can be scored; yields warnings about them."""
    config, task = run.config, run.task
    if not data.has(config.data, "validation"):
        return None
    rows = data.read(config.data, "validation")
    names: list[str] = []
    metric: metrics.Metric | None = None
    if isinstance(task, tasks.PredictionTask):
        names = task.label_names(rows, config.data, model_names=training.label_names)
        metric = task.metric(rows, config.data, names)
    encoded = task.encode(rows, config.data, tokenizer)
    yield from data.row_warnings("validation", encoded, config.data)
    leaks = {"train": training.rows, "validation": rows}
    yield from map(events.warning, duplicates.leaks_between(leaks, config.data, most=duplicates.SAMPLE))
    if metric is None and isinstance(task, tasks.PredictionTask):
        reason = tasks.no_labels_error(rows, config.data).what
        yield events.warning(
            f"the validation rows have no labels ({reason}): no checkpoint is scored, and the last one is stored"
        )
        return None
    return Validation(rows, data.Examples.of(encoded), encoded, metric, names)


def _build(
    run: TrainingRun,
    setting: Model,
    source: models.Source,
    rows: TrainingRows,
    tokenizer: Any,
    section: str,
    dropout: float | None,
) -> tuple[Any, list[int]]:
    """The model in its new shape, and the layers of the source (counted from 1) that its layers were copied from."""
    config, task = run.config, run.task
    attention = loops.fastest_attention(run.accelerator.device.type, config.data.max_seq_length)
    base = models.load(
        source, task.head,
        label_names=rows.label_names, problem=task.problem, new_head=True, dropout=dropout, attention=attention,
    )  # fmt: skip
    models.check_vocabulary(base, tokenizer, source)
    try:
        mapping = models.copied_layers(setting, encoder_rule(config.layer_mapping), base.config)
        student = models.build_student(setting, base, mapping, seed=config.seed, cls_only=True)
        return student, [layer + 1 for layer in mapping]
    except ConfigError as error:
        key = error.key if error.key[:1] == ("layer_mapping",) else (section, *error.key)
        raise ConfigError(error.what, key=key, hint=error.hint) from error


def _in_standard_units(
    rows: TrainingRows, run: TrainingRun, model: Any, setting: Model, source: models.Source
) -> TrainingRows:
    """The rows with regression targets in standard units; a head that was trained before is changed to them, too."""
    task = run.task
    names: list[str] = [name for name in ("teacher_logits", "labels") if name in rows.targets]
    if not isinstance(task, tasks.PredictionTask) or task.output_type != "value" or not names:
        return rows
    scale = models.output_scale(rows.targets[names[0]], model, only_unusual=run.output.resumes_earlier_version)
    if scale is None:
        return rows
    if setting.initialize == "teacher" and models.has_head(source, task.head):
        scale.standardize(model)
    standard = {name: scale.to_standard(rows.targets[name]) for name in names}
    return replace(rows, targets={**rows.targets, **standard}, scale=scale)


def check_text_columns(folder: Path, manifest: Mapping[str, Any], settings: Data) -> None:
    """InputError if the teacher of a label dataset read one text per row, and this config names two, or vice versa."""
    columns = manifest.get("text_columns")  # not in label datasets of tinybert 0.1
    if columns is not None and len(columns) != len(settings.text_columns):
        raise InputError(
            f"'{folder}' was made from {tasks.in_words(columns)}, but the config names "
            f"{tasks.in_words(settings.text_columns)}",
            hint="check data.text_column_names",
        )
