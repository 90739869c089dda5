"""YAML 1.2 core types, read so that every key and every value knows its location."""

from __future__ import annotations

import bisect
import itertools
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import yaml

COMMAND_LINE = "command line"
MOST_NODES = 100_000  # aliases of aliases can turn a few lines into billions of values
DEEPEST = 50

Scalar = str | int | float | bool | None


@dataclass(frozen=True)
class Location:
    """A stretch of one line of a file, or of one argument of the command line; line and column count from 1."""

    source: str
    line: int
    column: int
    width: int
    text: str


@dataclass(frozen=True)
class Node:
    """A value, where it stands, and where the key stands that it belongs to."""

    value: Scalar | dict[str, Node] | list[Node]
    at: Location
    key_at: Location | None = None
    spelled: str = ""
    """The scalar as it was written, without quotes: `5e-5`, `~`."""
    quoted: bool = False

    def plain(self) -> Any:
        """The value alone, of dicts, lists and scalars."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def along(self, path: tuple[str | int, ...]) -> Iterator[Node]:
        """The nodes that `path` leads through, as far as it leads; the first is this one."""
        yield self
        if path and isinstance(self.value, dict) and path[0] in self.value:
            yield from self.value[str(path[0])].along(path[1:])
        elif path and isinstance(self.value, list) and isinstance(path[0], int) and path[0] < len(self.value):
            yield from self.value[path[0]].along(path[1:])


class Complaint(Exception):
    """What is wrong, where, and what mends it; raised only where reading cannot go on."""

    def __init__(self, what: str, location: Location, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.location = location
        self.hint = hint

    def __str__(self) -> str:
        location = self.location
        if location.source == COMMAND_LINE:
            arrow = f"  --> {COMMAND_LINE}: "
            caret = "   |" + " " * (len(arrow) - 4) + _carets(location, self.hint)
            return f"{_printable(self.what)}\n{arrow}{_printable(location.text)}\n{caret}"
        number = str(location.line)
        gutter = " " * len(number)
        shown = _cropped(location)
        return "\n".join(
            [
                _printable(self.what),
                f"{gutter}--> {location.source}:{location.line}:{location.column}",
                f"{gutter} |",
                f"{number} | {_printable(shown.text)}".rstrip(),
                f"{gutter} | {_carets(shown, self.hint)}",
            ]
        )


def read(text: str, source: str, complaints: list[Complaint]) -> Node | None:
    """The one document in `text`; None if there is nothing but comments.

    What can be read past (duplicate keys, tags, keys that are no texts) is added to `complaints`;
    a Complaint is raised for the rest (broken syntax, too deep, too many nodes).
    """
    return _Reader(_Lines(text, source), complaints).read(text)


def read_argument(argument: str, number: int, start: int, complaints: list[Complaint]) -> Node | None:
    """The value that begins at `start` in the command line's argument with this number, by the same rules."""
    # Blanks in location of `KEY=` keep the columns right, and `%` and `---` from being taken for directives.
    text = " " * start + argument[start:]
    return _Reader(_Lines(argument, COMMAND_LINE, number), complaints).read(text)


def argument_location(argument: str, number: int, start: int, end: int) -> Location:
    """The characters from `start` to `end` of the command line's argument with this number."""
    return _Lines(argument, COMMAND_LINE, number).location(start, end)


def file_location(text: str, source: str) -> Location:
    """What stands for a file as a whole: its first line."""
    return _Lines(text, source).location(0, 1)


def scalar(text: str) -> Scalar:
    """What unquoted `text` means in YAML 1.2's core schema."""
    if text in _WORDS:
        return _WORDS[text]
    if INTEGER.match(text):
        return _whole_number(text)
    if FLOAT.match(text):
        return float(text)
    if _NOT_FINITE.match(text):
        return float(text.replace(".", ""))
    return text


