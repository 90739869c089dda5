"""Numbers as pictures: pure functions that draw inline SVG, the same numbers always the same text.

Every picture carries a title and its numbers in words for those who do not see it, keeps its text as text, and takes
its colours from the page's CSS variables (`COLOURS`): it follows light and dark, and standing alone it is light.
"""

from __future__ import annotations

import hashlib
import html
import io
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from tinybert_cli.errors import InputError

Points = Mapping[str, Sequence[float]]  # name → (x, y), or (x, y, low, high) with the ends of y's interval
Series = Mapping[str, tuple[Sequence[float], Sequence[float]]]  # name → (all x, all y)

# CSS variable → the colour where nobody sets it. Six tell series apart, to the colour-blind, too (Okabe and Ito).
COLOURS = {
    "plot-1": "#0072b2", "plot-2": "#d55e00", "plot-3": "#009e73", "plot-4": "#cc79a7", "plot-5": "#e69f00",
    "plot-6": "#56b4e9", "ink": "#1f2328", "muted": "#59636e", "line": "#d1d9e0",
}  # fmt: skip
SERIES = [COLOURS[f"plot-{number}"] for number in range(1, 7)]
DASHES = ["-", "--", "-.", ":"]  # the colours are few, and not everybody sees them

_STYLE = {
    "svg.fonttype": "none", "text.parse_math": False, "text.usetex": False, "font.family": "DejaVu Sans",
    "font.size": 11.0, "text.color": COLOURS["ink"], "axes.labelcolor": COLOURS["muted"],
    "axes.edgecolor": COLOURS["line"], "axes.linewidth": 1.0, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": COLOURS["line"], "grid.linewidth": 0.6,
    "xtick.color": COLOURS["line"], "ytick.color": COLOURS["line"], "xtick.labelcolor": COLOURS["muted"],
    "ytick.labelcolor": COLOURS["muted"], "legend.frameon": False, "lines.linewidth": 1.8, "figure.dpi": 72.0,
}  # fmt: skip


def tradeoff(
    points: Points, x_label: str, y_label: str, *, more_is_better: bool = True, title: str | None = None
) -> str:
    """Quality (y) against cost (x, less is better), a labelled point for each model and the Pareto front as a line."""
    best = front(points, more_is_better=more_is_better)
    order = [*best, *(name for name in points if name not in best)]  # the front's labels get their places first
    said = "; ".join(f"{name}: {points[name][0]:.4g}, {points[name][1]:.4g}" for name in order)
    with _picture(title or f"{y_label} against {x_label}", said) as (axes, drawn):
        steps = [points[name] for name in best]
        axes.plot(
            [p[0] for p in steps], [p[1] for p in steps], drawstyle="steps-post", color=SERIES[0], lw=1.2, zorder=1
        )
        for name in order:
            x, y, *ends = points[name]
            if ends:
                axes.vlines(x, *ends, color=COLOURS["muted"], lw=0.9, alpha=0.7, zorder=2)
            style = (
                {"color": SERIES[0]} if name in best else {"facecolor": COLOURS["line"], "edgecolor": COLOURS["muted"]}
            )
            axes.scatter([x], [y], s=44, zorder=3, **style)
        _cost_axis(axes, [points[name][0] for name in order])
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.margins(y=0.12)
        _label(axes, {name: (points[name][0], points[name][1]) for name in order}, must=best)
    return drawn[0]


def front(points: Points, *, more_is_better: bool = True) -> list[str]:
    """The names, cheapest first, of the points that no other beats: as cheap and better, or as good and cheaper."""
    sign = 1.0 if more_is_better else -1.0
    found: list[str] = []
    for name in sorted(points, key=lambda name: (points[name][0], -sign * points[name][1], name)):
        if not found or sign * points[name][1] > sign * points[found[-1]][1]:
            found.append(name)
    return found


