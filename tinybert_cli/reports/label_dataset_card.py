"""The dataset card (README.md) of a label dataset, whose front matter names the files of each split."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinybert_cli.config import GenSoftLabels
from tinybert_cli.escaping import in_python, markdown, markdown_cell
from tinybert_cli.reports import model_card
from tinybert_cli.wording import counted

SPLITS = {
    "train": "the training rows",
    "validation": "the validation rows",
    "test": "the test rows",
    "unlabeled": "rows without a gold label",
    "augmented": "variants of the training rows with replaced words, without a gold label",
}


def as_markdown(
    config: GenSoftLabels,
    pipeline: str,
    rows: Mapping[str, int],
    inputs: Mapping[str, Any],
    *,
    numbers: Mapping[str, float] | None = None,
    checked_rows: int = 0,
    confusion: Mapping[str, Mapping[str, int]] | None = None,
) -> str:
    """README.md of a label dataset, with which `datasets.load_dataset(folder)` returns all splits.

    Args:
        pipeline: the Hub's name of the task.
        rows: split → number of rows.
        inputs: as in the manifest.
        numbers: the scores of the teacher on `checked_rows` rows with gold labels.
        confusion: gold label → predicted label → how often.
    """
    from huggingface_hub import DatasetCardData

    files = [{"split": split, "path": f"{split}-*.parquet"} for split in rows]
    front = DatasetCardData(
        task_categories=[pipeline],
        source_datasets=model_card.hub_ids(model_card.data_inputs(inputs).values()),
        tags=["knowledge-distillation", "tinybert"],
        configs=[{"config_name": "default", "data_files": files}],
    )
    folder = in_python(config.output_dir)
    lines = [
        f"# {markdown(Path(config.output_dir).name)}",
        f"Predictions of {markdown(model_card.model_names(inputs['teacher']))} for "
        f"{markdown(model_card.data_names(inputs))}, made by `tinybert gen-soft-labels`.",
        f'```python\nfrom datasets import load_dataset\n\ndataset = load_dataset("{folder}")\n```',
        "\n".join(
            ["| split | rows | content |", "|---|---:|---|"]
            + [f"| {split} | {count:,} | {SPLITS[split]} |" for split, count in rows.items()]
        ),
        *_check(numbers or {}, checked_rows, confusion or {}),
        *_answers(config),
        "All files have the same columns: those of the data (null where a split lacks one), and those that begin with "
        "`teacher_`. `run.yaml` repeats the run; `manifest.json` lists all inputs with their hashes.",
    ]
    return f"---\n{front.to_yaml()}\n---\n\n" + "\n\n".join(lines) + "\n"


def _answers(config: GenSoftLabels) -> list[str]:
    """A sentence on rows without a label, which only files with answers leave."""
    if not config.answers or config.model_names:
        return []
    return [
        "A row whose `teacher_logits` is null has no answer, or one that could not be understood. `manifest.json` "
        "counts the answers of each kind under `answers`."
    ]


def _check(numbers: Mapping[str, float], checked_rows: int, confusion: Mapping[str, Mapping[str, int]]) -> list[str]:
    """The teacher against gold labels."""
    if not numbers:
        return []
    scores = [f"| {markdown_cell(name)} | {value:.4f} |" for name, value in numbers.items()]
    parts = [
        f"Checked on {counted(checked_rows, 'row')} with gold labels:\n",
        "\n".join(["| | |", "|---|---:|", *scores]),
    ]
    if confusion:
        predicted = list(dict.fromkeys([*confusion, *(name for own in confusion.values() for name in own)]))
        header = ["gold", *(f"predicted {name}" for name in predicted)]
        lines = [[gold, *(f"{own.get(name, 0):,}" for name in predicted)] for gold, own in confusion.items()]
        table = [header, ["---", *["---:"] * len(predicted)], *lines]
        parts += ["", "\n".join("| " + " | ".join(map(markdown_cell, line)) + " |" for line in table)]
    return ["\n".join(parts)]
