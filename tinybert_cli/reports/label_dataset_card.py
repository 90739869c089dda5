"""The dataset card (README.md) of a label dataset, whose front matter names the files of each split."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinybert_cli.config import GenSoftLabels
from tinybert_cli.escaping import in_python, markdown
from tinybert_cli.reports import model_card

SPLITS = {
    "train": "the training rows",
    "validation": "the validation rows",
    "test": "the test rows",
    "unlabeled": "rows without a gold label",
    "augmented": "variants of the training rows with replaced words, without a gold label",
}


def as_markdown(config: GenSoftLabels, pipeline: str, rows: Mapping[str, int], inputs: Mapping[str, Any]) -> str:
    """README.md of a label dataset, with which `datasets.load_dataset(folder)` returns all splits.

    Args:
        pipeline: the Hub's name of the task.
        rows: split → number of rows.
        inputs: as in the manifest.
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
        "All files have the same columns: those of the data (null where a split lacks one), and those that begin with "
        "`teacher_`. `run.yaml` repeats the run; `manifest.json` lists all inputs with their hashes.",
    ]
    return f"---\n{front.to_yaml()}\n---\n\n" + "\n\n".join(lines) + "\n"
