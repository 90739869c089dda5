"""Training of translation models, shared by finetune and distill: rows, the new model, and its evaluation."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tinybert_cli import artifacts, data, events, loops, losses, metrics, models, tasks
from tinybert_cli.config import Data, Distill, Finetune, Model
from tinybert_cli.config import Search as SearchSettings
from tinybert_cli.errors import ConfigError, InputError
from tinybert_cli.events import Event
from tinybert_cli.inspection import duplicates
from tinybert_cli.inspection.vocabulary import unknown_warnings
from tinybert_cli.reports import model_card
from tinybert_cli.stages import label_dataset
from tinybert_cli.stages.preparation import (
    NewModel,
    TrainingData,
    TrainingFacts,
    TrainingRows,
    TrainingRun,
    Validation,
)
from tinybert_cli.stages.validation_scores import RESAMPLES
from tinybert_cli.translation_tokenizer import TranslationTokenizer
from tinybert_cli.types import Batch, Encoded, Predictions, Rows, Search
from tinybert_cli.wording import verb

if TYPE_CHECKING:
    from accelerate import Accelerator

VALIDATION_BEAMS = 1  # greedy: beam search costs several times as much


def gold_rows(settings: Data, task: tasks.Translation) -> Generator[Event, None, TrainingRows]:
    """The training rows, whose targets are the references; warnings about pairs that are no translations."""
    rows = data.read(settings, "train")
    yield from map(events.warning, task.check_pairs(rows, settings))
    references = task.references(rows, settings)
    assert references is not None  # `check_pairs` has read them
    return TrainingRows(rows, {}, None, texts=[texts[0] for texts in references])


def translated_rows(
    config: Finetune | Distill, task: tasks.Translation, folder: Path, targets: str, *, with_top_k: bool
) -> Generator[Event, None, TrainingRows]:
    """The rows of a label dataset with the target texts of `targets`, see `Distill.targets`.

    Translations that were cut at the limit of their length are left out: they would teach the model to end there.

    Args:
        with_top_k: read the teacher's distributions, too. They belong to the chosen translations only: for other
            targets there are none.

    Raises:
        InputError: the label dataset lacks what is asked for, or is another one than that of this data.
    """
    manifest = artifacts.verify_folder(folder)
    expected = artifacts.describe_all(data.sources(config.data, ["train", "unlabeled"]))
    artifacts.check_origin(folder, manifest, expected)
    yield from label_dataset.check(folder, manifest, config, task)
    yield from map(events.warning, _language_warnings(folder, manifest["settings"]["data"], config.data))
    files = [entry["path"] for entry in manifest["outputs"]]
    labels = data.read_translations(folder, files)
    selected = labels.first_rows(config.data.max_train_samples)
    labels = labels.select(selected)
    pairs = list(_targets(labels, task, config.data, targets, folder))
    indices = [row for row, _, _ in pairs]
    yield {"event": "labels", "rows": len(labels), "selected": len(pairs), "targets": targets}
    yield from _cut_warning(labels, targets, folder)
    if not pairs:
        raise InputError(
            f"every translation in '{folder}' is cut at the limit of its length",
            hint="run gen-soft-labels again with a larger data.max_target_length or search.max_length_factor",
        )
    stored = np.array([selected[row] if is_chosen else -1 for row, _, is_chosen in pairs])
    top_k = None
    if with_top_k:
        if not manifest.get("top_k"):
            raise InputError(
                f"'{folder}' has no distributions of the teacher, which the loss soft_labels needs",
                hint="run gen-soft-labels again with top_k: 8, or leave the loss out: losses: {hard_labels: 1.0}",
            )
        top_k = data.read_top_k(folder, files).select(stored)
    return TrainingRows(
        labels.rows.select(indices), {}, None, texts=[text for _, text, _ in pairs], top_k=top_k, stored_rows=stored,
        origin=manifest["inputs"], teacher_parameters=manifest.get("teacher_parameters"),
    )  # fmt: skip


def _language_warnings(folder: Path, made_with: Mapping[str, Any], settings: Data) -> Iterator[str]:
    """Warnings about other languages than those that the teacher translated.

    Other families have codes of another form for the same language, `de_DE` and `deu_Latn`: these are not compared.
    """
    for name in ("source_language", "target_language"):
        earlier, now = made_with.get(name), getattr(settings, name)
        if earlier and now and earlier != now and _script(earlier) == _script(now):
            yield f"the labels in '{folder}' were made with {name} {earlier}; this run uses {now}, from data.{name}"


def _script(code: str) -> int:
    """The letters after the language of a code, of country or script."""
    return len(code.partition("_")[2])


def _targets(
    labels: data.Translations, task: tasks.Translation, settings: Data, targets: str, folder: Path
) -> Iterator[tuple[int, str, bool]]:
    """Row, target text, and whether that is the teacher's chosen translation."""
    if targets == "n_best":
        if labels.n_best is None:
            raise InputError(
                f"'{folder}' has one translation of each row",
                hint="run gen-soft-labels again with search: {keep: 4}, or set targets: teacher",
            )
        for row, texts in enumerate(labels.n_best):
            for text in dict.fromkeys(texts):
                is_chosen = text == labels.texts[row]
                if labels.finished[row] or not is_chosen:
                    yield row, text, is_chosen
        return
    if targets in ("teacher", "both"):
        yield from ((row, labels.texts[row], True) for row in np.flatnonzero(labels.finished).tolist())
    if targets in ("gold", "both"):
        column = settings.label_column
        if column not in labels.rows.columns:
            raise InputError(
                f"'{folder}' has no references: no column '{column}'",
                hint="check data.label_column_name, or set targets: teacher",
            )
        present = [row for row, value in enumerate(labels.rows.column(column)) if value is not None]
        references = task.references(labels.rows.select(present), settings) or []
        for row, texts in zip(present, references, strict=True):
            yield from ((row, text, False) for text in texts)


