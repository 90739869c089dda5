"""report: finished runs side by side, from their manifests and metrics alone."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from tinybert_cli import artifacts
from tinybert_cli.errors import InputError

Row = dict[str, Any]

COLUMNS = ("run", "command", "seconds", "parameters", "bytes")  # and then every metric that a run has
SHOWN = ("eval_accuracy", "teacher_accuracy", "agreement", "rows_per_second", "train_samples_per_second")


def run(folders: Sequence[Path]) -> list[Row]:
    """A row for each finished run: `run`, `command`, `seconds`, `bytes` of its files, and all its metrics.

    Without folders, those under runs/. An unfinished one is left out if it was only found there.

    Raises:
        InputError: a folder that was named is no finished run, or there is none at all.
    """
    found = list(folders) or sorted(file.parent for file in Path("runs").glob("**/manifest.json"))
    if not found:
        raise InputError("there is no finished run under runs/", hint="name the folders: tinybert report RUN...")
    for folder in found:
        if not (folder / "manifest.json").is_file():
            raise InputError(f"'{folder}' is no finished run: it has no manifest.json", where=str(folder))
    return [_row(folder) for folder in found]


def as_markdown(rows: Sequence[Row]) -> str:
    """One table, a row for each run; of the metrics those that most runs are compared by."""
    names = [name for name in (*COLUMNS, *SHOWN) if any(name in row for row in rows)]
    lines = ["| " + " | ".join(names) + " |", "|---|---|" + "---:|" * (len(names) - 2)]
    lines += ["| " + " | ".join(_shown(name, row.get(name)) for name in names) + " |" for row in rows]
    return "\n".join(lines)


def _row(folder: Path) -> Row:
    manifest = artifacts.read_manifest(folder)
    begin, end = (datetime.fromisoformat(manifest[name]) for name in ("start", "end"))
    return {
        "run": str(folder),
        "command": manifest["command"],
        "seconds": round((end - begin).total_seconds()),
        **({"parameters": manifest["parameters"]} if "parameters" in manifest else {}),
        "bytes": sum(entry["bytes"] for entry in manifest["outputs"]),
        **artifacts.read_metrics(folder),
    }


def _shown(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name == "bytes":
        return f"{value / 1e6:.1f} MB"
    if name == "parameters":
        return f"{value / 1e6:.1f} M"
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
