"""The tables of README.md and docs/, from the result files in experiments/results: `python experiments/tables.py`.

A table stands between two comments, `<!-- table NAME -->` and `<!-- end NAME -->`; NAME is a key of TABLES. The script
replaces what is between them, so that no number is copied by hand. The scripts that train and measure write the result
files. A file with `header` and `rows` holds a table as it was recorded by the command in it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import baseline_cells
import cascade_tables
import defaults
import int8_table
import large_run
import layer_mappings
import performance
import result_files
import scale_table
import sst2_tables
import translation

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"<!-- table ([\w-]+) -->\n.*?<!-- end \1 -->", re.DOTALL)

Lines = Iterable[str]

DEMO_BASELINES = {"tfidf": "*baseline: TF-IDF*", "majority": "*baseline: majority class*"}
DEMO = {
    "teacher": "teacher, 6 layers",
    "student": "student, layers 1, 3, 4, 6",
    "student2": "student2, layers 1 and 4 of the student",
    "student2-direct": "student2-direct, same architecture, the teacher's soft labels",
    "student2-plain": "student2-plain, same architecture, gold labels",
}


def main() -> None:
    for page in pages():
        text = page.read_text(encoding="utf-8")
        if (new := filled(text)) != text:
            page.write_text(new, encoding="utf-8")
            print(page.relative_to(ROOT))


def pages() -> list[Path]:
    """The pages with tables from result files."""
    files = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return [file for file in files if BLOCK.search(file.read_text(encoding="utf-8"))]


def filled(text: str) -> str:
    """A page with its tables as the result files have them."""
    return BLOCK.sub(lambda block: f"<!-- table {block[1]} -->\n\n{table(block[1])}\n\n<!-- end {block[1]} -->", text)


def table(name: str) -> str:
    """The lines of a table in Markdown."""
    draw, file = TABLES[name]
    return "\n".join(draw(result_files.read(file)))


def demo(results: Mapping[str, Any]) -> Iterator[str]:
    """Two runs of the demo, with two threads and with one."""
    two, one = results["2 threads"], results["1 thread"]
    yield (
        "| model | 2 threads: accuracy (95 %) | retention | agreement | 1 thread: accuracy (95 %) | retention | size |"
    )
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for model, title in DEMO.items():
        cells = [
            title, _accuracy(two, model), _share(two.get(f"{model}.retention")), _share(two.get(f"{model}.agreement")),
            _accuracy(one, model), _share(one.get(f"{model}.retention")), _size(two, model),
        ]  # fmt: skip
        yield row(cells)
    for name, title in DEMO_BASELINES.items():
        cells = [
            title, _accuracy(two, name), _share(two[f"{name}.retention"]), _share(two[f"{name}.agreement"]),
            _accuracy(one, name), _share(one[f"{name}.retention"]),
            baseline_cells.size({"bytes": two[f"{name}.bytes"]}),
        ]  # fmt: skip
        yield row(cells)


def sweep(results: Mapping[str, Any]) -> Iterator[str]:
    """The recorded table, and the baselines on the same rows."""
    yield from recorded(results)
    for title, numbers in baseline_cells.measured("sweep-demo"):
        retention = _share(numbers["score"] / results["teacher_accuracy"])
        yield row([title, _interval(**_ends(numbers)), retention, "", baseline_cells.size(numbers)])


def recorded(results: Mapping[str, Any]) -> Iterator[str]:
    """A table as it was recorded; all columns but the first `texts` contain numbers."""
    texts = results.get("texts", 1)
    yield row(results["header"])
    yield "|" + "---|" * texts + "---:|" * (len(results["header"]) - texts)
    yield from map(row, results["rows"])


def row(cells: Iterable[str]) -> str:
    """A line of a Markdown table."""
    return "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|"


def _accuracy(metrics: Mapping[str, float], model: str) -> str:
    return _interval(*(metrics[f"{model}.accuracy{end}"] for end in ("", "_low", "_high")))


def _interval(score: float, low: float, high: float) -> str:
    return f"{score:.4f} ({low:.3f}-{high:.3f})"


def _ends(numbers: Mapping[str, Any]) -> dict[str, float]:
    return {key: numbers[key] for key in ("score", "low", "high")}


def _size(metrics: Mapping[str, float], model: str) -> str:
    return f"{metrics[f'{model}.bytes'] / 1e6:.1f} MB"


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


RECORDED = ("augmenting", "made-up", "translating", "translating-peak", "families")

# Name → its lines, and the file in experiments/results with its numbers.
TABLES: dict[str, tuple[Callable[[Any], Lines], str]] = {
    "sst2-short": (sst2_tables.short, sst2_tables.FILE),
    "sst2": (sst2_tables.report, sst2_tables.FILE),
    "sst2-bits": (sst2_tables.bits, sst2_tables.FILE),
    "sst2-small": (sst2_tables.small, sst2_tables.FILE),
    "sst2-students": (sst2_tables.candidates("students"), sst2_tables.FILE),
    "sst2-students2": (sst2_tables.candidates("students2"), sst2_tables.FILE),
    "demo": (demo, "demo.json"),
    "sweep-demo": (sweep, "sweep-demo.json"),
    "overview": (cascade_tables.overview, "cascade.json"),
    "int8-agreement": (int8_table.agreement, "int8.json"),
    "int8-size": (int8_table.sizes, "int8.json"),
    "defaults": (defaults.table, "defaults.json"),
    "defaults-sst2": (defaults.earlier_table, "defaults.json"),
    "defaults-held-out": (defaults.held_out_table, "defaults.json"),
    "cascade": (cascade_tables.table, "cascade.json"),
    "layer-mappings": (layer_mappings.table, "layer_mappings.json"),
    **{name: (draw, performance.FILE) for name, draw in performance.TABLES.items()},
    "multi30k": (translation.table, "multi30k.json"),
    "multi30k-ablation": (translation.ablation_table, "multi30k.json"),
    "multi30k-exports": (translation.exports_table, "multi30k.json"),
    "scale": (scale_table.table, "scale.json"),
    "scale-resumed": (scale_table.resumed, "scale.json"),
    "scale-plan": (large_run.table, "scale.json"),
    "scale-space": (large_run.space, "scale.json"),
    "scale-tags": (scale_table.tags, "scale.json"),
    "scale-texts": (scale_table.texts, "scale.json"),
    **{name: (recorded, f"{name}.json") for name in RECORDED},
}


if __name__ == "__main__":
    main()
