"""Question answering: the span of a context that answers a question, or no answer if the context has none.

Every token of a window has a prediction: a logit for the answer beginning there, and one for it ending there. What they
mean is in `metrics.spans`. Labels are characters of the context, so that teacher and student may have different
tokenizers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tinybert_cli.config import Data
from tinybert_cli.errors import ConfigError, InputError
from tinybert_cli.metrics import span_targets, spans
from tinybert_cli.metrics.comparison import rank_correlation
from tinybert_cli.metrics.probabilities import EPSILON
from tinybert_cli.metrics.span_metric import NEVER, NULL_THRESHOLD, SpanMetric
from tinybert_cli.metrics.spans import NO_ANSWER
from tinybert_cli.scratch_files import joined
from tinybert_cli.tasks.base import PredictionTask, missing
from tinybert_cli.tasks.context_windows import ContextWindows, cut_questions
from tinybert_cli.tasks.encoding import text_columns_of
from tinybert_cli.tasks.gold_answers import gold_answers, statements
from tinybert_cli.tasks.onnx_examples import ANSWER
from tinybert_cli.types import NO_LABEL, Array, Encoded, Layout, Predictions, Rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

N_BEST = 5  # answers in the output of `predict`

_CHUNK = 500  # rows that are tokenized in one call


class QuestionAnswering(PredictionTask):
    name = "question-answering"
    head = "question-answering"
    pipeline = "question-answering"
    recipe = "squad"
    output_type = "span"
    text_counts = (2,)
    splits_long_texts = True
    labels_of_rows = True
    main_metric = "f1"
    metrics: ClassVar[Mapping[str, bool]] = {"f1": True, "exact_match": True, "loss": False}
    slice_metric = "f1"
    tuned_settings = (NULL_THRESHOLD,)
    extra_metrics: ClassVar[Mapping[str, bool]] = {
        "answered": True,
        "exact_match_answerable": True,
        "f1_answerable": True,
        "accuracy_unanswerable": True,
    }

    def long_input(self, longest: int) -> str:
        windows = f"Input longer than {longest} tokens was read in windows of so many tokens"
        return f"{windows}, and questions longer than {longest // 2} tokens were cut"

    def encode(self, rows: Rows, data: Data, tokenizer: PreTrainedTokenizerBase) -> Encoded:
        """Question and context; a long context is split into windows that overlap by `doc_stride` tokens."""
        questions, contexts = _questions_and_contexts(rows, data)
        encoder, truncated = ContextWindows(tokenizer), 0
        for begin in range(0, len(rows), _CHUNK):
            chunk = slice(begin, begin + _CHUNK)
            short, cut = cut_questions(questions[chunk], data.max_seq_length // 2, tokenizer)
            encoder.add(short, contexts[chunk], data)
            truncated += cut
        empty = [index for index, context in enumerate(contexts) if not context.strip()]
        return encoder.encoded(truncated=truncated, empty=empty)

    def label_names(self, rows: Rows, data: Data, *, model_names: Sequence[str] | None) -> list[str]:
        return ["begin", "end"]

    def labels(self, rows: Rows, data: Data, names: Sequence[str]) -> Array | None:
        """First character and end of the first gold answer (N, 2), or NO_ANSWER; NO_LABEL in a row without answers."""
        _, contexts = _questions_and_contexts(rows, data)
        gold = gold_answers(rows, data, contexts)
        if gold is None:
            return None
        labels = np.full((len(rows), 2), NO_LABEL, dtype=np.int64)
        for label, answers in zip(labels, gold, strict=True):
            if answers is not None:
                label[:] = answers[0].span if answers else NO_ANSWER
        return labels

    def align(self, targets: Mapping[str, Array], layout: Layout | None, encoded: Encoded) -> Mapping[str, Array]:
        """The teacher's logits on the student's tokens, and 1 where the answer begins and ends in each window (P, 2).

        A window that does not hold the answer has the marks at [CLS]; a row without a label has NaN.
        """
        aligned = dict(targets)
        if "teacher_logits" in targets:
            aligned["teacher_logits"] = _transferred(targets["teacher_logits"], layout, encoded.layout)
        if "labels" in targets:
            assert encoded.layout is not None
            aligned["labels"] = _marks(targets["labels"], encoded.layout)
        return aligned

    def metric(self, rows: Rows, data: Data, names: Sequence[str]) -> SpanMetric | None:
        _, contexts = _questions_and_contexts(rows, data)
        labels, answers_of_rows = self.labels(rows, data, names), gold_answers(rows, data, contexts)
        if labels is None or answers_of_rows is None:
            return None
        gold = list(answers_of_rows)
        if missing(labels).any():
            row = next(index for index, answers in enumerate(gold) if answers is None)
            raise InputError(
                "a row without answers",
                where=rows.location(row),
                hint="add the answer; a question without one has an empty list, or is_impossible: true",
            )
        return SpanMetric(labels, contexts, [[answer.text for answer in answers or []] for answers in gold])

    def label_statements(self, rows: Rows, data: Data, names: Sequence[str]) -> list[str]:
        _, contexts = _questions_and_contexts(rows, data)
        return statements(rows, data, contexts)

    def check_trainable(self, labels: Array, names: Sequence[str], rows: Rows) -> None:
        if missing(labels).all():
            raise InputError("no row has an answer: there is nothing to learn", where=rows.location(0))

    def apply_thresholds(self, logits: Array, layout: Layout | None, settings: Mapping[str, Any]) -> Array:
        """Subtracts half the threshold from both logits of "no answer", so that the larger sum is the prediction."""
        threshold = _threshold(settings)
        if threshold is None:
            return logits
        shifted = logits.copy()
        shifted[spans.no_answer_positions(layout)] -= threshold / 2
        return shifted

    def predictions(
        self, logits: Array, layout: Layout | None, names: Sequence[str], rows: Rows, data: Data
    ) -> Predictions:
        _, contexts = _questions_and_contexts(rows, data)
        answers = [spans.best_answer(*row) for row in spans.by_row(logits, layout)]
        texts = [context[answer.begin : answer.end] for context, answer in zip(contexts, answers, strict=True)]
        confidences = np.array([answer.probability for answer in answers])
        characters = np.array([(answer.begin, answer.end) for answer in answers])
        return Predictions(texts, confidences, logits, layout, characters)

    def hard_labels(self, logits: Array, layout: Layout | None, min_confidence: float) -> tuple[Array, Array]:
        answers = [spans.best_answer(*row) for row in spans.by_row(logits, layout)]
        labels = [(answer.begin, answer.end) if answer.end else (NO_ANSWER, NO_ANSWER) for answer in answers]
        confident = np.array([answer.probability >= min_confidence for answer in answers], dtype=bool)
        return np.where(confident[:, None], np.array(labels, dtype=np.int64), NO_LABEL), confident

    def fidelity(self, predictions: Predictions, reference: Predictions) -> dict[str, float]:
        """`agreement`: share of rows with the same span; `kl`: divergence from the reference, mean of begin and end."""
        expected = _transferred(reference.known_logits, reference.layout, predictions.layout)
        pairs = zip(
            spans.by_row(predictions.known_logits, predictions.layout),
            spans.by_row(expected, predictions.layout),
            strict=True,
        )
        divergences = [_divergence(logits, expected_logits, tokens) for (logits, tokens), (expected_logits, _) in pairs]
        confidences, reference_confidences = predictions.confidences, reference.confidences
        assert predictions.spans is not None and reference.spans is not None
        assert confidences is not None and reference_confidences is not None
        return {
            "agreement": float((predictions.spans == reference.spans).all(-1).mean()),
            "kl": max(0.0, float(np.mean(divergences))),
            "confidence_correlation": rank_correlation(confidences, reference_confidences),
        }

    def ensemble(self, logits: Sequence[Array], weights: Sequence[float], layout: Layout | None = None) -> Array:
        """The log of the weighted mean of the probabilities in each window; one model: its logits."""
        if len(logits) == 1:
            return logits[0]
        probabilities = [
            np.exp(np.concatenate([spans.log_softmax(*row) for row in spans.by_row(values, layout)]))
            for values in logits
        ]
        mean_logits: Array = np.log(np.average(probabilities, axis=0, weights=weights).clip(EPSILON))
        return mean_logits.astype(np.float32)

    def mean_settings(
        self, settings: Sequence[Mapping[str, Any]], weights: Sequence[float], names: Sequence[str]
    ) -> dict[str, Any]:
        """The weighted mean of the thresholds of the models that abstain; if none of them does, their mean does not."""
        thresholds = list(map(_threshold, settings))
        if all(one is None for one in thresholds):
            return {}
        pairs = [(one or 0.0, weight) for one, weight in zip(thresholds, weights, strict=True)]
        values, own_weights = zip(*([pair for pair in pairs if pair[0] < NEVER] or pairs), strict=True)
        return {NULL_THRESHOLD: float(np.average(values, weights=own_weights))}

    def format_prediction(
        self,
        texts: Sequence[str],
        logits: Array,
        layout: Layout | None,
        names: Sequence[str],
        config: Mapping[str, Any],
    ) -> dict[str, Any]:
        """The best answer with its characters in the context, and the `n_best` answers; "" stands for no answer."""
        _, context = texts
        ((logits, token_spans),) = spans.by_row(self.apply_thresholds(logits, layout, config), layout)
        answers = [
            {
                "text": context[answer.begin : answer.end],
                "confidence": answer.probability,
                "begin": answer.begin,
                "end": answer.end,
            }
            for answer in spans.best_answers(logits, token_spans, N_BEST)
        ]
        best = dict(answers[0])
        return {"prediction": best.pop("text"), **best, "n_best": answers}

    def example_input(self, *, pair: bool) -> str:
        return r"$'Who wrote it?\tIt was written by Ada in 1843.'"

    def onnx_example(self, data: Data, names: Sequence[str]) -> str:
        return ANSWER.format(
            length=data.max_seq_length,
            stride=data.doc_stride,
            longest=spans.LONGEST,
            threshold=NULL_THRESHOLD,
        )

    def limitations(self, names: Sequence[str]) -> str:
        return (
            "The model abstains if the score of no answer exceeds that of the best span by more than "
            f"`{NULL_THRESHOLD}` in config.json; with {NEVER:g} it never abstains. An answer has at most "
            f"{spans.LONGEST} tokens. Other programs have options of their own for both."
        )

    def usage(self, folder: str, data: Data) -> str:
        return _USAGE.format(
            folder=folder, length=data.max_seq_length, stride=data.doc_stride, longest=spans.LONGEST,
            threshold=NULL_THRESHOLD,
        )  # fmt: skip


_USAGE = """import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

