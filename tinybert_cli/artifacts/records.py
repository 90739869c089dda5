"""Write log.jsonl; read metrics.json and log.jsonl of a finished run; render a Markdown table."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from tinybert_cli import strict_json
from tinybert_cli.artifacts.atomic_files import MOST_BYTES, now, read_json, write_text
from tinybert_cli.errors import InputError
from tinybert_cli.escaping import markdown, markdown_cell
from tinybert_cli.events import Event
from tinybert_cli.files import check_regular


def append_events(path_now: Callable[[], Path], events: Iterable[Event]) -> Iterator[Event]:
    """Passes events on and appends each to a log as one line of JSON with its time, except `progress`.

    A number that is NaN or infinite is null there.

    A `resume` event first drops the lines after its step, which a killed run wrote after its last checkpoint.

    Args:
        path_now: where the log is, which a run that replaces another one moves when it is finished. The file is open
            only while a line is written: Windows moves no open file.
    """
    path = path_now()
    if path.exists() and not path.read_bytes().endswith(b"\n"):  # a full disk cut the last line short
        _drop_lines(path)
    for event in events:
        if event["event"] == "resume" and path_now().exists():
            _drop_lines(path_now(), after_step=event["step"])
        if event["event"] != "progress":
            with path_now().open("a", encoding="utf-8", newline="\n") as file:
                file.write(strict_json.dumps({"time": now(), **event}) + "\n")
        yield event


def read_rows(folder: Path, event: str) -> Iterator[Event]:
    """The events of one name that a finished run logged; an incomplete last line is skipped.

    Raises:
        InputError: the log cannot be read.
    """
    path = folder / "log.jsonl"
    check_regular(path)
    with path.open(encoding="utf-8") as file:
        try:
            for line in iter(lambda: file.readline(MOST_BYTES), ""):
                if not line.endswith("\n") and len(line) < MOST_BYTES:  # a full disk or a kill cut the last line short
                    break
                row = json.loads(line)
                if row["event"] == event:
                    yield row
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(f"cannot read '{path}': {error}", hint="restore it, or remove its folder") from error


def read_metrics(folder: Path) -> dict[str, float]:
    """metrics.json of a finished folder."""
    metrics: dict[str, float] = read_json(folder / "metrics.json")
    return metrics


def markdown_table(title: str, metrics: Mapping[str, float], columns: Sequence[str]) -> str:
    """Numbers called `<column>.<name>` as a Markdown table with one row per name."""
    names = dict.fromkeys(key.partition(".")[2] for key in metrics)
    head = ["| |" + "".join(f" {markdown_cell(column)} |" for column in columns), "|---|" + "---:|" * len(columns)]
    body = [
        f"| {markdown_cell(name)} |" + "".join(f" {_format(metrics.get(f'{column}.{name}'))} |" for column in columns)
        for name in names
    ]
    return "\n".join([f"# {markdown(title)}", "", *head, *body, ""])


def _drop_lines(path: Path, *, after_step: int | None = None) -> None:
    """Replaces the log by one without incomplete lines and without events after a step."""
    selected = []
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                step = json.loads(line).get("step", 0)
            except ValueError:  # incomplete
                continue
            if after_step is None or step <= after_step:
                selected.append(line)
    write_text(path, "".join(selected))


def _format(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if float(value).is_integer() else f"{value:.4g}"
