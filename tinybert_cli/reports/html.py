"""Builds self-contained, printable HTML pages (no network, no script, light and dark) from titles, tables and plots.

All text is escaped here, so callers pass plain text; only `figure` accepts markup, the SVG of `plots`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from html import escape
from typing import NewType

Block = NewType("Block", str)  # HTML of one part of a page


def document(title: str, blocks: Iterable[Block], *, lead: str = "") -> str:
    """The whole page; `lead` is the sentence below the title."""
    lead_html = f"\n<p>{escape(lead)}</p>" if lead else ""
    return _FRAME.format(title=escape(title), style=_STYLE, lead=lead_html, body="\n".join(blocks))


def section(title: str, *blocks: Block) -> Block:
    """Blocks below a heading."""
    body = "\n".join(blocks)
    return Block(f"<section>\n<h2>{escape(title)}</h2>\n{body}\n</section>")


def replaced(page: str, title: str, blocks: Iterable[Block]) -> str:
    """The page with `blocks` instead of the section of this title; unchanged if it has no such section."""
    heading = re.escape(f"<section>\n<h2>{escape(title)}</h2>\n")
    text = "".join(f"{block}\n" for block in blocks)
    return re.sub(f"{heading}.*?\n</section>\n", lambda _: text, page, count=1, flags=re.DOTALL)


def paragraph(text: str) -> Block:
    return Block(f"<p>{escape(text)}</p>")


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str = "", marked: Collection[int] = ()
) -> Block:
    """A table whose first column is the row header; numeric columns are right-aligned, `marked` rows highlighted."""
    is_numeric = [
        column > 0 and all(not row[column] or _NUMBER.match(row[column]) for row in rows)
        for column in range(len(header))
    ]
    is_short = [all(len(row[column]) <= SHORT for row in rows) for column in range(len(header))]
    attributes = [
        ' class="number"' if numeric else ' class="short"' if short else ""
        for numeric, short in zip(is_numeric, is_short, strict=True)
    ]
    head = "".join(f'<th scope="col"{attributes[column]}>{escape(title)}</th>' for column, title in enumerate(header))
    lines = []
    for index, row in enumerate(rows):
        cells = "".join(f"<td{attributes[column]}>{escape(cell)}</td>" for column, cell in enumerate(row) if column)
        mark = ' class="marked"' if index in marked else ""
        lines.append(f'<tr{mark}><th scope="row">{escape(row[0])}</th>{cells}</tr>')
    caption_html = f"<caption>{escape(caption)}</caption>" if caption else ""
    body = "\n".join(lines)
    return Block(
        f'<div class="table" tabindex="0" role="region" aria-label="{escape(caption or "table")}">\n'
        f"<table>{caption_html}\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>\n</div>"
    )


def figure(svg: str, caption: str = "") -> Block:
    """An SVG of `plots`, inserted unescaped, with a caption below."""
    caption_html = f"\n<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return Block(f"<figure>\n{svg}{caption_html}\n</figure>")


def side_by_side(*blocks: Block) -> Block:
    """Blocks in columns where the window is wide enough."""
    return Block('<div class="beside">\n' + "\n".join(blocks) + "\n</div>")


SHORT = 20  # characters of a cell; columns of such cells are not wrapped

_NUMBER = re.compile(r"[~+\-−]?\.?\d")

_FRAME = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<header>
<h1>{title}</h1>{lead}
</header>
<main>
{body}
</main>
<footer>Made by <code>tinybert</code>.</footer>
</body>
</html>
"""

# The colours of a page, light and dark; the plots of `plots` take theirs from the same variables.
PALETTE = """:root {
  --paper: #ffffff; --raised: #f6f8fa; --ink: #1f2328; --muted: #59636e; --line: #d1d9e0; --mark: #ddf4ff;
  --plot-1: #0072b2; --plot-2: #d55e00; --plot-3: #009e73; --plot-4: #cc79a7; --plot-5: #e69f00; --plot-6: #56b4e9;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --paper: #14181d; --raised: #1b2027; --ink: #e6edf3; --muted: #9aa4af; --line: #333b45; --mark: #143d5c;
    --plot-1: #56b4e9; --plot-2: #f0854a; --plot-3: #3cc79c; --plot-4: #e3a3c8; --plot-5: #f2bd52; --plot-6: #9bd3f6;
  }
}
"""

_STYLE = (
    PALETTE
    + """* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 3rem 1.5rem 2rem; max-width: 78rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
}
h1 { margin: 0; font-size: 1.9rem; line-height: 1.2; letter-spacing: -0.015em; overflow-wrap: anywhere; }
h2 { margin: 0 0 .8rem; font-size: 1.2rem; line-height: 1.3; }
header p { margin: .5rem 0 0; color: var(--muted); max-width: 46rem; overflow-wrap: anywhere; }
section { margin-top: 2.6rem; }
p { margin: .6rem 0; max-width: 46rem; overflow-wrap: anywhere; }
code { font: .92em ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
.table { overflow-x: auto; margin: .8rem 0; }
.table:focus-visible { outline: 2px solid var(--plot-1); outline-offset: 3px; }
table { border-collapse: collapse; min-width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums; }
caption { caption-side: bottom; padding-top: .6rem; text-align: left; color: var(--muted); }
th, td { padding: .5rem .65rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
tbody th, td.number, td.short { white-space: nowrap; }
th:first-child { padding-left: .6rem; }
thead th {
  border-bottom-width: 2px; color: var(--muted); font-weight: 600; vertical-align: bottom;
}
tbody th { font-weight: 600; }
tbody tr:hover { background: var(--raised); }
tr.marked, tr.marked:hover { background: var(--mark); }
.number { text-align: right; }
figure { margin: 1rem 0; padding: 1.1rem; border: 1px solid var(--line); border-radius: 10px; min-width: 0; }
figcaption { margin-top: .7rem; color: var(--muted); font-size: .92rem; max-width: 46rem; overflow-wrap: anywhere; }
.plot { display: block; max-width: 100%; height: auto; }
.beside { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(27rem, 100%), 1fr)); gap: 1.1rem; }
.beside > figure { margin: 0; }
footer { margin-top: 3rem; padding-top: 1rem; border-top: 1px solid var(--line); color: var(--muted); }
@media (max-width: 72rem) { table { font-size: .86rem; } th, td { padding: .45rem; } }
@page { margin: 14mm; }
@media print {
  body { max-width: none; padding: 0; font-size: 9.5pt; line-height: 1.4; print-color-adjust: exact; }
  h1 { font-size: 17pt; }
  h2 { font-size: 12.5pt; break-after: avoid; }
  section { margin-top: 1.6rem; }
  figure, tr { break-inside: avoid; }
  figure { padding: .6rem; }
  thead { display: table-header-group; }
  figcaption { font-size: .85em; }
  section > p { break-after: avoid; break-inside: avoid; }
  .table { overflow: visible; }
  table { font-size: 7.5pt; }
  th, td { padding: .25rem .3rem; }
  tbody th { white-space: normal; overflow-wrap: break-word; }
  footer { margin-top: 1rem; padding-top: .3rem; break-before: avoid; }
  .beside { grid-template-columns: 1fr 1fr; gap: .6rem; }
}
"""
)
