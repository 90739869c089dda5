"""HTML pages are self-contained, and all text is escaped."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from tinybert_cli.reports import html

HOSTILE = '<script>alert("1")</script> & "quoted"'


class Parsed(HTMLParser):
    """Tags with their attributes, and the text; fails if a tag is closed in the wrong order."""

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


def hostile_page() -> str:
    table = html.table(["model", "size"], [[HOSTILE, "12.0 MB"], ["b", ""]], caption=HOSTILE, marked=[0])
    blocks = [
        html.section(HOSTILE, html.paragraph(HOSTILE), table, html.side_by_side(html.figure("<svg></svg>", HOSTILE)))
    ]
    return html.document(HOSTILE, blocks, lead=HOSTILE)


def test_every_tag_is_closed_and_text_is_escaped() -> None:
    page = Parsed(hostile_page())
    assert not page.open and "script" not in {tag for tag, _ in page.tags}
    assert page.text.count(HOSTILE) == 8  # title twice, lead, heading, paragraph, caption, row, figure


def test_a_page_makes_no_network_request() -> None:
    page = Parsed(hostile_page())
    assert not [attributes for _, attributes in page.tags if {"src", "href", "onload", "data"} & set(attributes)]
    assert not re.search(r"@import|url\(|https?://", hostile_page())
    assert {"default-src 'none'; style-src 'unsafe-inline'"} <= {
        attributes.get("content") for _, attributes in page.tags
    }


def test_numeric_columns_are_right_aligned() -> None:
    rows = [["1 layer", "~0.91 (0.9-0.92)", "finetune", ""], ["2 layers", "", "distill", "-1.5"]]
    text = html.table(["model", "score", "made by", "more"], rows)
    numeric = [bool(match) for match in re.findall(r'<th scope="col"( class="number")?', text)]
    assert numeric == [False, True, False, True]


def test_only_the_marked_row_is_highlighted() -> None:
    text = html.table(["model"], [["a"], ["b"], ["c"]], marked=[1])
    assert re.findall(r'<tr class="marked"><th scope="row">(\w)</th>', text) == ["b"]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_has_sufficient_contrast(scheme: int) -> None:
    style = hostile_page().split("prefers-color-scheme: dark")[scheme]
    colours = dict(re.findall(r"--(\w+): (#\w{6})", style)[:6])
    for text, background in (("ink", "paper"), ("ink", "raised"), ("ink", "mark"), ("muted", "paper")):
        assert contrast(colours[text], colours[background]) >= 4.5, (text, background)


def contrast(one: str, other: str) -> float:
    """WCAG 2.2, contrast ratio."""
    dark, light = sorted(map(luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    channels = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
