"""Names and texts with control characters or markup: harmless on the terminal, and literal in Markdown."""

from __future__ import annotations

import json
import shutil
import subprocess
import unicodedata
from pathlib import Path

import pytest
from conftest import Configs, run, sentences, write_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from tinybert_cli import artifacts, console, escaping
from tinybert_cli.errors import InputError
from tinybert_cli.reports import runs_table

Capture = pytest.CaptureFixture[str]
HOSTILE = "a|b`c`*d*_e_ <img src=x>\x1b[31m\x9b2J\n# f [g](http://h) \u202e&lt;\\| ~~i~~ $j$"
PLAIN = "a|b`c`*d*_e_ <img src=x>\\x1b[31m\\x9b2J\\n# f [g](http://h) \\u202e&lt;\\| ~~i~~ $j$"
quick = settings(max_examples=100, deadline=None)


def test_printable_escapes_what_a_terminal_would_obey() -> None:
    assert escaping.printable(HOSTILE) == PLAIN
    assert escaping.message("a\n\tb\x07\r") == "a\n\tb\\x07\\r"


@given(st.text())
@quick
def test_printable_leaves_no_control_character(text: str) -> None:
    shown_text = escaping.printable(text)
    assert not any(unicodedata.category(character) in ("Cc", "Zl", "Zp", "Cs") for character in shown_text)


@given(st.text())
@quick
def test_json_on_the_terminal_loads_as_the_same_value(text: str) -> None:
    written = escaping.as_json({"text": text})
    assert json.loads(written) == {"text": text}
    assert escaping.printable(written) == written


def cells(table: str) -> list[list[str]]:
    """The texts of a Markdown table's cells, as a reader sees them."""
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(table)
    inline = [token for token in tokens if token.type == "inline"]
    assert all(child.type in ("text", "text_special") for token in inline for child in token.children or []), table
    texts = ["".join(child.content for child in token.children or []) for token in inline]
    return [texts[:2], texts[2:]]


LETTERS = st.text(st.sampled_from("ab1 |`*_~<>&#;lt\\[](){}!-+.:\"'$/\n\t\x1b") | st.characters(), max_size=15)


@given(LETTERS.map(lambda text: f"x{text}x"))
@quick
def test_any_name_in_a_markdown_table_is_read_as_it_is(name: str) -> None:
    table = f"| name | n |\n|---|---|\n| {escaping.markdown_cell(name)} | 1 |\n"
    assert cells(table)[1] == [escaping.printable(name), "1"]


@pytest.mark.parametrize(
    "name", ["f1_macro", "f1[label: good]", "McDonald's (x)", "C:\\data", "AT&T", "3 < 4", "a~b", "naïve — 好"]
)
def test_ordinary_names_stay_as_they_are_in_markdown(name: str) -> None:
    assert escaping.markdown_cell(name) == name


def test_tables_of_reports_are_literal() -> None:
    report = artifacts.markdown_table("t", {f"m.f1[{HOSTILE}]": 0.5}, ["m"])
    assert report.count("\n") == 5 and f"f1[{PLAIN}]" in cells("\n".join(report.split("\n")[2:]))[1][-2]
    table = runs_table.as_markdown(["model", HOSTILE], [[HOSTILE, "1"]])
    assert cells(table) == [["model", PLAIN], [PLAIN, "1"]]


def test_the_terminal_shows_label_names_as_text(capsys: Capture) -> None:
    screen = console.Screen("finetune", as_json=False, quiet=False, verbose=False)
    screen.show({"event": "plan", "rows": 2, "label_names": [HOSTILE, "good\nerror: no"]})
    screen.show({"event": "warning", "message": f"the label {HOSTILE}"})
    screen.fail(InputError(f"unknown label {HOSTILE}"))
    printed = capsys.readouterr().err
    assert "\x1b" not in printed and "\x9b" not in printed and "\u202e" not in printed
    assert f"labels {PLAIN}, good\\nerror: no" in printed.split("\n")[0]
    assert "\x1b" not in console.table(["model", "n"], [[HOSTILE, "1"], ["b", "2"]], width=None)


def test_a_model_card_is_literal(configs: Configs, data: Path, base_model: Path, tmp_path: Path) -> None:
    names = {"good": f"good {HOSTILE}", "bad": "bad"}
    for split in ("train", "validation"):
        write_rows(data / f"{split}.jsonl", [{**row, "label": names[row["label"]]} for row in sentences(split)])
    source = Path(shutil.copytree(base_model, tmp_path / "a|b`c` <b>"))
    run("finetune", configs("finetune", "o|u`t`", model=source, training__max_steps=1))
    card = (tmp_path / "o|u`t`/README.md").read_text(encoding="utf-8")
    html = MarkdownIt("commonmark").enable("table").render(card.split("\n---\n", 1)[1])
    assert "\x1b" not in card and "<img" not in html and "<b>" not in html
    assert f"good {PLAIN}".replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") in html.replace(
        "&quot;", '"'
    )
    assert "<h1>o|u`t`</h1>" in html and "/a|b`c` &lt;b&gt;</td>" in html


@pytest.mark.parametrize("text", ["plain", "a b", "it's", "a\nb\t\\", HOSTILE])
def test_a_shell_word_is_the_text_on_one_line(text: str) -> None:
    word = escaping.shell_word(text)
    assert "\n" not in word
    printed = subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True, check=True).stdout
    assert printed.decode() == text
