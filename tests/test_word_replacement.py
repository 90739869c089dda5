"""Copies of sentences differ in words that may differ, and in nothing else."""

from __future__ import annotations

import pytest
import torch
from test_vocabulary_trimming import SPECIAL, tokenizer

from tinybert_cli import models
from tinybert_cli.data import word_replacement

NEAR = {
    "good": ["fine", "great"],
    "bad": ["poor", "awful"],
    "not": ["very"],
    "film": ["movie"],
    "电": ["光"],
    "影": ["形"],
}


def made(*rows: tuple[str, ...], **settings: float) -> list[tuple[int, tuple[str, ...]]]:
    options = {"count": 5, "probability": 0.5, "seed": 1} | settings
    choices = [[word_replacement.choices(text, NEAR) for text in row] for row in rows]
    return list(word_replacement.copies(rows, choices, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text", ["It's  not\tbad, 3.5 stars (really)!", "这部电影不好。Très bien — “ok”", "line\nbreak", "a_b c-d", ""]
)
def test_the_words_make_up_the_text(text: str) -> None:
    assert "".join(word_replacement.words(text)) == text


def test_a_chinese_character_is_a_word() -> None:
    assert word_replacement.words("电影A好") == ["电", "影", "A", "好"]


def test_words_give_way_to_their_neighbours_and_the_rest_stays() -> None:
    found = {copy for _, (copy,) in made(("good film, bad cut",), count=400)}
    assert all(copy.endswith(" cut") and ", " in copy for copy in found)
    assert {copy.split()[0] for copy in found} == {"good", "fine", "great"}
    assert len(found) == 3 * 2 * 3 - 1  # every mixture but the original


def test_no_copy_is_there_twice_or_like_an_original() -> None:
    rows = [("good film",), ("fine film",), ("good film",)]
    copies = [copy for _, copy in made(*rows, count=40)]
    assert len(copies) == len(set(copies)) and not set(copies) & set(rows)


def test_negations_numbers_and_names_stay_and_capitals_are_kept() -> None:
    found = {copy for _, (copy,) in made(("Good Bad film. Film 7 is not Good, don't",), count=60, probability=1.0)}
    for copy in found:
        first, second, *rest = copy.split()
        assert first in ("Fine", "Great") and second == "Bad"  # a capital inside a sentence is a name
        assert rest == ["movie.", "Movie", "7", "is", "not", "Good,", "don't"]


def test_chinese_is_changed_character_by_character() -> None:
    assert {copy for _, (copy,) in made(("电影好",), probability=1.0)} == {"光形好"}


def test_a_pair_stays_together() -> None:
    for index, (first, second) in made(("good film", "bad film"), ("bad", "good"), count=9):
        assert len(first.split()) == len(second.split()) == (2 if index == 0 else 1)
        assert (first.split()[0] in ("good", "fine", "great")) == (index == 0)


def test_what_a_row_becomes_depends_on_the_seed_and_its_place_alone() -> None:
    row = ("good bad good bad good bad film",)
    assert made(row) == made(row)
    assert made(row) != made(row, seed=2)
    assert made(row, ("bad",))[: len(made(row))] == made(row)


def test_the_nearest_words_are_those_with_the_smallest_angle() -> None:
    table = {"up": 0, "upward": 1, "right": 2, "down": 3, "not": 4}
    vectors = torch.tensor([[0.0, 1.0], [0.1, 9.0], [1.0, 0.0], [0.0, -1.0], [0.0, 1.0]])
    found = word_replacement.neighbours(table, vectors, ["up", "unknown", "not"], 2)
    assert found == {"up": ["upward", "right"]}  # a negation neither gives way nor comes in


@pytest.mark.parametrize("kind", SPECIAL)
def test_words_of_a_vocabulary_are_whole(kind: str) -> None:
    tokens = tokenizer(kind)
    found = models.whole_words(tokens)
    assert "film" in found
    assert not any("##" in word or "<" in word or "[" in word for word in found)
    assert all(tokens(f"a {word}", add_special_tokens=False)["input_ids"][-1] == found[word] for word in found)
