"""Axes of matplotlib whose drawing becomes inline SVG, deterministic and in the colours of the page.

The SVG has a title and a text description for screen readers, keeps its labels as text, and takes its colours from the
page's CSS variables (`COLOURS`), so it follows light and dark mode; outside of a page it is light.
"""

from __future__ import annotations

import hashlib
import html
import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tinybert_cli.errors import InputError

# CSS variable → default colour. The six series colours can be distinguished by colour-blind readers (Okabe and Ito).
COLOURS = {
    "plot-1": "#0072b2", "plot-2": "#d55e00", "plot-3": "#009e73", "plot-4": "#cc79a7", "plot-5": "#e69f00",
    "plot-6": "#56b4e9", "ink": "#1f2328", "muted": "#59636e", "line": "#d1d9e0",
}  # fmt: skip
SERIES = [COLOURS[f"plot-{number}"] for number in range(1, 7)]
_FORBIDDEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")  # not allowed in XML, even escaped

_STYLE = {
    "svg.fonttype": "none", "text.parse_math": False, "text.usetex": False, "font.family": "DejaVu Sans",
    "font.size": 11.0, "text.color": COLOURS["ink"], "axes.labelcolor": COLOURS["muted"],
    "axes.edgecolor": COLOURS["line"], "axes.linewidth": 1.0, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": COLOURS["line"], "grid.linewidth": 0.6,
    "xtick.color": COLOURS["line"], "ytick.color": COLOURS["line"], "xtick.labelcolor": COLOURS["muted"],
    "ytick.labelcolor": COLOURS["muted"], "legend.frameon": False, "lines.linewidth": 1.8, "figure.dpi": 72.0,
}  # fmt: skip


@contextmanager
def canvas(title: str, description: str, *, width: float = 6.4, height: float = 3.9) -> Iterator[tuple[Any, list[str]]]:
    """Axes to draw on, and a list that contains the SVG afterwards. Width and height in inches."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError("the package 'matplotlib' is not installed", hint="pip install 'tinybert[report]'") from error

    salt = hashlib.sha256(f"{title}\n{description}".encode()).hexdigest()
    svgs: list[str] = []
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": salt}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the browser has the font
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure.subplots(), svgs
        file = io.StringIO()
        figure.savefig(
            file, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
        )
    svgs.append(_inline(file.getvalue(), title, description, salt))


def _inline(svg: str, title: str, description: str, salt: str) -> str:
    """Turns an SVG file into an element of a page: no prologue, unique ids, the page's font and colours."""
    svg = _FORBIDDEN.sub(" ", svg[svg.index("<svg") :])
    svg = re.sub(r"\s*<metadata>.*?</metadata>|\s*<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # equal in every plot, and never referenced
    svg = re.sub(r'style="[^"]*"', lambda style: _page_style(style[0]), svg)
    width, height = re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)[0]
    title, description = html.escape(printable(title)), html.escape(printable(description))
    head = (
        f'<svg class="plot" role="img" aria-labelledby="t{salt[:10]} d{salt[:10]}" '
        f'width="{float(width) * 1.3:.0f}" viewBox="0 0 {width} {height}" '
        'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" stroke-linejoin="round">\n'
        f' <title id="t{salt[:10]}">{title}</title>\n <desc id="d{salt[:10]}">{description}</desc>'
    )
    return re.sub(r"<svg[^>]*>", lambda _: head, svg, count=1).rstrip()


def _page_style(style: str) -> str:
    """Replaces matplotlib's font and colours by those of the page."""
    style = style.replace("'DejaVu Sans'", "system-ui, sans-serif")
    for variable, colour in COLOURS.items():
        style = style.replace(colour, f"var(--{variable}, {colour})")
    return style


def printable(text: str) -> str:
    """The text with spaces for control characters."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
