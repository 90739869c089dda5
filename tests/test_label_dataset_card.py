"""Label datasets in other programs: all splits, one schema."""

from __future__ import annotations

from pathlib import Path

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import Configs, run


@pytest.fixture
def labels(teacher: Path, configs: Configs) -> Path:
    config = configs(
        "gen-soft-labels", "labels", teacher=teacher, splits=["train", "validation", "unlabeled"],
        augment={"copies": 1, "probability": 1.0},
    )  # fmt: skip
    run("gen-soft-labels", config)
    return Path(config.output_dir)


def test_load_dataset_returns_all_splits(labels: Path, tmp_path: Path) -> None:
    import datasets

    loaded = datasets.load_dataset(str(labels), cache_dir=str(tmp_path / "cache"))
    rows = {split: len(loaded[split]) for split in loaded}
    assert rows.keys() == {"train", "validation", "unlabeled", "augmented"}
    assert {name: rows[name] for name in ("train", "validation", "unlabeled")} == {
        "train": 96, "validation": 48, "unlabeled": 32,
    }  # fmt: skip
    assert loaded["unlabeled"]["label"] == [None] * 32 and rows["augmented"] > 0


def test_all_files_have_the_same_schema(labels: Path) -> None:
    schemas = {path.name: pq.read_schema(path) for path in labels.glob("*.parquet")}
    first = next(iter(schemas.values()))
    assert len(schemas) == 4 and all(schema.equals(first) for schema in schemas.values())
    table = ds.dataset(sorted(map(str, labels.glob("*.parquet")))).to_table()
    assert table.column_names == ["text", "label", "teacher_prediction", "teacher_logits"]


def test_the_card_counts_the_rows_of_each_split(labels: Path) -> None:
    text = (labels / "README.md").read_text()
    front = yaml.safe_load(text.split("---")[1])
    files = front["configs"][0]["data_files"]
    assert {"split": "augmented", "path": "augmented-*.parquet"} in files and "license" not in front
    assert "| train | 96 | the training rows |" in text and front["task_categories"] == ["text-classification"]