def curves(series: Series, x_label: str, y_label: str, *, title: str | None = None) -> str:
    """A line for each series, with dots where it has few points; for training curves."""
    said = "; ".join(f"{name}: {ys[0]:.4g} to {ys[-1]:.4g}" for name, (_, ys) in series.items() if len(ys))
    with _picture(title or f"{y_label} by {x_label}", said) as (axes, drawn):
        for index, (name, (xs, ys)) in enumerate(series.items()):
            axes.plot(
                xs, ys, **_look(index), marker="o" if len(xs) <= 30 else None, ms=3.5, lw=1.5, label=_legible(name)
            )
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.set_xlim(left=0)
        _legend(axes, len(series))
    return drawn[0]


def reliability(
    answers: Mapping[str, tuple[Sequence[float], Sequence[bool]]], *, bins: int = 10, title: str | None = None
) -> str:
    """How often answers of some confidence are right; name → (confidence of each answer, whether it was right).

    The confidences fall into `bins` equally wide bins; a dot is as large as its bin's share of the answers.
    """
    lines = {name: _binned(sure, right, bins) for name, (sure, right) in answers.items()}
    said = "; ".join(
        f"{name}: " + ", ".join(f"{sure:.2f} sure, {right:.2f} right" for sure, right, _ in line)
        for name, line in lines.items()
    )
    with _picture(title or "How often an answer is right, by its confidence", said, height=4.9, width=5.2) as (
        axes,
        drawn,
    ):
        lowest = min((min(sure, right) for line in lines.values() for sure, right, _ in line), default=0.0)
        low = max(0.0, math.floor(lowest * 10) / 10)
        axes.plot([low, 1], [low, 1], color=COLOURS["muted"], lw=1, ls=":", label="as sure as right")
        for index, (name, line) in enumerate(lines.items()):
            sure, right, share = [[point[part] for point in line] for part in range(3)]
            axes.plot(sure, right, **_look(index), lw=1.5, label=_legible(name))
            axes.scatter(sure, right, s=[12 + 160 * part for part in share], color=SERIES[index % 6], alpha=0.75, lw=0)
        axes.set(xlabel="confidence", ylabel="share of right answers", xlim=(low, 1.02), ylim=(low, 1.02))
        _legend(axes, len(lines) + 1)
    return drawn[0]


def confusion(matrix: Sequence[Sequence[float]], names: Sequence[str], *, title: str | None = None) -> str:
    """Counts of gold (rows) against predicted (columns) classes, shaded by their share of the row."""
    said = "; ".join(
        f"gold {gold}: " + ", ".join(f"{name} {count:g}" for name, count in zip(names, row, strict=True))
        for gold, row in zip(names, matrix, strict=True)
    )
    size = min(9.0, 2.4 + 0.7 * len(names))
    letters = min(10.0, 40 * size / len(names))
    with _picture(title or "Gold against predicted labels", said, height=size * 0.85, width=size + 0.6) as (
        axes,
        drawn,
    ):
        for y, row in enumerate(matrix):
            for x, count in enumerate(row):
                if not count and len(names) > 10:  # most of many classes are never taken for one another
                    continue
                share = count / sum(row) if sum(row) else 0.0
                axes.add_patch(_square(x, y, share))
                text = f"{count:,.0f}\n{share:.0%}" if len(names) <= 10 else f"{count:,.0f}"
                axes.text(x, y, text, ha="center", va="center", fontsize=letters * (1.0 if len(names) <= 6 else 0.8))
        places = range(len(names))
        short = [_shortened(name, 18) for name in names]
        axes.set_xticks(places, short, fontsize=letters)
        axes.set_yticks(places, short, fontsize=letters)
        if sum(map(len, short)) > 9 * size:
            axes.tick_params(axis="x", labelrotation=40)
            for label in axes.get_xticklabels():
                label.set(ha="right", rotation_mode="anchor")
        axes.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(names) - 0.5, -0.5), xlabel="predicted", ylabel="gold")
        axes.grid(False)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    return drawn[0]