class _Lines:
    """The lines of a source, to find the location of a character."""

    def __init__(self, text: str, source: str, argument: int | None = None) -> None:
        self.source = source
        self.argument = argument
        self.text = text if argument is None else text.replace("\n", " ")
        self.lines = self.text.split("\n")
        self.starts = list(itertools.accumulate((len(line) + 1 for line in self.lines), initial=0))[:-1]

    def location(self, start: int, end: int) -> Location:
        index = bisect.bisect_right(self.starts, start) - 1
        first, line = self.starts[index], self.lines[index].rstrip()
        width = max(1, min(end, first + len(line)) - start)
        return Location(self.source, self.argument or index + 1, start - first + 1, width, line)


class _Loader(yaml.SafeLoader):
    """Composes nodes and constructs nothing, so that no file can run code."""

    def __init__(self, text: str, reader: _Reader) -> None:
        super().__init__(text)
        self.reader = reader
        self.depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if not isinstance(event, yaml.AliasEvent) and event.tag is not None:
            self.reader.refuse_tag(event.start_mark.index)
            event.tag = None
        self.reader.check_depth(self.depth, event.start_mark.index)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Reader:
    """Turns PyYAML's nodes into ours."""

    def __init__(self, lines: _Lines, complaints: list[Complaint]) -> None:
        self.lines = lines
        self.complaints = complaints
        self.count = 0
        self.outer = lines.location(0, 1)

    def read(self, text: str) -> Node | None:
        try:
            node = _Loader(text, self).get_single_node()
        except yaml.reader.ReaderError as error:
            what = f"a character that no text file holds (code {error.character})"
            raise Complaint(what, self.lines.location(error.position, error.position + 1), "delete it") from None
        except yaml.MarkedYAMLError as error:
            raise self._syntax(error) from None
        return None if node is None else self._node(node, 0)

    def refuse_tag(self, start: int) -> None:
        tag = re.compile(r"(?:&\S+\s+)?(![^\s,\]}]*)").search(self.lines.text, start)
        location = self.lines.location(*tag.span(1)) if tag else self.lines.location(start, start + 1)
        self._complain("a config has no tags", location, "delete it: no value here needs one")

    def check_depth(self, depth: int, start: int) -> None:
        if depth > DEEPEST:
            raise Complaint(f"nested more than {DEEPEST} deep", self.lines.location(start, start + 1))

    def _node(self, node: yaml.Node, depth: int) -> Node:
        start = node.start_mark.index
        self.check_depth(depth, start)
        location = self.lines.location(start, node.end_mark.index)
        self.outer = location if depth <= 1 else self.outer
        self.count += 1
        if self.count > MOST_NODES:
            raise Complaint(f"aliases make more than {MOST_NODES} values of this", self.outer)
        if isinstance(node, yaml.MappingNode):
            return Node(self._mapping(node, depth), location)
        if isinstance(node, yaml.SequenceNode):
            return Node([self._node(item, depth + 1) for item in node.value], location)
        assert isinstance(node, yaml.ScalarNode)
        quoted = node.style is not None
        return Node(node.value if quoted else scalar(node.value), location, spelled=node.value, quoted=quoted)

    def _mapping(self, node: yaml.MappingNode, depth: int) -> dict[str, Node]:
        entries: dict[str, Node] = {}
        for key_node, value_node in node.value:
            key_at = self.lines.location(key_node.start_mark.index, key_node.end_mark.index)
            key = self._key(key_node, key_at)
            if key is None:
                continue
            if key in entries:
                self._complain(f"duplicate key '{key}'", key_at, _already(entries[key], key_at))
            value = replace(self._node(value_node, depth + 1), key_at=key_at)
            # A block or a blank begins after the key's line, or nowhere: the key shows it better.
            beside = value_node.start_mark.index < value_node.end_mark.index and not _is_block(value_node)
            entries[key] = value if beside else replace(value, at=key_at)
        return entries

    def _key(self, node: yaml.Node, location: Location) -> str | None:
        if not isinstance(node, yaml.ScalarNode):
            self._complain("a key has to be a text", location)
            return None
        if node.value == "<<" and node.style is None:
            self._complain(
                "`<<` does not merge in YAML 1.2", location, "write `extends: FILE` at the top level instead"
            )
            return None
        value = node.value if node.style is not None else scalar(node.value)
        if isinstance(value, bool) or not isinstance(value, (str, int)):  # a whole number stands for its text
            self._complain(
                f"a key has to be a text, found {node.value or 'nothing'}", location, f"write '{node.value}'"
            )
            return None
        return str(node.value)

    def _complain(self, what: str, location: Location, hint: str = "") -> None:
        # An alias repeats what its anchor did wrong.
        if all((what, location) != (complaint.what, complaint.location) for complaint in self.complaints):
            self.complaints.append(Complaint(what, location, hint))

    def _syntax(self, error: yaml.MarkedYAMLError) -> Complaint:
        problem, context = error.problem or "", error.context or ""
        problem = problem.replace("'\\t'", "TAB").removeprefix("but ")
        mark = error.problem_mark or error.context_mark
        assert mark is not None  # the scanner and the parser always say where
        begun = error.context_mark or mark
        hint = next((hint for pattern, hint in _SYNTAX_HINTS if re.search(pattern, problem)), "")
        line = self.lines.location(mark.index, mark.index + 1).text
        if re.search("expected ',' or|flow (mapping|sequence)", problem + context):
            problem, mark = "this bracket is not closed", begun
            hint = 'inside brackets, write "${NAME}" in quotes' if "${" in line else ""
        elif "quoted scalar" in context and "unexpected end" in problem:
            problem, mark = "this quote is not closed", begun
        elif "could not find expected ':'" in problem:
            mark = begun
        elif "expected <block end>" in problem:
            problem = "this fits nothing above it"
        return Complaint(f"not YAML: {problem}", self.lines.location(mark.index, mark.index + 1), hint)


