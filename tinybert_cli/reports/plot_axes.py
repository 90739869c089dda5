"""Ticks, names and legends of plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from tinybert_cli.reports.svg_canvas import COLOURS, SERIES, printable

DASHES = ["-", "--", "-.", ":"]  # a second cue, because colours repeat after six series

# (x, y) offset in points, and the side of the text that is at this position; tried in this order.
_LABEL_POSITIONS = [
    (6, 6, "left", "bottom"), (-6, 6, "right", "bottom"), (6, -6, "left", "top"), (-6, -6, "right", "top"),
    (9, 0, "left", "center"), (-9, 0, "right", "center"), (0, 9, "center", "bottom"), (0, -9, "center", "top"),
    (6, 17, "left", "bottom"), (6, -17, "left", "top"),
]  # fmt: skip


def round_ticks(*axes: Any) -> None:
    """At most seven round numbers on each of these axes."""
    from matplotlib.ticker import MaxNLocator

    for axis in axes:
        axis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))


def cost_axis(axes: Any, costs: Sequence[float]) -> None:
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
        round_ticks(axes.xaxis)


def label_levels(axes: Any, levels: Mapping[str, float]) -> None:
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
            shortened(", ".join(names), 48), (0.01, level), xycoords=("axes fraction", "data"), xytext=(0, 3),
            textcoords="offset points", fontsize=9.5, color=COLOURS["muted"],
        )  # fmt: skip


def label(axes: Any, points: Mapping[str, tuple[float, float]], *, required: Sequence[str]) -> None:
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
        text = axes.annotate(shortened(name, 28), point, textcoords="offset points", xytext=(0, 0), fontsize=10.5)
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


def legend(axes: Any, entries: int) -> None:
    """A legend above the axes, in as many columns as fit."""
    for columns in range(min(entries, 4), 0, -1):
        legend = axes.figure.legend(
            loc="outside upper left", ncols=columns, fontsize=10, handlelength=2.2, columnspacing=1.4
        )
        if columns == 1 or legend.get_window_extent().width <= axes.figure.bbox.width:
            return
        legend.remove()


def line_style(index: int) -> dict[str, Any]:
    """Colour and dashes of a series."""
    return {"color": SERIES[index % len(SERIES)], "ls": DASHES[index % len(DASHES)]}


def legend_label(name: str) -> str:
    """A name for the legend; matplotlib omits labels that begin with an underscore."""
    return f" {shortened(name, 36)}" if name.startswith("_") else shortened(name, 36)


def shortened(name: str, longest: int) -> str:
    """A name of at most `longest` letters."""
    plain = printable(name)
    return plain if len(plain) <= longest else f"{plain[: longest - 1]}…"
