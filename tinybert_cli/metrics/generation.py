"""Metrics of generated translations: BLEU and chrF2++ as sacreBLEU computes them, and shares of unusual texts.

sacreBLEU's scores are functions of sums of per-segment counts, so that intervals and paired differences cost no second
pass over the texts. BLEU and chrF are on the scale of 0 to 100, as everywhere; every other number is a share.

Shapes: N rows, R sums.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from tinybert_cli.errors import InputError
from tinybert_cli.metrics.base import Metric, Statistics, Sums, column, ratio
from tinybert_cli.types import Array, Predictions

ORDERS = 4  # of BLEU's n-grams
CHRF_ORDERS, BETA = 8, 2  # six of characters and two of words; recall counts BETA times as much as precision
NGRAM, REPEATS = 4, 3  # a text loops if the same n-gram occurs more often than so many times
LONG_WORD = 40  # characters; shorter ones may repeat a syllable or a digit
UNUSUAL_RATIO = 3.0  # of the lengths of source and translation in characters, after adding SLACK to both
SLACK = 10
WIDE = 3
KINDS = ("empty", "cut", "looping", "copied", "length_ratio")
_SHARES = ("empty", "cut", "looping", "copied")

_SCRIPTS = {  # of languages without spaces: a name for sacreBLEU's tokenizer → ranges of characters
    "char": ((0x3040, 0x30FF), (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF)),  # kana, Thai, Lao, Burmese, Khmer
    "zh": ((0x3400, 0x4DBF), (0x4E00, 0x9FFF)),
}


@dataclass(frozen=True)
class TranslationMetric(Metric):
    """BLEU and chrF2++ against one or several references per row.

    BLEU splits text with sacreBLEU's tokenizer 13a; references in Chinese with `zh`, in Japanese and other scripts
    without spaces into characters. The signatures name it.
    """

    best_values: ClassVar[Mapping[str, float]] = {"bleu": 100.0, "chrf": 100.0}

    all_references: list[list[str]]  # (N,) of each row one or several
    sources: list[str]  # (N,)

    @property
    def references(self) -> list[str]:
        return [texts[0] for texts in self.all_references]

    def statistics(self, predictions: Predictions) -> Statistics:
        texts = [str(text) for text in predictions.values]
        bleu, chrf = (np.array(scorer.segment_statistics(texts), dtype=np.float64) for scorer in self._scorers)
        return {
            "rows": np.ones((len(texts), 1)),
            "bleu": bleu,  # (N, 10) system and reference length, correct and total n-grams of each order
            "chrf": chrf,  # (N, 24) n-grams of the translation, of the reference and of both, for each order
            "empty": column([not text.strip() for text in texts]),
            "cut": column([False] * len(texts) if predictions.cut is None else predictions.cut),
            "looping": column(list(map(is_looping, texts))),
            "copied": column([is_copied(*pair) for pair in zip(self.sources, texts, strict=True)]),
        }

    def from_sums(self, sums: Sums) -> dict[str, Array]:
        rows = sums["rows"][:, 0]
        return {
            "bleu": bleu_of(sums["bleu"]),
            "chrf": chrf_of(sums["chrf"]),
            "length_ratio": ratio(sums["bleu"][:, 0], sums["bleu"][:, 1]),
            **{name: sums[name][:, 0] / rows for name in _SHARES},
        }

    def row_scores(self, statistics: Statistics) -> Array:
        """Sentence chrF2++ / 100."""
        return chrf_of(statistics["chrf"]) / 100

    def proportion(self, name: str, statistics: Statistics) -> tuple[Array, Array] | None:
        if name in _SHARES:
            return statistics[name][:, 0], statistics["rows"][:, 0]
        return None

    def undefined(self, predictions: Predictions) -> dict[str, str]:
        return {} if self._has_ngrams else {"bleu": f"no reference has {ORDERS} words, its longest n-gram"}

    def label_slices(self) -> dict[str, Array]:
        return {}

    def majority_baseline(self) -> float:
        """BLEU of copying the source."""
        sums = self.statistics(Predictions(self.sources))["bleu"].sum(0, keepdims=True)
        return float(bleu_of(sums)[0])

    def paired_test(self, statistics: Statistics, reference: Statistics) -> dict[str, float]:
        """`rows_lost` and `rows_won` by sentence chrF; the test is the paired bootstrap of BLEU and chrF."""
        own, other = self.row_scores(statistics), self.row_scores(reference)
        return {"rows_lost": int((other > own).sum()), "rows_won": int((own > other).sum())}

    def description(self) -> dict[str, Any]:
        """sacreBLEU's signatures."""
        return {
            "signatures": {name: scorer.signature for name, scorer in zip(("bleu", "chrf"), self._scorers, strict=True)}
        }

    @cached_property
    def _has_ngrams(self) -> bool:
        """Whether a reference has as many words as BLEU's longest n-gram: else every translation has a BLEU of 0."""
        split = self._scorers[0].metric.tokenizer
        return any(len(split(text).split()) >= ORDERS for texts in self.all_references for text in texts)

    @cached_property
    def _scorers(self) -> tuple[_Scorer, _Scorer]:
        BLEU, CHRF = _sacrebleu()
        tokenize = tokenizer_for([text for texts in self.all_references for text in texts])
        streams = _streams(self.all_references)
        return _Scorer(BLEU(tokenize=tokenize, force=True, references=streams)), _Scorer(
            CHRF(word_order=2, references=streams)
        )


