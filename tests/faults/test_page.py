"""docs/reliability.md is the page of the current table of faults."""

from __future__ import annotations

from pathlib import Path

from page import cell
from table import TABLE

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"


def test_page_has_every_fault_with_its_command_and_exit_code() -> None:
    page = PAGE.read_text(encoding="utf-8")
    rows = [
        f"| {cell(fault.name)} | {cell(fault.words)} | {fault.code} |" for faults in TABLE.values() for fault in faults
    ]
    assert [row for row in rows if row not in page] == []
