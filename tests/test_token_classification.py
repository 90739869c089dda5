"""Token classification: tags of words, whatever pieces they are split into, and entities as conlleval reads them."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import pytest
from conftest import write_base_model

from tinybert_cli import losses, tasks
from tinybert_cli.config import Data
from tinybert_cli.data import Examples
from tinybert_cli.errors import ConfigError, InputError
from tinybert_cli.metrics.entities import entities, kinds_of
from tinybert_cli.models import load_tokenizer, locate
from tinybert_cli.tasks.token_classification import TagExam
from tinybert_cli.types import Rows

TASK = tasks.find_prediction_task("token-classification")
NAMES = ["O", "B-LOC", "B-PER", "I-LOC", "I-PER"]
PIECES = ["ada", "wrote", "it", "in", "lon", "##don", "new", "york", ".", "-", "北", "京", "市", "在", "我"]
Array = np.ndarray[Any, np.dtype[Any]]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_tokenizer(locate(str(write_base_model(tmp_path_factory.mktemp("base"), PIECES))))


def settings(**given: Any) -> Data:
    return Data(text_column_names="tokens", label_column_name="tags", **given)


def rows_of(*rows: tuple[list[str], list[Any] | None]) -> Rows:
    columns: dict[str, list[Any]] = {"tokens": [words for words, _ in rows], "tags": [tags for _, tags in rows]}
    return Rows(columns, (("ner.jsonl", len(rows)),))


# -- entities ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("B-PER I-PER O B-LOC", [("PER", 0, 2), ("LOC", 3, 4)]),
        ("B-PER B-PER", [("PER", 0, 1), ("PER", 1, 2)]),
        ("I-PER I-PER O I-LOC", [("PER", 0, 2), ("LOC", 3, 4)]),  # IOB1, or what a model says
        ("B-PER I-LOC", [("PER", 0, 1), ("LOC", 1, 2)]),
        ("B-PER I-PER E-PER S-LOC", [("PER", 0, 3), ("LOC", 3, 4)]),
        ("S-PER I-PER", [("PER", 0, 1), ("PER", 1, 2)]),
        ("B-PER E-PER I-PER", [("PER", 0, 2), ("PER", 2, 3)]),
        ("U-PER B-LOC L-LOC O", [("PER", 0, 1), ("LOC", 1, 3)]),
        ("O O", []),
        ("", []),
    ],
)
def test_entities_are_read_as_conlleval_reads_them(tags: str, found: list[Any]) -> None:
    assert entities(tags.split(), prefixed=True, outside=True) == found


def test_tags_without_prefixes_are_entities_beside_o_and_words_without_it() -> None:
    assert kinds_of(["O", "LOC", "PER"]) == (["LOC", "PER"], False, True)
    assert entities(["PER", "PER", "O", "LOC"], prefixed=False, outside=True) == [("PER", 0, 2), ("LOC", 3, 4)]
    assert kinds_of(["DET", "NOUN"]) == (["DET", "NOUN"], False, False)
    assert entities(["NOUN", "NOUN"], prefixed=False, outside=False) == [("NOUN", 0, 1), ("NOUN", 1, 2)]


def test_tags_of_two_schemes_are_refused() -> None:
    rows = rows_of((["a", "b", "c"], ["B-PER", "I-PER", "LOC"]))
    with pytest.raises(InputError, match=r"tags in two schemes: some begin with B-, I-, .* and LOC does not") as caught:
        TASK.label_names(rows, settings(), model_names=None)
    assert caught.value.where == "ner.jsonl, row 1"


def test_entities_that_begin_with_i_are_told() -> None:
    rows = rows_of((["a", "b", "c", "d"], ["I-PER", "I-PER", "B-LOC", "I-PER"]), (["a"], ["B-PER"]))
    (said,) = TASK.odd(rows, settings(), NAMES)
    assert said.startswith("2 of 4 entities begin with I-")
    assert TASK.odd(rows_of((["a", "b"], ["B-PER", "I-PER"])), settings(), NAMES) == []


# -- labels --------------------------------------------------------------------------------------------------


def test_names_in_the_data_are_sorted_after_o() -> None:
    rows = rows_of((["a", "b"], ["I-PER", "B-PER"]), (["c"], ["O"]))
    assert TASK.label_names(rows, settings(), model_names=None) == ["O", "B-PER", "I-PER"]


def test_labels_are_positions_of_every_words_tag() -> None:
    labels = TASK.labels(rows_of((["a", "b"], ["B-PER", 3]), (["c"], None)), settings(), NAMES)
    assert labels is not None and labels.tolist() == [2, 3, -100]


@pytest.mark.parametrize(
    ("tags", "what"),
    [
        (["O"], "2 words and 1 tags"),
        (["O", "B-ORG"], "unknown label 'B-ORG'"),
        ("O O", "is no list of tags but 'O O'"),
        ([["O"], "O"], "is no list of tags but"),
    ],
)
def test_bad_tags_are_named_with_their_row(tags: Any, what: str) -> None:
    with pytest.raises(InputError, match=what) as caught:
        TASK.labels(rows_of((["a"], ["O"]), (["a", "b"], tags)), settings(), NAMES)
    assert caught.value.where == "ner.jsonl, row 2"


@pytest.mark.parametrize("bad", ["a text", ["a", 1], None])
def test_a_row_that_is_no_list_of_words_is_named(bad: Any, tokenizer: Any) -> None:
    with pytest.raises(InputError, match="no list of words") as caught:
        TASK.encode(rows_of((["a"], ["O"]), (bad, ["O"])), settings(), tokenizer)
    assert caught.value.where == "ner.jsonl, row 2"


# -- encode --------------------------------------------------------------------------------------------------


def read_at(rows: Rows, tokenizer: Any, order: list[int] | None = None, **given: Any) -> tuple[list[str], Array]:
    """The piece that each answer is read at, in batches of one window in that order, and which answer it is."""
    encoded = TASK.encode(rows, settings(**given), tokenizer)
    assert encoded.row_offsets is not None
    examples = Examples.of(encoded, number=np.arange(int(encoded.row_offsets[-1])))
    found: list[str] = []
    numbers: list[int] = []
    for start in range(0, len(examples), 2):
        windows = (order or list(range(len(examples))))[start : start + 2]
        batch = examples.__getitems__(windows)
        pieces = tokenizer.convert_ids_to_tokens(batch["input_ids"].flatten().tolist())
        found += [pieces[place] for place in batch["positions"].tolist()]
        numbers += batch["number"].tolist()
    return found, np.array(numbers)


def test_words_are_answered_at_their_first_pieces_and_marks_are_words_of_their_own(tokenizer: Any) -> None:
    found, _ = read_at(rows_of((["Ada", "wrote", "London", "."], None), (["New-York", "in"], None)), tokenizer)
    assert found == ["ada", "wrote", "lon", ".", "new", "in"]


def test_chinese_words_are_characters(tokenizer: Any) -> None:
    found, _ = read_at(rows_of((list("我在北京市"), None)), tokenizer)
    assert found == list("我在北京市")


@pytest.mark.parametrize(("length", "stride"), [(5, 0), (6, 2), (8, 3), (12, 5)])
def test_answers_reach_their_words_however_a_row_is_split_and_shuffled(
    length: int, stride: int, tokenizer: Any
) -> None:
    random = np.random.default_rng(length)
    words = ["ada", "london", "in", "new", "york", "it"]
    rows = rows_of(*(([words[i] for i in random.integers(6, size=count)], None) for count in (1, 9, 23, 0, 40)))
    windows = len(TASK.encode(rows, settings(max_seq_length=length, doc_stride=stride), tokenizer).offsets) - 1
    order = random.permutation(windows).tolist()
    pieces, numbers = read_at(rows, tokenizer, order, max_seq_length=length, doc_stride=stride)
    said = [word for row in rows.column("tokens") for word in row]
    assert sorted(numbers.tolist()) == list(range(len(said)))  # every word once
    firsts = [{"london": "lon"}.get(said[number], said[number]) for number in numbers]
    assert pieces == firsts


def test_a_word_that_the_tokenizer_drops_is_answered_all_the_same(tokenizer: Any) -> None:
    found, numbers = read_at(rows_of((["ada", "\u200b", "wrote"], None), (["\u200b"], None)), tokenizer)
    assert found[:1] == ["ada"] and len(numbers) == 4


def test_two_text_columns_and_windows_without_room_are_refused(tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match="one column of words"):
        TASK.encode(rows_of((["a"], None)), Data(text_column_names=["tokens", "tags"]), tokenizer)


# -- scores --------------------------------------------------------------------------------------------------


def made_up(seed: int = 0, names: list[str] = NAMES) -> tuple[Array, TagExam]:
    random = np.random.default_rng(seed)
    counts = random.integers(0, 9, size=30)
    labels = random.integers(len(names), size=counts.sum())
    logits = random.normal(size=(len(labels), len(names))) + 2 * np.eye(len(names))[labels]
    offsets = np.cumsum([0, *counts])
    said = [[names[i] for i in labels[a:b]] for a, b in itertools.pairwise(offsets)]
    return logits.astype(np.float32), TagExam(labels, offsets, names, said)


def conlleval(gold: list[list[str]], said: list[list[str]]) -> tuple[int, int, int]:
    """Right, given and gold chunks as the Perl script counts them: a chunk is right if it begins and ends with it."""

    def ends(before: str, tag: str) -> bool:
        return before[0] in "ES" or (before[0] in "BI" and (tag[0] in "BSO" or before[2:] != tag[2:]))

    def begins(before: str, tag: str) -> bool:
        return tag[0] in "BS" or (tag[0] in "IE" and (before[0] in "ESO" or before[2:] != tag[2:]))

    right = given = wanted = 0
    agreeing = False
    ours, theirs = ([tag for row in rows for tag in [*row, "O"]] for rows in (said, gold))
    for place, (our, their) in enumerate(zip(ours, theirs, strict=True)):
        our_last, their_last = (tags[place - 1] if place else "O" for tags in (ours, theirs))
        if agreeing:
            both = ends(our_last, our) + ends(their_last, their)
            if both == 2:
                right, agreeing = right + 1, False
            elif both or our[2:] != their[2:]:
                agreeing = False
        starts = begins(our_last, our), begins(their_last, their)
        agreeing = agreeing or (all(starts) and our[2:] == their[2:])
        given, wanted = given + starts[0], wanted + starts[1]
    return right, given, wanted


@pytest.mark.parametrize("names", [NAMES, ["O", *(f"{p}-{k}" for p in "BIES" for k in ("LOC", "PER"))]])
@pytest.mark.parametrize("seed", range(4))
def test_scores_are_those_of_conlleval(seed: int, names: list[str]) -> None:
    logits, exam = made_up(seed, names)
    best = logits.argmax(-1)
    said = [[names[i] for i in best[a:b]] for a, b in itertools.pairwise(exam.offsets)]
    right, given, wanted = conlleval(exam.words, said)
    found = exam.score(logits)
    assert found["precision"] == pytest.approx(right / given)
    assert found["recall"] == pytest.approx(right / wanted)
    assert found["f1"] == pytest.approx(2 * right / (given + wanted))
    found |= exam.details(logits)
    assert found["f1_macro"] == pytest.approx((found["f1[LOC]"] + found["f1[PER]"]) / 2)
    assert {re.sub(r"\[.*", "", name) for name in found} == set(TASK.metrics) | set(TASK.detailed)


def test_each_resample_is_the_score_of_its_rows() -> None:
    logits, exam = made_up()
    found = exam.resampled(logits, resamples=5, seed=1)
    drawn = np.random.default_rng(1).integers(30, size=30)
    places = np.concatenate([np.arange(exam.offsets[row], exam.offsets[row + 1]) for row in drawn])
    counts = np.diff(exam.offsets)[drawn]
    part = TagExam(exam.labels[places], np.cumsum([0, *counts]), NAMES, [exam.words[row] for row in drawn])
    expected = part.score(logits[places])
    assert {name: found[name][0] for name in expected} == pytest.approx(expected)


def test_a_model_that_says_o_of_every_word_has_nothing() -> None:
    _, exam = made_up()
    assert exam.score(np.eye(5)[np.zeros(len(exam.labels), dtype=int)])["f1"] == exam.trivial() == 0.0


def test_unsure_words_are_no_labels_and_rows_without_a_sure_one_are_left_out() -> None:
    logits = np.log([[0.9, 0.1], [0.5, 0.5], [0.6, 0.4]])
    labels, sure = TASK.hard_answers(logits, np.array([0, 2, 3]), 0.8)
    assert (labels.tolist(), sure.tolist()) == ([0, -100, -100], [True, False])


def test_rare_tags_count_as_much_as_frequent_ones_when_balanced() -> None:
    balanced = losses.LOSS_SETS[TASK.outputs].balanced
    assert balanced is not None
    np.testing.assert_allclose(balanced(np.array([0, 0, 0, 2, -100])), [2 / 3, 2 / 3, 2 / 3, 2, 0], rtol=1e-6)


# -- predict -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Ada's ship, (the New-York).", "Ada's ship , ( the New-York ) ."),
        ("The U.S. paid 1,000.50 to AT&T!", "The U.S. paid 1,000.50 to AT&T !"),
        ("我在北京,用Python3。", "我 在 北 京 , 用 Python3 。"),
        ("", ""),
    ],
)
def test_text_is_parted_into_words_as_corpora_part_it(text: str, words: str) -> None:
    assert TASK.asked(text) == words


def test_entities_of_a_text_that_is_read_in_windows_come_from_where_they_stand_furthest_in(tokenizer: Any) -> None:
    text = "ada wrote it in london in new york and ada wrote it"
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.enable_truncation(8, stride=3)
    whole = backend.encode(TASK.asked(text))
    backend.no_truncation()
    windows = []
    for pieces in [whole, *whole.overflowing]:
        logits = np.zeros((len(pieces.ids), len(NAMES)))
        logits[:, 0] = 1.0
        for place, token in enumerate(pieces.tokens):
            if token == "lon":
                logits[place, NAMES.index("B-LOC")] = 2.0 + min(place, len(pieces.ids) - 1 - place)
            if token == "ada":
                logits[place, NAMES.index("B-PER")] = 5.0
        windows.append((logits, pieces))
    assert len(windows) > 3
    found = TASK.reply(text, windows, NAMES, {})["prediction"]
    assert [(one["text"], one["begin"]) for one in found] == [("ada", 0), ("london", 16), ("ada", 39)]
    deepest = max(
        min(place, len(pieces.ids) - 1 - place)
        for _, pieces in windows
        for place, token in enumerate(pieces.tokens)
        if token == "lon"
    )
    assert found[1]["score"] == pytest.approx(np.exp(2 + deepest) / (np.exp(2 + deepest) + np.e + 3))


def test_entities_come_with_their_characters_and_scores(tokenizer: Any) -> None:
    text = "Ada wrote in New-York."
    pieces = tokenizer(TASK.asked(text)).encodings[0]
    logits = np.zeros((len(pieces.ids), len(NAMES)))
    said = {"ada": "B-PER", "new": "B-LOC"}
    for place, token in enumerate(pieces.tokens):
        logits[place, NAMES.index(said.get(token, "O"))] = 5.0
    found = TASK.reply(text, [(logits, pieces)], NAMES, {})["prediction"]
    assert [(one["type"], one["text"], one["begin"], one["end"]) for one in found] == [
        ("PER", "Ada", 0, 3), ("LOC", "New-York", 13, 21),
    ]  # fmt: skip
    assert found[0]["score"] == pytest.approx(np.exp(5) / (np.exp(5) + 4))
