"""gen-soft-labels with data.streaming: the same files as without it, from any source, also after a stream broke."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Configs, run, sentences, write_rows

from tinybert_cli.artifacts import read_manifest
from tinybert_cli.config import Stage
from tinybert_cli.errors import ConfigError, InputError, OutputError
from tinybert_cli.helpers import inspect
from tinybert_cli.stages import label_shards, labelling
from tinybert_cli.stages.checks import CHECKS

SIZE = 24  # rows of a shard: 96 rows of train are 4 shards


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(labelling, "ROWS_PER_SHARD", SIZE)
    monkeypatch.setattr("tinybert_cli.data.streams.PART", 8)
    yield


@pytest.fixture
def labels(teacher: Path, configs: Configs) -> Callable[..., Stage]:
    """`labels("out", streaming=True, ...)`: the config of gen-soft-labels with a trained teacher."""

    def config(output: str, *, streaming: bool, **settings: Any) -> Stage:
        made: Stage = configs("gen-soft-labels", output, teacher=teacher, data__streaming=streaming, **settings)
        return made

    return config


def shard_hashes(folder: Path) -> dict[str, str]:
    """sha256 of all Parquet and NumPy files."""
    files = sorted(path for path in folder.iterdir() if path.suffix in (".parquet", ".npy"))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def same_as_without(labels: Callable[..., Stage], tmp_path: Path, **settings: Any) -> list[dict[str, Any]]:
    """Labels with and without streaming; asserts that all shards have the same bytes; returns the events."""
    run("gen-soft-labels", labels("whole", streaming=False, **settings))
    events = run("gen-soft-labels", labels("stream", streaming=True, **settings))
    whole, stream = shard_hashes(tmp_path / "whole"), shard_hashes(tmp_path / "stream")
    assert stream == whole and whole
    first, second = (read_manifest(tmp_path / name) for name in ("whole", "stream"))
    for key in ("inputs", "label_names", "text_columns", "label_precision", "teacher_parameters"):
        assert first[key] == second[key]
    shards = [[entry for entry in one["outputs"] if entry["path"].endswith(".parquet")] for one in (first, second)]
    assert shards[0] == shards[1]
    return events


# -- the same labels -----------------------------------------------------------------------------------------


def test_streamed_labels_have_the_same_bytes_and_inputs(labels: Callable[..., Stage], tmp_path: Path) -> None:
    events = same_as_without(labels, tmp_path, splits=["train", "unlabeled", "validation"])
    manifest = read_manifest(tmp_path / "stream")
    assert manifest["streams"]["train"]["rows"] == 96 and len(manifest["streams"]["train"]["sha256"]) == 64
    numbers = json.loads((tmp_path / "stream" / "metrics.json").read_text())
    whole = json.loads((tmp_path / "whole" / "metrics.json").read_text())
    assert numbers["rows"] == whole["rows"] == 176
    plan = next(event for event in events if event["event"] == "plan")
    shards = [event for event in events if event["event"] == "shard"]
    assert plan["rows"] is None and [event["max_steps"] for event in shards] == [None] * 8
    assert [event["step"] for event in shards] == [24, 48, 72, 96, 120, 128, 152, 176]
    loaded = datasets.load_dataset(str(tmp_path / "stream"), cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 96, "unlabeled": 32, "validation": 48}


def test_a_later_stage_reads_streamed_labels(
    labels: Callable[..., Stage], configs: Configs, teacher: Path, tmp_path: Path
) -> None:
    run("gen-soft-labels", labels("stream", streaming=True))
    student = {"from": str(teacher), "num_hidden_layers": 2}
    config = configs("distill", "student", label_dataset=tmp_path / "stream", student=student, training__max_steps=2)
    assert run("distill", config)[-1]["event"] == "done"


def rows_as(name: str, rows: list[dict[str, Any]], folder: Path) -> Path:
    path = folder / name
    plain = path.with_suffix("") if name.endswith(".gz") else path
    if plain.suffix in (".csv", ".tsv"):
        with plain.open("w", newline="") as file:
            writer = csv.writer(file, delimiter="," if plain.suffix == ".csv" else "\t")
            writer.writerows([list(rows[0]), *(row.values() for row in rows)])
    elif plain.suffix in (".jsonl", ".json"):
        write_rows(plain, rows)
    elif plain.suffix == ".parquet":
        features = datasets.Features(
            {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
        )
        columns = {"text": [row["text"] for row in rows], "label": [int(row["label"] == "good") for row in rows]}
        datasets.Dataset.from_dict(columns, features=features).to_parquet(str(plain))
    else:
        plain.write_text("".join(f"{row['text']}\n\n" for row in rows))
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
    return path


@pytest.mark.parametrize(
    "name", ["a.csv", "a.csv.gz", "a.tsv", "a.jsonl.gz", "a.json", "a.parquet", "a.txt", "a.txt.gz"]
)
def test_every_format_is_streamed(name: str, labels: Callable[..., Stage], tmp_path: Path) -> None:
    file = rows_as(name, sentences("train"), tmp_path)
    same_as_without(labels, tmp_path, data__train_file=str(file), check_teacher=".txt" not in name)


def test_a_list_of_files_and_a_limit_are_streamed(labels: Callable[..., Stage], tmp_path: Path) -> None:
    rows = sentences("train")
    files = [str(rows_as(f"{number}.csv", part, tmp_path)) for number, part in enumerate([rows[:30], rows[30:]])]
    same_as_without(labels, tmp_path, data__train_file=files, data__max_train_samples=53)


def test_a_local_dataset_folder_is_streamed(labels: Callable[..., Stage], tmp_path: Path) -> None:
    folder = tmp_path / "dataset"
    datasets.Dataset.from_list(sentences("train")).save_to_disk(str(folder / "train"))
    rows_as("validation.csv", sentences("validation"), folder)
    files = {f"data__{split}_file": None for split in ("train", "validation", "test", "unlabeled")}
    same_as_without(labels, tmp_path, data__dataset_name=str(folder), splits=["train", "validation"], **files)


def test_layer_states_are_the_same(labels: Callable[..., Stage], tmp_path: Path) -> None:
    same_as_without(labels, tmp_path, states=["hidden_states"], student_layers=2, splits=["train"])
    assert len(list((tmp_path / "stream").glob("*.hidden_states.npy"))) == 4


def test_columns_whose_type_widens_later_are_the_same(labels: Callable[..., Stage], data: Path, tmp_path: Path) -> None:
    """Types are those of all rows: earlier shards are written again when a later one needs another type."""
    rows: list[dict[str, Any]] = [*sentences("train")]
    for index, row in enumerate(rows):
        later = index >= 60
        row |= {"number": index + 0.5 if later else index, "mixed": f"x{index}" if later else index, "late": None}
        row |= {"words": ["a"] if later else [], "big": index + 0.25 if later else 2**60 + 1}
        row |= {"late": "here"} if later else {}
        row |= {"new": {"key": index}} if later else {}
    write_rows(data / "train.jsonl", rows)
    events = same_as_without(labels, tmp_path)
    (warning,) = [
        event["message"] for event in events if event["event"] == "warning" and "stored as text" in event["message"]
    ]
    assert "mixed" in warning and "big" in warning and "number" not in warning
    assert pq.read_schema(tmp_path / "stream" / "train-00000-of-00004.parquet").field("number").type == pa.float64()


def test_warnings_count_the_rows_of_all_shards(labels: Callable[..., Stage], data: Path) -> None:
    rows = sentences("train")
    for index in (10, 50, 90):
        rows[index]["text"] = " "
    rows[60]["text"] = "fine " * 40
    write_rows(data / "train.jsonl", rows)
    events = run("gen-soft-labels", labels("stream", streaming=True))
    messages = [event["message"] for event in events if event["event"] == "warning"]
    assert "3 rows of train have no text (row 11, 51, 91)" in messages
    assert any(message.startswith("1 of 96 rows of train (1.0%) is longer than 16") for message in messages)


def test_a_dry_run_reads_only_the_first_rows(labels: Callable[..., Stage], data: Path, tmp_path: Path) -> None:
    with (data / "train.jsonl").open("a") as file:
        file.write("this is no JSON\n")
    events = run("gen-soft-labels", labels("stream", streaming=True), dry_run=True)
    assert events[-1]["event"] == "plan" and not (tmp_path / "stream").exists()


# -- faults --------------------------------------------------------------------------------------------------


def test_a_bad_row_costs_no_finished_shard(labels: Callable[..., Stage], data: Path, tmp_path: Path) -> None:
    run("gen-soft-labels", labels("whole", streaming=False))
    good = (data / "train.jsonl").read_text().splitlines(keepends=True)
    (data / "train.jsonl").write_text("".join([*good[:70], '{"text": "never closed\n', *good[71:]]))
    with pytest.raises(InputError) as caught:
        run("gen-soft-labels", labels("stream", streaming=True))
    assert caught.value.exit_code == 3 and caught.value.where == f"{data / 'train.jsonl'}:71:10"
    assert "the 48 rows of train before it, 2 shards, are finished" in str(caught.value.hint)
    assert sorted(path.name for path in (tmp_path / "stream").glob("*.parquet")) == [
        "train-00000.parquet",
        "train-00001.parquet",
    ]
    written = [path.stat().st_mtime_ns for path in sorted((tmp_path / "stream").glob("*.parquet"))]
    (data / "train.jsonl").write_text("".join(good))
    events = run("gen-soft-labels", labels("stream", streaming=True))
    assert [event["step"] for event in events if event["event"] == "resume"] == [48]
    assert [event["step"] for event in events if event["event"] == "shard"] == [72, 96]
    assert shard_hashes(tmp_path / "stream") == shard_hashes(tmp_path / "whole")
    assert [path.stat().st_mtime_ns for path in sorted((tmp_path / "stream").glob("*.parquet"))][:2] == written


def test_one_finished_shard_is_not_several(labels: Callable[..., Stage], data: Path) -> None:
    good = (data / "train.jsonl").read_text().splitlines(keepends=True)
    (data / "train.jsonl").write_text("".join([*good[:40], '{"text": "never closed\n', *good[41:]]))
    with pytest.raises(InputError) as caught:
        run("gen-soft-labels", labels("stream", streaming=True))
    assert "the 24 rows of train before it, 1 shard, are finished" in str(caught.value.hint)


def test_a_row_without_text_names_its_line(labels: Callable[..., Stage], data: Path) -> None:
    rows: list[dict[str, Any]] = [*sentences("train")]
    rows[80]["text"] = None
    write_rows(data / "train.jsonl", rows)
    with pytest.raises(InputError, match="expected text, found None") as caught:
        run("gen-soft-labels", labels("stream", streaming=True))
    assert caught.value.where == f"{data / 'train.jsonl'}, row 81"


def test_an_unknown_gold_label_names_its_row(labels: Callable[..., Stage], data: Path) -> None:
    rows = sentences("train")
    rows[80]["label"] = "ugly"
    write_rows(data / "train.jsonl", rows)
    with pytest.raises(InputError, match="ugly"):
        run("gen-soft-labels", labels("stream", streaming=True))


def test_a_truncated_archive_is_continued_when_it_is_whole(
    labels: Callable[..., Stage], data: Path, tmp_path: Path
) -> None:
    whole = gzip.compress((data / "train.jsonl").read_bytes() + b"\n" * (2 << 20))
    file = tmp_path / "train.jsonl.gz"
    file.write_bytes(whole[: len(whole) - 40])
    with pytest.raises(InputError, match="not a complete gzip file") as caught:
        run("gen-soft-labels", labels("stream", streaming=True, data__train_file=str(file)))
    assert str(caught.value.where).startswith(f"{file}:")
    file.write_bytes(whole)
    events = run("gen-soft-labels", labels("stream", streaming=True, data__train_file=str(file)))
    assert [event["step"] for event in events if event["event"] in ("resume", "shard")] == [96]
    assert events[-1]["rows"] == 96


def test_a_killed_run_resumes(labels: Callable[..., Stage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at any of its writes, the run ends with the same bytes."""
    from tinybert_cli.artifacts import Output
    from tinybert_cli.artifacts.run_files import RunFiles

    run("gen-soft-labels", labels("whole", streaming=False))
    whole = shard_hashes(tmp_path / "whole")

    class Killed(BaseException):
        pass

    for step in range(40):
        calls = iter(range(10_000))

        def dies(method: Any, at: int = step, calls: Any = calls) -> Any:
            def wrapped(*args: Any, **keywords: Any) -> Any:
                if next(calls) == at:
                    raise Killed
                return method(*args, **keywords)

            return wrapped

        out = f"out{step}"
        with monkeypatch.context() as patch:
            for owner, name in ((RunFiles, "_move"), (RunFiles, "claim"), (RunFiles, "_disclaim"), (Output, "note")):
                patch.setattr(owner, name, dies(getattr(owner, name)))
            try:
                run("gen-soft-labels", labels(out, streaming=True))
                died = False
            except Killed:
                died = True
        if died:
            run("gen-soft-labels", labels(out, streaming=True))
        assert shard_hashes(tmp_path / out) == whole
        listed = [entry["path"] for entry in read_manifest(tmp_path / out)["outputs"]]
        assert [name for name in listed if name.endswith(".parquet")] == sorted(whole)
        if not died:
            break
    assert not died and step > 10


