"""Task-agnostic distillation from a stream: all blocks in each pass, shuffled, the same after an interruption."""

from __future__ import annotations

import json
import signal
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from conftest import run, sentences, write_rows
from test_language_modeling import distill_config, write_corpus
from test_stages import last, sha256, start, stop_in_the_middle
from transformers import PreTrainedTokenizerFast

from tinybert_cli import data, models, tasks
from tinybert_cli.artifacts import read_manifest
from tinybert_cli.config import Data, Stage
from tinybert_cli.errors import ConfigError, InputError, OutputError
from tinybert_cli.loops.step_batches import OwnBatches
from tinybert_cli.stages import streamed_blocks
from tinybert_cli.stages.streamed_blocks import StreamedBlocks
from tinybert_cli.types import Rows

STEPS = {"training__max_steps": 40, "training__logging_steps": 5, "training__save_steps": 5}


@pytest.fixture(autouse=True)
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(streamed_blocks, "BUFFER", 10)
    monkeypatch.setattr(streamed_blocks, "PART", 4)
    yield


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "corpus")


@pytest.fixture
def tokenizer(finished_runs: Path) -> PreTrainedTokenizerFast:
    return models.load_tokenizer(models.locate(str(finished_runs / "base")))


def stream_config(corpus: Path, model: Path, output: Path, **settings: Any) -> Stage:
    return distill_config(
        corpus, model, output, data__streaming=True, **{"training__num_train_epochs": "auto", **STEPS, **settings}
    )


def streamed(corpus: Path, tokenizer: Any, total: int = 1000, seed: int = 1) -> StreamedBlocks:
    settings = Data(train_file=str(corpus / "train.txt"), max_seq_length=16)
    stream = data.open_stream(settings, "train")
    return StreamedBlocks(stream, settings, tokenizer, batch_size=4, seed=seed, total=total)


def batches_of(blocks: StreamedBlocks, count: int, skip: int = 0) -> list[list[list[int]]]:
    """The token ids of the batches after the first `skip`, without padding."""
    result = []
    for indices in blocks.after(skip):
        batch = blocks.__getitems__(indices)
        ids, mask = batch["input_ids"], batch["attention_mask"].bool()
        result.append([row[own].tolist() for row, own in zip(ids, mask, strict=True)])
        if len(result) == count:
            break
    return result


# -- blocks --------------------------------------------------------------------------------------------------


