"""What the demo aims at, checked on its results: exit code 1 if a statement does not hold.

    python experiments/demo_claims.py runs/demo [--record NAME]

`--record` adds the scores to experiments/results/demo.json under this name, such as "2 threads", for
`experiments/tables.py`. The statements are about the test rows; only the sentences are no reviews of the demo
(tests/test_demo.py).
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet

from tinybert_cli.metrics.proportions import Interval, paired_difference

RECORDED = re.compile(r"[\w-]+\.(accuracy(_low|_high)?|retention|agreement|bytes|parameters)")
ACCURACY, RETENTION, SENTENCES_RIGHT = 0.85, 0.98, 28
SENTENCES = {
    "positive": [
        "I love it.",
        "The food was delicious.",
        "A wonderful film.",
        "Great phone, I am very happy with it.",
        "The staff were friendly and helpful.",
        "It works perfectly.",
        "The best book I have read this year.",
        "Excellent quality at a good price.",
        "We had a fantastic holiday.",
        "My children love this game.",
        "The room was clean and the bed was comfortable.",
        "I would recommend this to anyone.",
        "Fast delivery and a great product.",
        "This made me very happy.",
        "I am not disappointed at all.",
    ],
    "negative": [
        "I hate it.",
        "The food was disgusting.",
        "A terrible film.",
        "Bad phone, I am very unhappy with it.",
        "The staff were rude and unhelpful.",
        "It does not work.",
        "The worst book I have read this year.",
        "Poor quality and too expensive.",
        "Our holiday was a disaster.",
        "My children hate this game.",
        "The room was dirty and the bed was uncomfortable.",
        "I would not recommend this to anyone.",
        "Late delivery and a broken product.",
        "This made me very angry.",
        "I am disappointed.",
    ],
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path, metavar="runs/demo")
    parser.add_argument("--record", metavar="NAME")
    arguments = parser.parse_args()
    from tinybert_cli.predictor import load_predictor

    run: Path = arguments.run
    wrong = wrong_answers(load_predictor(str(run / "export")).predict)
    rows = pyarrow.parquet.read_table(run / "eval" / "predictions.parquet").to_pydict()
    scores = json.loads((run / "eval" / "metrics.json").read_text())
    if arguments.record:
        import result_files

        recorded = {key: value for key, value in scores.items() if RECORDED.fullmatch(key)}
        result_files.record("demo.json", arguments.record, recorded)
    failed = report(scores, better(rows, "student2-plain"), wrong)
    if "student2-direct_prediction" in rows:  # an older run has none
        print("for comparison:", as_text("student2-direct", better(rows, "student2-direct")))
    return failed


def wrong_answers(predict: Callable[[list[str]], Iterable[Mapping[str, Any]]]) -> list[str]:
    """The sentences to which `predict` (see `Predictor.predict`) gives the other label."""
    texts = [text for label in SENTENCES for text in SENTENCES[label]]
    labels = [label for label in SENTENCES for _ in SENTENCES[label]]
    answers = [answer["prediction"] for answer in predict(texts)]
    return [text for text, label, answer in zip(texts, labels, answers, strict=True) if answer != label]


def better(rows: Mapping[str, Sequence[str]], other: str) -> tuple[float, Interval]:
    """Accuracy of student2 minus that of another model on the same rows, and its 95 % interval."""
    right = {
        name: [answer == label for answer, label in zip(rows[f"{name}_prediction"], rows["label"], strict=True)]
        for name in ("student2", other)
    }
    pairs = list(zip(right["student2"], right[other], strict=True))
    won, lost = pairs.count((True, False)), pairs.count((False, True))
    return (won - lost) / len(pairs), paired_difference(won, lost, len(pairs))


def report(scores: Mapping[str, float], difference: tuple[float, Interval], wrong: Sequence[str]) -> int:
    """Prints each claim with what was measured; 1 if a claim does not hold, else 0."""
    teacher, retention = scores["teacher.accuracy"], scores["student.retention"]
    right = sum(map(len, SENTENCES.values())) - len(wrong)
    claims = [
        (teacher >= ACCURACY, f"teacher: accuracy {teacher:.4f} (at least {ACCURACY})"),
        (retention >= RETENTION, f"student: {retention:.1%} of the teacher's accuracy (at least {RETENTION:.0%})"),
        (difference[1][0] > 0, f"{as_text('student2-plain', difference)} (above 0)"),
        (
            right >= SENTENCES_RIGHT,
            f"export: {right} of 30 obvious sentences (at least {SENTENCES_RIGHT})"
            + "".join(f"; wrong: {text}" for text in wrong),
        ),
    ]
    for holds, claim in claims:
        print("holds   " if holds else "FAILS   ", claim)
    return int(not all(holds for holds, _ in claims))


def as_text(other: str, difference: tuple[float, Interval]) -> str:
    gain, (low, high) = difference
    return f"student2 - {other}: {gain:+.1%}, 95 % interval {low:+.1%} to {high:+.1%}"


if __name__ == "__main__":
    sys.exit(main())
