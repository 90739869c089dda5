"""A page needs nothing but itself, and text stays text."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from tinybert_cli.reports import html

HOSTILE = '<script>alert("1")</script> & "quoted"'


class Tags(HTMLParser):
    """The tags with their attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def made() -> str:
    table = html.table(["model", "size"], [[HOSTILE, "12.0 MB"], ["b", ""]], caption=HOSTILE, marked=[0])
    blocks = [
        html.section(HOSTILE, html.paragraph(HOSTILE), table, html.side_by_side(html.figure("<svg></svg>", HOSTILE)))
    ]
    return html.document(HOSTILE, blocks, lead=HOSTILE)


def test_every_tag_is_closed_and_no_text_becomes_one() -> None:
    found = Tags(made())
    assert not found.open and "script" not in {tag for tag, _ in found.tags}
    assert found.text.count(HOSTILE) == 8  # title twice, lead, heading, paragraph, caption, row, figure


def test_a_page_fetches_nothing() -> None:
    found = Tags(made())
    assert not [attributes for _, attributes in found.tags if {"src", "href", "onload", "data"} & set(attributes)]
    assert not re.search(r"@import|url\(|https?://", made())
    assert {"default-src 'none'; style-src 'unsafe-inline'"} <= {
        attributes.get("content") for _, attributes in found.tags
    }


def test_columns_of_numbers_stand_to_the_right_and_others_to_the_left() -> None:
    rows = [["1 layer", "~0.91 (0.9-0.92)", "finetune", ""], ["2 layers", "", "distill", "-1.5"]]
    text = html.table(["model", "score", "made by", "more"], rows)
    assert [bool(right) for right in re.findall(r'<th scope="col"( class="number")?>', text)] == [
        False,
        True,
        False,
        True,
    ]


def test_a_marked_row_is_the_only_one() -> None:
    text = html.table(["model"], [["a"], ["b"], ["c"]], marked=[1])
    assert re.findall(r'<tr class="marked"><th scope="row">(\w)</th>', text) == ["b"]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_is_readable_on_its_ground(scheme: int) -> None:
    style = made().split("prefers-color-scheme: dark")[scheme]
    colours = dict(re.findall(r"--(\w+): (#\w{6})", style)[:6])
    for text, ground in (("ink", "paper"), ("ink", "raised"), ("ink", "mark"), ("muted", "paper")):
        assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)


def contrast(one: str, other: str) -> float:
    """WCAG 2.2, contrast ratio."""
    dark, light = sorted(map(luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