def test_changed_rows_of_a_finished_shard_are_an_error(
    labels: Callable[..., Stage], data: Path, tmp_path: Path
) -> None:
    good = (data / "train.jsonl").read_text().splitlines(keepends=True)
    (data / "train.jsonl").write_text("".join([*good[:70], "{\n", *good[71:]]))
    with pytest.raises(InputError):
        run("gen-soft-labels", labels("stream", streaming=True))
    changed = json.dumps({"text": "other words", "label": "good"}) + "\n"
    (data / "train.jsonl").write_text("".join([*good[:30], changed, *good[31:]]))
    with pytest.raises(OutputError, match=r"other inputs: the rows of train-00001.parquet have changed"):
        run("gen-soft-labels", labels("stream", streaming=True))
    run("gen-soft-labels", labels("whole", streaming=False))
    events = run("gen-soft-labels", labels("stream", streaming=True), force=True)
    assert [event["shard"] for event in events if event["event"] == "shard"] == [
        "train-00001.parquet", "train-00002.parquet", "train-00003.parquet"
    ]  # fmt: skip
    assert shard_hashes(tmp_path / "stream") == shard_hashes(tmp_path / "whole")


def test_a_damaged_shard_is_made_again(labels: Callable[..., Stage], data: Path, tmp_path: Path) -> None:
    run("gen-soft-labels", labels("whole", streaming=False))
    good = (data / "train.jsonl").read_text()
    (data / "train.jsonl").write_text(good + "{\n")
    with pytest.raises(InputError):
        run("gen-soft-labels", labels("stream", streaming=True))
    (data / "train.jsonl").write_text(good)
    (tmp_path / "stream" / "train-00001.parquet").write_bytes(b"damaged")
    events = run("gen-soft-labels", labels("stream", streaming=True))
    assert [event["shard"] for event in events if event["event"] == "shard"] == ["train-00001.parquet"]
    assert shard_hashes(tmp_path / "stream") == shard_hashes(tmp_path / "whole")


