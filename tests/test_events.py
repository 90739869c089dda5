"""The table of events is complete: every event of the package, with every key that is written out in the code."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

from tinybert_cli import events
from tinybert_cli.events import EVENTS

PACKAGE = Path(events.__file__).parent


def literal_events(file: Path) -> list[tuple[str, set[str]]]:
    """Name and literal keys of every `{"event": "name", ...}` in a file."""
    result = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Dict):
            items = {
                key.value: value
                for key, value in zip(node.keys, node.values, strict=True)
                if isinstance(key, ast.Constant)
            }
            name = items.pop("event", None)
            if isinstance(name, ast.Constant):
                result.append((str(name.value), {str(key) for key in items}))
    return result


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_every_event_and_key_in_the_code_is_documented(file: Path) -> None:
    for name, keys in literal_events(file):
        assert name in EVENTS, f"{file}: unknown event '{name}'"
        assert keys <= EVENTS[name].keys(), f"{file}: undocumented key of '{name}'"


def test_every_documented_event_is_made_somewhere() -> None:
    made = {name for file in PACKAGE.rglob("*.py") for name, _ in literal_events(file)}
    assert made == EVENTS.keys()


@pytest.mark.parametrize(
    "event",
    [
        events.plan(12, device="cpu"),
        events.warning("2 rows were cut"),
        events.resume(4, 9),
        events.progress(4, 9, rows=32, seconds=1.5, loss=0.5),
        events.done("runs/teacher", {}),
    ],
    ids=lambda event: event["event"],
)
def test_constructors_return_documented_keys(event: dict[str, Any]) -> None:
    assert event.keys() - {"event"} <= EVENTS[event["event"]].keys()
