"""Parallel text files: one text per line, the same line of every file is a row. `train.{en,de}` names two of them."""

from __future__ import annotations

import re
from pathlib import Path

from tinybert_cli.data.text_files import read_text, split_lines
from tinybert_cli.errors import InputError
from tinybert_cli.input_versions import unchanged
from tinybert_cli.types import Rows

_BRACES = re.compile(r"\{([^{}/,]+(?:,[^{}/,]+)+)\}")


def parallel_files(path: Path) -> dict[str, Path]:
    """Column → its file, of a name such as `train.{en,de}` or `{en,de}/train.txt.gz`; empty for other names."""
    names = _BRACES.search(str(path))
    if names is None or path.exists():
        return {}
    before, after = str(path)[: names.start()], str(path)[names.end() :]
    return {name.strip(): Path(f"{before}{name.strip()}{after}") for name in names[1].split(",")}


def read_parallel(path: Path) -> Rows:
    """The rows of the files that `path` names, one column of each; empty lines are empty texts.

    Raises:
        InputError: the files have different numbers of lines, or one was changed while it was read.
    """
    columns = {name: _lines(file) for name, file in parallel_files(path).items()}
    counts = {name: len(lines) for name, lines in columns.items()}
    if len(set(counts.values())) > 1:
        lines = ", ".join(f"{count:,} lines in '{name}'" for name, count in counts.items())
        raise InputError(
            f"the files of '{path}' have different numbers of lines: {lines}",
            where=str(path),
            hint="line n of one file must be the translation of line n of the other",
        )
    return Rows({name: list(lines) for name, lines in columns.items()}, ((str(path), next(iter(counts.values()))),))


def _lines(file: Path) -> list[str]:
    with unchanged(file):
        lines = split_lines(read_text(file))
    if not lines[-1]:  # after the last line feed
        del lines[-1]
    return [line.strip(" \t\r") for line in lines]
