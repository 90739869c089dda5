"""Writes the table of model families in docs/students.md. `make reference` runs it."""

from __future__ import annotations

from pathlib import Path

from tinybert_cli.models.capabilities import capability_markdown

PAGE = Path(__file__).parents[1] / "docs" / "students.md"
BEGIN, END = "<!-- families: written by make reference -->\n", "<!-- end of families -->"


def with_table(page: str) -> str:
    """The page with the table as the code has it now."""
    begin, end = page.index(BEGIN) + len(BEGIN), page.index(END)
    return f"{page[:begin]}\n{capability_markdown()}\n{page[end:]}"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
