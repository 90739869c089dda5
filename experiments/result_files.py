"""The files in experiments/results, from which `tables.py` and `picture.py` make the tables and plots of the docs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def read(name: str) -> dict[str, Any]:
    """The content of a result file; empty if there is none yet. `name` may be an absolute path."""
    file = RESULTS / name
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return content


def record(name: str, key: str, value: Any) -> dict[str, Any]:
    """Sets one entry of a result file, which is replaced at once; returns its new content."""
    content = {**read(name), key: value}
    file = RESULTS / name
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(f".{file.name}.{os.getpid()}")
    new.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    new.replace(file)
    return content
