"""What a finished folder has on record: the table, the numbers, the rows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tinybert_cli.artifacts.atomic_files import read_json


def markdown_table(title: str, metrics: Mapping[str, float], columns: Sequence[str]) -> str:
    """`<column>.<name>` numbers as a Markdown table, a row for each name."""
    names = dict.fromkeys(key.partition(".")[2] for key in metrics)
    head = ["| |" + "".join(f" {column} |" for column in columns), "|---|" + "---:|" * len(columns)]
    body = [
        f"| {name} |" + "".join(f" {_shown(metrics.get(f'{column}.{name}'))} |" for column in columns) for name in names
    ]
    return "\n".join([f"# {title}", "", *head, *body, ""])


def read_metrics(folder: Path) -> dict[str, float]:
    """metrics.json of a finished folder."""
    metrics: dict[str, float] = read_json(folder / "metrics.json")
    return metrics


def read_rows(folder: Path, event: str) -> Iterator[dict[str, Any]]:
    """The rows of one kind that a finished run recorded."""
    for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["event"] == event:
            yield row


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if float(value).is_integer() else f"{value:.4g}"
