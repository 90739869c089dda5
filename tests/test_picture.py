"""The plots of the README and the docs: made from the result files, readable, and with the numbers of the tables."""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "experiments"))

pytest.importorskip("matplotlib")
import picture  # noqa: E402

SVG = "{http://www.w3.org/2000/svg}"
SST2 = json.loads((picture.RESULTS / "sst2-minilm.json").read_text())
TASKS = json.loads((picture.RESULTS / "tasks.json").read_text())
RESULTS_PAGE = (ROOT / "docs/results.md").read_text()
# First cell of a row of the README's table, or of docs/results.md → model
ROWS = {
    r"teacher\b": "teacher", r"student\b(?!2)": "student", r"student2-plain\b": "student2-plain",
    r"student2\b(?!-plain).*int8": "export", r"student2\b(?!-plain)(?!.*int8)": "student2",
}  # fmt: skip
every_picture = pytest.mark.parametrize("name", picture.PICTURES)


def table_rows(text: str) -> list[list[str]]:
    """The cells of every table row of a Markdown text, without emphasis."""
    lines = [line.strip().strip("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip().strip("*`") for cell in line.split("|")] for line in lines]


def compare_with_results(row: list[str], model: str) -> None:
    """Every number of a row has the value of the result file."""
    accuracy, low, high = (SST2[f"{model}.{name}"] for name in ("accuracy", "accuracy_low", "accuracy_high"))
    assert f"{accuracy:.4f} ({low:.3f}-{high:.3f})" in row, row
    assert f"{SST2[f'{model}.bytes'] / 1e6:.1f} MB" in row, row
    assert any(re.match(rf"{SST2[f'{model}.latency_ms_b1']:.2f}\b", cell) for cell in row), row


@every_picture
def test_committed_plot_is_what_the_script_draws(name: str) -> None:
    assert (picture.IMAGES / name).read_text() == picture.picture(name), "run: python experiments/picture.py"


def test_plots_show_the_numbers_of_the_result_file() -> None:
    other = {**SST2, "student.accuracy": 0.75, "student.accuracy_low": 0.7}
    assert "student: 3.05 ms, accuracy 0.75 (0.700 to" in picture.cascade(other)
    assert "squad: student 94.0 %, student2 56.0 %, plain 27.7 %" in picture.tasks(TASKS)


@every_picture
def test_texts_of_a_plot_do_not_overlap(name: str) -> None:
    root = ElementTree.fromstring((picture.IMAGES / name).read_text())
    edges = [float(number) for number in (root.get("viewBox") or "").split()]
    boxes = []
    for node in root.iter(f"{SVG}text"):
        style, text = node.get("style") or "", (node.text or "").strip()
        size = float(re.findall(r"font-size: ([\d.]+)px", style)[0])
        width, height = 0.58 * size * len(text), size  # in DejaVu Sans, one of the widest fonts
        x, y = float(node.get("x") or 0), float(node.get("y") or 0)
        left = x - {"middle": width / 2, "end": width}.get("".join(re.findall(r"text-anchor: (\w+)", style)), 0.0)
        if "rotate(-90" in (node.get("transform") or ""):
            boxes.append((text, x - height, y - width / 2, x, y + width / 2))
        else:
            boxes.append((text, left, y - 0.75 * height, left + width, y + 0.1 * height))
    assert len(boxes) > 8
    for index, (text, left, top, right, bottom) in enumerate(boxes):
        assert left >= edges[0] and right <= edges[0] + edges[2], f"{text} is outside of the plot"
        for other, left2, top2, right2, bottom2 in boxes[index + 1 :]:
            assert right <= left2 or right2 <= left or bottom <= top2 or bottom2 <= top, f"{text} / {other}"


@every_picture
def test_a_plot_brings_its_background_and_no_outside_file(name: str) -> None:
    root = ElementTree.fromstring((picture.IMAGES / name).read_text())
    assert root.get("width") == "720"
    rect, style = root.find(f"{SVG}rect"), root.find(f"{SVG}style")
    assert rect is not None and rect.get("fill") == "var(--paper)"
    assert style is not None and "prefers-color-scheme: dark" in (style.text or "")
    text = (picture.IMAGES / name).read_text()
    assert not re.search(r"url\((?!#)|href=\"(?!#)|@import|<script", text)


def test_results_page_has_the_sst2_numbers_of_the_result_file() -> None:
    section = RESULTS_PAGE.split("## SST-2 with the packaged MiniLM")[1].split("\n## ")[0]
    found = []
    for row in table_rows(section):
        model = next((model for label, model in ROWS.items() if re.match(label, row[0])), None)
        if model is not None:
            compare_with_results(row, model)
            found.append(model)
            for column, key in ((3, "retention"), (4, "agreement")):
                assert row[column] == (f"{SST2[f'{model}.{key}']:.1%}".replace("%", " %") if model != "teacher" else "")
            assert row[8].split()[0] == f"{SST2[f'{model}.latency_ms_b32']:.1f}"
    assert found == ["teacher", "student", "student2", "student2-plain", "export"]


def test_readme_table_has_the_numbers_of_the_result_file() -> None:
    found = set()
    for row in table_rows((ROOT / "README.md").read_text()):
        model = next((model for label, model in ROWS.items() if re.match(label, row[0])), None)
        if model is not None and row[-1].endswith(" ms"):
            compare_with_results(row, model)
            found.add(model)
    assert {"teacher", "student", "export", "student2-plain"} <= found


def test_retention_and_speedup_follow_from_the_scores() -> None:
    for model in ("student", "student2", "student2-plain", "export"):
        retention = SST2[f"{model}.accuracy"] / SST2["teacher.accuracy"]
        assert math.isclose(SST2[f"{model}.retention"], retention, abs_tol=1e-3), model
        for batch in ("b1", "b32"):
            ratio = SST2[f"teacher.latency_ms_{batch}"] / SST2[f"{model}.latency_ms_{batch}"]
            assert math.isclose(SST2[f"{model}.speedup_{batch}"], ratio, rel_tol=0.03), (model, batch)


def test_results_page_has_the_scores_of_the_other_tasks() -> None:
    section = RESULTS_PAGE.split("## Other tasks")[1].split("\n## ")[0]
    scores: dict[str, dict[str, float]] = {}
    dataset = ""
    for row in table_rows(section):
        if row[1:] and row[1] in ("teacher", *picture.SMALL):
            dataset = row[0].split(",")[0] or dataset
            scores.setdefault(dataset, {})[row[1]] = float(row[2].split()[-1])
    assert scores == TASKS
