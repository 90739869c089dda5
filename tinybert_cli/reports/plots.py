"""Plots as inline SVG: pure functions whose output is deterministic.

Every plot has a title and a text description for screen readers, keeps its labels as text, and takes its colours from
the page's CSS variables (`COLOURS`), so it follows light and dark mode; outside of a page it is light.
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

import numpy as np

from tinybert_cli.errors import InputError
from tinybert_cli.scratch_files import bound_mapped_memory
from tinybert_cli.types import Array

Points = Mapping[str, Sequence[float]]  # name → (x, y), or (x, y, low, high) with the bounds of y's interval
Series = Mapping[str, tuple[Sequence[float], Sequence[float]]]  # name → (all x, all y)

# CSS variable → default colour. The six series colours can be distinguished by colour-blind readers (Okabe and Ito).
COLOURS = {
    "plot-1": "#0072b2", "plot-2": "#d55e00", "plot-3": "#009e73", "plot-4": "#cc79a7", "plot-5": "#e69f00",
    "plot-6": "#56b4e9", "ink": "#1f2328", "muted": "#59636e", "line": "#d1d9e0",
}  # fmt: skip
SERIES = [COLOURS[f"plot-{number}"] for number in range(1, 7)]
PART = 1 << 18  # confidences that are counted at a time
DASHES = ["-", "--", "-.", ":"]  # a second cue, because colours repeat after six series

_STYLE = {
    "svg.fonttype": "none", "text.parse_math": False, "text.usetex": False, "font.family": "DejaVu Sans",
    "font.size": 11.0, "text.color": COLOURS["ink"], "axes.labelcolor": COLOURS["muted"],
    "axes.edgecolor": COLOURS["line"], "axes.linewidth": 1.0, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": COLOURS["line"], "grid.linewidth": 0.6,
    "xtick.color": COLOURS["line"], "ytick.color": COLOURS["line"], "xtick.labelcolor": COLOURS["muted"],
    "ytick.labelcolor": COLOURS["muted"], "legend.frameon": False, "lines.linewidth": 1.8, "figure.dpi": 72.0,
}  # fmt: skip


def tradeoff(
    points: Points,
    x_label: str,
    y_label: str,
    *,
    levels: Mapping[str, float] | None = None,
    more_is_better: bool = True,
    title: str | None = None,
) -> str:
    """Scatter plot of quality (y) vs. cost (x, less is better), with labels and the Pareto front as a line.

    Args:
        levels: name → quality of what costs next to nothing: a dashed line across the plot.
    """
    front = pareto_front(points, more_is_better=more_is_better)
    order = [*front, *(name for name in points if name not in front)]  # labels of the front are placed first
    description = "; ".join(f"{name}: {points[name][0]:.4g}, {points[name][1]:.4g}" for name in order)
    description += "".join(f"; {name}: {level:.4g}" for name, level in (levels or {}).items())
    with canvas(title or f"{y_label} vs. {x_label}", description) as (axes, svgs):
        steps = [points[name] for name in front]
        axes.plot(
            [p[0] for p in steps], [p[1] for p in steps], drawstyle="steps-post", color=SERIES[0], lw=1.2, zorder=1
        )
        for name in order:
            x, y, *ends = points[name]
            if ends:
                axes.vlines(x, *ends, color=COLOURS["muted"], lw=0.9, alpha=0.7, zorder=2)
            style = (
                {"color": SERIES[0]} if name in front else {"facecolor": COLOURS["line"], "edgecolor": COLOURS["muted"]}
            )
            axes.scatter([x], [y], s=44, zorder=3, **style)
        for level in (levels or {}).values():
            axes.axhline(level, color=COLOURS["muted"], lw=0.9, ls="--", alpha=0.7, zorder=1)
        _cost_axis(axes, [points[name][0] for name in order])
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.margins(y=0.12)
        _round_ticks(axes.yaxis)
        _label_levels(axes, levels or {})
        _label(axes, {name: (points[name][0], points[name][1]) for name in order}, required=front)
    return svgs[0]


def pareto_front(points: Points, *, more_is_better: bool = True) -> list[str]:
    """Names of the points that no other point dominates, cheapest first."""
    sign = 1.0 if more_is_better else -1.0
    front: list[str] = []
    for name in sorted(points, key=lambda name: (points[name][0], -sign * points[name][1], name)):
        if not front or sign * points[name][1] > sign * points[front[-1]][1]:
            front.append(name)
    return front


def curves(
    series: Series,
    x_label: str,
    y_label: str,
    *,
    dashed: Series | None = None,
    line_names: tuple[str, str] = ("training", "validation"),
    from_zero: bool = False,
    title: str | None = None,
) -> str:
    """Line plot of training curves by step; series of at most 30 points have markers.

    Args:
        dashed: further lines, each dashed and in the colour of the series with its name.
        line_names: what the solid and the dashed lines are, for the legend; only with `dashed`.
        from_zero: the y-axis begins at zero.
    """
    lines = [(name, points, "") for name, points in series.items()]
    lines += [(name, points, line_names[1]) for name, points in (dashed or {}).items()]
    description = "; ".join(
        f"{f'{name}, {kind}' if kind else name}: {ys[0]:.4g} to {ys[-1]:.4g}"
        for name, (_, ys), kind in lines
        if len(ys)
    )
    order = list(dict.fromkeys(name for name, *_ in lines))
    with canvas(title or f"{y_label} by {x_label}", description) as (axes, svgs):
        for name, (xs, ys), kind in lines:
            style = _line_style(order.index(name))
            if dashed:
                style["ls"] = "--" if kind else "-"
            own_label = name not in series or not kind
            label = _legend_label(name) if own_label else None
            marker = "o" if len(xs) <= 30 else None
            axes.plot(xs, ys, **style, marker=marker, ms=3.5, lw=1.5, label=label)
        for name, dash in zip(line_names, ("-", "--"), strict=True) if dashed else ():
            axes.plot([], [], color=COLOURS["muted"], ls=dash, lw=1.5, label=name)
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.set_xlim(left=0)
        if from_zero:
            axes.set_ylim(bottom=0)
        _round_ticks(axes.xaxis, axes.yaxis)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        _legend(axes, len(order) + (2 if dashed else 0))
    return svgs[0]


def reliability_diagram(
    confidences: Mapping[str, tuple[Sequence[float] | Array, Sequence[bool] | Array]],
    *,
    bins: int = 10,
    title: str | None = None,
) -> str:
    """Accuracy by confidence (Guo et al. 2017); name → (confidence of each prediction, whether it is correct).

    The bins have equal width; the area of a dot grows with the share of predictions in its bin.
    """
    lines = {name: _bin_means(confidence, correct, bins) for name, (confidence, correct) in confidences.items()}
    description = "; ".join(
        f"{name}: " + ", ".join(f"confidence {point[0]:.2f} accuracy {point[1]:.2f}" for point in line)
        for name, line in lines.items()
    )
    with canvas(title or "Reliability diagram", description, height=4.9, width=5.2) as (axes, svgs):
        lowest = min((min(point[:2]) for line in lines.values() for point in line), default=0.0)
        low = max(0.0, math.floor(lowest * 10) / 10)
        axes.plot([low, 1], [low, 1], color=COLOURS["muted"], lw=1, ls=":", label="perfect calibration")
        for index, (name, line) in enumerate(lines.items()):
            confidence, accuracy, share = [[point[column] for point in line] for column in range(3)]
            axes.plot(confidence, accuracy, **_line_style(index), lw=1.5, label=_legend_label(name))
            area = [12 + 160 * value for value in share]
            axes.scatter(confidence, accuracy, s=area, color=SERIES[index % 6], alpha=0.75, lw=0)
        axes.set(xlabel="confidence", ylabel="accuracy", xlim=(low, 1.02), ylim=(low, 1.02))
        _round_ticks(axes.xaxis, axes.yaxis)
        _legend(axes, len(lines) + 1)
    return svgs[0]


def confusion_matrix(counts: Sequence[Sequence[float]], names: Sequence[str], *, title: str | None = None) -> str:
    """Counts of gold (rows) and predicted (columns) classes, shaded by their share of the row."""
    description = "; ".join(
        f"gold {gold}: " + ", ".join(f"{name} {count:g}" for name, count in zip(names, row, strict=True))
        for gold, row in zip(names, counts, strict=True)
    )
    size = min(9.0, 2.4 + 0.7 * len(names))
    font_size = min(10.0, 40 * size / len(names))
    with canvas(title or "Confusion matrix", description, height=size * 0.85, width=size + 0.6) as (axes, svgs):
        for y, row in enumerate(counts):
            for x, count in enumerate(row):
                if not count and len(names) > 10:  # with many classes most cells are empty
                    continue
                share = count / sum(row) if sum(row) else 0.0
                axes.add_patch(_cell(x, y, share))
                text = f"{count:,.0f}\n{share:.0%}" if len(names) <= 10 else f"{count:,.0f}"
                axes.text(x, y, text, ha="center", va="center", fontsize=font_size * (1.0 if len(names) <= 6 else 0.8))
        positions = range(len(names))
        short = [_shortened(name, 18) for name in names]
        axes.set_xticks(positions, short, fontsize=font_size)
        axes.set_yticks(positions, short, fontsize=font_size)
        if sum(map(len, short)) > 9 * size:
            axes.tick_params(axis="x", labelrotation=40)
            for label in axes.get_xticklabels():
                label.set(ha="right", rotation_mode="anchor")
        axes.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(names) - 0.5, -0.5), xlabel="predicted", ylabel="gold")
        axes.grid(False)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    return svgs[0]


def bars(
    values: Mapping[str, float | Sequence[float]],
    x_label: str,
    *,
    reference: float | None = None,
    title: str | None = None,
) -> str:
    """A horizontal bar per slice: its value, or (value, low, high); `reference`: value of all rows, a vertical line."""
    triples = {
        name: (value, None, None) if isinstance(value, (int, float)) else tuple(value) for name, value in values.items()
    }
    description = "; ".join(f"{name}: {value:.4g}" for name, (value, _, _) in triples.items())
    shares = all(0 <= value <= 1 for value, _, _ in triples.values())
    digits = ".3f" if shares else ".4g"
    height = 0.9 + 0.34 * max(1, len(triples))
    with canvas(title or f"{x_label} by slice", description, height=height) as (axes, svgs):
        right_of_axes = ("axes fraction", "data")
        for y, (value, low, high) in enumerate(triples.values()):
            axes.barh(y, value, height=0.62, color=SERIES[0], alpha=0.75, lw=0)
            if low is not None and high is not None:
                axes.hlines(y, low, high, color=COLOURS["ink"], lw=1.2)
            axes.annotate(
                f"{value:{digits}}", (1.01, y), xycoords=right_of_axes, va="center", fontsize=10, color=COLOURS["muted"]
            )
        if reference is not None:
            axes.axvline(reference, color=SERIES[1], lw=1.3, ls="--", label=f"all rows: {reference:{digits}}")
            _legend(axes, 1)
        axes.set_yticks(range(len(triples)), [_shortened(name, 36) for name in triples])
        axes.tick_params(axis="y", length=0, labelcolor=COLOURS["ink"])
        axes.set(xlabel=x_label, ylim=(len(triples) - 0.5, -0.5))
        _round_ticks(axes.xaxis)
        axes.grid(False, axis="y")
        if shares:
            axes.set_xlim(0, 1)
        else:
            axes.margins(x=0.12)
    return svgs[0]


# -- drawing -------------------------------------------------------------------------------------------------


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
    title, description = html.escape(_printable(title)), html.escape(_printable(description))
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


def _round_ticks(*axes: Any) -> None:
    """At most seven round numbers on each of these axes."""
    from matplotlib.ticker import MaxNLocator

    for axis in axes:
        axis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))


def _cost_axis(axes: Any, costs: Sequence[float]) -> None:
    """Linear from zero; logarithmic if the highest cost is more than 30 times the lowest."""
    if costs and min(costs) > 0 and max(costs) > 30 * min(costs):
        from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

        axes.set_xscale("log")
        few = max(costs) < 1000 * min(costs)
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.margins(x=0.1)
    else:
        axes.set_xlim(0, max([*costs, 1e-9]) * 1.12)
        _round_ticks(axes.xaxis)


def _label_levels(axes: Any, levels: Mapping[str, float]) -> None:
    """Writes the names of levels at the left end of their lines; levels that are close together share a text."""
    low, high = axes.get_ylim()
    shared: list[tuple[float, list[str]]] = []
    for name, level in sorted(levels.items(), key=lambda item: item[1]):
        if shared and level - shared[-1][0] < 0.06 * (high - low):
            shared[-1][1].append(name)
        else:
            shared.append((level, [name]))
    for level, names in shared:
        axes.annotate(
            _shortened(", ".join(names), 48), (0.01, level), xycoords=("axes fraction", "data"), xytext=(0, 3),
            textcoords="offset points", fontsize=9.5, color=COLOURS["muted"],
        )  # fmt: skip


def _label(axes: Any, points: Mapping[str, tuple[float, float]], *, required: Sequence[str]) -> None:
    """Writes the names beside their points without overlap; a name without free space is omitted unless `required`.

    `required`: the names on the Pareto front, in its order.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.transforms import Bbox

    figure = axes.figure
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)  # computes the layout
    occupied = [Bbox.from_bounds(x - 5, y - 5, 10, 10) for x, y in axes.transData.transform(list(points.values()))]
    corners = [axes.transData.transform(points[name]) for name in required]
    for (x0, y0), (x1, y1) in pairwise(corners):  # the line of the front
        occupied += [
            Bbox.from_extents(x0, y0 - 1, x1, y0 + 1),
            Bbox.from_extents(x1 - 1, min(y0, y1), x1 + 1, max(y0, y1)),
        ]
    inside = axes.get_window_extent(renderer)
    for name, point in points.items():
        text = axes.annotate(_shortened(name, 28), point, textcoords="offset points", xytext=(0, 0), fontsize=10.5)
        for x, y, horizontal, vertical in _LABEL_POSITIONS:
            text.set(position=(x, y), ha=horizontal, va=vertical)
            box = text.get_window_extent(renderer)
            if (
                inside.containsx(box.x0)
                and inside.containsx(box.x1)
                and not any(box.overlaps(other) for other in occupied)
            ):
                occupied.append(box)
                break
        else:
            if name in required:
                x, y, horizontal, vertical = _LABEL_POSITIONS[0]
                text.set(position=(x, y), ha=horizontal, va=vertical)
                occupied.append(text.get_window_extent(renderer))
            else:
                text.remove()