def test_a_file_that_changes_while_it_is_read_is_an_error(
    labels: Callable[..., Stage], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_table, count = labelling.data.write_soft_labels, iter(range(100))

    def changing(*args: Any, **keywords: Any) -> None:
        if next(count) == 1:
            with (data / "train.jsonl").open("a") as file:
                file.write('{"text": "one more", "label": "good"}\n')
        write_table(*args, **keywords)

    monkeypatch.setattr(labelling.data, "write_soft_labels", changing)
    with pytest.raises(InputError, match="was changed while it was read"):
        run("gen-soft-labels", labels("stream", streaming=True))


def test_a_finished_run_is_compared_by_content(labels: Callable[..., Stage], data: Path) -> None:
    run("gen-soft-labels", labels("stream", streaming=True))
    assert run("gen-soft-labels", labels("stream", streaming=True))[-1]["event"] == "up to date"
    content = (data / "train.jsonl").read_text()
    (data / "train.jsonl").write_text(content.replace("fine", "warm"))
    with pytest.raises(OutputError, match=r"data.train_file.0.sha256"):
        run("gen-soft-labels", labels("stream", streaming=True))


def test_an_empty_file_is_an_error(labels: Callable[..., Stage], data: Path) -> None:
    (data / "train.jsonl").write_text("\n \n")
    with pytest.raises(InputError, match="is empty"):
        run("gen-soft-labels", labels("stream", streaming=True))


# -- the Hub -------------------------------------------------------------------------------------------------


class Hub:
    """The `datasets` library with local files in place of a dataset on the Hub."""

    def __init__(self, files: list[Path], commit: str) -> None:
        self.files, self.commit = files, commit
        self.calls: list[tuple[Any, ...]] = []
        self.breaks_after: int | None = None  # rows of one stream
        self.served = 0
        self.load_dataset_builder = datasets.load_dataset_builder

    def builder(self, path: str, name: str | None = None, *, revision: str | None = None) -> Any:
        self.calls.append((path, name, revision))
        form = self.files[0].suffix.removeprefix(".").replace("jsonl", "json")
        builder = self.load_dataset_builder(form, data_files={"train": [str(file) for file in self.files]})
        builder.base_path = f"hf://datasets/{path}@{self.commit}"
        streams = builder.as_streaming_dataset

        def as_streaming_dataset(split: str) -> Any:
            return streams(split=split).map(self.serve)

        builder.as_streaming_dataset = as_streaming_dataset
        return builder

    def serve(self, row: dict[str, Any]) -> dict[str, Any]:
        self.served += 1
        if self.breaks_after is not None and self.served > self.breaks_after:
            raise ConnectionError("the connection to the Hub was lost\nsecond line")
        return row


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    rows = sentences("train")
    files = [write_rows(tmp_path / f"hub-{part}.jsonl", rows[part * 32 : part * 32 + 32]) for part in range(3)]
    made = Hub(files, "0123456789abcdef0123456789abcdef01234567")
    monkeypatch.setattr(datasets, "load_dataset_builder", made.builder)
    return made


@pytest.fixture
def from_hub(labels: Callable[..., Stage]) -> Callable[[str], Stage]:
    return lambda output: labels(
        output, streaming=True, data__dataset_name="org/name", data__dataset_config_name="c", data__train_file=None
    )


def test_a_hub_dataset_is_streamed(
    from_hub: Callable[[str], Stage], labels: Callable[..., Stage], hub: Hub, tmp_path: Path
) -> None:
    run("gen-soft-labels", labels("whole", streaming=False))
    run("gen-soft-labels", from_hub("stream"))
    assert shard_hashes(tmp_path / "stream") == shard_hashes(tmp_path / "whole")
    manifest = read_manifest(tmp_path / "stream")
    assert manifest["inputs"]["data.dataset_name"] == {"hub_id": "org/name", "config": "c", "revision": None}
    stream = manifest["streams"]["train"]
    assert {name: stream[name] for name in ("dataset", "split", "revision", "rows")} == {
        "dataset": "org/name", "split": "train", "revision": hub.commit, "rows": 96
    }  # fmt: skip
    assert stream["fingerprint"] and stream["config"]
    run("gen-soft-labels", labels("local", streaming=True))
    assert stream["sha256"] == read_manifest(tmp_path / "local")["streams"]["train"]["sha256"]


def test_a_broken_hub_stream_goes_on_from_its_last_shard(
    from_hub: Callable[[str], Stage], labels: Callable[..., Stage], hub: Hub, tmp_path: Path
) -> None:
    run("gen-soft-labels", labels("whole", streaming=False))
    hub.breaks_after = 80
    with pytest.raises(InputError) as caught:
        run("gen-soft-labels", from_hub("stream"))
    assert caught.value.exit_code == 3
    assert caught.value.what == "the stream of 'org/name[train]' broke: the connection to the Hub was lost"
    assert caught.value.where == "org/name[train], after row 80"
    assert "the 72 rows of train before it, 3 shards, are finished" in str(caught.value.hint)
    hub.breaks_after, hub.served, hub.calls = None, 0, []
    run("gen-soft-labels", from_hub("stream"))
    assert hub.calls == [("org/name", "c", hub.commit)]  # the commit that the run has begun with
    assert hub.served <= SIZE + 32 + SIZE  # the first rows, which are checked, and the file in which it broke
    assert shard_hashes(tmp_path / "stream") == shard_hashes(tmp_path / "whole")


@pytest.mark.parametrize("most", [80, 72])  # the last shard is smaller, or whole
def test_a_limited_hub_stream_whose_shards_are_finished_can_be_resumed(
    most: int, from_hub: Callable[..., Stage], hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = from_hub("stream")
    config = config.model_copy(update={"data": config.data.model_copy(update={"max_train_samples": most})})

    def killed(*_: object) -> None:
        raise InputError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(label_shards.StreamedRows, "finish", killed)
        with pytest.raises(InputError, match="killed"):
            run("gen-soft-labels", config)
    hub.served = 0
    run("gen-soft-labels", config)
    assert read_manifest(tmp_path / "stream")["streams"]["train"]["rows"] == most
    assert hub.served <= SIZE  # only the first shard, which is checked


@pytest.mark.parametrize("processes_count", [1, 2, 4])
def test_an_interrupted_group_of_shards_of_a_hub_stream_is_continued_where_it_begins(
    processes_count: int, from_hub: Callable[..., Stage], hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Folder:
        """An `Output` that only notes."""

        folder = "out"

        def __init__(self, notes: dict[str, Any]) -> None:
            self.notes = notes

        def note(self, key: str, value: Any) -> None:
            self.notes[key] = json.loads(json.dumps(value))

    monkeypatch.setattr("tinybert_cli.processes.count", lambda: processes_count)
    monkeypatch.setattr(labelling, "ROWS_PER_SHARD", 8)
    config = from_hub("stream")
    first = Folder({})
    stream = label_shards.StreamedRows(config, first, force=False)  # type: ignore[arg-type]
    groups, finished = stream.groups(), list[str]()
    finished += [shard.name for shard in next(groups)]
    assert next(groups)  # interrupted in the second group
    hub.served = 0
    again = label_shards.StreamedRows(config, Folder(first.notes), force=False)  # type: ignore[arg-type]
    assert again.find_finished(lambda name, _: name in finished) == 8 * processes_count
    assert next(again.groups())[0].indices[0] == 8 * processes_count
    assert hub.served <= 8 + 8 * (processes_count + 1)  # the first shard, and the group


def test_a_split_that_the_hub_dataset_lacks_is_an_error(labels: Callable[..., Stage], hub: Hub) -> None:
    settings = {"data__dataset_name": "org/name", "data__train_file": None, "data__train_split_name": "training"}
    with pytest.raises(InputError, match="Bad split") as caught:
        run("gen-soft-labels", labels("stream", streaming=True, **settings))
    assert "data.train_split_name" in str(caught.value.hint)


# -- memory and settings -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_memory_does_not_depend_on_the_number_of_rows(tmp_path: Path) -> None:
    """Peak of Python's own allocations while all shards of a file are read; a shard is 1,000 rows."""
    code = """
import sys, tracemalloc
from pathlib import Path
from tinybert_cli import data
from tinybert_cli.config import Data
path = Path(sys.argv[1])
stream = data.open_stream(Data(train_file=str(path)), "train")
tracemalloc.start()
rows = sum(map(len, data.stream_shards(stream, Data(), 1000, most=None)))
print(rows, tracemalloc.get_traced_memory()[1])
"""
    peaks = {}
    for rows in (40_000, 160_000):
        file = tmp_path / f"{rows}.csv"
        file.write_text("text,label\n" + "".join(f"a text of row {row},good\n" for row in range(rows)))
        printed = subprocess.run(
            [sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True
        ).stdout
        read, peak = map(int, printed.split())
        assert read == rows
        peaks[rows] = peak
    assert peaks[160_000] < 1.1 * peaks[40_000]


@pytest.mark.parametrize("command", ["finetune", "eval", "export", "distill"])
def test_other_stages_refuse_a_stream(command: str, configs: Configs, teacher: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "finetune": {"model": teacher},
        "eval": {"models": {"teacher": str(teacher)}},
        "export": {"model": teacher},
        "distill": {"label_dataset": "labels", "student": str(teacher)},
    }[command]
    with pytest.raises(ConfigError) as caught:
        run(command, configs(command, "out", data__streaming=True, **settings))
    assert caught.value.key == ("data", "streaming") and caught.value.exit_code == 2
    assert "gen-soft-labels" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"augment": {"copies": 2}}, ("augment",)),
        ({"teacher": {"answers_file": "answers.jsonl"}}, ("teacher",)),
    ],
)
def test_what_needs_all_rows_is_refused(
    settings: dict[str, Any], key: tuple[str, ...], configs: Configs, teacher: Path
) -> None:
    config = configs("gen-soft-labels", "out", **{"teacher": teacher, "data__streaming": True, **settings})
    with pytest.raises(ConfigError) as caught:
        run("gen-soft-labels", config)
    assert caught.value.key == key


