"""What finetune and distill train: the rows, encoded for a model in its new shape, and that model."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tinybert_cli import artifacts, data, events, loops, losses, metrics, models, tasks
from tinybert_cli.config import Distill, Finetune, Model, encoder_rule
from tinybert_cli.errors import ConfigError
from tinybert_cli.events import Event
from tinybert_cli.inspection import duplicates
from tinybert_cli.inspection.vocabulary import unknown_warnings
from tinybert_cli.scratch_files import counts, looked_up
from tinybert_cli.stages.streamed_blocks import StreamedBlocks
from tinybert_cli.tasks.label_names import of_positions
from tinybert_cli.types import Array, Encoded, Layout, Rows

if TYPE_CHECKING:
    from accelerate import Accelerator

COMPARED = 256  # rows whose tokens, after the vocabulary was trimmed, are compared with those of the new tokenizer
SCALED = ("teacher_logits", "labels")  # targets that are in the unit of a regression


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
    stored_rows: Array | None = None  # (N,) of these rows in the label dataset; -1: not the chosen translation
    origin: Mapping[str, Any] = field(default_factory=dict)  # inputs of the label dataset, from its manifest
    teacher_parameters: int | None = None  # None if unknown


@dataclass(frozen=True)
class TrainingFacts:
    """What plan, model card and manifest state about the rows of a training."""

    rows: int
    label_names: list[str] | None = None  # None if the task makes no predictions
    statements: list[str] = field(default_factory=list)  # how the labels were read, see `PredictionTask`
    origin: Mapping[str, Any] = field(default_factory=dict)  # inputs of the label dataset, from its manifest
    teacher_parameters: int | None = None  # None if unknown
    scale: models.OutputScale | None = None  # of regression targets that are in standard units

    @classmethod
    def of(cls, rows: TrainingRows, run: TrainingRun, scale: models.OutputScale | None = None) -> TrainingFacts:
        statements: list[str] = []
        if isinstance(run.task, tasks.PredictionTask) and rows.label_names is not None:
            statements = run.task.label_statements(rows.rows, run.config.data, rows.label_names)
        return cls(len(rows.rows), rows.label_names, statements, rows.origin, rows.teacher_parameters, scale)


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

    facts: TrainingFacts
    examples: data.Examples
    validation: Validation | None
    rows: Rows | None  # None if an earlier process of this run has stored `examples`: they are not read again
    stream: StreamedBlocks | None = None  # what is trained on; the others are then of its first rows


@dataclass(frozen=True)
class StoredExamples:
    """What an earlier process of this run has stored, so that the training rows need not be read again."""

    facts: TrainingFacts
    examples: data.Examples
    used: list[int] | None  # ids of the source that the texts use, of a trimmed vocabulary; None if it was not trimmed


@dataclass(frozen=True)
class NewModel:
    """The model to train, in its new shape."""

    model: Any
    tokenizer: Any
    copied_layers: list[int]  # of the source model, counted from 1; of a translation model those of the encoder
    vocabulary: models.TrimmedVocabulary | None = None  # None if it was not trimmed
    decoder_layers: list[int] | None = None  # of a translation model, the same for the decoder

    @property
    def vocabulary_sizes(self) -> dict[str, int]:
        """Of a trimmed vocabulary; empty if it was not trimmed."""
        return {} if self.vocabulary is None else self.vocabulary.sizes


def prepare(
    run: TrainingRun,
    setting: Model,
    source: models.Source,
    rows: TrainingRows | StoredExamples,
    *,
    section: str,
    dropout: float | None = None,
) -> Generator[Event, None, tuple[NewModel, TrainingData]]:
    """Builds the model and encodes training and validation rows for it; yields warnings about the rows.

    Args:
        setting: the shape of the model; `section` is its key in the config, for error messages.
        source: where `setting.from` is.
        rows: of the training.
        dropout: of the new model; None = as in the source.
    """
    if isinstance(rows, StoredExamples):
        return (yield from _prepare_stored(run, setting, source, rows, section, dropout))
    config, task = run.config, run.task
    tokenizer = _load_tokenizer(run, source)
    encoded = task.encode(rows.rows, config.data, tokenizer)
    yield from data.row_warnings("train", encoded, config.data)
    unknown = unknown_warnings("train", encoded, rows.rows, config.data, tokenizer, source.name)
    yield from map(events.warning, unknown)
    model, copied_layers = _build(run, setting, source, rows.label_names, tokenizer, section, dropout)
    new = NewModel(model, tokenizer, copied_layers)
    if setting.trim_vocabulary:
        are_all = rows.originals is None or rows.originals is rows.rows
        needed = encoded if are_all else task.encode(rows.originals or rows.rows, config.data, tokenizer)
        new = _trimmed(new, counts(needed.tokens["input_ids"][0]).nonzero()[0].tolist())
        assert new.vocabulary is not None
        renumbered = _with_new_ids(encoded, new.vocabulary.new_ids) if are_all else None  # else tokens may be missing
        first = task.encode(rows.rows.head(COMPARED), config.data, new.tokenizer)
        if renumbered is not None and _begins_with(renumbered, first):
            encoded = renumbered
        else:
            encoded = task.encode(rows.rows, config.data, new.tokenizer)
    models.compute_head_in_float32(model)
    if rows.states is not None:
        rows.states.check(encoded)
    scale = _output_scale(rows, run, model)
    targets = rows.targets if scale is None else _in_standard_units(rows.targets, scale)
    _scale_head(run, setting, source, model, scale)
    examples = data.Examples.of(encoded, rows.states, **task.align(targets, rows.layout, encoded))
    validation = yield from _read_validation(run, rows.label_names, rows.rows, new.tokenizer)
    return new, TrainingData(TrainingFacts.of(rows, run, scale), examples, validation, rows.rows)


def _prepare_stored(
    run: TrainingRun,
    setting: Model,
    source: models.Source,
    stored: StoredExamples,
    section: str,
    dropout: float | None,
) -> Generator[Event, None, tuple[NewModel, TrainingData]]:
    """The same for training rows that an earlier process of this run has encoded; they are not read again."""
    tokenizer, facts = _load_tokenizer(run, source), stored.facts
    model, copied_layers = _build(run, setting, source, facts.label_names, tokenizer, section, dropout)
    new = NewModel(model, tokenizer, copied_layers)
    if stored.used is not None:
        new = _trimmed(new, stored.used)
    models.compute_head_in_float32(model)
    _scale_head(run, setting, source, model, facts.scale)
    validation = yield from _read_validation(run, facts.label_names, None, new.tokenizer)
    return new, TrainingData(facts, stored.examples, validation, None)


def _load_tokenizer(run: TrainingRun, source: models.Source) -> Any:
    tokenizer = models.load_tokenizer(source)
    models.check_inputs(source, tokenizer, run.config.data)
    if isinstance(run.task, tasks.PredictionTask):
        models.record_length(tokenizer, run.config.data.max_seq_length)
    return tokenizer


def _trimmed(new: NewModel, used: list[int]) -> NewModel:
    """The model, which is changed, and a tokenizer with the tokens in `used` and those that every text needs."""
    vocabulary = models.trim_vocabulary(new.model, new.tokenizer, used)
    return replace(new, tokenizer=vocabulary.tokenizer, vocabulary=vocabulary)


def _with_new_ids(encoded: Encoded, new_ids: Array) -> Encoded:
    """The same rows with other numbers of their tokens, instead of tokenizing them again."""
    ids, padding = encoded.tokens["input_ids"]
    return replace(encoded, tokens={**encoded.tokens, "input_ids": (looked_up(new_ids, ids), int(new_ids[padding]))})


def _begins_with(encoded: Encoded, first: Encoded) -> bool:
    """Whether the first windows have these tokens."""
    ids, expected = (one.tokens["input_ids"][0] for one in (encoded, first))
    return bool(np.array_equal(ids[: len(expected)], expected))


def _read_validation(
    run: TrainingRun, label_names: list[str] | None, training: Rows | None, tokenizer: Any
) -> Generator[Event, None, Validation | None]:
    """The validation rows, if the config names any that can be scored; yields warnings about them.

    Args:
        training: rows that should not be among them; None if that was checked before.
    """
    config, task = run.config, run.task
    if not data.has(config.data, "validation"):
        return None
    rows = data.read(config.data, "validation")
    names: list[str] = []
    metric: metrics.Metric | None = None
    if isinstance(task, tasks.PredictionTask):
        names = task.label_names(rows, config.data, model_names=label_names)
        metric = task.metric(rows, config.data, names)
        yield from map(events.warning, of_positions(task.label_statements(rows, config.data, names)))
    encoded = task.encode(rows, config.data, tokenizer)
    yield from data.row_warnings("validation", encoded, config.data)
    if training is not None:
        leaks = {"train": training, "validation": rows}
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
    label_names: list[str] | None,
    tokenizer: Any,
    section: str,
    dropout: float | None,
) -> tuple[Any, list[int]]:
    """The model in its new shape, and the layers of the source (counted from 1) that its layers were copied from."""
    config, task = run.config, run.task
    torch.manual_seed(config.seed)
    attention = loops.fastest_attention(run.accelerator.device.type, config.data.max_seq_length)
    base = models.load(
        source, task.head,
        label_names=label_names, problem=task.problem, new_head=True, dropout=dropout, attention=attention,
    )  # fmt: skip
    models.check_vocabulary(base, tokenizer, source)
    try:
        mapping = models.copied_layers(setting, encoder_rule(config.layer_mapping), base.config)
        _check_layer_list(config, mapping)
        student = models.build_student(setting, base, mapping, seed=config.seed, cls_only=True)
        return student, [layer + 1 for layer in mapping]
    except ConfigError as error:
        key = error.key if error.key[:1] == ("layer_mapping",) else (section, *error.key)
        raise ConfigError(error.what, key=key, hint=error.hint) from error


def _check_layer_list(config: Finetune | Distill, mapping: Sequence[int]) -> None:
    """ConfigError if `layer_mapping` lists layers that are neither copied (`mapping`, from 0) nor compared."""
    rule = encoder_rule(config.layer_mapping)
    compares = isinstance(config, Distill) and any(
        losses.weight_of(setting) for name, setting in config.losses.items() if name in losses.LAYER_OUTPUTS
    )
    if isinstance(rule, str) or compares or list(rule) == [layer + 1 for layer in mapping]:
        return
    reason = "all layers of `from` are copied" if mapping else "random weights are copied from no layer"
    raise ConfigError(
        f"layer_mapping {list(rule)} has no effect: {reason}",
        key=("layer_mapping",),
        hint="leave it out, or set num_hidden_layers to fewer layers than those of `from`",
    )


def _output_scale(rows: TrainingRows, run: TrainingRun, model: Any) -> models.OutputScale | None:
    """The scale of regression targets; None for other tasks, and if the targets stay as they are."""
    task = run.task
    names = [name for name in SCALED if name in rows.targets]
    if not isinstance(task, tasks.PredictionTask) or task.output_type != "value" or not names:
        return None
    return models.output_scale(rows.targets[names[0]], model, only_unusual=run.output.resumes_earlier_version)


def _in_standard_units(targets: Mapping[str, Array], scale: models.OutputScale) -> dict[str, Array]:
    return {name: scale.to_standard(values) if name in SCALED else values for name, values in targets.items()}


def _scale_head(
    run: TrainingRun, setting: Model, source: models.Source, model: Any, scale: models.OutputScale | None
) -> None:
    """Changes a head that was trained before to standard units."""
    if scale is not None and setting.initialize == "teacher" and models.has_head(source, run.task.head):
        scale.standardize(model)