def _legend(axes: Any, entries: int) -> None:
    """A legend above the axes, in as many columns as fit."""
    for columns in range(min(entries, 4), 0, -1):
        legend = axes.figure.legend(
            loc="outside upper left", ncols=columns, fontsize=10, handlelength=2.2, columnspacing=1.4
        )
        if columns == 1 or legend.get_window_extent().width <= axes.figure.bbox.width:
            return
        legend.remove()


def _line_style(index: int) -> dict[str, Any]:
    return {"color": SERIES[index % len(SERIES)], "ls": DASHES[index % len(DASHES)]}


def _cell(x: int, y: int, share: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(
        (x - 0.48, y - 0.48), 0.96, 0.96, facecolor=SERIES[0], alpha=0.06 + 0.5 * share, lw=0, clip_on=False
    )


def _bin_means(
    confidences: Sequence[float] | Array, correct: Sequence[bool] | Array, bins: int
) -> list[tuple[float, float, float]]:
    """(mean confidence, accuracy, share of all predictions) of each bin that is not empty."""
    sizes, sums = np.zeros(bins), np.zeros((2, bins))
    for begin in range(0, len(confidences), PART):
        part = slice(begin, begin + PART)
        values = np.asarray(confidences[part], dtype=np.float64)
        bin_of = np.minimum((values * bins).astype(np.int32), bins - 1)
        sizes += np.bincount(bin_of, minlength=bins)
        for total, numbers in zip(sums, (values, np.asarray(correct[part], dtype=np.float64)), strict=True):
            np.add.at(total, bin_of, numbers)  # one after the other: in parts as all at once
        bound_mapped_memory()
    return [
        (float(sums[0][index] / size), float(sums[1][index] / size), float(size / len(confidences)))
        for index, size in enumerate(sizes.tolist())
        if size
    ]


def _legend_label(name: str) -> str:
    """A name for the legend; matplotlib omits labels that begin with an underscore."""
    return f" {_shortened(name, 36)}" if name.startswith("_") else _shortened(name, 36)


def _shortened(name: str, longest: int) -> str:
    plain = _printable(name)
    return plain if len(plain) <= longest else f"{plain[: longest - 1]}…"


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)


_FORBIDDEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")  # not allowed in XML, even escaped

# (x, y) offset in points, and the side of the text that is at this position; tried in this order.
_LABEL_POSITIONS = [
    (6, 6, "left", "bottom"), (-6, 6, "right", "bottom"), (6, -6, "left", "top"), (-6, -6, "right", "top"),
    (9, 0, "left", "center"), (-9, 0, "right", "center"), (0, 9, "center", "bottom"), (0, -9, "center", "top"),
    (6, 17, "left", "bottom"), (6, -17, "left", "top"),
]  # fmt: skip
