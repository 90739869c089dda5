"""Settings of `data` that are given on the command line without a config file."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from tinybert_cli import configuration
from tinybert_cli.config import Finetune

NO_MODEL = "none"  # the model of a config for which none is given


def load(overrides: Sequence[str]) -> Finetune:
    """A finetune config with nothing but these `KEY=VALUE`s, checked like those of every command.

    Raises:
        ConfigErrors: a key or a value is wrong.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "settings.yaml"
        text = f"task: text-classification\ndata: {{}}\nmodel: {NO_MODEL}\noutput_dir: none\n"
        file.write_text(text, encoding="utf-8")
        config = configuration.load("finetune", file, overrides)
    assert isinstance(config, Finetune)
    return config