def _cut_warning(labels: data.Translations, targets: str, folder: Path) -> Iterator[Event]:
    cut = int((~labels.finished).sum())
    if cut and targets != "gold":
        yield events.warning(
            f"{cut:,} of {len(labels):,} translations in '{folder}' {verb(cut, 'is', 'are')} cut at the limit of "
            "their length and left out of the training"
        )


def prepare(
    run: TrainingRun,
    setting: Model,
    source: models.Source | None,
    rows: TrainingRows,
    *,
    section: str,
    dropout: float | None = None,
) -> Generator[Event, None, tuple[NewModel, TrainingData]]:
    """Builds the model and encodes training and validation rows for it; yields warnings about the rows.

    Args:
        setting: the shape of the model; `section` is its key in the config, for error messages.
        source: where `setting.from` is; None = a new model, whose vocabulary is that of these rows.
        dropout: of the new model; None = as in the source.
    """
    config, task = run.config, run.task
    assert isinstance(task, tasks.Translation)
    tokenizer = _tokenizer(setting, source, rows, config.data, section)
    assert rows.texts is not None  # of translation
    encoded = task.encode_targets(rows.rows, config.data, tokenizer, rows.texts)
    yield from _warnings("train", encoded, len(rows.rows), config.data)
    if source is not None:
        differences = tasks.language_warnings(models.read_config(source), config.data, source.name)
        yield from map(events.warning, differences)
        unknown = unknown_warnings("train", encoded, rows.rows, config.data, tokenizer, source.name)
        yield from map(events.warning, unknown)
    torch.manual_seed(config.seed)
    try:
        model, copied = _build(run, setting, source, tokenizer, dropout)
    except ConfigError as error:
        key = error.key if error.key[:1] in (("layer_mapping",), ("data",)) else (section, *error.key)
        raise ConfigError(error.what, key=key, hint=error.hint) from error
    models.set_generation(model, tokenizer, tasks.search_of(SearchSettings(), config.data.max_target_length))
    if models.zero_padding_row(model):
        yield events.warning(
            "the embedding of the padding token, with which the decoder of Marian starts, was not zero; the training "
            "starts with zero, as Marian and CTranslate2 take it"
        )
    models.compute_head_in_float32(model)
    states = rows.states
    if isinstance(states, data.StackStates):
        assert encoded.rows is not None  # of pairs
        states = states.select(encoded.rows)
        states.check(encoded)
    examples = data.Examples.of(encoded, states, labels=known_labels(encoded))
    if rows.top_k is not None:
        assert encoded.rows is not None and encoded.window_offsets is not None  # of pairs
        top_k = rows.top_k.select(encoded.rows)
        top_k.check(known_labels(encoded), encoded.window_offsets)
        examples = replace(examples, top_k=top_k)
    validation = yield from _read_validation(config.data, task, rows.rows, tokenizer)
    facts = replace(TrainingFacts.of(rows, run), rows=len(encoded.offsets) - 1)  # without targets that are too long
    return NewModel(model, tokenizer, copied[0], decoder_layers=copied[1]), TrainingData(
        facts, examples, validation, rows.rows
    )


