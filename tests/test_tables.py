"""Every measured table of README.md, docs/results.md and docs/performance.md is made from the result files."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "experiments"))

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


def test_another_number_in_a_result_file_changes_the_table() -> None:
    measured = {"accuracy": 0.5, "accuracy_low": 0.4, "accuracy_high": 0.6, "bytes": 1e6, "latency_ms_b1": 2.0}
    results = {"eval": {f"{model}.{key}": value for model in tables.SST2 for key, value in measured.items()}}
    assert "| student: 3 layers | 0.5000 (0.400-0.600) | 1.0 MB | 2.00 ms |" in list(tables.sst2_short(results))
