"""Files read in parts: the same rows, errors and warnings as in one piece, and a memory that does not grow."""

from __future__ import annotations

import csv
import gzip
import io
import json
import logging
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tinybert_cli.config import Data
from tinybert_cli.data import parts
from tinybert_cli.data.readers import read_file
from tinybert_cli.errors import InputError
from tinybert_cli.types import Rows

ROWS = [{"id": str(index), "text": f'text, "{index}"\nof a row', "note": "ä" * (index % 7)} for index in range(50)]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setattr(parts, "SMALL", 0)
    monkeypatch.setattr(parts, "PART", 7)
    monkeypatch.setattr("tinybert_cli.data.readers.BATCH", 7)
    monkeypatch.chdir(tmp_path)
    yield


def delimited(delimiter: str) -> str:
    """A table of the rows; a tsv file has no quotes."""
    if delimiter == "\t":
        plain = [[value.replace("\n", " ").replace('"', "") for value in row.values()] for row in ROWS]
        return "".join("\t".join(cells) + "\n" for cells in [list(ROWS[0]), *plain])
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    writer.writerows([list(ROWS[0]), *(row.values() for row in ROWS)])
    return text.getvalue()


def joined(several: Sequence[Rows]) -> dict[str, list[Any]]:
    return {name: [value for part in several for value in part.columns[name]] for name in several[0].columns}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", delimited(",")),
        ("b.csv", "sep=;\n" + delimited(";")),
        ("c.tsv", delimited("\t")),
        ("d.csv", 'id,text\n1,"two\nlines"\n2,"a ""quote"", here"\n' * 1 + "3,x\n" * 20),
        ("e.jsonl", "".join(json.dumps({**row, **({"more": 1} if row["id"] == "40" else {})}) + "\n" for row in ROWS)),
        ("f.jsonl", '\ufeff{"a": 1}\n\n{"b": "\\ud83d half"}\n'),
        ("g.json", json.dumps(ROWS)),
    ],
)
def test_parts_are_the_rows_of_the_whole_file(name: str, text: str) -> None:
    path = Path(name)
    for file in (path, Path(f"{name}.gz")):
        file.write_bytes(gzip.compress(text.encode()) if file.suffix == ".gz" else text.encode())
        several = list(parts.open_parts(file, Data())())
        assert joined(several) == read_file(file).columns
        assert len(several) > 1 or name in ("f.jsonl", "g.json")


def test_parts_of_a_parquet_file_have_class_names() -> None:
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    rows = [{"text": f"text {index}", "label": index % 2} for index in range(20)]
    datasets.Dataset.from_list(rows, features=features).to_parquet("a.parquet")
    several = list(parts.open_parts(Path("a.parquet"), Data())())
    assert len(several) == 3 and joined(several) == read_file(Path("a.parquet")).columns
    assert several[2].columns["label"][0] == "no" and several[2].location(0) == "a.parquet, row 15"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b"a,b\n" + b"1,2\n" * 30 + b"1,2,3\n"),
        ("b.csv", b"a,b\n" + b"1,2\n" * 30 + b'1,"2\n'),
        ("c.csv", b"a,b;c\n" + b"1,2;3\n" * 30),
        ("d.csv", b"a,b\n" + b"1,\xff\n" * 30),
        ("e.csv", b"a,b\n" + b"1,\0\n" * 30),
        ("f.csv", b"a,a\n" + b"1,2\n" * 30),
        ("g.jsonl", b'{"a": 1}\n' * 30 + b'{"a": \n'),
        ("h.jsonl", b'{"a": 1}\n' * 30 + b"[1]\n"),
        ("i.csv", b"sep=;\n"),
    ],
)
def test_errors_are_those_of_the_whole_file_and_come_first(name: str, content: bytes) -> None:
    Path(name).write_bytes(content)
    with pytest.raises(InputError) as whole:
        read_file(Path(name))
    with pytest.raises(InputError) as in_parts:
        parts.open_parts(Path(name), Data())
    assert str(in_parts.value) == str(whole.value)


def test_warnings_are_those_of_the_whole_file_once(caplog: pytest.LogCaptureFixture) -> None:
    Path("a.jsonl").write_text('{"a": 1}\n' * 30 + '{"a": "\\ud83d"}\n')
    with caplog.at_level(logging.WARNING, "tinybert"):
        read_file(Path("a.jsonl"))
        rows = parts.open_parts(Path("a.jsonl"), Data())
        list(rows())
    assert len(caplog.messages) == 2 and caplog.messages[0] == caplog.messages[1]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_the_memory_of_a_large_file_is_that_of_one_part(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART", 100)
    rows = [{"id": str(index), "text": f"{index} " * 50} for index in range(5_000)]
    if name.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist(rows), name, row_group_size=500)
    else:
        lines = [f"{row['id']},{row['text']}" for row in rows] if name.endswith("csv") else map(json.dumps, rows)
        Path(name).write_text(("id,text\n" if name.endswith("csv") else "") + "\n".join(lines) + "\n")
    tracemalloc.start()
    count = sum(len(part) for part in parts.open_parts(Path(name), Data())())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 5_000 and peak < 400_000  # the rows have 1,3 MB


def test_reading_files_does_not_import_torch() -> None:
    Path("a.csv").write_text("a,b\n1,2\n")
    code = "import sys; from pathlib import Path; from tinybert_cli.data.parts import open_parts; from tinybert_cli.config import Data\nlist(open_parts(Path('a.csv'), Data())()); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False", done.stderr
