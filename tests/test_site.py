"""The documentation site shows each page as GitHub does, and loads nothing from another host."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

markdown = pytest.importorskip("markdown")
pytest.importorskip("material")
from markdown_it import MarkdownIt  # noqa: E402

ROOT = Path(__file__).parents[1]
CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
COMPARED = {"li", "ul", "ol", "tr", "td", "h1", "h2", "h3", "pre", "strong", "em", "img"}


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.hosts: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] += 1
        if tag not in ("a", "meta"):
            self.hosts |= {
                value for name, value in attrs if name in ("src", "href") and re.match("(https?:)?//", value or "")
            }


def tags(page: str) -> _Tags:
    parser = _Tags()
    parser.feed(page)
    return parser


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_site_shows_the_lists_and_tables_that_github_shows(page: Path) -> None:
    extensions = [item if isinstance(item, str) else next(iter(item)) for item in CONFIG["markdown_extensions"]]
    site = tags(markdown.markdown(page.read_text(), extensions=extensions)).counts
    github = tags(MarkdownIt("commonmark").enable("table").render(page.read_text())).counts
    assert {tag: site[tag] for tag in COMPARED} == {tag: github[tag] for tag in COMPARED}, (
        "indent nested lists and code in lists by 4 spaces, and leave an empty line before a list"
    )


def test_site_builds_strictly_and_loads_nothing_from_other_hosts(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    pages = list(tmp_path.glob("*.html"))
    assert len(pages) > 15 and "docs" in (tmp_path / "search/search_index.json").read_text()
    assert not set().union(*(tags(page.read_text()).hosts for page in pages))
    assert not [css for css in tmp_path.rglob("*.css") if re.search(r"url\(['\"]?(https?:)?//", css.read_text())]
