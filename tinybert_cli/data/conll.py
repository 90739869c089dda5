"""Reader of conll files: one word and its tags per line, an empty line after each sentence."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tinybert_cli.data.text_files import read_text, split_lines
from tinybert_cli.errors import InputError

_TAG = re.compile(r"O|[BIESLUM]-\S+")


def read_conll(path: Path, names: Sequence[str]) -> dict[str, list[Any]]:
    """Words and tags of each sentence. Columns are separated by tabs or, in a file without tabs, by spaces.

    Other spaces, such as U+00A0, are part of a word. -DOCSTART- lines and comments (# ...) are skipped.

    Args:
        names: of the columns; if the file has more, the last name is that of its last column.
    """
    lines = _cells(split_lines(read_text(path)))
    counts = Counter(len(cells) for cells in lines if cells)
    width = counts.most_common(1)[0][0]
    sentences: list[list[list[str]]] = [[]]
    for number, cells in enumerate(lines, 1):
        if not cells:
            sentences.append([])
        elif cells[0] == "-DOCSTART-" or (cells[0].startswith("#") and len(cells) != width):
            continue
        elif len(cells) != width:
            raise InputError(
                f"{len(cells)} columns, but most lines have {width}",
                where=f"{path}:{number}",
                hint="one word and its tags per line, separated by tabs or spaces; an empty line after each sentence",
            )
        elif "" in cells:
            raise InputError("an empty column", where=f"{path}:{number}", hint="give each line a word and all its tags")
        else:
            sentences[-1].append(cells)
    sentences = [sentence for sentence in sentences if sentence]
    if not sentences:
        raise InputError(f"'{path}' has no words")
    columns = [[[cells[index] for cells in sentence] for sentence in sentences] for index in range(width)]
    return dict(zip(_column_names(width, names, path), columns, strict=True))


def is_conll(lines: Sequence[str]) -> bool:
    """Whether every line that is not empty has the same number of columns, of which the last is an entity tag."""
    rows = [cells for cells in _cells(lines) if cells and cells[0] != "-DOCSTART-"]
    tagged = all(len(cells) > 1 and _TAG.fullmatch(cells[-1]) for cells in rows)
    return tagged and len(rows) > 1 and len({len(cells) for cells in rows}) == 1


def _cells(lines: Sequence[str]) -> list[list[str]]:
    """The columns of each line; none for an empty line."""
    stripped = [line.strip(" ") for line in lines]
    tabs = sum("\t" in line for line in stripped)
    separator = re.compile(r"\t" if tabs > sum(map(bool, stripped)) // 2 else r"[ \t]+")
    rows = [[cell.strip(" ") for cell in separator.split(line)] if line else [] for line in stripped]
    return [cells if any(cells) else [] for cells in rows]


def _column_names(width: int, names: Sequence[str], path: Path) -> list[str]:
    if width == 1:  # no tags
        return [names[0]]
    if width < len(names):
        raise InputError(
            f"'{path}' has {width} columns, but {len(names)} are named: {', '.join(names)}",
            hint="set data.conll_column_names to the names of its columns",
        )
    between = [f"column_{index + 1}" for index in range(len(names) - 1, width - 1)]
    return [*names[:-1], *between, names[-1]]
