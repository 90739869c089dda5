"""Runs single files of a recipe for the experiments; what a finished stage has measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml


def run(command: str, config: Path, folder: Path, settings: list[str], variables: Mapping[str, str]) -> Path:
    """Runs a command with a config file, unless its folder is finished; ends the script if it fails.

    Args:
        folder: `output_dir`.
        settings: KEY=VALUE, over those of the file.
        variables: of the environment, that the file names.
    """
    if not is_finished(folder):
        words = [command, str(config), f"output_dir={folder}", *settings, "--quiet"]
        done = subprocess.run([sys.executable, "-m", "tinybert_cli", *words], env={**os.environ, **variables})
        if done.returncode:
            sys.exit(done.returncode)
        print(folder, flush=True)
    return folder


def command_of(config: Path) -> str:
    """The command that reads a config file."""
    return str(yaml.safe_load(config.read_text(encoding="utf-8"))["stage"])


def is_finished(folder: Path) -> bool:
    return (folder / "manifest.json").exists()


def read_metrics(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return content


def cpu_minutes(folder: Path) -> float:
    """CPU time of a training."""
    return float(read_metrics(folder)["train_cpu_seconds"]) / 60