def test_inspect_reads_the_first_rows_of_a_stream(
    labels: Callable[..., Stage], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspect, "STREAMED", 40)
    with (data / "train.jsonl").open("a") as file:
        file.write("this is no JSON\n")
    config = tmp_path / "labels.yaml"
    config.write_text(json.dumps(labels("out", streaming=True).model_dump(mode="json", by_alias=True)))
    (result,) = inspect.run(inspect.Request(str(config)), CHECKS)
    assert result.summary.splits["train"].rows == 40
    assert "train is a stream: only its first 40 rows were read" in result.notes


def test_a_file_that_is_no_stream_is_an_error(labels: Callable[..., Stage], data: Path, tmp_path: Path) -> None:
    document = tmp_path / "rows.json"
    document.write_text(json.dumps(sentences("train"), indent=1))
    with pytest.raises(InputError, match="one JSON object per line, which a stream needs"):
        run("gen-soft-labels", labels("stream", streaming=True, data__train_file=str(document)))
    words = tmp_path / "words.conll"
    words.write_text("Ada B-PER\nwrote O\n\nit O\n")
    with pytest.raises(InputError, match="cannot be read as a stream"):
        run("gen-soft-labels", labels("stream", streaming=True, data__train_file=str(words)))


def test_doubtful_cells_are_counted_once_the_file_is_read(
    labels: Callable[..., Stage], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = sentences("train")
    rows[40]["text"] = "fine,\ngreat"
    file = rows_as("a.csv", rows, tmp_path)
    with caplog.at_level(logging.WARNING, "tinybert"):
        run("gen-soft-labels", labels("stream", streaming=True, data__train_file=str(file)))
    assert f"1 of 96 rows of a.csv has a quoted cell with a comma and a line break (first: {file}:42" in caplog.text