def bars(
    values: Mapping[str, float | Sequence[float]],
    x_label: str,
    *,
    reference: float | None = None,
    title: str | None = None,
) -> str:
    """A horizontal bar for each slice: its value, or (value, low, high); `reference` (of all rows) is a line."""
    triples = {
        name: (value, None, None) if isinstance(value, (int, float)) else tuple(value) for name, value in values.items()
    }
    said = "; ".join(f"{name}: {value:.4g}" for name, (value, _, _) in triples.items())
    with _picture(title or f"{x_label} by slice", said, height=0.9 + 0.34 * max(1, len(triples))) as (axes, drawn):
        beside = ("axes fraction", "data")
        for place, (value, low, high) in enumerate(triples.values()):
            axes.barh(place, value, height=0.62, color=SERIES[0], alpha=0.75, lw=0)
            if low is not None and high is not None:
                axes.hlines(place, low, high, color=COLOURS["ink"], lw=1.2)
            axes.annotate(
                f"{value:.4g}", (1.01, place), xycoords=beside, va="center", fontsize=10, color=COLOURS["muted"]
            )
        if reference is not None:
            axes.axvline(reference, color=SERIES[1], lw=1.3, ls="--", label=f"all rows: {reference:.4g}")
            _legend(axes, 1)
        axes.set_yticks(range(len(triples)), [_shortened(name, 36) for name in triples])
        axes.tick_params(axis="y", length=0, labelcolor=COLOURS["ink"])
        axes.set(xlabel=x_label, ylim=(len(triples) - 0.5, -0.5))
        axes.grid(False, axis="y")
        axes.margins(x=0.12)
    return drawn[0]


# -- what they are drawn with --------------------------------------------------------------------------------


@contextmanager
def _picture(title: str, said: str, *, width: float = 6.4, height: float = 3.9) -> Iterator[tuple[Any, list[str]]]:
    """Axes to draw on; when done, the list holds the SVG. Inches; `said` is the picture in words."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError("the package 'matplotlib' is not installed", hint="pip install 'tinybert[report]'") from error

    salt = hashlib.sha256(f"{title}\n{said}".encode()).hexdigest()
    drawn: list[str] = []
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": salt}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the reader's browser has the font
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure.subplots(), drawn
        file = io.StringIO()
        figure.savefig(
            file, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
        )
    drawn.append(_inline(file.getvalue(), title, said, salt))


def _inline(svg: str, title: str, said: str, salt: str) -> str:
    """An SVG file as an element of a page: no prologue, ids of its own, the page's font and colours."""
    svg = _FORBIDDEN.sub(" ", svg[svg.index("<svg") :])
    svg = re.sub(r"\s*<metadata>.*?</metadata>|\s*<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # the same in every picture, and used by none
    svg = re.sub(r'style="[^"]*"', lambda style: _of_the_page(style[0]), svg)
    width, height = re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)[0]
    label, words = html.escape(_printable(title)), html.escape(_printable(said))
    head = (
        f'<svg class="plot" role="img" aria-labelledby="t{salt[:10]} d{salt[:10]}" '
        f'width="{float(width) * 1.3:.0f}" viewBox="0 0 {width} {height}" '
        'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" stroke-linejoin="round">\n'
        f' <title id="t{salt[:10]}">{label}</title>\n <desc id="d{salt[:10]}">{words}</desc>'
    )
    return re.sub(r"<svg[^>]*>", lambda _: head, svg, count=1).rstrip()


def _of_the_page(style: str) -> str:
    """A style with the font and the colours of the page around it."""
    style = style.replace("'DejaVu Sans'", "system-ui, sans-serif")
    for variable, colour in COLOURS.items():
        style = style.replace(colour, f"var(--{variable}, {colour})")
    return style


def _cost_axis(axes: Any, costs: Sequence[float]) -> None:
    """From zero; in powers if the dearest costs more than 30 times the cheapest."""
    if costs and min(costs) > 0 and max(costs) > 30 * min(costs):
        from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.margins(x=0.1)
    else:
        axes.set_xlim(0, max([*costs, 1e-9]) * 1.12)


