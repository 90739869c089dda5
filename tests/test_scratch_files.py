"""Arrays in memory-mapped files without a name."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from tinybert_cli import models, scratch_files
from tinybert_cli.config import Data
from tinybert_cli.errors import UserError
from tinybert_cli.scratch_files import GrowingArray, ScratchFile, counts, scratch_files_in
from tinybert_cli.tasks.encoding import encode_texts
from tinybert_cli.tasks.language_modeling import LanguageModeling
from tinybert_cli.types import Encoded, Rows


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
