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

import baselines
import cascade
import defaults
import int8_table
import layer_mappings
import performance
import result_files
import scale_table
import tasks
import translation

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"<!-- table ([\w-]+) -->\n.*?<!-- end \1 -->", re.DOTALL)

Lines = Iterable[str]

# Model of the SST-2 cascade → its row in README.md, its row in docs/results.md, and its config.
SST2 = {
    "teacher": ("teacher: MiniLM, 6 layers", "teacher, 6 layers", "1-teacher.yaml"),
    "student": ("student: 3 layers", "student, layers 1, 3, 6", "3-student.yaml"),
    "student2": ("", "student2, the last 2 layers of the student", "5-student2.yaml"),
    "student2-plain": (
        "student2-plain: the same 2 layers without distillation",
        "student2-plain, same architecture, gold labels, no distillation",
        "6-student2-plain.yaml",
    ),
    "export": ("student2: 2 layers, int8 ONNX", "student2 as int8 ONNX", "8-export.yaml"),
}
SHORT = ("teacher", "student", "export", "student2-plain")
LABELLED = {
    "teacher-labels": ("label dataset of the teacher", "2-teacher-labels.yaml", "student"),
    "student-labels": ("label dataset of the student", "4-student-labels.yaml", "student2"),
}  # its row, its config, and the model that it comes before
DEMO_BASELINES = {"tfidf": "*baseline: TF-IDF*", "majority": "*baseline: majority class*"}
DEMO = {
    "teacher": "teacher, 6 layers",
    "student": "student, layers 1, 3, 4, 6",
    "student2": "student2, layers 1 and 4 of the student",
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


def sst2_short(results: Mapping[str, Any]) -> Iterator[str]:
    """The table of README.md."""
    metrics = results["eval"]
    yield "| model | accuracy (95 % interval) | size | latency, batch 1 |"
    yield "|---|---:|---:|---:|"
    for model in SHORT:
        milliseconds = metrics[f"{model}.latency_ms_b1"]
        yield f"| {SST2[model][0]} | {_accuracy(metrics, model)} | {_size(metrics, model)} | {milliseconds:.2f} ms |"
    for title, numbers in baselines.measured("sst2"):
        yield row([title, _interval(**_ends(numbers)), baselines.size(numbers), ""])


def sst2(results: Mapping[str, Any]) -> Iterator[str]:
    """All models and label datasets, with what the stages took."""
    metrics, stages = results["eval"], results["stages"]
    yield (
        "| model | config | accuracy (95 %) | retention | agreement | parameters | size | ms, batch 1 | ms, batch 32 "
        "| minutes |"
    )
    yield "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|"
    for model, (_, title, config) in SST2.items():
        for stage, (labels, its_config, before) in LABELLED.items():
            if before == model:
                title_of_labels = f"{labels}, {stages[stage]['rows']:,} rows"
                yield f"| {title_of_labels} | `{its_config}` | | | | | | | | {_minutes(stages[stage])} |"
        parameters = metrics.get(f"{model}.parameters")
        cells = [
            title, f"`{config}`", _accuracy(metrics, model), _share(metrics.get(f"{model}.retention")),
            _share(metrics.get(f"{model}.agreement")), f"{parameters / 1e6:.1f} M" if parameters else "",
            _size(metrics, model), _latency(metrics, model, "b1", 2), _latency(metrics, model, "b32", 1),
            _minutes(stages[model]),
        ]  # fmt: skip
        yield row(cells)
    teacher = metrics["teacher.accuracy"]
    for title, numbers in baselines.measured("sst2"):
        retention = _share(numbers["score"] / teacher)
        yield row([title, "", _interval(**_ends(numbers)), retention, "", "", baselines.size(numbers), "", "", ""])


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
            _accuracy(one, name), _share(one[f"{name}.retention"]), baselines.size({"bytes": two[f"{name}.bytes"]}),
        ]  # fmt: skip
        yield row(cells)


def sweep(results: Mapping[str, Any]) -> Iterator[str]:
    """The recorded table, and the baselines on the same rows."""
    yield from recorded(results)
    for title, numbers in baselines.measured("sweep-demo"):
        retention = _share(numbers["score"] / results["teacher_accuracy"])
        yield row([title, _interval(**_ends(numbers)), retention, "", baselines.size(numbers)])


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


def _latency(metrics: Mapping[str, float], model: str, batch: str, digits: int) -> str:
    faster = metrics.get(f"{model}.speedup_{batch}")
    return f"{metrics[f'{model}.latency_ms_{batch}']:.{digits}f}" + (f" ({faster:.1f}x)" if faster else "")


def _minutes(stage: Mapping[str, Any]) -> str:
    return f"{stage['minutes']:.1f}" + (" *" if stage.get("shared") else "")


RECORDED = ("augmenting", "made-up", "translating", "families")

# Name → its lines, and the file in experiments/results with its numbers.
TABLES: dict[str, tuple[Callable[[Any], Lines], str]] = {
    "sst2-short": (sst2_short, "sst2-minilm.json"),
    "sst2": (sst2, "sst2-minilm.json"),
    "demo": (demo, "demo.json"),
    "sweep-demo": (sweep, "sweep-demo.json"),
    "tasks": (tasks.table, "tasks.json"),
    "int8-agreement": (int8_table.agreement, "int8.json"),
    "int8-size": (int8_table.sizes, "int8.json"),
    "defaults": (defaults.table, "defaults.json"),
    "defaults-sst2": (defaults.earlier_table, "defaults.json"),
    "defaults-held-out": (defaults.held_out_table, "defaults.json"),
    "cascade": (cascade.table, "cascade.json"),
    "layer-mappings": (layer_mappings.table, "layer_mappings.json"),
    **{name: (draw, performance.FILE) for name, draw in performance.TABLES.items()},
    "multi30k": (translation.table, "multi30k.json"),
    "multi30k-exports": (translation.exports_table, "multi30k.json"),
    "scale": (scale_table.table, "scale.json"),
    "scale-resumed": (scale_table.resumed, "scale.json"),
    "scale-tags": (scale_table.tags, "scale.json"),
    **{name: (recorded, f"{name}.json") for name in RECORDED},
}


if __name__ == "__main__":
    main()
