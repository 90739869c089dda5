"""Arrays in memory-mapped files without a name."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_sample_weight
from transformers import PreTrainedTokenizerFast

from tinybert_cli import models, scratch_files, tasks
from tinybert_cli.config import Data
from tinybert_cli.data import Examples
from tinybert_cli.data.stored_columns import StoredColumn, StoredColumns
from tinybert_cli.errors import UserError
from tinybert_cli.inspection import duplicates
from tinybert_cli.losses import class_weights
from tinybert_cli.scratch_files import GrowingArray, ScratchFile, counts, scratch_files_in
from tinybert_cli.tasks.encoding import encode_texts, starts
from tinybert_cli.tasks.language_modeling import LanguageModeling
from tinybert_cli.types import NO_LABEL, Encoded, Rows

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture
def tokenizer(finished_runs: Path) -> PreTrainedTokenizerFast:
    return models.load_tokenizer(models.locate(str(finished_runs / "base")))


@pytest.fixture
def files_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch_files, "IN_MEMORY", 0)


def test_large_array_is_a_file_with_the_same_numbers(files_only: None) -> None:
    array = GrowingArray(np.int32)
    for part in ([1, 2], np.array([[3], [4]]), [], [5]):
        array.append(part)
    result = array.finish()
    assert result.tolist() == [1, 2, 3, 4, 5] and not result.flags.writeable


def test_scratch_files_have_no_name_in_the_folder_of_the_run(tmp_path: Path) -> None:
    with scratch_files_in(lambda: tmp_path):
        file = ScratchFile()
    file.write(np.arange(3, dtype=np.int8))
    assert bytes(file.mapped()) == b"\0\1\2" and not list(tmp_path.iterdir())


def test_full_disk_names_the_bytes_needed_and_free(tmp_path: Path) -> None:
    class FullDisk:
        def write(self, values: memoryview) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    with scratch_files_in(lambda: tmp_path):
        file = ScratchFile()
    file.write(b"abc")
    file._file = FullDisk()  # type: ignore[assignment]
    with pytest.raises(
        UserError, match=r"3 bytes are written, at least 2 more are needed, and [\d,]+ are free"
    ) as info:
        file.write(b"de")
    assert info.value.where == str(tmp_path)


def test_counts_in_parts_are_those_of_bincount(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch_files, "PART", 2)
    values = np.array([4, 0, 1, 1, 7, 1, 0], dtype=np.int32)
    assert counts(values, minlength=3).tolist() == np.bincount(values, minlength=3).tolist()


@pytest.mark.parametrize("encode", [encode_texts, LanguageModeling().encode])
def test_tokens_in_files_equal_tokens_in_memory(
    monkeypatch: pytest.MonkeyPatch,
    tokenizer: PreTrainedTokenizerFast,
    encode: Callable[[Rows, Data, PreTrainedTokenizerFast], Encoded],
) -> None:
    rows = Rows({"text": [f"fine warm dull cold {'fine ' * (row % 7)}" for row in range(50)]}, (("t", 50),))
    settings = Data(max_seq_length=8)
    expected = encode(rows, settings, tokenizer)
    monkeypatch.setattr(scratch_files, "IN_MEMORY", 0)
    monkeypatch.setattr("tinybert_cli.tasks.encoding._CHUNK", 8)
    monkeypatch.setattr("tinybert_cli.tasks.language_modeling._CHUNK", 100)
    encoded = encode(rows, settings, tokenizer)
    assert encoded.offsets.tolist() == expected.offsets.tolist() and encoded.truncated == expected.truncated
    for name, (values, padding) in expected.tokens.items():
        assert encoded.tokens[name][0].tolist() == values.tolist() and encoded.tokens[name][1] == padding


def test_part_of_encoded_rows_equals_those_rows_encoded(tokenizer: PreTrainedTokenizerFast) -> None:
    rows = Rows({"text": ["fine", "fine warm dull", "", "cold"]}, (("t", 4),))
    part = encode_texts(rows, Data(), tokenizer).part(1, 3)
    expected = encode_texts(rows.select([1, 2]), Data(), tokenizer)
    assert part is not None and part.offsets.tolist() == expected.offsets.tolist()
    assert part.tokens["input_ids"][0].tolist() == expected.tokens["input_ids"][0].tolist()


WORDS = ["fine", "warm", "dull", "cold"]
ANSWERS: dict[str, tuple[Data, dict[str, list[object]]]] = {
    "token-classification": (
        Data(text_column_names="tokens", label_column_name="tags", max_seq_length=8, doc_stride=2),
        {
            "tokens": [(WORDS * 5)[: row % 17] for row in range(40)],
            "tags": [None if row == 3 else ["AB"[word % 3 > 1] for word in range(row % 17)] for row in range(40)],
        },
    ),
    "question-answering": (
        Data(text_column_names=["q", "c"], label_column_name="a", max_seq_length=16, doc_stride=2),
        {
            "q": [" ".join(WORDS[: 1 + row % 3] * (1 + 9 * (row == 5))) for row in range(40)],
            "c": [" ".join((WORDS * 8)[: 4 + row % 23]) for row in range(40)],
            "a": [
                None if row == 3 else {"text": ["dull"] * (row % 4 > 0), "answer_start": [10] * (row % 4 > 0)}
                for row in range(40)
            ],
        },
    ),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_windows_labels_and_targets_in_files_equal_those_in_memory(
    name: str, monkeypatch: pytest.MonkeyPatch, tokenizer: PreTrainedTokenizerFast
) -> None:
    task, (settings, columns) = tasks.find_prediction_task(name), ANSWERS[name]
    rows, names = Rows(columns, (("t", 40),)), ["A", "B"] if name == "token-classification" else ["begin", "end"]

    def arrays() -> dict[str, np.ndarray]:  # type: ignore[type-arg]
        encoded, labels = task.encode(rows, settings, tokenizer), task.labels(rows, settings, names)
        assert labels is not None and encoded.layout is not None and encoded.positions is not None
        aligned = task.align({"labels": labels}, encoded.layout, encoded)["labels"]
        spans = encoded.layout.token_spans
        return {
            **{name: values for name, (values, _) in encoded.tokens.items()}, "offsets": encoded.offsets,
            "positions": encoded.positions, "window_offsets": np.asarray(encoded.window_offsets), "labels": labels,
            "row_offsets": encoded.layout.row_offsets, "aligned": aligned, "empty": np.array(encoded.empty),
            "truncated": np.array(encoded.truncated), "spans": np.zeros(0) if spans is None else spans,
        }  # fmt: skip

    expected = arrays()
    assert len(expected["offsets"]) > 41 and (expected["labels"] == NO_LABEL).any()  # windows, a row without labels
    monkeypatch.setattr(scratch_files, "IN_MEMORY", 0)
    monkeypatch.setattr(scratch_files, "JOINED", 3)
    for module, size, number in (("token_classification", "_CHUNK", 7), ("token_classification", "_LABELS", 5),
                                 ("question_answering", "_CHUNK", 7)):  # fmt: skip
        monkeypatch.setattr(f"tinybert_cli.tasks.{module}.{size}", number)
    stored = arrays()
    for key in ("input_ids", "positions", "aligned"):
        assert not stored[key].flags.writeable and expected[key].flags.writeable, key
    for key, values in expected.items():
        assert stored[key].dtype == values.dtype and np.array_equal(stored[key], values, equal_nan=key == "aligned"), (
            key
        )


def test_balanced_weights_in_parts_are_those_of_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinybert_cli.losses.class_weights.PART", 4)
    labels = np.random.default_rng(0).choice([0, 2, 3], size=30, p=[0.6, 0.3, 0.1])
    expected = compute_sample_weight("balanced", labels).astype(np.float32)
    with_gaps = np.concatenate([labels[:7], [NO_LABEL], labels[7:], [NO_LABEL]])
    assert class_weights.of_class(with_gaps)[with_gaps >= 0].tolist() == expected.tolist()
    assert not class_weights.of_class(with_gaps)[with_gaps < 0].any()


def test_contradictory_tags_are_found_in_stored_columns() -> None:
    columns = StoredColumns()
    columns.append(
        {"tokens": [["a", "b"], ["a b"], ["a", "b"], ["c"]], "tags": [["O", "O"], ["O"], ["O", "X"], ["O"]]}, 4
    )
    rows = Rows(columns.finish(), (("t", 4),))
    settings = Data(text_column_names="tokens", label_column_name="tags")
    assert isinstance(rows.columns["tokens"], StoredColumn)
    assert duplicates.contradictions(rows, settings, "token-classification") == [[0, 2]]
    assert list(duplicates.texts_of(rows, settings))[1:] == duplicates.texts_of(rows, settings)[1:]


def resident() -> int:
    """Bytes of mapped files in the memory of this process."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssFile"))
    return int(line.split()[1]) * 1024