def test_a_pass_has_the_blocks_of_all_rows_in_another_order(corpus: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    settings = Data(train_file=str(corpus / "train.txt"), max_seq_length=16)
    encoded = tasks.find("language-modeling").encode(data.read(settings, "train"), settings, tokenizer)
    whole = [part.tolist() for part in np.split(encoded.tokens["input_ids"][0], encoded.offsets[1:-1])]
    blocks = streamed(corpus, tokenizer)
    drawn: list[list[int]] = []
    for batch in batches_of(blocks, 1000):
        drawn += batch
        if len(drawn) >= 2 * len(whole):
            break
    assert sorted(drawn[: len(whole)]) == sorted(whole) == sorted(drawn[len(whole) : 2 * len(whole)])
    assert drawn[: len(whole)] != whole and drawn[: len(whole)] != drawn[len(whole) :]


def test_the_order_depends_on_the_seed_only(corpus: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    one, same, other = (batches_of(streamed(corpus, tokenizer, seed=seed), 30) for seed in (1, 1, 2))
    assert one == same != other


@pytest.mark.parametrize("skip", [0, 1, 2, 3, 4, 5, 11, 23, 37])
def test_the_batches_after_a_checkpoint_are_the_same(
    skip: int, corpus: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    whole = batches_of(streamed(corpus, tokenizer), 45)
    blocks = streamed(corpus, tokenizer)
    batches_of(blocks, skip + 1)  # one is read ahead
    state = json.loads(json.dumps(blocks.state_dict()))
    resumed = streamed(corpus, tokenizer)
    resumed.load_state_dict(state)
    assert batches_of(resumed, 45 - skip, skip) == whole[skip:]


def test_it_ends_after_as_many_batches_as_are_needed(corpus: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(batches_of(streamed(corpus, tokenizer, total=17), 1000)) == 17
    assert len(batches_of(streamed(corpus, tokenizer, total=17), 1000, skip=12)) == 5


def test_memory_does_not_depend_on_the_number_of_rows(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    peaks = {}
    for rows in (500, 4000):
        folder = tmp_path / str(rows)
        folder.mkdir()
        (folder / "train.txt").write_text("the film was very fine and warm .\n" * rows)
        blocks = streamed(folder, tokenizer)
        total = rows * 9 // 14 // 4
        tracemalloc.start()
        assert sum(1 for _ in zip(blocks.after(0), range(total), strict=False)) == total
        peaks[rows] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peaks[4000] < 1.2 * peaks[500]


def test_a_stream_without_text_is_an_error(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    (tmp_path / "train.csv").write_text("text,n\n" + " ,1\n" * 9)
    settings = Data(train_file=str(tmp_path / "train.csv"), max_seq_length=16)
    blocks = StreamedBlocks(data.open_stream(settings, "train"), settings, tokenizer, batch_size=4, seed=1, total=9)
    with pytest.raises(InputError, match="no text"):
        next(blocks.after(0))


# -- the stage -----------------------------------------------------------------------------------------------


def test_a_student_learns_from_a_stream(base_model: Path, corpus: Path, tmp_path: Path) -> None:
    validation = {"data__validation_file": str(corpus / "validation.txt")}
    rows = run("distill", stream_config(corpus, base_model, tmp_path / "out", **validation))
    plan, scores = last(rows, "plan"), [row for row in rows if row["event"] == "evaluate"]
    assert plan["rows"] is None and plan["steps"] == 40
    assert plan["resolved"]["eval_strategy"] == "steps" and plan["resolved"]["eval_steps"] == 2
    assert len(scores) == 20 and scores[-1]["loss"] < scores[0]["loss"]
    manifest = read_manifest(tmp_path / "out")
    (described,) = manifest["inputs"]["data.train_file"]
    assert len(described["sha256"]) == 64
    stream = manifest["streams"]["train"]
    assert stream["shuffle_buffer"] == 10 and stream["passes"] >= 1 and stream["rows"] > 24
    assert f"{stream['rows']:,}" in (tmp_path / "out" / "README.md").read_text()


def test_a_finished_run_is_compared_by_content(base_model: Path, corpus: Path, tmp_path: Path) -> None:
    config = stream_config(corpus, base_model, tmp_path / "out", training__max_steps=2)
    run("distill", config)
    assert [row["event"] for row in run("distill", config)] == ["up to date"]
    (corpus / "train.txt").write_text("a fine film\n" * 9)
    with pytest.raises(OutputError, match=r"data\.train_file\.0\.sha256"):
        run("distill", config)


def broken(corpus: Path, model: Path, output: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Stage, InputError]:
    """A run whose stream breaks in its second pass, after some checkpoints."""
    parts, served = data.FileStream.parts, iter(range(10_000))

    def breaking(self: Any, *args: Any, **keywords: Any) -> Iterator[Any]:
        for part in parts(self, *args, **keywords):
            if next(served) == 11:
                raise InputError("the disk is gone", where="train.txt, after row 16")
            yield part

    config = stream_config(corpus, model, output)
    with monkeypatch.context() as patch, pytest.raises(InputError) as caught:
        patch.setattr(data.FileStream, "parts", breaking)
        run("distill", config)
    return config, caught.value


def test_a_broken_stream_resumes_with_the_same_weights(
    base_model: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("distill", stream_config(corpus, base_model, tmp_path / "whole"))
    config, error = broken(corpus, base_model, tmp_path / "out", monkeypatch)
    assert error.exit_code == 3 and error.where == "train.txt, after row 16"
    assert "the same command goes on from the last checkpoint" in str(error.hint)
    rows = run("distill", config)
    assert last(rows, "resume")["step"] > 0
    assert sha256(tmp_path / "out") == sha256(tmp_path / "whole")
    one, other = (read_manifest(tmp_path / name)["streams"] for name in ("out", "whole"))
    assert one == other


def test_changed_rows_are_not_mixed_with_earlier_ones(
    base_model: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, _ = broken(corpus, base_model, tmp_path / "out", monkeypatch)
    text = (corpus / "train.txt").read_text()
    (corpus / "train.txt").write_text("other words\n\n" + text.partition("\n\n")[2])
    with pytest.raises((OutputError, InputError)) as caught:
        run("distill", config)
    assert "changed" in caught.value.what


@pytest.mark.slow
def test_a_run_resumed_after_sigterm_ends_with_the_same_weights(base_model: Path, corpus: Path, tmp_path: Path) -> None:
    """In a process of its own, with buffers of the real size: each pass is one."""
    settings = {"training__max_steps": 200, "training__save_steps": None}
    process = start("distill", stream_config(corpus, base_model, tmp_path / "stopped", **settings), tmp_path / "a.yaml")
    stop_in_the_middle(process, tmp_path / "stopped", signal.SIGTERM)
    assert process.returncode == 143
    for name in ("stopped", "whole"):
        process = start("distill", stream_config(corpus, base_model, tmp_path / name, **settings), tmp_path / "a.yaml")
        assert process.wait(120) == 0
    assert sha256(tmp_path / "stopped") == sha256(tmp_path / "whole")


def test_a_hub_dataset_is_continued_where_its_buffer_begins(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [str(write_rows(tmp_path / f"{n}.jsonl", sentences("train")[n * 32 : n * 32 + 32])) for n in range(3)]
    builder = datasets.load_dataset_builder("json", data_files={"train": files})
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *_, **__: builder)
    settings = Data(dataset_name="org/name", max_seq_length=16)

    def blocks() -> StreamedBlocks:
        stream = data.open_stream(settings, "train")
        return StreamedBlocks(stream, settings, tokenizer, batch_size=4, seed=1, total=100)

    whole, first = batches_of(blocks(), 60), blocks()
    batches_of(first, 14)
    state = json.loads(json.dumps(first.state_dict()))
    assert state["positions"][0]["state"] is not None
    resumed = blocks()
    resumed.load_state_dict(state)
    assert batches_of(resumed, 60 - 13, 13) == whole[13:]
    assert resumed.facts()["streams"]["train"]["dataset"] == "org/name"


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"training__max_steps": -1}, ("training", "max_steps")),
        ({"training__num_train_epochs": 3.0}, ("training", "num_train_epochs")),
        ({"training__eval_strategy": "epoch"}, ("training", "eval_strategy")),
        ({"training__dataloader_num_workers": 1}, ("training", "dataloader_num_workers")),
    ],
)
def test_what_a_stream_does_not_know_is_refused(
    settings: dict[str, Any], key: tuple[str, ...], base_model: Path, corpus: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        run("distill", stream_config(corpus, base_model, tmp_path / "out", **settings))
    assert caught.value.key == key and caught.value.exit_code == 2


class Process:
    """One of two processes."""

    num_processes = 2

    def __init__(self, index: int) -> None:
        self.process_index = index


def test_two_processes_draw_different_batches(corpus: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """Each process reads the whole stream and takes every second batch."""
    whole = list(streamed(corpus, tokenizer, total=20).after(0))
    for index in (0, 1):
        own = list(OwnBatches(streamed(corpus, tokenizer, total=20), Process(index), skip=3))  # type: ignore[arg-type]
        assert own == whole[6 + index :: 2]


def test_two_processes_learn_the_blocks_of_one(corpus: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """Also where a buffer ends between the batches of a step: each has three batches here."""
    whole = batches_of(streamed(corpus, tokenizer, total=21), 21)
    for index in (0, 1):
        blocks = streamed(corpus, tokenizer, total=21)
        read = [
            blocks.__getitems__(indices)["input_ids"]
            for indices in OwnBatches(blocks, Process(index), skip=0)  # type: ignore[arg-type]
        ]
        assert len(read) == 11 and (index == 0 or len(read.pop()) == 1)  # a row that does not count
        rows = [[row[row != tokenizer.pad_token_id].tolist() for row in batch] for batch in read]
        assert rows == whole[index::2]


def test_a_step_of_more_batches_than_a_pass_can_be_repeated(corpus: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """Its batches are read ahead, over several buffers, before memory turns out to be too small for it."""
    settings = Data(train_file=str(corpus / "train.txt"), max_seq_length=16)
    stream = data.open_stream(settings, "train")
    blocks = StreamedBlocks(stream, settings, tokenizer, batch_size=4, seed=1, total=90, step=30)
    first = batches_of(blocks, 30)
    assert batches_of(blocks, 60) == [*first, *batches_of(streamed(corpus, tokenizer), 30, skip=30)]
    assert batches_of(blocks, 30, skip=60) == batches_of(streamed(corpus, tokenizer), 30, skip=60)
    assert len(blocks.state_dict()["positions"]) < 30  # the rest is forgotten


def test_text_without_any_token_is_no_text(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """The tokenizer removes it: a zero-width space, for example."""
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "train.txt").write_text("\u200b\n\u200b\n", encoding="utf-8")
    with pytest.raises(InputError, match="these rows have no text"):
        next(streamed(tmp_path / "corpus", tokenizer).after(0))
    settings = Data(train_file=str(tmp_path / "corpus" / "train.txt"), max_seq_length=16)
    task = tasks.find("language-modeling")
    with pytest.raises(InputError, match="these rows have no text"):
        task.encode(data.read(settings, "train"), settings, tokenizer)
    words = Rows({"text": ["\u200b", "good film", "\u200b"]}, (("t", 3),))
    encoded = task.encode(words, settings, tokenizer)
    assert encoded.tokens["input_ids"][0].tolist() == tokenizer("good film")["input_ids"]
