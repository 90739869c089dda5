"""Question answering: the piece of a context that answers a question, or nothing, if the context has no answer.

A row is answered word by word: how well the answer would begin there, and how well it would end there. Words are those
of `spans.word_spans`, whatever pieces a tokenizer makes of them, so that teacher and student may have different ones.
The first answer of a row stands for having none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tinybert_cli.config import Data
from tinybert_cli.errors import ConfigError, InputError
from tinybert_cli.metrics import classification, spans
from tinybert_cli.tasks.base import Exam, PredictionTask, Window, missing, row_by_row, texts_of
from tinybert_cli.tasks.context_windows import ContextWindows, parted, pieces_of_context, short_enough
from tinybert_cli.types import Array, Encoded, Rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NULL_THRESHOLD = "null_score_diff_threshold"  # in config.json, as in run_qa.py: how far none must be before the best
NEVER = 1e4  # that there is no answer is never said
N_BEST = 5  # answers that `predict` tells

_CHUNK = 500  # rows that are tokenized in one call


class QuestionAnswering(PredictionTask):
    name = "question-answering"
    head = "question-answering"
    pipeline = "question-answering"
    outputs = "span"
    parted = "only_second"
    main_metric = "f1"
    metrics: ClassVar[Mapping[str, bool]] = {"f1": True, "exact_match": True, "loss": False}
    sliced = "f1"
    decides = (NULL_THRESHOLD,)
    detailed = ("answered", "exact_match_answerable", "f1_answerable", "accuracy_unanswerable")

    def encode(self, rows: Rows, data: Data, tokenizer: PreTrainedTokenizerBase) -> Encoded:
        """Question and context; a context that is too long is read in windows that overlap by `doc_stride` tokens.

        Each word is answered in the window in which it stands furthest from the ends, its begin at its first piece
        and its end at its last one; that there is no answer is said at the first token of the first window.
        """
        questions, contexts = _questions_and_contexts(rows, data)
        questions, cut = short_enough(questions, data.max_seq_length // 2, tokenizer)
        encoder = ContextWindows(tokenizer)
        for begin in range(0, len(rows), _CHUNK):
            shown = slice(begin, begin + _CHUNK)
            encoder.add(questions[shown], contexts[shown], data)
        empty = [index for index, context in enumerate(contexts) if not context.strip()]
        return encoder.encoded(truncated=cut, empty=empty)

    def label_names(self, rows: Rows, data: Data, *, model_names: Sequence[str] | None) -> list[str]:
        return ["begin", "end"]

    def labels(self, rows: Rows, data: Data, names: Sequence[str]) -> Array | None:
        """1 where the first gold answer begins and ends, else 0 (A, 2); NaN in a row without gold answers."""
        gold = _gold(rows, data)
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
                first, last = _words_of(words, begin, begin + len(text))
                if not text or context[begin : begin + len(text)] != text or last < first:
                    raise InputError(
                        f"the answer {text!r} does not stand at character {begin} of its context",
                        where=rows.location(index),
                        hint="answer_start counts characters from 0",
                    )
                marks[first + 1, 0] = marks[last + 1, 1] = 1
            parts.append(marks)
        return np.concatenate(parts)

    def exam(self, rows: Rows, data: Data, names: Sequence[str]) -> Exam | None:
        labels = self.labels(rows, data, names)
        if labels is None:
            return None
        gold, (_, contexts) = _gold(rows, data), _questions_and_contexts(rows, data)
        assert gold is not None
        if missing(labels).any():
            bad = next(index for index, answers in enumerate(gold) if answers is None)
            raise InputError("a row without answers", where=rows.location(bad))
        return SpanExam(labels, contexts, [[text for text, _ in answers or []] for answers in gold])

    def check_trainable(self, labels: Array, names: Sequence[str], rows: Rows) -> None:
        if missing(labels).all():
            raise InputError("no row has an answer: there is nothing to learn", where=rows.location(0))

    def settled(self, logits: Array, offsets: Array | None, config: Mapping[str, Any]) -> Array:
        """The two numbers of no answer less half the threshold each, so that the greater sum decides."""
        threshold = config.get(NULL_THRESHOLD)
        if threshold is None:
            return logits
        assert offsets is not None
        moved = logits.copy()
        moved[offsets[:-1]] -= threshold / 2
        return moved

    def hard_answers(self, logits: Array, offsets: Array | None, min_confidence: float) -> tuple[Array, Array]:
        labels, sure = np.zeros(logits.shape, dtype=np.float32), []
        for begin, end in row_by_row(offsets):
            first, last, confidence = _answer(logits[begin:end])
            labels[begin + first, 0] = labels[begin + last, 1] = 1
            sure.append(confidence >= min_confidence)
            if not sure[-1]:
                labels[begin:end] = np.nan
        return labels, np.array(sure, dtype=bool)

    def answers(
        self, logits: Array, offsets: Array | None, names: Sequence[str], rows: Rows, data: Data
    ) -> dict[str, list[Any]]:
        _, contexts = _questions_and_contexts(rows, data)
        found = [_answer(logits[begin:end]) for begin, end in row_by_row(offsets)]
        return {
            "prediction": [_text(context, *best[:2]) for context, best in zip(contexts, found, strict=True)],
            "confidence": [confidence for *_, confidence in found],
        }

    def asked(self, text: str) -> Any:
        question, tab, context = text.partition("\t")
        if not tab or not question.strip() or not context.strip():
            raise InputError("a question and its context are needed, with a tab between them", where=text[:80])
        return question, context

    def reply(
        self, text: str, windows: Sequence[Window], names: Sequence[str], config: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The best answer with its characters in the context, and the `n_best`, "" for none among them."""
        _, _, context = text.partition("\t")
        words = spans.word_spans(context)
        read = parted(words, [pieces_of_context(pieces.offsets, pieces.sequence_ids) for _, pieces in windows])
        parts = [np.take_along_axis(logits, places, axis=0) for (logits, _), places in zip(windows, read, strict=True)]
        said = np.concatenate(parts)
        said = self.settled(said, np.array([0, len(said)]), config)
        found = []
        for first, last, confidence in _best_answers(said, N_BEST):
            begin, end = (int(words[first - 1, 0]), int(words[last - 1, 1])) if first else (0, 0)
            found.append({"text": context[begin:end], "confidence": confidence, "begin": begin, "end": end})
        best = dict(found[0])
        return {"prediction": best.pop("text"), **best, "n_best": found}

    def fidelity(self, logits: Array, reference: Array, offsets: Array | None) -> dict[str, float]:
        from scipy.stats import spearmanr

        pairs = [(logits[begin:end], reference[begin:end]) for begin, end in row_by_row(offsets)]
        said = [(_answer(ours), _answer(theirs)) for ours, theirs in pairs]
        sure = [[ours[2] for ours, _ in said], [theirs[2] for _, theirs in said]]
        varied = all(np.ptp(values) > 0 for values in sure)  # else there is no order to compare
        return {
            "agreement": float(np.mean([ours[:2] == theirs[:2] for ours, theirs in said])),
            "kl": max(0.0, float(np.mean([_divergence(ours, theirs) for ours, theirs in pairs]))),
            "confidence_correlation": float(spearmanr(*sure).statistic) if varied else 0.0,
        }

    def ensemble(self, logits: Sequence[Array], weights: Sequence[float]) -> Array:
        """The weighted mean of the logits: the geometric mean of the probabilities."""
        mean: Array = np.average(logits, axis=0, weights=weights).astype(np.float32)
        return mean

    def example(self, *, pair: bool) -> str:
        return r"$'Who wrote it?\tIt was written by Ada in 1843.'"

    def limit(self, names: Sequence[str]) -> str:
        return (
            f"`{NULL_THRESHOLD}` in config.json says when it has no answer; {NEVER:g} stands for always having one. An "
            f"answer has {spans.LONGEST} words at most. Other programs set both by options of theirs."
        )

    def usage(self, folder: str, *, pair: bool) -> str:
        return _USAGE.format(folder=folder)