@linux_only
def test_pages_of_rows_that_are_read_at_random_are_released(monkeypatch: pytest.MonkeyPatch, files_only: None) -> None:
    count, length = 4_000, 4_096
    ids = GrowingArray(np.int32)
    for _ in range(count // 100):
        ids.append(np.ones(100 * length))
    encoded = Encoded({"input_ids": (ids.finish(), 0)}, np.arange(count + 1) * length, truncated=0, empty=[])
    examples, size = Examples.of(encoded), count * length * 4
    monkeypatch.setattr(scratch_files, "RESIDENT", size // 8)
    before, most = resident(), 0
    for windows in np.random.default_rng(0).permutation(count).reshape(-1, 20):
        assert bool(examples.__getitems__(windows.tolist())["input_ids"].all())
        most = max(most, resident())
    assert most < before + size / 2  # all of it, without releasing pages


def test_a_batch_reads_no_more_offsets_than_it_has_rows() -> None:
    """With all of them in every batch, an epoch takes a time that grows with the square of the number of rows."""
    read: list[int] = []

    class Watched(np.ndarray[Any, Any]):
        def __getitem__(self, key: Any) -> Any:
            values = super().__getitem__(key)
            read.append(np.size(values))
            return values

    count = 500
    offsets = np.arange(count + 1).view(Watched)
    encoded = Encoded({"input_ids": (np.ones(count, np.int32), 0)}, offsets, truncated=0, empty=[])
    several = Examples(encoded.tokens, offsets, {}, offsets, np.zeros(count, np.int64))
    for examples in (Examples.of(encoded), several):
        assert examples.__getitems__([7, 3])["input_ids"].tolist() == [[1], [1]]
    assert read and max(read) <= 2


@linux_only
def test_read_pages_of_mapped_files_are_released(monkeypatch: pytest.MonkeyPatch) -> None:
    file, size = ScratchFile(), 32 << 20
    file.write(np.zeros(size, dtype=np.int8))
    content, before = file.mapped(), resident()
    assert not np.frombuffer(content, dtype=np.int8).any() and resident() > before + size / 2
    monkeypatch.setattr(scratch_files, "_read", 0)
    monkeypatch.setattr(scratch_files, "RESIDENT", size)
    scratch_files.has_read(size)
    assert resident() < before + size / 4 and content[size - 1] == 0


def test_starts_in_parts_are_those_of_cumsum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinybert_cli.tasks.encoding.PART", 3)
    assert starts(np.array([4, 0, 1, 2, 7, 1, 0])).tolist() == [0, 4, 4, 5, 7, 14, 15, 15]
    assert starts(np.zeros(0, dtype=np.int64)).tolist() == [0]


def test_large_array_to_be_filled_is_a_file(tmp_path: Path, files_only: None) -> None:
    with scratch_files_in(lambda: tmp_path):
        array = scratch_files.empty((3, 2), np.float32)
    array[1] = 7
    scratch_files.has_read(scratch_files.RESIDENT)  # releases its pages
    assert array.tolist() == [[0, 0], [7, 7], [0, 0]] and not list(tmp_path.iterdir())