@dataclass(frozen=True)
class TranslationEvaluation:
    """The cross-entropy with the references of the validation rows, and the metrics of greedy translations."""

    run: TrainingRun
    validation: Validation
    tokenizer: TranslationTokenizer

    def scores(self, model: torch.nn.Module) -> dict[str, float]:
        """`loss`; and all metrics, if one of them selects the checkpoints."""
        scores = {"loss": self._loss(model)}
        if self.run.objective[0] != "loss":
            predictions = self._translations(model)
            assert self.validation.metric is not None
            scores |= self._watched(metrics.score(self.validation.metric, predictions))
        return scores

    def result(
        self, folder: Path, trained: torch.nn.Module, best_loss: float | None
    ) -> tuple[model_card.Result, dict[str, Any]]:
        """The metrics of the finished folder, in float32, with 95 % intervals."""
        model = models.load_translation_model(models.locate(str(folder))).to(self.run.accelerator.device)
        metric, predictions = self.validation.metric, self._translations(model)
        assert metric is not None
        statistics = metric.statistics(predictions)
        scores = metrics.score(metric, predictions, statistics)
        undefined = metric.undefined(predictions)
        defined = {name: value for name, value in self._watched(scores).items() if name not in undefined}
        scores = {**defined, "loss": self._loss(model)}
        intervals = metrics.intervals(
            metric, predictions, statistics, self.run.task.metrics, resamples=RESAMPLES, seed=self.run.config.seed
        )
        return model_card.Result("validation", len(predictions), scores, intervals), {}

    def _loss(self, model: torch.nn.Module) -> float:
        size, accelerator = self.run.config.training.per_device_eval_batch_size, self.run.accelerator
        return reference_loss(model, self.validation.examples, size, accelerator=accelerator)

    def _translations(self, model: torch.nn.Module) -> Predictions:
        settings, task = self.run.config.data, self.run.task
        assert isinstance(task, tasks.Translation)
        model = model.model if isinstance(model, models.StackStudent) else model
        search = Search(beams=VALIDATION_BEAMS, max_target_length=settings.max_target_length)
        translator = models.torch_translator(model, self.tokenizer)
        encoded = task.encode_sources(self.validation.rows, settings, self.tokenizer)
        hypotheses = loops.translate_all(translator, encoded, search, accelerator=self.run.accelerator)
        return loops.best_texts(self.tokenizer, hypotheses)

    def _watched(self, scores: dict[str, float]) -> dict[str, float]:
        return {name: scores[name] for name in self.run.task.metrics if name in scores}


