"""Reader of conll files: one word and its tags per line, an empty line after each sentence."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tinybert_cli.data.text_files import read_text, split_lines
from tinybert_cli.errors import InputError
from tinybert_cli.wording import counted, verb

log = logging.getLogger("tinybert")

_TAG = re.compile(r"O|[BIESLUM]-\S+")


def read_conll(path: Path, names: Sequence[str]) -> dict[str, list[Any]]:
    """Words and tags of each sentence. Columns are separated by tabs or, in a file without tabs, by spaces.

    Other spaces, such as U+00A0, are part of a word. A -DOCSTART- line ends a sentence. Comments (# ...) are skipped.

    Args:
        names: of the columns; if the file has more, the last name is that of its last column.
    """
    lines = _cells(split_lines(read_text(path)))
    counts = Counter(len(cells) for cells in lines if cells)
    width = counts.most_common(1)[0][0]
    comments = set(_comments(lines, width))
    _warn_of_comments([number for number in sorted(comments) if len(lines[number - 1]) == width], path)
    sentences: list[list[list[str]]] = [[]]
    for number, cells in enumerate(lines, 1):
        if not cells or cells[0] == "-DOCSTART-":
            sentences.append([])
        elif number in comments:
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


def _comments(lines: Sequence[Sequence[str]], width: int) -> Iterator[int]:
    """The numbers of the lines that are comments, from 1.

    A line that begins with # and has as many columns as the others may be a word. It is a comment if it is before the
    words of a sentence and its last column is no tag: it has none of the form B-PER, and none of another line.
    """
    doubtful: list[int] = []
    tags: set[str] = set()
    before_words = True
    for number, cells in enumerate(lines, 1):
        if not cells or cells[0] == "-DOCSTART-":
            before_words = True
        elif cells[0].startswith("#") and len(cells) != width:
            yield number
        elif cells[0].startswith("#") and before_words and width > 1:
            doubtful.append(number)
        else:
            before_words = False
            tags.add(cells[-1])
    for number in doubtful:
        last = lines[number - 1][-1]
        if last not in tags and not _TAG.fullmatch(last) and any(map(str.isalnum, last)):
            yield number


def _warn_of_comments(numbers: Sequence[int], path: Path) -> None:
    if numbers:
        log.warning(
            "%s of %s %s with # and %s as many columns as a word, but no tag of another one: read as %s (first: %s:%s)",
            counted(len(numbers), "line"), path.name, verb(len(numbers), "begins", "begin"),
            verb(len(numbers), "has", "have"), verb(len(numbers), "a comment", "comments"), path, numbers[0],
        )  # fmt: skip


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
