"""Plots as inline SVG: pure functions whose output is deterministic, see `svg_canvas`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tinybert_cli.reports.plot_axes import (
    cost_axis,
    label,
    label_levels,
    legend,
    legend_label,
    line_style,
    round_ticks,
    shortened,
)
from tinybert_cli.reports.svg_canvas import COLOURS, SERIES, canvas
from tinybert_cli.scratch_files import bound_mapped_memory
from tinybert_cli.types import Array

Points = Mapping[str, Sequence[float]]  # name → (x, y), or (x, y, low, high) with the bounds of y's interval
Series = Mapping[str, tuple[Sequence[float], Sequence[float]]]  # name → (all x, all y)
PART = 1 << 18  # confidences that are counted at a time


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
        cost_axis(axes, [points[name][0] for name in order])
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.margins(y=0.12)
        round_ticks(axes.yaxis)
        label_levels(axes, levels or {})
        label(axes, {name: (points[name][0], points[name][1]) for name in order}, required=front)
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
            style = line_style(order.index(name))
            if dashed:
                style["ls"] = "--" if kind else "-"
            own_label = name not in series or not kind
            label = legend_label(name) if own_label else None
            marker = "o" if len(xs) <= 30 else None
            axes.plot(xs, ys, **style, marker=marker, ms=3.5, lw=1.5, label=label)
        for name, dash in zip(line_names, ("-", "--"), strict=True) if dashed else ():
            axes.plot([], [], color=COLOURS["muted"], ls=dash, lw=1.5, label=name)
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.set_xlim(left=0)
        if from_zero:
            axes.set_ylim(bottom=0)
        round_ticks(axes.xaxis, axes.yaxis)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        legend(axes, len(order) + (2 if dashed else 0))
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
            axes.plot(confidence, accuracy, **line_style(index), lw=1.5, label=legend_label(name))
            area = [12 + 160 * value for value in share]
            axes.scatter(confidence, accuracy, s=area, color=SERIES[index % 6], alpha=0.75, lw=0)
        axes.set(xlabel="confidence", ylabel="accuracy", xlim=(low, 1.02), ylim=(low, 1.02))
        round_ticks(axes.xaxis, axes.yaxis)
        legend(axes, len(lines) + 1)
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
        short = [shortened(name, 18) for name in names]
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
            legend(axes, 1)
        axes.set_yticks(range(len(triples)), [shortened(name, 36) for name in triples])
        axes.tick_params(axis="y", length=0, labelcolor=COLOURS["ink"])
        axes.set(xlabel=x_label, ylim=(len(triples) - 0.5, -0.5))
        round_ticks(axes.xaxis)
        axes.grid(False, axis="y")
        if shares:
            axes.set_xlim(0, 1)
        else:
            axes.margins(x=0.12)
    return svgs[0]


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
