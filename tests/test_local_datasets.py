"""Local dataset folders: each split is found by one rule, and two candidates for it are an error."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest
from conftest import Configs, run, write_rows

from tinybert_cli import data
from tinybert_cli.config import Data
from tinybert_cli.errors import InputError


def write(folder: Path, *names: str) -> Path:
    """Files with one row each, whose text is the name of the file."""
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".parquet"):
            data.write_table(file, {"text": [name]})
        else:
            file.write_text(f"text\n{name}\n" if "csv" in name else json.dumps({"text": name}), encoding="utf-8")
    return folder


def texts(folder: Path, split: data.Split, **settings: str) -> list[str]:
    """The texts of a split; checks that all functions find the same files."""
    named = Data(dataset_name=str(folder), **settings)
    rows = data.read(named, split).column("text")
    assert data.has(named, split) and list(data.sources(named, [split])) == [f"data.{split}_file"]
    return rows


def error_of(folder: Path, split: data.Split, **settings: str) -> InputError:
    with pytest.raises(InputError) as caught:
        data.has(Data(dataset_name=str(folder), **settings), split)
    with pytest.raises(InputError, match=r"candidates|missing|several"):
        data.read(Data(dataset_name=str(folder), **settings), split)
    return caught.value


def test_a_hub_clone_has_all_its_splits(tmp_path: Path) -> None:
    names = [f"data/{split}-00000-of-00001-0a1b2c.parquet" for split in ("train", "validation", "test")]
    write(tmp_path, *names)
    assert [texts(tmp_path, split)[0] for split in ("train", "validation", "test")] == names


def test_a_hub_clone_with_configurations_has_the_one_in_the_config(tmp_path: Path) -> None:
    write(tmp_path, "sst2/train-00000-of-00001.parquet", "cola/train-00000-of-00001.parquet")
    assert texts(tmp_path, "train", dataset_config_name="cola") == ["cola/train-00000-of-00001.parquet"]
    error = error_of(tmp_path, "train")
    assert "cola, sst2" in error.what and "data.dataset_config_name" in str(error.hint)


def test_the_only_subfolder_with_splits_is_the_dataset(tmp_path: Path) -> None:
    write(tmp_path, "plain_text/train.csv", "plain_text/test.csv", "scripts/convert.csv")
    assert texts(tmp_path, "train") == ["plain_text/train.csv"]


def test_a_subfolder_is_ignored_if_the_folder_has_splits(tmp_path: Path) -> None:
    write(tmp_path, "train.csv", "old/validation.csv")
    assert not data.has(Data(dataset_name=str(tmp_path)), "validation")


@pytest.mark.parametrize("split", ["train", "validation"])
def test_save_to_disk_of_several_splits_has_all_of_them(split: data.Split, tmp_path: Path) -> None:
    label = datasets.ClassLabel(names=["bad", "good"])
    features = datasets.Features({"text": datasets.Value("string"), "label": label})
    both = {
        name: datasets.Dataset.from_dict({"text": [name], "label": [1]}, features=features)
        for name in ("train", "validation")
    }
    datasets.DatasetDict(both).save_to_disk(str(tmp_path))
    assert texts(tmp_path, split) == [split]
    rows = data.read(Data(dataset_name=str(tmp_path)), split)
    assert rows.column("label") == ["good"] and rows.class_names == {"label": ["bad", "good"]}


def test_save_to_disk_of_one_dataset_is_the_training_split(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"text": ["a", "b"]}).save_to_disk(str(tmp_path), num_shards=2)
    assert texts(tmp_path, "train") == ["a", "b"]
    assert not data.has(Data(dataset_name=str(tmp_path)), "validation")


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_damaged_save_to_disk_folder_is_rejected(damage: str, tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"text": ["a"] * 99}).save_to_disk(str(tmp_path))
    file = tmp_path / "data-00000-of-00001.arrow"
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(InputError, match="cannot load"):
        data.read(Data(dataset_name=str(tmp_path)), "train")


@pytest.mark.parametrize(
    "names",
    [
        ("train-00000-of-00002.parquet", "train-00001-of-00002.parquet"),
        ("train-00001-of-00002.csv", "train-00002-of-00002.csv"),
        ("train_0.csv", "train_1.csv", "train_2.csv"),
        ("train-9.csv", "train-10.csv", *(f"train-{number}.csv" for number in range(1, 9))),
        ("train/0000.parquet", "train/0001.parquet"),
        ("data/train/part-00000-of-00002.csv", "data/train/part-00001-of-00002.csv"),
    ],
)
def test_shards_are_one_split_in_numeric_order(names: tuple[str, ...], tmp_path: Path) -> None:
    write(tmp_path, *names)
    assert sorted(texts(tmp_path, "train")) == sorted(names)
    if "train-10.csv" in names:
        assert texts(tmp_path, "train")[-2:] == ["train-9.csv", "train-10.csv"]


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        (("train-00000-of-00003.csv", "train-00002-of-00003.csv"), "train-00001-of-00003.csv"),
        (("train-00000-of-00003.csv", "train-00001-of-00003.csv"), "train-00002-of-00003.csv"),
        (("train-0.csv", "train-2.csv"), "train-1.csv"),
    ],
)
def test_an_unfinished_set_of_shards_is_rejected(names: tuple[str, ...], missing: str, tmp_path: Path) -> None:
    error = error_of(write(tmp_path, *names), "train")
    assert error.what == f"the split 'train' is incomplete: {missing} is missing"


@pytest.mark.parametrize(
    "names",
    [
        ("train.csv", "train.before-cleaning.csv"),
        ("train.csv", "train.csv.gz"),
        ("train.csv", "Train.CSV"),
        ("train.csv", "train.jsonl"),
        ("train.csv", "data/train.csv"),
        ("train.csv", "train/part-0.csv"),
        ("train.csv", "train-00000-of-00001.parquet"),
        ("train-00000-of-00001-0a.parquet", "train-00000-of-00001-0b.parquet"),
        ("train-00000-of-00001.csv", "train-00000-of-00002.csv", "train-00001-of-00002.csv"),
        ("train-2020.csv", "train-2021.csv"),
        ("train/a.csv", "train/b.csv"),
    ],
)
def test_two_candidates_for_a_split_are_rejected_by_name(names: tuple[str, ...], tmp_path: Path) -> None:
    error = error_of(write(tmp_path, *names), "train")
    assert error.what.startswith("2 candidates for the split 'train': ")
    assert names[0] in error.what and "data.train_file" in str(error.hint)
    chosen = Data(dataset_name=str(tmp_path), train_file=str(tmp_path / names[0]))
    assert data.read(chosen, "train").column("text") == [names[0]]


@pytest.mark.parametrize(
    "other", ["dev.csv", "val.jsonl", "valid.csv", "validation.jsonl", "data/dev-00000-of-00001.csv"]
)
def test_two_names_of_the_validation_split_are_rejected(other: str, tmp_path: Path) -> None:
    write(tmp_path, "validation.csv", other)
    assert other in error_of(tmp_path, "validation").what
    (tmp_path / "validation.csv").unlink()
    assert texts(tmp_path, "validation") == [other]


def test_a_split_name_in_the_config_is_taken_literally(tmp_path: Path) -> None:
    write(tmp_path, "validation.csv", "dev.csv")
    assert texts(tmp_path, "validation", validation_split_name="dev") == ["dev.csv"]


@pytest.mark.parametrize(
    "name", [".train.csv", "._train.csv", "train.csv~", "train.csv.part", "trainer.csv", "train_old.csv"]
)
def test_hidden_and_unfinished_files_are_no_candidates(name: str, tmp_path: Path) -> None:
    assert texts(write(tmp_path, "TRAIN.csv", name), "train") == ["TRAIN.csv"]


def test_a_missing_split_is_rejected_with_the_files_of_the_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no files for the split 'train' in .*; it has reviews\.csv") as caught:
        data.read(Data(dataset_name=str(write(tmp_path, "reviews.csv"))), "train")
    assert "data.train_file" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["./trian", "runs/data/mine", "a\\b", "~/data"])
def test_a_missing_folder_is_not_looked_up_on_the_hub(name: str) -> None:
    with pytest.raises(InputError, match="there is no folder"):
        data.has(Data(dataset_name=name), "train")


def test_a_file_as_dataset_is_rejected_with_its_setting(tmp_path: Path) -> None:
    write(tmp_path, "a.csv")
    with pytest.raises(InputError) as caught:
        data.has(Data(dataset_name=str(tmp_path / "a.csv")), "train")
    assert caught.value.hint == f"set data.train_file: {tmp_path / 'a.csv'}"


def test_a_file_that_is_named_twice_is_rejected(tmp_path: Path) -> None:
    file = str(write(tmp_path, "a.csv") / "a.csv")
    with pytest.raises(InputError, match="named twice"):
        data.read(Data(train_file=[file, file]), "train")


def test_the_plan_states_the_validation_rows_or_that_there_are_none(
    configs: Configs, data: Path, base_model: Path
) -> None:
    folder = data.parent / "folder"
    rows = [{"text": "fine", "label": "good"}, {"text": "dull", "label": "bad"}]
    write_rows(folder / "train.jsonl", rows)
    files = {f"data__{split}_file": None for split in ("train", "validation", "test", "unlabeled")}
    config = configs("finetune", "out", model=base_model, data__dataset_name=str(folder), **files)
    plan = next(event for event in run("finetune", config, dry_run=True) if event["event"] == "plan")
    assert plan["validation"] == "none, so the last checkpoint is stored" and not plan["evaluated"]
    write_rows(folder / "dev.jsonl", rows[:1])
    plan = next(event for event in run("finetune", config, dry_run=True) if event["event"] == "plan")
    assert plan["validation"] == "1 row of dev.jsonl" and plan["evaluated"]
