"""Word-replacement augmentation replaces the words that may be replaced, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_vocabulary_trimming import SPECIAL, make_tokenizer

from tinybert_cli import models
from tinybert_cli.data import word_replacement

NEIGHBOURS = {
    "good": ["fine", "great"],
    "bad": ["poor", "awful"],
    "not": ["very"],
    "film": ["movie"],
    "电": ["光"],
    "影": ["形"],
}


def augment(*rows: tuple[str, ...], **settings: float) -> list[tuple[int, tuple[str, ...]]]:
    options = {"count": 5, "probability": 0.5, "seed": 1} | settings
    candidates = [[word_replacement.replacement_candidates(text, NEIGHBOURS) for text in row] for row in rows]
    return list(word_replacement.augment(rows, candidates, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text", ["It's  not\tbad, 3.5 stars (really)!", "这部电影不好。Très bien — “ok”", "line\nbreak", "a_b c-d", ""]
)
def test_split_words_joins_back_to_the_text(text: str) -> None:
    assert "".join(word_replacement.split_words(text)) == text


def test_split_words_makes_each_chinese_character_a_word() -> None:
    assert word_replacement.split_words("电影A好") == ["电", "影", "A", "好"]


def test_augment_replaces_words_with_neighbours_and_nothing_else() -> None:
    texts = {text for _, (text,) in augment(("good film, bad cut",), count=400)}
    assert all(text.endswith(" cut") and ", " in text for text in texts)
    assert {text.split()[0] for text in texts} == {"good", "fine", "great"}
    assert len(texts) == 3 * 2 * 3 - 1  # every combination except the original


def test_augment_yields_no_duplicates_and_no_original_rows() -> None:
    rows = [("good film",), ("fine film",), ("good film",)]
    examples = [texts for _, texts in augment(*rows, count=40)]
    assert len(examples) == len(set(examples)) and not set(examples) & set(rows)


def test_augment_keeps_negations_numbers_names_and_capitals() -> None:
    texts = {text for _, (text,) in augment(("Good Bad film. Film 7 is not Good, don't",), count=60, probability=1.0)}
    for text in texts:
        first, second, *rest = text.split()
        assert first in ("Fine", "Great") and second == "Bad"  # a word capitalised mid-sentence is a name
        assert rest == ["movie.", "Movie", "7", "is", "not", "Good,", "don't"]


def test_augment_replaces_chinese_character_by_character() -> None:
    assert {text for _, (text,) in augment(("电影好",), probability=1.0)} == {"光形好"}


def test_augment_keeps_the_texts_of_a_pair_together() -> None:
    for index, (first, second) in augment(("good film", "bad film"), ("bad", "good"), count=9):
        assert len(first.split()) == len(second.split()) == (2 if index == 0 else 1)
        assert (first.split()[0] in ("good", "fine", "great")) == (index == 0)


def test_augment_depends_only_on_seed_row_index_and_candidates() -> None:
    row = ("good bad good bad good bad film",)
    assert augment(row) == augment(row)
    assert augment(row) != augment(row, seed=2)
    assert augment(row, ("bad",))[: len(augment(row))] == augment(row)


def test_nearest_neighbours_use_cosine_and_skip_negations() -> None:
    table = {"up": 0, "upward": 1, "right": 2, "down": 3, "not": 4}
    embeddings = torch.tensor([[0.0, 1.0], [0.1, 9.0], [1.0, 0.0], [0.0, -1.0], [0.0, 1.0]])
    neighbours = word_replacement.nearest_neighbours(table, embeddings, ["up", "unknown", "not"], 2)
    assert neighbours == {"up": ["upward", "right"]}


@pytest.mark.parametrize("algorithm", SPECIAL)
def test_whole_words_of_a_vocabulary_are_single_tokens(algorithm: str) -> None:
    tokenizer = make_tokenizer(algorithm)
    words = models.whole_words(tokenizer)
    assert "film" in words
    assert not any("##" in word or "<" in word or "[" in word for word in words)
    assert all(tokenizer(f"a {word}", add_special_tokens=False)["input_ids"][-1] == words[word] for word in words)


def by_hand(rows: list[tuple[str, ...]], count: int) -> list[tuple[int, tuple[str, ...]]]:
    """The examples of `augment`, with all earlier ones in a set."""
    seen, result = set(rows), []
    for index, row in enumerate(rows):
        candidates = [word_replacement.replacement_candidates(text, NEIGHBOURS) for text in row]
        random = np.random.default_rng([1, index])
        for example in word_replacement._examples(row, candidates, count, 0.5, random):
            if example not in seen:
                seen.add(example)
                result.append((index, example))
    return result


@pytest.mark.parametrize("part", [1, 3, 1024])
def test_examples_that_occurred_before_are_left_out_whatever_the_size_of_a_part(
    part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(word_replacement, "ROWS", part)
    rows = [("good film",), ("bad film",), ("great movie",), ("good film",), ("fine bad film",), ("fine bad movie",)]
    examples = augment(*rows, count=9)
    assert examples == by_hand(rows, 9) and len(examples) < 9 * len(rows)


def test_seen_rows_are_few_sorted_arrays() -> None:
    draw, seen, known = np.random.default_rng(0), word_replacement._SeenRows(), set()
    for _ in range(200):
        rows = [(str(number),) for number in draw.integers(0, 3000, size=draw.integers(0, 30))]
        expected = [row not in known and row not in rows[:at] for at, row in enumerate(rows)]
        assert seen.add_new(rows).tolist() == expected
        known.update(rows)
    assert sum(map(len, seen.digests)) == len(known) and len(seen.digests) < 12
    assert all((np.diff(digests) > 0).all() for digests in seen.digests)
