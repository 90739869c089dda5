"""Question answering: the span of a context that answers a question, or no answer if the context has none.

There is a prediction for every word of the context: a score for the answer beginning there, and one for it ending
there. Words are those of `metrics.spans.word_spans`, whatever the tokenizer, so that teacher and student may have
different ones. The first prediction of a row stands for "no answer".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tinybert_cli.config import Data
from tinybert_cli.errors import ConfigError, InputError
from tinybert_cli.metrics import spans
from tinybert_cli.metrics.comparison import rank_correlation
from tinybert_cli.metrics.spans import NEVER, NULL_THRESHOLD, SpanMetric
from tinybert_cli.tasks.base import PredictionTask, missing
from tinybert_cli.tasks.context_windows import ContextWindows, cut_questions
from tinybert_cli.tasks.encoding import row_ranges, text_columns_of
from tinybert_cli.types import Array, Encoded, Predictions, Rows

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
    main_metric = "f1"
    metrics: ClassVar[Mapping[str, bool]] = {"f1": True, "exact_match": True, "loss": False}
    slice_metric = "f1"
    tuned_settings = (NULL_THRESHOLD,)
    extra_metrics = ("answered", "exact_match_answerable", "f1_answerable", "accuracy_unanswerable")

    def encode(self, rows: Rows, data: Data, tokenizer: PreTrainedTokenizerBase) -> Encoded:
        """Question and context; a long context is split into windows that overlap by `doc_stride` tokens.

        A word is predicted in the window where it is furthest from both ends: its begin at its first token, its end at
        its last one. "No answer" is predicted at the first token of the first window.
        """
        questions, contexts = _questions_and_contexts(rows, data)
        questions, cut = cut_questions(questions, data.max_seq_length // 2, tokenizer)
        encoder = ContextWindows(tokenizer)
        for begin in range(0, len(rows), _CHUNK):
            chunk = slice(begin, begin + _CHUNK)
            encoder.add(questions[chunk], contexts[chunk], data)
        empty = [index for index, context in enumerate(contexts) if not context.strip()]
        return encoder.encoded(truncated=cut, empty=empty)

    def label_names(self, rows: Rows, data: Data, *, model_names: Sequence[str] | None) -> list[str]:
        return ["begin", "end"]

    def labels(self, rows: Rows, data: Data, names: Sequence[str]) -> Array | None:
        """1 where the first gold answer begins and ends, else 0 (P, 2); NaN in a row without gold answers."""
        gold = _gold_answers(rows, data)
        if gold is None:
            return None
        _, contexts = _questions_and_contexts(rows, data)
        parts = []
        for index, (context, answers) in enumerate(zip(contexts, gold, strict=True)):
            words = spans.word_spans(context)
            marks = np.zeros((len(words) + 1, 2), dtype=np.float32)
            if answers is None:
                marks[:] = np.nan
            elif not answers:
                marks[0] = 1
            else:
                text, begin = answers[0]
                first, last = _words_in(words, begin, begin + len(text))
                if not text or context[begin : begin + len(text)] != text or last < first:
                    raise InputError(
                        f"the answer {text!r} is not at character {begin} of its context",
                        where=rows.location(index),
                        hint="answer_start counts characters from 0",
                    )
                marks[first + 1, 0] = marks[last + 1, 1] = 1
            parts.append(marks)
        return np.concatenate(parts)

    def metric(self, rows: Rows, data: Data, names: Sequence[str]) -> SpanMetric | None:
        labels = self.labels(rows, data, names)
        if labels is None:
            return None
        gold, (_, contexts) = _gold_answers(rows, data), _questions_and_contexts(rows, data)
        assert gold is not None
        if missing(labels).any():
            row = next(index for index, answers in enumerate(gold) if answers is None)
            raise InputError("a row without answers", where=rows.location(row))
        return SpanMetric(labels, contexts, [[text for text, _ in answers or []] for answers in gold])

    def check_trainable(self, labels: Array, names: Sequence[str], rows: Rows) -> None:
        if missing(labels).all():
            raise InputError("no row has an answer: there is nothing to learn", where=rows.location(0))

    def apply_thresholds(self, logits: Array, row_offsets: Array | None, settings: Mapping[str, Any]) -> Array:
        """Subtracts half the threshold from both scores of "no answer", so that the larger sum is the prediction."""
        threshold = settings.get(NULL_THRESHOLD)
        if threshold is None:
            return logits
        assert row_offsets is not None
        shifted = logits.copy()
        shifted[row_offsets[:-1]] -= threshold / 2
        return shifted

    def predictions(
        self, logits: Array, row_offsets: Array | None, names: Sequence[str], rows: Rows, data: Data
    ) -> Predictions:
        _, contexts = _questions_and_contexts(rows, data)
        answers = [spans.best_answer(logits[begin:end]) for begin, end in row_ranges(row_offsets)]
        texts = [
            spans.span_text(context, first, last) for context, (first, last, _) in zip(contexts, answers, strict=True)
        ]
        confidences = np.array([confidence for *_, confidence in answers])
        words = np.array([(first, last) for first, last, _ in answers])
        return Predictions(texts, confidences, logits, row_offsets, words)

    def hard_labels(self, logits: Array, row_offsets: Array | None, min_confidence: float) -> tuple[Array, Array]:
        labels, confident = np.zeros(logits.shape, dtype=np.float32), []
        for begin, end in row_ranges(row_offsets):
            first, last, confidence = spans.best_answer(logits[begin:end])
            labels[begin + first, 0] = labels[begin + last, 1] = 1
            confident.append(confidence >= min_confidence)
            if not confident[-1]:
                labels[begin:end] = np.nan
        return labels, np.array(confident, dtype=bool)

    def fidelity(self, predictions: Predictions, reference: Predictions) -> dict[str, float]:
        """`agreement`: share of rows with the same span; `kl`: divergence from the reference, mean of begin and end."""
        pairs = zip(predictions.by_row(), reference.by_row(), strict=True)
        divergences = [_divergence(logits, reference_logits) for logits, reference_logits in pairs]
        confidences, reference_confidences = predictions.confidences, reference.confidences
        assert predictions.spans is not None and reference.spans is not None
        assert confidences is not None and reference_confidences is not None
        return {
            "agreement": float((predictions.spans == reference.spans).all(-1).mean()),
            "kl": max(0.0, float(np.mean(divergences))),
            "confidence_correlation": rank_correlation(confidences, reference_confidences),
        }

    def ensemble(self, logits: Sequence[Array], weights: Sequence[float]) -> Array:
        """The weighted mean of the logits: the geometric mean of the probabilities."""
        mean: Array = np.average(logits, axis=0, weights=weights).astype(np.float32)
        return mean

    def format_prediction(
        self, texts: Sequence[str], logits: Array, names: Sequence[str], config: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The best answer with its characters in the context, and the `n_best` answers; "" stands for no answer."""
        _, context = texts
        words = spans.word_spans(context)
        logits = self.apply_thresholds(logits, np.array([0, len(logits)]), config)
        answers = []
        for first, last, confidence in spans.best_answers(logits, N_BEST):
            begin, end = (int(words[first - 1, 0]), int(words[last - 1, 1])) if first else (0, 0)
            answers.append({"text": context[begin:end], "confidence": confidence, "begin": begin, "end": end})
        best = dict(answers[0])
        return {"prediction": best.pop("text"), **best, "n_best": answers}

    def example_input(self, *, pair: bool) -> str:
        return r"$'Who wrote it?\tIt was written by Ada in 1843.'"

    def limitations(self, names: Sequence[str]) -> str:
        return (
            "The model abstains if the score of no answer exceeds that of the best span by more than "
            f"`{NULL_THRESHOLD}` in config.json; with {NEVER:g} it never abstains. An answer has at most "
            f"{spans.LONGEST} words. Other programs have options of their own for both."
        )

    def usage(self, folder: str, data: Data) -> str:
        return _USAGE.format(folder=folder)