@dataclass(frozen=True)
class SpanExam(Exam):
    """N rows with a context each, and as many answers as its words, and one more."""

    labels: Array  # (A, 2)
    contexts: list[str]
    gold: list[list[str]]  # the answers of each row that count as right; empty: there is none

    @cached_property
    def words(self) -> list[Any]:  # type: ignore[override]
        return [answers[0] if answers else "" for answers in self.gold]

    @cached_property
    def offsets(self) -> Array:
        """Where the answers of each row begin (N + 1,)."""
        return np.cumsum([0, *(len(spans.word_spans(context)) + 1 for context in self.contexts)])

    @cached_property
    def right(self) -> list[list[list[str]]]:
        """The gold answers of each row, normalized; of a row without one, that nothing is said."""
        return [[spans.normalized(answer) for answer in answers] or [[]] for answers in self.gold]

    def score(self, logits: Array) -> dict[str, float]:
        return {name: float(values.mean()) for name, values in self._of_rows(logits).items() if name in SCORED}

    def details(self, logits: Array) -> dict[str, float]:
        values = self._of_rows(logits)
        answerable = np.array([bool(answers) for answers in self.gold])
        found = {"answered": float(values["answered"].mean())}
        if answerable.any():
            found["exact_match_answerable"] = float(values["exact_match"][answerable].mean())
            found["f1_answerable"] = float(values["f1"][answerable].mean())
        if not answerable.all():
            found["accuracy_unanswerable"] = float(values["exact_match"][~answerable].mean())
        return found

    def resampled(self, logits: Array, *, resamples: int, seed: int) -> dict[str, Array]:
        values, count = self._of_rows(logits), len(self.gold)
        answerable = np.array([bool(answers) for answers in self.gold])
        counted = {"exact_match_answerable": ("exact_match", answerable), "f1_answerable": ("f1", answerable),
                   "accuracy_unanswerable": ("exact_match", ~answerable)}  # fmt: skip
        drawn = classification.drawn_rows(count, resamples=resamples, seed=seed)
        found = {name: drawn @ of_rows / count for name, of_rows in values.items()}
        for name, (metric, chosen) in counted.items():
            if chosen.any():
                found[name] = drawn @ (values[metric] * chosen) / np.maximum(drawn @ chosen, 1)
        return found

    def discordant(self, logits: Array, reference: Array) -> dict[str, float]:
        ours, theirs = (self._of_rows(said)["exact_match"] == 1 for said in (logits, reference))
        return classification.discordant(ours, theirs)

    def credit(self, logits: Array) -> Array:
        return self._of_rows(logits)["f1"]

    def tuned(self, logits: Array) -> dict[str, Any]:
        """The threshold with the best f1, as `find_all_best_thresh` of the evaluation script of SQuAD 2.0 has it.

        If every row has an answer, then one is always given, as in SQuAD 1.1.
        """
        if all(self.gold):
            return {NULL_THRESHOLD: NEVER}
        differences, gains = np.zeros(len(self.gold)), np.zeros(len(self.gold))
        for index, (begin, end) in enumerate(row_by_row(self.offsets)):
            shares = _log_softmax(logits[begin:end])
            first, last, best = spans.best_span(shares[1:, 0], shares[1:, 1])
            said = _text(self.contexts[index], first + 1, last + 1) if np.isfinite(best) else ""
            differences[index] = min(NEVER, float(shares[0].sum()) - best)
            gains[index] = spans.overlap(spans.normalized(said), self.right[index]) - float(not self.gold[index])
        order = np.argsort(differences, kind="stable")
        falls = np.concatenate([[0.0], np.cumsum(gains[order])])  # answering the rows that are surest to have one
        sorted_differences = differences[order]
        falls[1:-1][sorted_differences[1:] == sorted_differences[:-1]] = -np.inf  # equal ones cannot be parted
        count = int(falls.argmax())
        above = sorted_differences[count] if count < len(order) else sorted_differences[-1] + 2
        below = sorted_differences[count - 1] if count else sorted_differences[0] - 2
        return {NULL_THRESHOLD: float((above + below) / 2)}

    def trivial(self) -> float:
        """Never answering."""
        return float(np.mean([not answers for answers in self.gold]))

    def certainty(self, logits: Array) -> tuple[list[float], list[bool]]:
        sure = [_answer(logits[begin:end])[2] for begin, end in row_by_row(self.offsets)]
        return sure, (self._of_rows(logits)["exact_match"] == 1).tolist()

    def kinds(self) -> dict[str, Array]:
        counts = np.array([len(spans.normalized(answers[0])) if answers else 0 for answers in self.gold])
        cut = {
            "none": counts == 0,
            "1 word": counts == 1,
            "2-3 words": (counts > 1) & (counts < 4),
            "longer": counts > 3,
        }
        return {name: rows for name, rows in cut.items() if rows.any()}

    def _of_rows(self, logits: Array) -> dict[str, Array]:
        """f1, exact_match, loss and answered, row by row (N,)."""
        found = {name: np.zeros(len(self.gold)) for name in (*SCORED, "answered")}
        for index, (begin, end) in enumerate(row_by_row(self.offsets)):
            said = spans.normalized(_text(self.contexts[index], *_answer(logits[begin:end])[:2]))
            found["f1"][index] = spans.overlap(said, self.right[index])
            found["exact_match"][index] = spans.exact(said, self.right[index])
            found["loss"][index] = -(self.labels[begin:end] * _log_softmax(logits[begin:end])).sum() / 2
            found["answered"][index] = bool(said)
        return found