class _Scorer:
    """A metric of sacreBLEU with its references; its per-segment counts have no public name."""

    def __init__(self, metric: Any) -> None:
        self.metric = metric

    def segment_statistics(self, texts: Sequence[str]) -> list[list[int]]:
        statistics: list[list[int]] = self.metric._extract_corpus_statistics(list(texts), None)
        return statistics

    @property
    def signature(self) -> str:
        return str(self.metric.get_signature())


def bleu_of(sums: Array) -> Array:
    """BLEU (R,) from counts (R, 10), smoothed as in NIST's script, which is sacreBLEU's default."""
    length, reference = sums[:, 0], sums[:, 1]
    correct, total = sums[:, 2 : 2 + ORDERS], sums[:, 2 + ORDERS : 2 + 2 * ORDERS]
    zeros = np.cumsum((correct == 0) & (total > 0), axis=1)
    smoothed = np.where(correct > 0, correct, 1 / 2.0**zeros)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(smoothed / total).mean(1)
        brevity = np.where(length < reference, np.exp(1 - reference / length), 1.0)
        scores = 100 * brevity * np.exp(logs)
    return np.where(correct.any(1) & (total > 0).all(1), scores, 0.0)


def chrf_of(sums: Array) -> Array:
    """chrF2++ (R,) from counts (R, 24): F2 of the mean precision and the mean recall over the orders."""
    counts = sums.reshape(len(sums), CHRF_ORDERS, 3)
    made, expected, both = counts[..., 0], counts[..., 1], counts[..., 2]
    known = (made > 0) & (expected > 0)
    orders = known.sum(1)
    precision = ratio(ratio(both, made * known).sum(1), orders)
    recall = ratio(ratio(both, expected * known).sum(1), orders)
    return 100 * ratio((1 + BETA**2) * precision * recall, BETA**2 * precision + recall)


def sentence_chrf(texts: Sequence[str], references: Sequence[Sequence[str]]) -> Array:
    """chrF2++ of each text (N,) against its references."""
    _, CHRF = _sacrebleu()
    scorer = _Scorer(CHRF(word_order=2, references=_streams(references)))
    return chrf_of(np.array(scorer.segment_statistics(texts), dtype=np.float64).reshape(len(texts), -1))


def best_by_reference(candidates: Sequence[Sequence[str]], references: Sequence[Sequence[str]], by: str) -> list[int]:
    """For each row (N,) the index of the candidate nearest to its references, by sentence chrF or BLEU.

    It is the first one of equal ones, and of a row without references. BLEU splits text as in `TranslationMetric`.
    """
    BLEU, CHRF = _sacrebleu()
    tokenize = tokenizer_for([text for texts in references for text in texts])
    metric = CHRF(word_order=2) if by == "chrf" else BLEU(effective_order=True, force=True, tokenize=tokenize)
    return [
        int(np.argmax([metric.sentence_score(text, list(texts)).score for text in row])) if texts else 0
        for row, texts in zip(candidates, references, strict=True)
    ]