_USAGE = """from transformers import AutoModelForQuestionAnswering, AutoTokenizer

model = AutoModelForQuestionAnswering.from_pretrained("{folder}")
tokenizer = AutoTokenizer.from_pretrained("{folder}")
context = "It was written by Ada in 1843."
inputs = tokenizer("Who wrote it?", context, return_offsets_mapping=True, return_tensors="pt")
characters = inputs.pop("offset_mapping")[0]
outputs = model(**inputs)
begin, end = outputs.start_logits.argmax(), outputs.end_logits.argmax()
context[characters[begin][0] : characters[end][1]]"""


def _questions_and_contexts(rows: Rows, data: Data) -> list[list[str]]:
    texts = text_columns_of(rows, data)
    if len(texts) != 2:
        raise ConfigError(
            "expected two columns, a question and its context", key=("data", "text_column_names"),
            hint="[question, context]",
        )  # fmt: skip
    return texts


def _gold_answers(rows: Rows, data: Data) -> list[list[tuple[str, int]] | None] | None:
    """The gold answers of each row and their first characters; an empty list if the context has no answer."""
    if data.label_column not in rows.columns:
        return None
    gold: list[list[tuple[str, int]] | None] = []
    for index, value in enumerate(rows.column(data.label_column)):
        try:
            gold.append(None if value is None else list(zip(value["text"], value["answer_start"], strict=True)))
        except (TypeError, KeyError, ValueError) as error:
            raise InputError(
                f"expected answers, found {value!r}",
                where=rows.location(index),
                hint='{"text": [...], "answer_start": [...]}',
            ) from error
    return gold


def _words_in(words: Array, begin: int, end: int) -> tuple[int, int]:
    """The first and the last word with a character in begin:end."""
    first = int(np.searchsorted(words[:, 1], begin, side="right"))
    last = int(np.searchsorted(words[:, 0], end, side="left")) - 1
    return min(first, len(words) - 1), last


def _divergence(logits: Array, reference: Array) -> float:
    """KL divergence of begin and end (W + 1, 2) from the reference's, the mean of both."""
    log_q, log_p = spans.log_softmax(logits), spans.log_softmax(reference)
    return float((np.exp(log_p) * (log_p - log_q)).sum() / 2)
