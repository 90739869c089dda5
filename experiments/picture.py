"""The plots of the README and docs/results.md, from the small result files in experiments/results.

    python experiments/picture.py

`results/sst2.json` is written by `experiments/sst2.py`, `results/cascade.json` by `experiments/cascade.py`. A plot has
a background of its own, light and dark, so that it can be read on any page.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import result_files
import scale_table
import sst2_tables
from cascade_tables import share

from tinybert_cli.reports import html, svg_canvas

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
GAP = 0.18  # between the models of a dataset, in lines
WIDTH, MARGIN = 720, 10  # pixels of a plot on a page; points around it

# Model → its name in the plot, what it is, and where its label begins, in points from the dot.
CASCADE = {
    "teacher": ("teacher", "6 layers", -8, -38, "right"),
    "student": ("student", "3 layers", 9, -34, "left"),
    "export": ("student2, int8", "2 layers", 9, 14, "left"),
    "student2-plain": ("without distillation", "the same 2 layers, float32", 9, -12, "left"),
}
STEPS = [("teacher", "student", 0.0), ("student", "export", -0.2)]  # teacher, its student, bend of the arrow
SMALL = {
    "student": "student",
    "layers-first": "student2, layers first",
    "direct": "student2-direct: from the teacher",
    "gold": "student2-plain: no distillation",
}


def cascade(results: Mapping[str, Any]) -> str:
    """Accuracy against the latency of one text, with 95 % intervals; arrows lead from a teacher to its student.

    Accuracies and intervals are means of the seeds.
    """
    points = {name: (sst2_tables.latency(results, name), sst2_tables.mean_accuracy(results, name)) for name in CASCADE}
    intervals = {name: sst2_tables.mean_interval(results, name) for name in CASCADE}
    description = "; ".join(
        f"{CASCADE[name][0]}: {milliseconds:.4g} ms, accuracy {accuracy:.4g} "
        f"({intervals[name][0]:.3f} to {intervals[name][1]:.3f})"
        for name, (milliseconds, accuracy) in points.items()
    )
    with svg_canvas.canvas("SST-2: accuracy against latency", description, height=3.7) as (axes, svgs):
        for start, end, bend in STEPS:
            arrow = {
                "arrowstyle": "-|>",
                "color": svg_canvas.SERIES[0],
                "lw": 1.2,
                "shrinkA": 8,
                "shrinkB": 8,
                "alpha": 0.6,
                "connectionstyle": f"arc3,rad={bend}",
            }
            axes.annotate("", points[end], points[start], arrowprops=arrow)
        for name, (milliseconds, accuracy) in points.items():
            colour = svg_canvas.SERIES[1] if name == "student2-plain" else svg_canvas.SERIES[0]
            axes.vlines(milliseconds, *intervals[name], color=colour, lw=1.6, alpha=0.45)
            axes.scatter([milliseconds], [accuracy], s=60, color=colour, zorder=3)
            title, shape, x, y, side = CASCADE[name]
            size = sst2_tables.megabytes(results, name)
            for text, height, style in [
                (title, y + 13, {"fontsize": 12, "fontweight": "bold"}),
                (
                    f"{shape}, {size:.1f} MB",
                    y,
                    {"fontsize": 10, "color": svg_canvas.COLOURS["muted"]},
                ),
            ]:
                axes.annotate(text, points[name], (x, height), textcoords="offset points", ha=side, **style)
        axes.set(xlabel="milliseconds for one text, 2 CPU cores", ylabel="accuracy on SST-2, 95 % interval")
        axes.set_xlim(0, max(milliseconds for milliseconds, _ in points.values()) * 1.08)
        axes.yaxis.set_major_formatter("{x:.2f}")
    return svgs[0]


def datasets(results: Mapping[str, Any]) -> str:
    """The share of the teacher's score that each small model keeps, a line per dataset."""
    kept = {
        name: {model: 100 * share(dataset["models"], model) for model in SMALL}
        for name, dataset in results.items()
        if SMALL.keys() <= dataset["models"].keys()
    }
    description = "; ".join(
        f"{dataset}: " + ", ".join(f"{model} {value:.1f} %" for model, value in models.items())
        for dataset, models in kept.items()
    )
    with svg_canvas.canvas("Share of the teacher's score, by dataset", description, height=3.9) as (axes, svgs):
        for row, models in enumerate(kept.values()):
            axes.plot(
                [models["layers-first"], models["gold"]],
                [row - GAP / 2, row + 3 * GAP / 2],
                color=svg_canvas.COLOURS["line"],
                lw=2,
                zorder=1,
            )
        for index, ((model, label), marker) in enumerate(zip(SMALL.items(), "soDX", strict=True)):
            values = [models[model] for models in kept.values()]
            rows = [row + GAP * (index - 1.5) for row in range(len(kept))]  # side by side, where scores are equal
            colour = svg_canvas.SERIES[(2, 0, 3, 1)[index]]
            axes.scatter(values, rows, s=46, color=colour, marker=marker, lw=0, label=label, zorder=3)
        axes.axvline(100, color=svg_canvas.COLOURS["muted"], lw=1, ls=":")
        axes.set_yticks(range(len(kept)), kept)
        axes.tick_params(axis="y", length=0, labelcolor=svg_canvas.COLOURS["ink"])
        axes.set(xlabel="% of the teacher's score on the reported rows", ylim=(len(kept) - 0.5, -0.5))
        axes.grid(False, axis="y")
        axes.figure.legend(loc="outside upper left", ncols=2, fontsize=10, handletextpad=0.1, columnspacing=1.0)
    return svgs[0]


