"""The shipped example of a teacher that is an LLM: its 200 answers, and what the recipe makes of them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from conftest import run, write_base_model

from tinybert_cli import configuration
from tinybert_cli.config import GenSoftLabels
from tinybert_cli.stages import checks

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "configs" / "llm-answers"
REVIEWS = [f"configs/demo/reviews/{split}.jsonl" for split in ("train", "validation", "test")]


def answers() -> list[dict[str, str]]:
    return [json.loads(line) for line in (RECIPE / "answers.jsonl").read_text(encoding="utf-8").splitlines()]


def test_every_answer_is_for_another_review_of_the_demo() -> None:
    lines = [line for name in (*REVIEWS, "configs/demo/reviews/unlabeled.jsonl") for line in (ROOT / name).open()]
    reviews = {json.loads(line)["text"] for line in lines}
    texts = Counter(row["text"] for row in answers())
    assert len(texts) == 200 and texts.keys() <= reviews


def test_the_answers_label_reviews_whichever_split_these_are_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    overrides = [f"data.train_file=[{', '.join(REVIEWS)}]", f"output_dir={tmp_path / 'labels'}"]
    file = RECIPE / "1-llm-labels.yaml"
    config = configuration.load("gen-soft-labels", file, overrides, checks.CHECKS["gen-soft-labels"])
    assert isinstance(config, GenSoftLabels)
    events = run("gen-soft-labels", config)
    done = next(event for event in events if event["event"] == "done")
    assert (done["answers"], done["answers_not_understood"], done["answers_without_row"]) == (200, 5, 0)
    assert done["labelled_rows"] == 195 and done["teacher_accuracy"] > done["majority_accuracy"]
    overrides = [f"label_dataset={config.output_dir}", f"student={write_base_model(tmp_path / 'base')}",
                 "training.max_steps=1", "data.max_seq_length=32", f"output_dir={tmp_path / 'teacher'}", *overrides[:1]]  # fmt: skip
    events = run("distill", configuration.load("distill", RECIPE / "2-teacher.yaml", overrides))
    assert next(event for event in events if event["event"] == "plan")["rows"] == 195
