"""What an output folder holds, compared with the settings of a run that would write it; nothing is read but JSON."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tinybert_cli.artifacts.atomic_files import read_json
from tinybert_cli.artifacts.manifests import MANIFEST, differences, settings_of
from tinybert_cli.artifacts.replacement import STARTED
from tinybert_cli.config import Stage
from tinybert_cli.errors import InputError


@dataclass(frozen=True)
class Status:
    """`state` is new, finished, interrupted or damaged; `differences` are the settings that the earlier run had."""

    state: str
    differences: tuple[str, ...] = ()


def status(command: str, config: Stage) -> Status:
    """The state of `config.output_dir`. Inputs are not compared: the stage itself does that when it runs."""
    folder = Path(config.output_dir)
    for file, state in ((folder / MANIFEST, "finished"), (folder / STARTED, "interrupted")):
        if file.exists():
            try:
                earlier = read_json(file)
                before = {key: earlier[key] for key in ("command", "settings")} | {"resolved": earlier.get("resolved")}
            except (InputError, KeyError, TypeError):
                return Status("damaged")
            return Status(state, tuple(differences(before, {"command": command, "settings": settings_of(config)})))
    return Status("new")