def scale(results: Mapping[str, Any]) -> str:
    """The memory of each stage by the number of rows, without and with pages of mapped files."""
    measured = results["text-classification"]
    stages = {stage: dict(scale_table.by_rows(measured[stage])) for stage in scale_table.STAGES}
    description = "; ".join(
        f"{stage}: "
        + ", ".join(f"{int(rows):,} rows {numbers['peak_mb'] / 1000:.2f} GB" for rows, numbers in own.items())
        for stage, own in stages.items()
    )
    with svg_canvas.canvas("Peak memory by the number of rows", description, height=3.9) as (axes, svgs):
        for index, (stage, own) in enumerate(stages.items()):
            rows, colour = [int(count) for count in own], svg_canvas.SERIES[index]
            peak, private = ([numbers[key] / 1000 for numbers in own.values()] for key in ("peak_mb", "private_mb"))
            axes.plot(rows, peak, color=colour, lw=1.8, marker="o", ms=5, label=stage)
            axes.plot(rows, private, color=colour, lw=1.2, ls=":")
        axes.plot([], [], color=svg_canvas.COLOURS["muted"], lw=1.2, ls=":", label="private memory only")
        axes.set(xscale="log", xlabel="rows", ylabel="GB")
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.figure.legend(loc="outside upper left", ncols=3, fontsize=10, handletextpad=0.4, columnspacing=1.0)
    return svgs[0]


# File in docs/images → its plot, and the file in experiments/results with its numbers.
PICTURES: dict[str, tuple[Callable[[Any], str], str]] = {
    "sst2-cascade.svg": (cascade, sst2_tables.FILE),
    "datasets.svg": (datasets, "cascade.json"),
    "scale.svg": (scale, "scale.json"),
}


def picture(name: str) -> str:
    """A plot as a file of its own, with the colours and the background that it would have on one of our pages."""
    draw, results = PICTURES[name]
    svg = draw(result_files.read(results))
    width, height = map(float, re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)[0])
    frame = f'x="-{MARGIN}" y="-{MARGIN}" width="{width + 2 * MARGIN:g}" height="{height + 2 * MARGIN:g}"'
    view = f'width="{WIDTH}" viewBox="-{MARGIN} -{MARGIN} {width + 2 * MARGIN:g} {height + 2 * MARGIN:g}"'
    background = f'<style>\n{html.PALETTE} </style>\n <rect {frame} rx="8" fill="var(--paper)"/>'
    svg = re.sub(r'width="\d+" viewBox="[^"]*"', view, svg, count=1)
    svg = svg.replace("</desc>", f"</desc>\n {background}", 1)
    svg = re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", svg)  # equal on every machine
    return "".join(f"{line.rstrip()}\n" for line in svg.splitlines())


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    for name in PICTURES:
        (IMAGES / name).write_text(picture(name))
        print((IMAGES / name).relative_to(ROOT))


if __name__ == "__main__":
    main()