_USAGE = """from transformers import AutoModelForQuestionAnswering, AutoTokenizer

model = AutoModelForQuestionAnswering.from_pretrained("{folder}")
tokenizer = AutoTokenizer.from_pretrained("{folder}")
context = "It was written by Ada in 1843."
shown = tokenizer("Who wrote it?", context, return_offsets_mapping=True, return_tensors="pt")
characters = shown.pop("offset_mapping")[0]
said = model(**shown)
begin, end = said.start_logits.argmax(), said.end_logits.argmax()
context[characters[begin][0] : characters[end][1]]"""

SCORED = ("f1", "exact_match", "loss")


def _questions_and_contexts(rows: Rows, data: Data) -> list[list[str]]:
    texts = texts_of(rows, data)
    if len(texts) != 2:
        raise ConfigError(
            "a question and its context are needed", key=("data", "text_column_names"), hint="[question, context]"
        )
    return texts


def _gold(rows: Rows, data: Data) -> list[list[tuple[str, int]] | None] | None:
    """Of each row its gold answers and the characters at which they begin, none of them if it cannot be answered."""
    if data.label_column_name not in rows.columns:
        return None
    found: list[list[tuple[str, int]] | None] = []
    for index, value in enumerate(rows.column(data.label_column_name)):
        try:
            found.append(None if value is None else list(zip(value["text"], value["answer_start"], strict=True)))
        except (TypeError, KeyError, ValueError) as error:
            raise InputError(
                f"these are no answers: {value!r}",
                where=rows.location(index),
                hint='{"text": [...], "answer_start": [...]}',
            ) from error
    return found