def reference_loss(
    model: torch.nn.Module, examples: data.Examples, batch_size: int, *, accelerator: Accelerator | None = None
) -> float:
    """The mean cross-entropy of the target tokens, without smoothing."""
    part = losses.part(losses.LOSS_SETS["tokens"].hard_labels, 1.0, {})
    loss = losses.WeightedLoss({"hard_labels": part})

    def means(net: torch.nn.Module, batch: Batch) -> Mapping[str, torch.Tensor]:
        outputs = loops.forward(net, batch)
        return loss(outputs, outputs, batch)

    step_loss = loops.StepLoss(means, loss.denominators, loss.weights)
    batches = data.sorted_batches(examples.target_lengths, batch_size)
    return loops.mean_loss(model, step_loss, examples, batches, accelerator=accelerator)["loss"]


def _tokenizer(
    setting: Model, source: models.Source | None, rows: TrainingRows, settings: Data, section: str
) -> TranslationTokenizer:
    if source is None:
        assert rows.texts is not None  # of translation
        texts = itertools.chain(rows.rows.column(settings.text_columns[0]), rows.texts)
        try:
            return models.train_joint_tokenizer(texts, setting.vocabulary_size or models.NEW_VOCABULARY)
        except ConfigError as error:
            raise ConfigError(error.what, key=(section, *error.key), hint=error.hint) from error
    models.check_family(source)
    tokenizer = models.load_translation_tokenizer(
        source, source_language=settings.source_language, target_language=settings.target_language
    )
    models.check_positions(source.name, models.read_config(source), tokenizer, settings)
    return tokenizer


def _build(
    run: TrainingRun,
    setting: Model,
    source: models.Source | None,
    tokenizer: TranslationTokenizer,
    dropout: float | None,
) -> tuple[Any, tuple[list[int], list[int]]]:
    """The model, and the layers of encoder and decoder that were copied, counted from 1."""
    config = run.config
    longest = max(config.data.max_seq_length, config.data.max_target_length)
    attention = loops.fastest_attention(run.accelerator.device.type, longest)
    if source is None:
        new = models.new_translation_model(
            setting, tokenizer, positions=longest, dropout=dropout, seed=config.seed, attention=attention
        )
        return new, ([], [])
    base = models.load_translation_model(source, dropout=dropout, attention=attention)
    student, copies = models.translation_student(setting, config.layer_mapping, base, seed=config.seed)
    return student, (copies["encoder"], copies["decoder"])


def _read_validation(
    settings: Data, task: tasks.Translation, training: Rows, tokenizer: TranslationTokenizer
) -> Generator[Event, None, Validation | None]:
    if not data.has(settings, "validation"):
        return None
    rows = data.read(settings, "validation")
    metric = task.generation_metric(rows, settings)
    if metric is None:
        yield events.warning(
            f"the validation rows have no column '{settings.label_column}': no checkpoint is scored, and the last one "
            "is stored"
        )
        return None
    encoded = task.encode_pairs(rows, settings, tokenizer)
    yield from _warnings("validation", encoded, len(rows), settings)
    leaks = {"train": training, "validation": rows}
    yield from map(events.warning, duplicates.leaks_between(leaks, settings, most=duplicates.SAMPLE))
    return Validation(rows, data.Examples.of(encoded, labels=known_labels(encoded)), encoded, metric, [])


def known_labels(encoded: Encoded) -> Any:
    assert encoded.labels is not None  # of pairs
    return encoded.labels


def _warnings(split: str, encoded: Encoded, rows: int, settings: Data) -> Iterator[Event]:
    """Warnings about rows that are cut, and about rows that are left out."""
    yield from data.row_warnings(split, encoded, settings)
    left_out = rows - (len(encoded.offsets) - 1)
    if left_out:
        yield events.warning(
            f"{left_out:,} of {rows:,} rows of {split} ({left_out / rows:.1%}) {verb(left_out, 'has', 'have')} a "
            f"target of more than {settings.max_target_length} tokens and {verb(left_out, 'is', 'are')} left out of "
            f"the {'training' if split == 'train' else 'loss'}"
        )