model = AutoModelForQuestionAnswering.from_pretrained("{folder}")
tokenizer = AutoTokenizer.from_pretrained("{folder}")
question, context = "Who wrote it?", "It was written by Ada in 1843."
overlap = min({stride}, {length} // 2 - 1 - tokenizer.num_special_tokens_to_add(pair=True))
inputs = tokenizer(
    question, context, truncation="only_second", max_length={length}, stride=max(0, overlap), padding=True,
    return_overflowing_tokens=True, return_offsets_mapping=True, return_tensors="pt",
)
characters = inputs.pop("offset_mapping").tolist()
inputs.pop("overflow_to_sample_mapping")
with torch.no_grad():
    outputs = model(**inputs)
no_answer, answers = [], []  # of all windows of the context
for window, logits in enumerate(zip(outputs.start_logits.tolist(), outputs.end_logits.tolist())):
    no_answer.append(logits[0][0] + logits[1][0])
    tokens = [token for token, text in enumerate(inputs.sequence_ids(window)) if text == 1]
    for begin in tokens:
        for end in tokens:
            answer = context[characters[window][begin][0] : characters[window][end][1]].strip()
            if answer and 0 <= end - begin < {longest}:
                answers.append((logits[0][begin] + logits[1][end], answer))
score, answer = max(answers)
print("" if min(no_answer) - score > (model.config.{threshold} or 0) else answer)"""


def _threshold(settings: Mapping[str, Any]) -> float | None:
    """The threshold in config.json; None if it has none.

    Raises:
        InputError: it is no number.
    """
    threshold = settings.get(NULL_THRESHOLD)
    if threshold is None:
        return None
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not math.isfinite(threshold):
        hint = f"a number; {NEVER:g} to abstain never, 0 or null for the likeliest of no answer and the best span"
        raise InputError(f"`{NULL_THRESHOLD}` in config.json is no number: {threshold!r:.80}", hint=hint)
    return float(threshold)


def _questions_and_contexts(rows: Rows, data: Data) -> list[list[str]]:
    texts = text_columns_of(rows, data)
    if len(texts) != 2:
        raise ConfigError(
            "expected two columns, a question and its context", key=("data", "text_column_names"),
            hint="[question, context]",
        )  # fmt: skip
    return texts


def _marks(labels: Array, layout: Layout) -> Array:
    """Labels of rows (N, 2) as marks on tokens (P, 2), see `QuestionAnswering.align`."""

    def of_rows() -> Iterator[Array]:
        for label, tokens in zip(labels, spans.token_spans_by_row(layout), strict=True):
            marks = np.zeros((len(tokens), 2), dtype=np.float32)
            if missing(label).any():
                marks[:] = np.nan
            else:
                for first, last in span_targets.answer_tokens(tokens, *label.tolist()):
                    marks[first, 0] = marks[last, 1] = 1
            yield marks

    return joined(of_rows(), np.float32).reshape(-1, 2)


def _transferred(logits: Array, source: Layout | None, target: Layout | None) -> Array:
    """Logits (P, 2) on the tokens of `source`, on those of `target`; see `span_targets.transferred`."""
    assert target is not None
    rows = zip(spans.by_row(logits, source), spans.token_spans_by_row(target), strict=True)
    moved = (span_targets.transferred(values, tokens, own) for (values, tokens), own in rows)
    return joined(moved, logits.dtype).reshape(-1, 2)


def _divergence(logits: Array, reference: Array, token_spans: Array) -> float:
    """KL divergence of begin and end (P, 2) from the reference's: the mean of both, and of the windows."""
    log_q, log_p = spans.log_softmax(logits, token_spans), spans.log_softmax(reference, token_spans)
    return float((np.exp(log_p) * (log_p - log_q)).sum() / 2 / len(spans.windows(token_spans)))