def _words_of(words: Array, begin: int, end: int) -> tuple[int, int]:
    """The first and the last word that have a character of begin:end."""
    first = int(np.searchsorted(words[:, 1], begin, side="right"))
    last = int(np.searchsorted(words[:, 0], end, side="left")) - 1
    return min(first, len(words) - 1), last


def _answer(logits: Array) -> tuple[int, int, float]:
    """The first and the last place of a row's answer (W + 1, 2) and its probability; 0, 0: it has none."""
    shares = _log_softmax(logits)
    first, last, best = spans.best_span(shares[1:, 0], shares[1:, 1])
    none = float(shares[0].sum())
    return (0, 0, float(np.exp(none))) if none >= best else (first + 1, last + 1, float(np.exp(best)))


def _best_answers(logits: Array, count: int) -> list[tuple[int, int, float]]:
    """The `count` answers with the greatest probability, as `_answer` says the first; no answer is one of them."""
    shares = _log_softmax(logits)
    found = [
        (first + 1, last + 1, score) for first, last, score in spans.best_spans(shares[1:, 0], shares[1:, 1], count)
    ]
    found = sorted([(0, 0, float(shares[0].sum())), *found], key=lambda one: -one[2])[:count]
    return [(first, last, float(np.exp(score))) for first, last, score in found]


def _text(context: str, first: int, last: int) -> str:
    if not first:
        return ""
    words = spans.word_spans(context)
    return context[words[first - 1, 0] : words[last - 1, 1]]


def _log_softmax(logits: Array) -> Array:
    """Over the places of a row (W + 1, 2), for its begin and its end apart."""
    values = logits.astype(np.float64)
    values -= values.max(0)
    result: Array = values - np.log(np.exp(values).sum(0))
    return result


def _divergence(logits: Array, reference: Array) -> float:
    """KL of a row's begin and end from the reference's, the mean of both."""
    ours, theirs = _log_softmax(logits), _log_softmax(reference)
    return float((np.exp(theirs) * (theirs - ours)).sum() / 2)