def translation_fidelity(texts: Sequence[str], reference: Sequence[str]) -> dict[str, float]:
    """`agreement`: mean sentence chrF2++ / 100 with the texts of another model; `same`: share of equal texts."""
    if not texts:
        return {"agreement": 1.0, "same": 1.0}
    same = np.array([text == other for text, other in zip(texts, reference, strict=True)])
    scores = np.where(same, 100.0, sentence_chrf(texts, [[other] for other in reference]))
    return {"agreement": float(scores.mean() / 100), "same": float(same.mean())}


def unusual_translations(sources: Sequence[str], texts: Sequence[str], finished: Sequence[bool]) -> dict[str, Array]:
    """Kind → which rows (N,): empty, cut at the limit, looping, copied from the source, or of another length."""
    pairs = list(zip(sources, texts, strict=True))
    return {
        "empty": np.array([not text.strip() for text in texts], dtype=bool),
        "cut": ~np.array(finished, dtype=bool),
        "looping": np.array(list(map(is_looping, texts)), dtype=bool),
        "copied": np.array([is_copied(*pair) for pair in pairs], dtype=bool),
        "length_ratio": np.array([has_unusual_length(*pair) for pair in pairs], dtype=bool),
    }


def is_looping(text: str) -> bool:
    """Whether the same four words, or characters of a script without spaces, occur more than three times.

    The characters of a single long word count as well: a model that repeats itself need not write spaces.
    """
    words: Sequence[str] = text.split()
    unspaced = tokenizer_for([text]) != "13a" or (len(words) == 1 and len(words[0]) > LONG_WORD)
    units = "".join(words) if unspaced else words
    ngrams = Counter(tuple(units[begin : begin + NGRAM]) for begin in range(len(units) - NGRAM + 1))
    return max(ngrams.values(), default=0) > REPEATS


def is_copied(source: str, text: str) -> bool:
    """Whether a translation is its source, apart from case and white space."""
    return bool(text.strip()) and " ".join(source.split()).casefold() == " ".join(text.split()).casefold()


def has_unusual_length(source: str, text: str) -> bool:
    """Whether one side is more than three times as long as the other; short texts may differ more.

    An East Asian character counts WIDE times: it says about as much as three letters.
    """
    share = (_length(text) + SLACK) / (_length(source) + SLACK)
    return not 1 / UNUSUAL_RATIO <= share <= UNUSUAL_RATIO


def _length(text: str) -> int:
    return sum(WIDE if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text.strip())


def tokenizer_for(references: Sequence[str]) -> str:
    """The name of sacreBLEU's tokenizer for texts of this script; those that need another package are not used."""
    letters: Mapping[int, int] = Counter(ord(letter) for text in references[:1000] for letter in text)
    total = sum(letters.values()) or 1
    shares = {
        name: sum(count for letter, count in letters.items() if any(low <= letter <= high for low, high in ranges))
        / total
        for name, ranges in _SCRIPTS.items()
    }
    if shares["char"] > 0.1:
        return "char"
    return "zh" if shares["zh"] > 0.3 else "13a"


def _streams(references: Sequence[Sequence[str]]) -> list[list[str | None]]:
    """The k-th reference of each row, for every k, as sacreBLEU takes them; None where a row has fewer."""
    most = max(map(len, references), default=1)
    return [[texts[index] if index < len(texts) else None for texts in references] for index in range(most)]


def _sacrebleu() -> tuple[Any, Any]:
    try:
        from sacrebleu.metrics import BLEU, CHRF
    except ImportError as error:
        raise InputError(
            "the package 'sacrebleu' is not installed", hint="pip install 'tinybert[translation]'"
        ) from error
    return BLEU, CHRF
