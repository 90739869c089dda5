"""The demo's reviews are written one by one, no two alike; what the demo claims is computed as stated."""

from __future__ import annotations

import json
import math
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "experiments"))

import demo_claims  # noqa: E402

from tinybert_cli.predictor import load_predictor  # noqa: E402

REVIEWS = ROOT / "configs" / "demo" / "reviews"
SPLITS = ("train", "validation", "test", "unlabeled")
ROWS = {"train": 900, "validation": 400, "test": 2600, "unlabeled": 1987}
SCORES = {"teacher.accuracy": 0.9, "student.retention": 1.0}


def reviews(split: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (REVIEWS / f"{split}.jsonl").read_text().splitlines()]


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9']+", text.lower())


def similar_pairs(texts: list[str], size: int, limit: float) -> list[tuple[str, str]]:
    """Pairs whose Jaccard similarity, as sets of runs of `size` words, is at least `limit`.

    Such a pair has a run in common among the rarest (1 - limit) of each text: only these are compared.
    """
    runs = [{tuple(found[i : i + size]) for i in range(len(found) - size + 1)} for found in map(words, texts)]
    count = Counter(run for own in runs for run in own)
    holders: dict[tuple[str, ...], list[int]] = defaultdict(list)
    pairs = []
    for number, own in enumerate(runs):
        rarest = sorted(own, key=lambda run: (count[run], run))[: len(own) - math.ceil(limit * len(own)) + 1]
        for other in {other for run in rarest for other in holders[run]}:
            if len(own & runs[other]) >= limit * len(own | runs[other]):
                pairs.append((texts[other], texts[number]))
        for run in rarest:
            holders[run].append(number)
    return pairs


def test_the_reviews_have_the_documented_size_and_balance() -> None:
    page = (REVIEWS / "README.md").read_text()
    for split in SPLITS:
        labels = Counter(review.get("label") for review in reviews(split))
        half = ROWS[split] // 2
        assert labels == ({None: ROWS[split]} if split == "unlabeled" else {"positive": half, "negative": half})
        assert f"| `{split}.jsonl` | {ROWS[split]:,} |" in page


@pytest.mark.parametrize(("size", "limit"), [(1, 0.7), (3, 0.4)])
def test_no_two_reviews_are_similar_within_or_across_splits(size: int, limit: float) -> None:
    assert similar_pairs([review["text"] for split in SPLITS for review in reviews(split)], size, limit) == []


def test_a_similar_review_is_found_whatever_its_order() -> None:
    texts = [
        "The soup was cold and so was the waiter.",
        "A fine film.",
        "So the waiter was cold, and the soup was hot!",
    ]
    assert similar_pairs(texts, size=1, limit=0.7) == [(texts[0], texts[2])]


def test_the_reviews_are_not_made_from_templates() -> None:
    found = [words(review["text"]) for split in SPLITS for review in reviews(split)]
    assert max(Counter(tuple(review[:3]) for review in found).values()) <= 5
    assert len({word for review in found for word in review}) > 5000


def test_the_obvious_sentences_are_not_reviews_of_the_demo() -> None:
    sentences = [text for label in demo_claims.SENTENCES for text in demo_claims.SENTENCES[label]]
    known = [set(words(review["text"])) for split in SPLITS for review in reviews(split)]
    assert len(sentences) == 30
    for text in sentences:
        own = set(words(text))
        assert max(len(own & other) / len(own | other) for other in known) < 0.7, text


def test_sentences_with_the_other_label_are_the_wrong_answers() -> None:
    answers = [{"prediction": "positive"}] * 16 + [{"prediction": "negative"}] * 14
    assert demo_claims.wrong_answers(lambda texts: answers) == ["I hate it."]


def test_a_model_answers_the_sentences(teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sentences = {
        "good": ["a lovely film , great cast .", "the plot is awful and dull ."],
        "bad": ["a boring film , poor ."],
    }
    monkeypatch.setattr(demo_claims, "SENTENCES", sentences)
    assert demo_claims.wrong_answers(load_predictor(str(teacher)).predict) == ["the plot is awful and dull ."]


def test_the_difference_of_two_models_is_over_the_same_rows() -> None:
    rows = {
        "label": ["a"] * 10,
        "student2_prediction": ["a"] * 8 + ["b"] * 2,
        "student2-plain_prediction": ["b"] * 3 + ["a"] * 6 + ["b"],
    }
    gain, (low, high) = demo_claims.better(rows, "student2-plain")
    assert gain == pytest.approx(0.2) and low < 0.2 < high  # won 3 rows, lost 1


@pytest.mark.parametrize(
    ("scores", "low", "wrong", "claim"),
    [
        ({"teacher.accuracy": 0.84}, 0.01, [], "teacher"),
        ({"student.retention": 0.97}, 0.01, [], "student"),
        ({}, 0.0, [], "student2 - student2-plain"),
        ({}, 0.01, ["I hate it."] * 3, "export"),
    ],
)
def test_a_claim_that_does_not_hold_fails_by_name(
    scores: dict[str, float], low: float, wrong: list[str], claim: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo_claims.report(SCORES | scores, (0.03, (low, 0.05)), wrong) == 1
    failed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAILS")]
    assert len(failed) == 1 and failed[0].split()[1].rstrip(":") == claim.split()[0]


def test_two_wrong_sentences_are_within_the_claims() -> None:
    assert demo_claims.report(SCORES, (0.03, (0.01, 0.05)), ["I hate it.", "I love it."]) == 0
