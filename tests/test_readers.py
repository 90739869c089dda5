"""Readers: ambiguous files are read in the one way that the data proves, or rejected with a remedy that works."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinybert_cli.config import Data
from tinybert_cli.data import text_files
from tinybert_cli.data.readers import concatenate, read_file
from tinybert_cli.errors import InputError

Log = pytest.LogCaptureFixture


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def columns(path: Path, **options: Any) -> dict[str, list[Any]]:
    return read_file(path, Data(**options)).columns


def error_of(path: Path, **options: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        columns(path, **options)
    return caught.value


# -- quotes --------------------------------------------------------------------------------------------------


def test_tsv_reads_a_lone_quote_as_text(tmp_path: Path) -> None:
    path = write(tmp_path / "t.tsv", 'text\tlabel\n"so it goes\tgood\nmore\tbad\nthe end"\tgood\n')
    assert columns(path) == {"text": ['"so it goes', "more", 'the end"'], "label": ["good", "bad", "good"]}


def test_tsv_quoting_can_be_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "t.tsv", 'text\tlabel\n"a\t""b"" c"\tgood\n')
    error = error_of(path)
    assert error.where == f"{path}:2" and "data.quoting: double" in str(error.hint)
    assert columns(path, quoting="double") == {"text": ['a\t"b" c'], "label": ["good"]}


def test_tsv_cells_in_quotes_are_reported_unless_the_setting_decides(tmp_path: Path, caplog: Log) -> None:
    path = write(tmp_path / "t.tsv", 'text\tlabel\nfine\tgood\n"dull"\tbad\n')
    assert columns(path)["text"] == ["fine", '"dull"']
    assert f"1 of 2 rows of t.tsv has a cell in double quotes (first: {path}:3)" in caplog.text
    caplog.clear()
    assert columns(path, quoting="double")["text"] == ["fine", "dull"] and not caplog.text


def test_tsv_with_a_quoted_header_has_quoted_cells(tmp_path: Path) -> None:
    assert columns(write(tmp_path / "t.tsv", '"text"\t"label"\n"a\tb"\t"good"\n')) == {
        "text": ["a\tb"], "label": ["good"],
    }  # fmt: skip


def test_csv_quoted_cell_with_delimiter_and_line_break_is_reported(tmp_path: Path, caplog: Log) -> None:
    path = write(tmp_path / "t.csv", 'text,label\nfine,good\n"so it goes,good\nmore,bad\nthe end",good\n')
    assert columns(path)["text"] == ["fine", "so it goes,good\nmore,bad\nthe end"]
    assert f"1 of 2 rows of t.csv has a quoted cell with a comma and a line break (first: {path}:3)" in caplog.text
    assert columns(path, quoting="none")["text"] == ["fine", '"so it goes', "more", 'the end"']


@pytest.mark.parametrize("row", ['"never closed,bad', '"closed" early,bad'])
def test_csv_lone_quote_is_rejected_with_a_remedy_that_works(row: str, tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", f"text,label\nfine,good\n{row}\npoor,bad\n")
    error = error_of(path)
    assert error.where == f"{path}:3" and "data.quoting: none" in str(error.hint)
    assert columns(path, quoting="none")["text"] == ["fine", row.removesuffix(",bad"), "poor"]


def test_ragged_row_after_a_cell_of_several_lines_has_the_line_where_it_begins(tmp_path: Path) -> None:
    assert error_of(write(tmp_path / "t.csv", 'text,label\n"a\nb",x\n"c\nd"\n')).where == f"{tmp_path / 't.csv'}:4"


# -- delimiters ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_the_delimiter_that_divides_the_header_is_used(ending: str, delimiter: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"t.{ending}", f"text{delimiter}value\nnice{delimiter}3\n")
    assert columns(path) == {"text": ["nice"], "value": ["3"]}


def test_decimal_commas_do_not_divide_a_file_with_semicolons(tmp_path: Path) -> None:
    assert columns(write(tmp_path / "t.csv", "text;value\nnice, really;3,5\n")) == {
        "text": ["nice, really"], "value": ["3,5"],
    }  # fmt: skip


def test_of_two_delimiters_in_the_header_the_one_that_divides_all_rows_is_used(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "text, english;label\nno;bad\nyes, yes, yes;good\n")
    assert columns(path) == {"text, english": ["no", "yes, yes, yes"], "label": ["bad", "good"]}


def test_two_delimiters_that_divide_all_rows_are_rejected(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "text,a;label,b\nx,y;z,w\n")
    error = error_of(path)
    assert "comma or semicolon" in error.what and error.where == f"{path}:1" and "data.delimiter" in str(error.hint)
    assert list(columns(path, delimiter=";")) == ["text,a", "label,b"]


def test_one_column_has_no_delimiter(tmp_path: Path) -> None:
    assert columns(write(tmp_path / "t.csv", "text\na; b\n")) == {"text": ["a; b"]}


def test_the_line_that_excel_writes_for_the_delimiter_is_no_header(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "sep=;\r\ntext;label\r\na,b;x\r\nc\r\n")
    assert error_of(path).where == f"{path}:4"
    assert columns(write(path, "sep=;\r\ntext;label\r\na,b;x\r\n")) == {"text": ["a,b"], "label": ["x"]}


@pytest.mark.parametrize("name", ["tab", r"\t", "\t"])
def test_a_tab_can_be_named(name: str) -> None:
    assert Data(delimiter=name).delimiter == "\t"


def test_a_cell_of_any_length_is_read(tmp_path: Path) -> None:
    assert columns(write(tmp_path / "t.csv", f"text,label\n{'x' * 200_000},good\n"))["text"] == ["x" * 200_000]


# -- characters and line ends --------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize(
    ("name", "text"), {"t.csv": "text\nçà😀\n", "t.txt": "çà😀", "t.json": '[{"text": "çà😀"}]'}.items()
)
def test_a_byte_order_mark_names_the_encoding(name: str, text: str, encoding: str, tmp_path: Path) -> None:
    assert columns(write(tmp_path / name, text.encode(encoding))) == {"text": ["çà😀"]}


def test_big_endian_utf16_with_a_mark_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", codecs.BOM_UTF16_BE + "text\nçà\n".encode("utf-16-be"))
    assert columns(path) == {"text": ["çà"]}


def test_utf16_without_a_mark_is_rejected_with_its_conversion(tmp_path: Path) -> None:
    error = error_of(write(tmp_path / "t.csv", "text,label\na,b\n".encode("utf-16-le")))
    assert "seems to be UTF-16" in error.what and "iconv -f UTF-16LE -t UTF-8" in str(error.hint)


def test_nul_bytes_are_rejected_with_their_line(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "text,label\nfine,good\ndu\0ll,bad\n")
    error = error_of(path)
    assert error.what == f"'{path}' contains NUL bytes" and error.where == f"{path}:3"


@pytest.mark.parametrize("letter", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\u00a0"])
def test_only_line_ends_divide_rows(letter: str, tmp_path: Path) -> None:
    text = f"a{letter}b"
    assert columns(write(tmp_path / "t.txt", f"{text}\n{text}\n")) == {"text": [text, text]}
    assert columns(write(tmp_path / "t.csv", f"text,label\n{text},x\n"))["text"] == [text]
    assert columns(write(tmp_path / "t.tsv", f"text\tlabel\n{text}\tx\n"))["text"] == [text]
    assert columns(write(tmp_path / "t.conll", f"{text} O\n"), text_column_names="w") == {
        "w": [[text]],
        "label": [["O"]],
    }
    if letter >= " ":
        assert columns(write(tmp_path / "t.jsonl", f'{{"text": "{text}"}}\n')) == {"text": [text]}


@pytest.mark.parametrize(
    ("name", "content"),
    {
        "t.csv": "text,label\ra,x\rb,y\r", "t.tsv": "text\tlabel\ra\tx\rb\ty",
        "t.jsonl": '{"text": "a", "label": "x"}\r{"text": "b", "label": "y"}\r',
    }.items(),
)  # fmt: skip
def test_carriage_returns_end_the_lines_of_old_macs(name: str, content: str, tmp_path: Path) -> None:
    assert columns(write(tmp_path / name, content)) == {"text": ["a", "b"], "label": ["x", "y"]}
    assert columns(write(tmp_path / "t.txt", "a\rb\r")) == {"text": ["a", "b"]}
    assert columns(write(tmp_path / "t.conll", "a x\r\rb y\r"))["label"] == [["x"], ["y"]]


def test_a_carriage_return_inside_a_csv_cell_is_rejected_unless_quoted(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "text,label\na\rb,x\n")
    assert "carriage return" in error_of(path).what and error_of(path).where == f"{path}:2"
    assert columns(write(path, 'text,label\n"a\rb",x\n'))["text"] == ["a\rb"]


# -- json ----------------------------------------------------------------------------------------------------

FRAME = {"text": ["a", "b"], "label": [1, 0]}


@pytest.mark.parametrize("orient", ["columns", "records", "index", "split", "table", "lines"])
def test_every_form_of_pandas_gives_its_rows(orient: str, tmp_path: Path) -> None:
    options = {"orient": "records", "lines": True} if orient == "lines" else {"orient": orient}
    pd.DataFrame(FRAME).to_json(tmp_path / "t.json", **options)
    read = columns(tmp_path / "t.json")
    read.pop("index", None)
    assert read == FRAME


def test_pandas_rows_that_were_selected_keep_their_order(tmp_path: Path) -> None:
    pd.DataFrame(FRAME, index=[17, 3]).to_json(tmp_path / "t.json")
    assert columns(tmp_path / "t.json") == FRAME


def test_pandas_values_without_names_are_rejected_with_the_right_form(tmp_path: Path) -> None:
    pd.DataFrame(FRAME).to_json(tmp_path / "t.json", orient="values")
    assert "to_json(FILE, orient='records', lines=True)" in str(error_of(tmp_path / "t.json").hint)


@pytest.mark.parametrize(
    "row", [{"text": "a"}, {"answers": {"text": ["a"], "answer_start": [0]}}, {"tokens": ["a"], "tags": ["O"]}]
)
@pytest.mark.parametrize("indent", [None, 1])
def test_one_object_is_one_row(row: dict[str, Any], indent: int | None, tmp_path: Path) -> None:
    expected = {name: [value] for name, value in row.items()}
    assert columns(write(tmp_path / "t.json", json.dumps(row, indent=indent))) == expected


def test_half_an_emoji_becomes_the_replacement_character(tmp_path: Path, caplog: Log) -> None:
    path = write(tmp_path / "t.jsonl", '{"text": "ok \\ud83d\\ude00"}\n{"text": "cut \\ud83d", "more": ["\\uDE00"]}\n')
    assert columns(path) == {"text": ["ok 😀", "cut \ufffd"], "more": [None, ["\ufffd"]]}
    assert "1 of 2 rows of t.jsonl has half a character" in caplog.text and f"{path}, row 2" in caplog.text


@pytest.mark.parametrize(
    ("line", "reason"),
    {
        '{"text": "a", "text": "b"}': "the key 'text' occurs twice",
        '{"text": ' + "[" * 100_000: "nested too deep",
        '{"text": ' + "1" * 5_000 + "}": "a number has too many digits",
    }.items(),
    ids=["key twice", "deep", "long number"],
)  # fmt: skip
def test_objects_that_python_cannot_hold_are_rejected_with_their_line(line: str, reason: str, tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", f'{{"text": "a"}}\n{line}\n')
    error = error_of(path)
    assert reason in error.what and str(error.where).startswith(f"{path}:2")


def test_a_key_that_a_whole_json_file_lacks_is_null_in_its_rows(tmp_path: Path) -> None:
    first, second = (
        write(tmp_path / "a.jsonl", '{"text": "a", "title": "t"}'),
        write(tmp_path / "b.json", '[{"text": "b"}]'),
    )
    assert concatenate([read_file(first), read_file(second)]).columns == {"text": ["a", "b"], "title": ["t", None]}


# -- conll and txt -------------------------------------------------------------------------------------------


def test_conll_words_may_contain_other_spaces(tmp_path: Path) -> None:
    path = write(tmp_path / "t.conll", "10\u00a0000 O\n\u00a0 O\n\u3000 O\n")
    assert columns(path, text_column_names="w")["w"] == [["10\u00a0000", "\u00a0", "\u3000"]]


def test_conll_comment_with_as_many_words_as_columns_is_skipped_in_a_file_with_tabs(tmp_path: Path) -> None:
    path = write(tmp_path / "t.conll", "# newdoc\nEU\tB-ORG\nwon\tO\n")
    assert columns(path, text_column_names="w") == {"w": [["EU", "won"]], "label": [["B-ORG", "O"]]}


def test_conll_comment_with_as_many_words_as_columns_is_skipped_with_a_warning(tmp_path: Path, caplog: Log) -> None:
    path = write(tmp_path / "t.conll", "# id 7 domain=en\nEU _ _ B-ORG\n\n# id 8 domain=en\n# _ _ O\none _ _ O\n")
    read = columns(path, text_column_names="w")
    assert (read["w"], read["label"]) == ([["EU"], ["#", "one"]], [["B-ORG"], ["O", "O"]])
    assert "2 lines of t.conll begin with # and have as many columns as a word, but no tag of" in caplog.text
    assert f"read as comments (first: {path}:1)" in caplog.text


@pytest.mark.parametrize("text", ["# #\n5 CD\n", "#fun B-TAG\nit O\n", "so UH\n#fun X\n\n#fun X\n", "#a\nb\n"])
def test_conll_words_that_begin_with_a_hash_are_words(text: str, tmp_path: Path, caplog: Log) -> None:
    words = [line.split()[0] for line in text.splitlines() if line]
    read = columns(write(tmp_path / "t.conll", text), text_column_names="w")
    assert [word for sentence in read["w"] for word in sentence] == words and not caplog.text


def test_conll_docstart_ends_a_sentence_without_an_empty_line(tmp_path: Path) -> None:
    path = write(tmp_path / "t.conll", "-DOCSTART- O\nEU B-ORG\nwon O\n-DOCSTART- O\nAda B-PER\n")
    assert columns(path, text_column_names="w")["w"] == [["EU", "won"], ["Ada"]]


def test_conll_with_an_empty_column_is_rejected_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path / "t.conll", "EU\tB-ORG\nwon\t\n.\tO\n")
    assert error_of(path).where == f"{path}:2"


def test_conll_in_a_txt_file_is_rejected_with_a_remedy_that_works(tmp_path: Path) -> None:
    path = write(tmp_path / "train.txt", "EU B-ORG\nwon O\n\nAda B-PER\nwrote O\n")
    error = error_of(path)
    assert "the ending .txt stands for one text per line" in error.what and error.hint == "rename it to train.conll"
    assert columns(path.rename(tmp_path / "train.conll"), text_column_names="w")["w"] == [
        ["EU", "won"],
        ["Ada", "wrote"],
    ]


# -- other formats -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "begin", "what"),
    [
        ("t.csv", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        ("t.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        ("t.csv", gzip.compress(b"text\na\n", mtime=0), "compressed with gzip"),
        ("t.jsonl", b"PAR1\0\0", "a Parquet file"),
        ("t.csv", b"PK\x03\x04\0", "a zip or Excel file"),
    ],
)
def test_a_file_of_another_format_is_named(name: str, begin: bytes, what: str, tmp_path: Path) -> None:
    error = error_of(write(tmp_path / name, begin))
    assert what in error.what and error.hint


@pytest.mark.parametrize("name", ["T.CSV", "t.Csv.GZ"])
def test_the_case_of_an_ending_does_not_matter(name: str, tmp_path: Path) -> None:
    content = b"text\na\n"
    assert columns(write(tmp_path / name, gzip.compress(content) if name.endswith("GZ") else content)) == {
        "text": ["a"]
    }


def test_parquet_with_two_columns_of_one_name_is_rejected(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(table, tmp_path / "t.parquet")
    assert "two columns of the same name: 'text'" in error_of(tmp_path / "t.parquet").what


def test_parquet_with_values_that_python_cannot_hold_is_rejected(tmp_path: Path) -> None:
    days = pa.array([2**40], type=pa.timestamp("s"))
    pq.write_table(pa.table({"text": ["a"], "when": days}), tmp_path / "t.parquet")
    assert error_of(tmp_path / "t.parquet").what.startswith("cannot read")


# -- limits --------------------------------------------------------------------------------------------------


def bomb(path: Path, size: int) -> Path:
    with gzip.open(path, "wb") as file:
        for _ in range(size >> 20):
            file.write(bytes(1 << 20))
    return path


def test_gzip_that_holds_too_much_is_rejected_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tracemalloc

    monkeypatch.setattr(text_files, "free_memory", lambda: 80 << 20)
    path = bomb(tmp_path / "t.csv.gz", 32 << 20)
    tracemalloc.start()
    error = error_of(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "too much for the 0.084 GB of free memory" in error.what
    assert peak < 6 << 20


def test_text_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "free_memory", lambda: 80)
    assert "holds more than" in error_of(write(tmp_path / "t.csv", "text\nabc\ndef\n")).what


def test_parquet_that_holds_too_much_is_rejected_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(pa.table({"text": ["x" * 10_000] * 3_000}), tmp_path / "t.parquet")
    assert (tmp_path / "t.parquet").stat().st_size < 100_000
    monkeypatch.setattr(text_files, "free_memory", lambda: 100 << 20)
    assert "holds more than" in error_of(tmp_path / "t.parquet").what


# -- any text ------------------------------------------------------------------------------------------------

WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
TABLES = st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=5)
quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(rows=TABLES, delimiter=st.sampled_from(",;\t|"), quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]))
@quick
def test_any_text_survives_csv(rows: list[tuple[str, str]], delimiter: str, quoting: Any, tmp_path: Path) -> None:
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter, quoting=quoting).writerows([("text", "label"), *rows])
    read = columns(write(tmp_path / "t.csv", file.getvalue()))
    assert list(zip(*read.values(), strict=True)) == rows


@given(rows=TABLES)
@quick
def test_any_text_survives_json(rows: list[tuple[str, str]], tmp_path: Path) -> None:
    records = [{"text": text, "label": label} for text, label in rows]
    for ascii_only in (True, False):
        lines = "\n".join(json.dumps(record, ensure_ascii=ascii_only) for record in records)
        whole = json.dumps(records, ensure_ascii=ascii_only)
        for content in (lines, whole):
            read = columns(write(tmp_path / "t.jsonl", content))
            assert list(zip(*read.values(), strict=True)) == rows


@given(content=st.binary(max_size=60) | st.text('{}[]":,\\ud8 \n\t\ra1', max_size=60).map(str.encode))
@quick
def test_any_bytes_give_rows_or_an_error_with_the_file(content: bytes, tmp_path: Path) -> None:
    for name in ("t.csv", "t.tsv", "t.json", "t.txt", "t.conll", "t.csv.gz", "t.parquet"):
        path = write(tmp_path / name, content)
        try:
            read = columns(path)
        except InputError as error:
            assert str(path) in str(error), error
        else:
            assert len({len(values) for values in read.values()}) <= 1
            assert not re.search("[\ud800-\udfff]", repr(read))
