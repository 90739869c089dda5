"""Every measured table of README.md, docs/results.md and docs/performance.md is made from the result files."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "experiments"))

import sst2_tables  # noqa: E402
import tables  # noqa: E402

NUMBERS = re.compile(r"^\|.*\d\.\d", re.MULTILINE)


@pytest.mark.parametrize("page", tables.pages(), ids=lambda page: page.name)
def test_tables_of_a_page_have_the_numbers_of_the_result_files(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text == tables.filled(text), "run: python experiments/tables.py"


def test_every_table_is_on_a_page() -> None:
    names = {name for page in tables.pages() for name in tables.BLOCK.findall(page.read_text(encoding="utf-8"))}
    assert names == tables.TABLES.keys()


@pytest.mark.parametrize("page", ["README.md", "docs/results.md", "docs/performance.md"])
def test_no_measured_table_is_written_by_hand(page: str) -> None:
    outside = tables.BLOCK.sub("", (ROOT / page).read_text(encoding="utf-8"))
    assert NUMBERS.findall(outside) == []


def sst2_results(accuracies: list[float]) -> dict[str, Any]:
    models = {name: {"low": 0.4, "high": 0.6, "bytes": 1e6, "minutes": 2.0} for name in sst2_tables.ALL}
    difference = {"": 0.1, "low": -0.01, "high": 0.2}
    report = {
        str(seed): {
            "models": {name: {**own, "accuracy": value if name == "student" else 0.5} for name, own in models.items()},
            "differences": {"student minus teacher": difference},
        }
        for seed, value in enumerate(accuracies)
    }
    return {"report": report, "latencies": {"0": {name: {"b1": 2.0, "b32": 8.0} for name in models}}}


def test_another_number_in_a_result_file_changes_the_table() -> None:
    lines = list(sst2_tables.short(sst2_results([0.4, 0.5])))
    assert "| student: 3 layers | 0.4500 (0.4000-0.5000) | 90.0% | 1.0 MB | 2.00 ms |" in lines
    (line,) = (one for one in sst2_tables.report(sst2_results([0.4, 0.5])) if one.startswith("| student, layers"))
    assert "| 0.4000, 0.5000 | 0.4500 | 90.0%, 80.0% | +0.1000 (-0.010 to +0.200), +0.1000 " in line