def _whole_number(text: str) -> int | float:
    if text.startswith(("0o", "0x")):
        return int(text, 0)
    return int(text) if len(text) < 1000 else float(text)  # Python refuses to read very long ones


def _is_block(node: yaml.Node) -> bool:
    return isinstance(node, yaml.CollectionNode) and not node.flow_style


def _already(node: Node, location: Location) -> str:
    where = f"line {node.key_at.line}" if node.key_at and location.source != COMMAND_LINE else "the same argument"
    return f"already set in {where}"


def _carets(location: Location, hint: str) -> str:
    """Blanks as wide as what stands before the location, then the carets."""
    before = location.text[: location.column - 1]
    blanks = "".join("\t" if character == "\t" else " " * _cells(character) for character in before)
    blanks += " " * (location.column - 1 - len(before))
    marked = location.text[location.column - 1 : location.column - 1 + location.width]
    carets = "^" * max(1, sum(map(_cells, marked)))
    return f"{blanks}{carets} {hint}".rstrip()


def _cells(character: str) -> int:
    """Columns of a terminal that a character takes."""
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _cropped(location: Location, before: int = 60, most: int = 140) -> Location:
    """The location in a line that is short enough to show."""
    if len(location.text) <= most:
        return location
    first = max(0, min(location.column - 1 - before, len(location.text) - most))
    text = ("…" if first else "") + location.text[first : first + most]
    more = "…" if first + most < len(location.text) else ""
    column = location.column - first + (1 if first else 0)
    return replace(location, text=text + more, column=column, width=min(location.width, len(text) - column + 1))


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() or character in "\t\n" else "�" for character in text)


_WORDS: dict[str, Scalar] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
INTEGER = re.compile(r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z")
FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_NOT_FINITE = re.compile(r"(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z")

_SYNTAX_HINTS = [
    ("mapping values are not allowed", "a text with `: ` in it needs quotes; or mend the indentation"),
    ("character TAB", "indent with blanks"),
    ("cannot start any token", "a text that begins with this character needs quotes"),
    ("expected <block end>", "mend the indentation"),
    ("could not find expected ':'", "write `key: value`"),
    ("undefined alias", "a text that begins with * needs quotes"),
    ("another document", "one file is one config: delete the `---`"),
]
