"""The interface of a task: which head, how rows become tokens and labels, and how logits become predictions.

Shapes: N rows, P predictions (one per row, or one per word or token), C numbers of each prediction. `layout` says
which predictions belong to which row; None: one per row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tinybert_cli.config import Data
from tinybert_cli.errors import InputError, look_up
from tinybert_cli.metrics.base import Metric
from tinybert_cli.tasks.label_names import hidden_labels_error
from tinybert_cli.tasks.onnx_examples import text_example
from tinybert_cli.types import NO_LABEL, Array, Encoded, Layout, Predictions, Rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tinybert_cli.translation_tokenizer import TranslationTokenizer


class Task(ABC):
    """A task that a model can be trained for."""

    name: ClassVar[str]
    head: ClassVar[str]  # the model head, by its name in models.HEADS
    problem: ClassVar[str | None] = None  # `problem_type` in config.json, if the head alone does not tell
    tuned_settings: ClassVar[tuple[str, ...]] = ()  # settings of config.json that are tuned on the validation rows
    pipeline: ClassVar[str]  # the Hub's name of the task
    recipe: ClassVar[str | None] = None  # the folder of configs/ that `tinybert init` copies
    main_metric: ClassVar[str]
    metrics: ClassVar[Mapping[str, bool]]  # the metrics in training, and whether more of it is better

    def objective(self, name: str) -> tuple[str, float]:
        """The metric that selects checkpoints, and +1 if more of it is better, else -1."""
        metric = self.main_metric if name == "auto" else name
        more_is_better = look_up(self.metrics, metric, "metric", key=("training", "metric_for_best_model"))
        return metric, 1.0 if more_is_better else -1.0

    @abstractmethod
    def encode(self, rows: Rows, data: Data, tokenizer: PreTrainedTokenizerBase) -> Encoded:
        """The rows as token ids.

        Raises:
            InputError: a column is missing, or a row does not hold what the task reads.
        """

    def align(self, targets: Mapping[str, Array], layout: Layout | None, encoded: Encoded) -> Mapping[str, Array]:
        """The targets of the losses (P, ...) for the predictions of these encoded rows.

        They are the targets themselves, unless the predictions of a task depend on the tokenizer.

        Args:
            layout: of "teacher_logits".
        """
        return targets

    def long_input(self, longest: int) -> str:
        """What `encode` does to input of more than so many tokens, in the past tense and without an end mark."""
        return f"Input longer than {longest} tokens was cut"

    @abstractmethod
    def usage(self, folder: str, data: Data) -> str:
        """Python code that loads a finished model folder, trained with these settings, and predicts."""


class PredictionTask(Task):
    """A task whose models make predictions, so that they can label, be evaluated and be exported."""

    output_type: ClassVar[str]  # the meaning of the C numbers, a name of losses.LOSS_SETS
    text_counts: ClassVar[tuple[int, ...]] = (1, 2)  # numbers of texts that a row may have
    splits_long_texts: ClassVar[bool] = False  # into windows that overlap by `doc_stride`; else they are cut
    supports_augmentation: ClassVar[bool] = True  # whether words of a row may be replaced
    labels_of_rows: ClassVar[bool] = False  # whether there is a label for each row, which `align` puts on predictions
    has_confidence: ClassVar[bool] = True
    agreement_counts_rows: ClassVar[bool] = (
        True  # whether `agreement` is a share of rows, not of words or a correlation
    )
    slice_metric: ClassVar[str]  # the metric of slices
    extra_metrics: ClassVar[Mapping[str, bool]]  # the same, besides `metrics`; "recall" here means `recall[class]`

    @abstractmethod
    def label_names(self, rows: Rows, data: Data, *, model_names: Sequence[str] | None) -> list[str]:
        """The classes in their order.

        Raises:
            InputError: data and model disagree; shows both lists.
        """

    @abstractmethod
    def labels(self, rows: Rows, data: Data, names: Sequence[str]) -> Array | None:
        """Gold labels for the losses (P, ...), `missing` where a row has none; None without a label column.

        (N, ...) if `labels_of_rows`.
        """

    @abstractmethod
    def metric(self, rows: Rows, data: Data, names: Sequence[str]) -> Metric | None:
        """The metric with the gold labels of these rows; None without a label column.

        Raises:
            InputError: a row has no label.
        """

    @abstractmethod
    def check_trainable(self, labels: Array, names: Sequence[str], rows: Rows) -> None:
        """InputError if nothing can be learned from these labels (P, ...)."""

    def label_warnings(self, rows: Rows, data: Data, names: Sequence[str]) -> list[str]:
        """Warnings about unusual gold labels."""
        return []

    def label_statements(self, rows: Rows, data: Data, names: Sequence[str]) -> list[str]:
        """How the labels were read, where the data alone does not prove it; for the plan."""
        return []

    def labels_are_names(self, rows: Rows, data: Data, names: Sequence[str]) -> bool:
        """Whether the gold labels name their classes, whatever the order of the classes."""
        return False

    def apply_thresholds(self, logits: Array, layout: Layout | None, settings: Mapping[str, Any]) -> Array:
        """The logits shifted by the tuned thresholds in `settings`, so that 0, or the argmax, is the decision.

        Label datasets hold the raw logits, before any threshold is applied.
        """
        return logits

    @abstractmethod
    def predictions(
        self, logits: Array, layout: Layout | None, names: Sequence[str], rows: Rows, data: Data
    ) -> Predictions:
        """The predictions for the rows, from logits (P, C) with thresholds applied."""

    def decide(
        self,
        raw_logits: Array,
        layout: Layout | None,
        names: Sequence[str],
        rows: Rows,
        data: Data,
        settings: Mapping[str, Any],
    ) -> Predictions:
        """The predictions from raw logits (P, C), with the tuned thresholds in `settings`."""
        logits = self.apply_thresholds(raw_logits, layout, settings)
        return self.predictions(logits, layout, names, rows, data)

    @abstractmethod
    def hard_labels(self, logits: Array, layout: Layout | None, min_confidence: float) -> tuple[Array, Array]:
        """Predictions as `labels`, `missing` where confidence is lower, and which rows (N,) have any."""

    @abstractmethod
    def fidelity(self, predictions: Predictions, reference: Predictions) -> dict[str, float]:
        """How close the predictions are to those of the reference; `agreement` is among the numbers, 1 at best."""

    @abstractmethod
    def ensemble(self, logits: Sequence[Array], weights: Sequence[float], layout: Layout | None = None) -> Array:
        """The logits (P, C) of the weighted mean of several models."""

    def mean_settings(
        self, settings: Sequence[Mapping[str, Any]], weights: Sequence[float], names: Sequence[str]
    ) -> dict[str, Any]:
        """The tuned settings for the `ensemble` of several models, from those of each; none if no model has any."""
        return {}

    def row_of(self, texts: Sequence[str]) -> list[Any]:
        """Typed texts as the text columns of a row, which `encode` reads."""
        return list(texts)

    @abstractmethod
    def format_prediction(
        self,
        texts: Sequence[str],
        logits: Array,
        layout: Layout | None,
        names: Sequence[str],
        config: Mapping[str, Any],
    ) -> dict[str, Any]:
        """The output of `tinybert predict` for one text or pair; has the key `prediction`.

        Args:
            texts: as typed, see `row_of`.
            logits: of the row's predictions (P, C), before any threshold is applied.
            config: config.json of the model, with its tuned settings.
        """

    def example_input(self, *, pair: bool) -> str:
        """An argument of `tinybert predict`, quoted for the shell."""
        return r"$'Better than it looks.\tIt looks bad.'" if pair else '"Better than it looks."'

    def onnx_example(self, data: Data, names: Sequence[str]) -> str:
        """Python code that predicts with an ONNX export, after `onnx_examples.HEAD`."""
        decode = "(logits,) = run(tokenizer.encode_batch(texts))\nprint(logits)\n"
        return text_example(decode, pair=len(data.text_columns) == 2)

    def limitations(self, names: Sequence[str]) -> str:
        """A sentence on limitations for the model card."""
        return (
            "The model predicts one of its labels for any text, however different the text is from its training data; "
            "a high confidence does not prove that the prediction is right."
        )


class GenerationTask(Task):
    """A task whose models generate a text for each row, so that they can label, be evaluated and be exported."""

    output_type: ClassVar[str]  # a name of losses.LOSS_SETS
    slice_metric: ClassVar[str]  # the metric of slices
    extra_metrics: ClassVar[Mapping[str, bool]]  # the same, besides `metrics`

    @abstractmethod
    def encode_sources(self, rows: Rows, data: Data, tokenizer: TranslationTokenizer) -> Encoded:
        """The source texts as token ids, cut to `max_seq_length`."""

    @abstractmethod
    def encode_pairs(self, rows: Rows, data: Data, tokenizer: TranslationTokenizer) -> Encoded:
        """Source texts with their targets, the label column; rows whose target is too long are left out."""

    @abstractmethod
    def references(self, rows: Rows, data: Data) -> list[list[str]] | None:
        """The references of each row; None without a label column.

        Raises:
            InputError: a row has none, or one that is no text.
        """

    @abstractmethod
    def generation_metric(self, rows: Rows, data: Data) -> Metric | None:
        """The metric with the references of these rows; None without a label column."""

    @abstractmethod
    def fidelity(self, predictions: Predictions, reference: Predictions) -> dict[str, float]:
        """How close the texts are to those of the reference model; `agreement` is among the numbers, 1 at best."""


def missing(labels: Array) -> Array:
    """Which labels are missing: NO_LABEL among class indices, NaN among numbers."""
    return labels == NO_LABEL if labels.dtype.kind == "i" else np.isnan(labels)


def check_complete(labels: Array, rows: Rows) -> None:
    """InputError for the first row without a label (N, ...)."""
    gaps = missing(labels)
    if gaps.any():
        without = np.unique(np.argwhere(gaps)[:, 0])
        more = f" (of {len(without):,})" if len(without) > 1 else ""
        raise InputError(
            f"a row without a label{more}",
            where=rows.location(int(without[0])),
            hint="add the labels, or move these rows to data.unlabeled_file, which gen-soft-labels reads",
        )


def no_labels_error(rows: Rows, data: Data) -> InputError:
    """The error where gold labels are needed and `PredictionTask.labels` returns None."""
    try:
        values = rows.column(data.label_column)
    except InputError as missing_column:
        return missing_column
    if all(value is None for value in values):
        return InputError("no row has a label", where=rows.location(0), hint="name a file or a split with labels")
    return hidden_labels_error(rows)


def text_usage(folder: str, options: str, data: Data) -> str:
    """Python code that classifies a text, or a pair of texts, with transformers, which cuts only if it is told to."""
    pair = '{"text": "Better than it looks.", "text_pair": "It looks bad."}'
    text = pair if len(data.text_columns) == 2 else '"Better than it looks."'
    code = f'pipeline("text-classification", "{folder}", truncation=True{options})({text})'
    return f"from transformers import pipeline\n\n{code}"
