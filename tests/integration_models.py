"""Tiny models of three tasks for the tests of spaCy, flair and FastAPI: `python tests/integration_models.py FOLDER`.

FOLDER/TASK/model is a model folder, FOLDER/TASK/export its ONNX export. The tests of flair run in an environment with an
older transformers, which cannot write these.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conftest import BAD, GOOD, make_config, run, sentences, write_base_model, write_rows

from tinybert_cli.config import Stage

Row = dict[str, Any]

LOOSE = {"min_agreement": 0.5, "max_metric_drop": 1.0}
LABELS = ("film", "plot", "the")


def _tagged(row: Row) -> Row:
    words = row["text"].split()
    return {"tokens": words, "tags": ["B-GOOD" if w in GOOD else "B-BAD" if w in BAD else "O" for w in words]}


ROWS: dict[str, tuple[Callable[[Row], Row], str, str]] = {
    "text-classification": (lambda row: row, "text", "label"),
    "multi-label-classification": (
        lambda row: {"text": row["text"], "labels": [word for word in LABELS if word in row["text"].split()]},
        "text",
        "labels",
    ),
    "token-classification": (_tagged, "tokens", "tags"),
}


def config(task: str, command: str, folder: Path, output: str, **settings: Any) -> Stage:
    """The config of a stage on the data of this task in the folder."""
    _, texts, labels = ROWS[task]
    fixed = {"data__text_column_names": texts, "data__label_column_name": labels, "data__max_seq_length": 12}
    fixed |= {"data__test_file": None, "data__unlabeled_file": None}
    fixed |= {"data__doc_stride": 3} if task == "token-classification" else {}
    return make_config(command, folder / "data", folder / output, task=task, **fixed, **settings)


def write(task: str, folder: Path) -> Path:
    """A folder with data/ and model/ of this task."""
    row, _, _ = ROWS[task]
    for split in ("train", "validation"):
        write_rows(folder / "data" / f"{split}.jsonl", [row(one) for one in sentences(split)])
    base = write_base_model(
        folder / "base", (*GOOD, *BAD, "the", "a", "film", "plot", "cast", "is", "was", "very", ".")
    )
    run("finetune", config(task, "finetune", folder, "model", model=base, training__num_train_epochs=25.0))
    return folder


if __name__ == "__main__":
    for name in ROWS:
        written = write(name, Path(sys.argv[1]) / name)
        run("export", config(name, "export", written, "export", model=written / "model", verify=LOOSE))
