"""BLEU and chrF2++ equal those of sacreBLEU, over all rows and over any draw of them; unusual translations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st

from tinybert_cli.metrics import resampled, score
from tinybert_cli.metrics.generation import (
    TranslationMetric,
    best_by_reference,
    has_unusual_length,
    is_copied,
    is_looping,
    tokenizer_for,
    translation_fidelity,
    unusual_translations,
)
from tinybert_cli.types import Predictions

CHINESE = ["一个男人在街上骑自行车。", "两只狗在草地上跑。", "她在读一本红色的书。"]
JAPANESE = ["男の人が通りで自転車に乗っています。", "犬が二匹走っている。", "彼女は赤い本を読んでいる。"]
WORDS = st.sampled_from(["a", "man", "rides", "the", "red", "bike", ".", ",", "don't", "3.5", "%", "Über", "naïve"])
TEXT = st.lists(WORDS, max_size=9).map(" ".join)
REFERENCE = st.lists(WORDS, min_size=1, max_size=9).map(" ".join)


def streams(references: Sequence[Sequence[str]]) -> list[list[str | None]]:
    most = max(map(len, references))
    return [[texts[index] if index < len(texts) else None for texts in references] for index in range(most)]


def expected(texts: Sequence[str], references: Sequence[Sequence[str]], tokenize: str = "13a") -> tuple[float, float]:
    """BLEU and chrF2++ of sacreBLEU."""
    bleu, chrf = sacrebleu.BLEU(tokenize=tokenize, force=True), sacrebleu.CHRF(word_order=2)
    return tuple(metric.corpus_score(list(texts), streams(references)).score for metric in (bleu, chrf))  # type: ignore[return-value]


def scores(texts: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, float]:
    metric = TranslationMetric([list(row) for row in references], [""] * len(texts))
    result = score(metric, Predictions(list(texts)))
    return result["bleu"], result["chrf"]


CORPORA: dict[str, tuple[list[str], list[list[str]], str]] = {
    "one reference": (["a man rides a bike .", "the red bike"], [["a man rides the bike ."], ["a red bike !"]], "13a"),
    "two references": (["a man rides", "red"], [["a man", "the man rides"], ["red", "a red bike"]], "13a"),
    "some with more": (["a man rides", "red bike"], [["a man"], ["red", "a red bike", "bike"]], "13a"),
    "an empty output": (["", "the red bike is here"], [["a man"], ["the red bike is there"]], "13a"),
    "only empty outputs": (["", ""], [["a man"], ["red"]], "13a"),
    "no match": (["x y z w"], [["a b c d"]], "13a"),
    "one word": (["bike"], [["bike"]], "13a"),
    "equal": (["a man rides a red bike ."] * 3, [["a man rides a red bike ."]] * 3, "13a"),
    "Chinese": (["一个男人骑自行车。", *CHINESE[1:]], [[text] for text in CHINESE], "zh"),
    "Japanese": (["男の人が自転車に乗る。", *JAPANESE[1:]], [[text] for text in JAPANESE], "char"),
    "many that end with a point": (["so ."] * 120, [["so it is ."]] * 120, "13a"),
}


@pytest.mark.parametrize(("texts", "references", "tokenize"), CORPORA.values(), ids=CORPORA)
def test_bleu_and_chrf_are_those_of_sacrebleu(
    texts: list[str], references: list[list[str]], tokenize: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert scores(texts, references) == pytest.approx(expected(texts, references, tokenize), abs=1e-6)
    description = TranslationMetric(references, [""] * len(texts)).description()
    assert f"tok:{tokenize}|" in description["signatures"]["bleu"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(TEXT, st.lists(REFERENCE, min_size=1, max_size=3)), min_size=1, max_size=8))
def test_any_corpus_scores_as_in_sacrebleu(rows: list[tuple[str, list[str]]]) -> None:
    texts, references = [row[0] for row in rows], [row[1] for row in rows]
    assert scores(texts, references) == pytest.approx(expected(texts, references), abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(TEXT, st.lists(REFERENCE, min_size=2, max_size=2)), min_size=2, max_size=8),
    st.lists(st.integers(0, 7), min_size=1, max_size=12),
)
def test_sums_over_drawn_rows_score_as_the_drawn_rows_do(rows: list[tuple[str, list[str]]], drawn: list[int]) -> None:
    texts, references = [row[0] for row in rows], [row[1] for row in rows]
    indices = [index % len(rows) for index in drawn]
    metric = TranslationMetric(references, [""] * len(rows))
    statistics = metric.statistics(Predictions(texts))
    sums = {name: values[indices].sum(0, keepdims=True) for name, values in statistics.items()}
    result = metric.from_sums(sums)
    own = expected([texts[index] for index in indices], [references[index] for index in indices])
    assert (result["bleu"][0], result["chrf"][0]) == pytest.approx(own, abs=1e-6)


def test_row_scores_are_sentence_chrf() -> None:
    texts, references = ["a man rides", ""], [["the man rides"], ["red"]]
    metric = TranslationMetric(references, ["", ""])
    own = metric.row_scores(metric.statistics(Predictions(texts)))
    chrf = sacrebleu.CHRF(word_order=2)
    assert own == pytest.approx([chrf.sentence_score(a, b).score / 100 for a, b in zip(texts, references, strict=True)])


def test_all_models_are_resampled_with_the_same_draws() -> None:
    draw = np.random.default_rng(0)
    words = ["a", "man", "rides", "the", "red", "bike", "today", "."]
    references = [[" ".join(draw.choice(words, 6))] for _ in range(60)]
    metric = TranslationMetric(references, [""] * 60)
    texts = [" ".join(draw.choice(words, 6)) for _ in range(60)]
    options: dict[str, Any] = {"resamples": 50, "seed": 1, "names": {"bleu", "chrf"}}
    first = resampled(metric, Predictions(texts), metric.statistics(Predictions(texts)), **options)
    again = resampled(metric, Predictions(list(texts)), metric.statistics(Predictions(texts)), **options)
    assert (first["bleu"] == again["bleu"]).all() and first["bleu"].std() > 0
    assert first["bleu"].mean() == pytest.approx(score(metric, Predictions(texts))["bleu"], abs=3)


@pytest.mark.parametrize(
    ("references", "name"),
    [
        (CHINESE, "zh"),
        (JAPANESE, "char"),
        (["ผู้ชายขี่จักรยาน"], "char"),
        (["Ein Mann fährt Rad."], "13a"),
        (["Мужчина едет на велосипеде."], "13a"),
        (["남자가 자전거를 탄다."], "13a"),
        (["A man in 北京 rides."], "13a"),
        ([""], "13a"),
    ],
)
def test_tokenizer_follows_the_script_of_the_references(references: list[str], name: str) -> None:
    assert tokenizer_for(references) == name


# -- unusual translations ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "loops"),
    [
        ("the man and the man and the man and the man and the man", True),
        ("no no no no no no no", True),
        ("no no no no no no", False),
        ("很好很好很好很好很好很好很好很好", True),
        ("一个男人在街上骑自行车。", False),
        ("很好很好 很好很好 很好很好 很好很好", True),
        ("hahahahahahahahaha", False),
        ("1000000000", False),
        ("und" * 20, True),
        ("the man and the dog and the cat", False),
        ("", False),
    ],
)
def test_a_text_loops_if_four_words_come_more_than_three_times(text: str, loops: bool) -> None:
    assert is_looping(text) is loops


@pytest.mark.parametrize(
    ("source", "text", "copied"),
    [("A man.", "a  MAN. ", True), ("A man.", "A men.", False), ("", "", False), ("a", "", False)],
)
def test_a_copy_of_the_source_may_differ_in_case_and_spaces(source: str, text: str, copied: bool) -> None:
    assert is_copied(source, text) is copied


@pytest.mark.parametrize(
    ("source", "text", "unusual"),
    [
        ("a" * 50, "b" * 160, False),
        ("a" * 50, "b" * 180, True),
        ("a" * 180, "b" * 50, True),
        ("Hi", "Guten Tag zusammen", False),
        ("A man in a blue shirt is standing on a ladder and cleans a window of the tall house.", CHINESE[0], False),
        ("a" * 120, CHINESE[0][:3], True),
        ("a" * 100, "", True),
    ],
)
def test_unusual_lengths_differ_by_more_than_three_times(source: str, text: str, unusual: bool) -> None:
    assert has_unusual_length(source, text) is unusual


def test_kinds_of_unusual_translations_are_told_apart() -> None:
    sources = ["a man", "a man", "a man", "a man", "a man"]
    texts = ["", "lo borko", "so so so so so so so so", "A man", "word " * 40]
    kinds = unusual_translations(sources, texts, [True, False, True, True, True])
    assert {kind: rows.nonzero()[0].tolist() for kind, rows in kinds.items()} == {
        "empty": [0], "cut": [1], "looping": [2, 4], "copied": [3], "length_ratio": [4]
    }  # fmt: skip


def test_fidelity_is_mean_sentence_chrf_and_share_of_equal_texts() -> None:
    chrf = sacrebleu.CHRF(word_order=2).sentence_score("a man walks", ["a man rides"]).score / 100
    numbers = translation_fidelity(["a man walks", "red", ""], ["a man rides", "red", ""])
    assert numbers == pytest.approx({"agreement": (chrf + 2) / 3, "same": 2 / 3})


def test_length_ratio_is_that_of_all_tokens() -> None:
    metric = TranslationMetric([["a b c d"], ["e f"]], ["", ""])
    assert score(metric, Predictions(["a b", "e"]))["length_ratio"] == pytest.approx(3 / 6)


def test_bleu_is_undefined_if_no_reference_has_its_longest_ngram() -> None:
    short = TranslationMetric([["the red house"], ["a dog"]], ["x", "y"])
    predictions = Predictions(short.references)
    assert score(short, predictions)["bleu"] == 0
    assert short.undefined(predictions) == {"bleu": "no reference has 4 words, its longest n-gram"}
    assert not TranslationMetric([["a dog", "it is a dog"]], ["x"]).undefined(Predictions(["a dog"]))


@pytest.mark.parametrize("by", ["chrf", "bleu"])
def test_candidate_nearest_to_the_reference_is_the_first_best(by: str) -> None:
    candidates = [["x", "a man rides a bike", "a man rides a bike"], ["red", "a red bike"], ["p", "q"]]
    assert best_by_reference(candidates, [["a man rides a bike"], ["the dog", "a red bike"], []], by) == [1, 1, 0]


def test_bleu_of_candidates_splits_texts_without_spaces_into_characters() -> None:
    candidates = [
        ["狗在睡觉", "一个男人正在骑一辆红色的自行车"]
    ]  # without a common word, and with all but one character
    assert best_by_reference(candidates, [["一个男人正在骑一辆绿色的自行车"]], "bleu") == [1]