def _label(axes: Any, points: Mapping[str, tuple[float, float]], *, must: Sequence[str]) -> None:
    """Names beside their points, where they hide nothing; one that finds no place is left out, unless it must be.

    `must`: the names on the front, in its order.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.transforms import Bbox

    figure = axes.figure
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)  # from here on the axes have their place
    taken = [Bbox.from_bounds(x - 5, y - 5, 10, 10) for x, y in axes.transData.transform(list(points.values()))]
    corners = [axes.transData.transform(points[name]) for name in must]
    for (x0, y0), (x1, y1) in pairwise(corners):  # the steps of the front
        taken += [
            Bbox.from_extents(x0, y0 - 1, x1, y0 + 1),
            Bbox.from_extents(x1 - 1, min(y0, y1), x1 + 1, max(y0, y1)),
        ]
    inside = axes.get_window_extent(renderer)
    for name, point in points.items():
        text = axes.annotate(_shortened(name, 28), point, textcoords="offset points", xytext=(0, 0), fontsize=10.5)
        for x, y, across, up in _PLACES:
            text.set(position=(x, y), ha=across, va=up)
            box = text.get_window_extent(renderer)
            if (
                inside.containsx(box.x0)
                and inside.containsx(box.x1)
                and not any(box.overlaps(other) for other in taken)
            ):
                taken.append(box)
                break
        else:
            if name in must:
                x, y, across, up = _PLACES[0]
                text.set(position=(x, y), ha=across, va=up)
                taken.append(text.get_window_extent(renderer))
            else:
                text.remove()


_PLACES = [
    (6, 6, "left", "bottom"), (-6, 6, "right", "bottom"), (6, -6, "left", "top"), (-6, -6, "right", "top"),
    (9, 0, "left", "center"), (-9, 0, "right", "center"), (0, 9, "center", "bottom"), (0, -9, "center", "top"),
    (6, 17, "left", "bottom"), (6, -17, "left", "top"),
]  # fmt: skip


def _legend(axes: Any, entries: int) -> None:
    """Above the axes, where it hides nothing, in as many columns as there is room for."""
    for columns in range(min(entries, 4), 0, -1):
        legend = axes.figure.legend(
            loc="outside upper left", ncols=columns, fontsize=10, handlelength=2.2, columnspacing=1.4
        )
        if columns == 1 or legend.get_window_extent().width <= axes.figure.bbox.width:
            return
        legend.remove()


def _look(index: int) -> dict[str, Any]:
    return {"color": SERIES[index % len(SERIES)], "ls": DASHES[index % len(DASHES)]}


def _square(x: int, y: int, share: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(
        (x - 0.48, y - 0.48), 0.96, 0.96, facecolor=SERIES[0], alpha=0.06 + 0.5 * share, lw=0, clip_on=False
    )


def _binned(sure: Sequence[float], right: Sequence[bool], bins: int) -> list[tuple[float, float, float]]:
    """Of each bin that is not empty the mean confidence, the share of right answers, and its share of all answers."""
    inside: dict[int, list[tuple[float, bool]]] = {}
    for confidence, correct in zip(sure, right, strict=True):
        inside.setdefault(min(int(confidence * bins), bins - 1), []).append((float(confidence), bool(correct)))
    return [
        (sum(c for c, _ in found) / len(found), sum(r for _, r in found) / len(found), len(found) / len(sure))
        for _, found in sorted(inside.items())
    ]


def _legible(name: str) -> str:
    """A name for the legend, which would leave out what begins with an underscore."""
    return f" {_shortened(name, 36)}" if name.startswith("_") else _shortened(name, 36)


def _shortened(name: str, longest: int) -> str:
    plain = _printable(name)
    return plain if len(plain) <= longest else f"{plain[: longest - 1]}…"


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)


_FORBIDDEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")  # in XML, even escaped
