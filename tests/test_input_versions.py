"""A file that changes between its hash and the end of reading, which the manifest would name with the wrong hash."""

from __future__ import annotations

from pathlib import Path

import pytest

from tinybert_cli import artifacts, config, data
from tinybert_cli.errors import InputError
from tinybert_cli.input_versions import inputs_of_run


@pytest.fixture(params=["train.csv", "train.{de,en}"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> config.Data:
    for name in ("train.csv", "train.de", "train.en"):
        (tmp_path / name).write_text("text,label\nfine,good\ndull,bad\n")
    return config.Data(train_file=str(tmp_path / request.param))


def test_file_that_changes_after_it_was_hashed_is_rejected(settings: config.Data, tmp_path: Path) -> None:
    artifacts.describe_all(data.sources(settings, ["train"]))
    changed = tmp_path / ("train.csv" if str(settings.train_file).endswith("csv") else "train.de")
    with inputs_of_run(), pytest.raises(InputError) as info:
        changed.write_text(changed.read_text().replace("fine", "very fine"))
        data.read(settings, "train")
    assert info.value.what == f"'{changed}' was changed while it was read" and "run the same command" in str(info.value)
    assert len(data.read(settings, "train")) >= 2  # after the run, and in the next one, it is an input like any other
    artifacts.describe_all(data.sources(settings, ["train"]))
    with inputs_of_run():
        assert len(data.read(settings, "train")) >= 2


def test_file_that_was_replaced_by_one_of_the_same_size_is_rejected(tmp_path: Path) -> None:
    file, other = tmp_path / "train.csv", tmp_path / "other.csv"
    file.write_text("text,label\nfine,good\ndull,bad\n")
    settings = config.Data(train_file=str(file))
    artifacts.describe_all(data.sources(settings, ["train"]))
    other.write_text("text,label\nfine,good\nwarm,bad\n")
    with inputs_of_run(), pytest.raises(InputError, match="was changed while it was read"):
        other.replace(file)
        data.read(settings, "train")


def test_every_run_compares_its_inputs(tmp_path: Path) -> None:
    file = tmp_path / "train.csv"
    file.write_text("text,label\nfine,good\ndull,bad\n")
    settings = config.Data(train_file=str(file))
    stage = config.Finetune(task="text-classification", data=settings, model="m", output_dir=str(tmp_path / "out"))
    inputs = artifacts.describe_all(data.sources(settings, ["train"]))
    with (
        pytest.raises(InputError, match="was changed while it was read"),
        artifacts.open_output("finetune", stage, inputs),
    ):
        file.write_text("text,label\nfine,good\n")
        data.read(settings, "train")
    assert not (tmp_path / "out").exists()
