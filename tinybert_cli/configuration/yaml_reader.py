"""Reads YAML with the core types of version 1.2, and the location of every key and value."""

from __future__ import annotations

import bisect
import itertools
import re
import string
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import yaml

from tinybert_cli.errors import MAX_WIDTH

COMMAND_LINE = "command line"
MAX_BYTES = 2**20  # of a file
MAX_NODES = 20_000  # reading takes seconds; and aliases of aliases can turn a few lines into billions of values
MAX_DEPTH = 50
MAX_PROBLEMS = 100  # that are listed; each takes a search for similar names

Scalar = str | int | float | bool | None


@dataclass(frozen=True)
class Location:
    """A range of columns in one line of a file or in one command line argument; line and column count from 1."""

    source: str
    line: int
    column: int
    width: int
    text: str


@dataclass(frozen=True)
class Node:
    """A value, its location, and the location of its key."""

    value: Scalar | dict[str, Node] | list[Node]
    at: Location
    key_at: Location | None = None
    spelled: str = ""
    """The scalar as written, without quotes: `5e-5`, `~`."""
    quoted: bool = False

    def plain(self) -> Any:
        """The value as dicts, lists and scalars, without locations."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def along(self, path: tuple[str | int, ...]) -> Iterator[Node]:
        """This node, and the nodes along `path` as far as they exist."""
        yield self
        if path and isinstance(self.value, dict) and path[0] in self.value:
            yield from self.value[str(path[0])].along(path[1:])
        elif path and isinstance(self.value, list) and isinstance(path[0], int) and path[0] < len(self.value):
            yield from self.value[path[0]].along(path[1:])


class ConfigProblem(Exception):
    """A problem of a config, its location and a hint; raised only where reading cannot continue."""

    def __init__(self, what: str, location: Location, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.location = location
        self.hint = hint

    def __str__(self) -> str:
        location = self.location
        what, hint, cropped = cropped_line(_printable(self.what)), cropped_line(self.hint), _cropped(location)
        if location.source == COMMAND_LINE:
            arrow = f"  --> {COMMAND_LINE}: "
            caret = "   |" + " " * (len(arrow) - 4) + _carets(cropped, hint)
            return f"{what}\n{arrow}{_printable(cropped.text)}\n{caret}"
        number = str(location.line)
        gutter = " " * len(number)
        return "\n".join(
            [
                what,
                f"{gutter}--> {location.source}:{location.line}:{location.column}",
                f"{gutter} |",
                f"{number} | {_printable(cropped.text)}".rstrip(),
                f"{gutter} | {_carets(cropped, hint)}",
            ]
        )


def read(text: str, source: str, problems: list[ConfigProblem]) -> Node | None:
    """The document in `text`; None if it contains only comments.

    Problems after which reading can continue (duplicate keys, tags, keys that are not strings) are added to `problems`.

    Raises:
        ConfigProblem: invalid syntax, nesting too deep, too many nodes.
    """
    return _Reader(_Lines(text, source), problems).read(text)


def read_argument(argument: str, number: int, start: int, problems: list[ConfigProblem]) -> Node | None:
    """The value that starts at `start` in the command line argument with this number, read by the same rules.

    One punctuation mark is itself, such as the separators `,`, `|` and `#`; a comment is an error.
    """
    value = argument[start:].strip()
    if len(value) == 1 and value in string.punctuation and value != "~":
        at = argument.index(value, start)
        return Node(value, argument_location(argument, number, at, at + 1), spelled=value, quoted=True)
    # Spaces instead of `KEY=` preserve the columns, and prevent that `%` and `---` are read as directives.
    text = " " * start + argument[start:]
    reader = _Reader(_Lines(argument, COMMAND_LINE, number), problems)
    node = reader.read(text)
    if text[reader.end :].lstrip().startswith("#"):
        location = argument_location(argument, number, text.index("#", reader.end), len(text))
        raise ConfigProblem("YAML reads this as a comment", location, "quote it, also for YAML: KEY='\"a #b\"'")
    return node


def argument_location(argument: str, number: int, start: int, end: int) -> Location:
    """The characters from `start` to `end` of the command line argument with this number."""
    return _Lines(argument, COMMAND_LINE, number).location(start, end)


def file_location(text: str, source: str) -> Location:
    """The start of the file, for problems of the file as a whole."""
    return _Lines(text, source).location(0, 1)


def scalar(text: str) -> Scalar:
    """The value of an unquoted scalar in the core schema of YAML 1.2."""
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
    """The lines of a source; converts character positions to locations."""

    def __init__(self, text: str, source: str, argument: int | None = None) -> None:
        self.source = source
        self.argument = argument
        self.text = text if argument is None else text.replace("\n", " ")
        self.lines = self.text.split("\n")
        self.visible = [line.rstrip() for line in self.lines]
        self.starts = list(itertools.accumulate((len(line) + 1 for line in self.lines), initial=0))[:-1]

    def location(self, start: int, end: int) -> Location:
        index = bisect.bisect_right(self.starts, start) - 1
        first, line = self.starts[index], self.visible[index]  # one string for all locations in the line
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
            self.reader.report_tag(event.start_mark.index)
            event.tag = None
        self.reader.check_depth(self.depth, event.start_mark.index)
        self.reader.check_count(event.start_mark.index)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Reader:
    """Converts PyYAML's nodes to `Node`s."""

    def __init__(self, lines: _Lines, problems: list[ConfigProblem]) -> None:
        self.lines = lines
        self.problems = problems
        self.composed = 0
        self.count = 0
        self.outer = lines.location(0, 1)
        self.end = 0  # of the value; only a comment follows

    def read(self, text: str) -> Node | None:
        try:
            node = _Loader(text, self).get_single_node()
        except yaml.reader.ReaderError as error:
            what = f"the character with code {error.character} is not allowed in YAML"
            raise ConfigProblem(what, self.lines.location(error.position, error.position + 1), "delete it") from None
        except yaml.MarkedYAMLError as error:
            raise self._syntax(error) from None
        self.end = 0 if node is None else node.end_mark.index
        return None if node is None else self._node(node, 0)

    def report_tag(self, start: int) -> None:
        tag = re.compile(r"(?:&\S+\s+)?(![^\s,\]}]*)").search(self.lines.text, start)
        location = self.lines.location(*tag.span(1)) if tag else self.lines.location(start, start + 1)
        self._report("YAML tags are not supported", location, "delete it: no setting needs a tag")

    def check_depth(self, depth: int, start: int) -> None:
        if depth > MAX_DEPTH:
            raise ConfigProblem(f"nested more than {MAX_DEPTH} levels deep", self.lines.location(start, start + 1))

    def check_count(self, start: int) -> None:
        self.composed += 1
        if self.composed > MAX_NODES:
            what = f"more than {MAX_NODES:,} values: no config needs so many"
            raise ConfigProblem(what, self.lines.location(start, start + 1))

    def _node(self, node: yaml.Node, depth: int) -> Node:
        start = node.start_mark.index
        self.check_depth(depth, start)
        location = self.lines.location(start, node.end_mark.index)
        self.outer = location if depth <= 1 else self.outer
        self.count += 1
        if self.count > MAX_NODES:
            raise ConfigProblem(f"aliases expand to more than {MAX_NODES:,} values", self.outer)
        if isinstance(node, yaml.MappingNode):
            return Node(self._mapping(node, depth), location)
        if isinstance(node, yaml.SequenceNode):
            return Node([self._node(item, depth + 1) for item in node.value], location)
        assert isinstance(node, yaml.ScalarNode)
        quoted = node.style is not None
        if node.style in ("|", ">") and not node.value:
            raise ConfigProblem("a block without text", location, f"write '{node.style}' for the character")
        return Node(node.value if quoted else scalar(node.value), location, spelled=node.value, quoted=quoted)

    def _mapping(self, node: yaml.MappingNode, depth: int) -> dict[str, Node]:
        entries: dict[str, Node] = {}
        for key_node, value_node in node.value:
            key_at = self.lines.location(key_node.start_mark.index, key_node.end_mark.index)
            key = self._key(key_node, key_at)
            if key is None:
                continue
            if key in entries:
                self._report(f"duplicate key '{key}'", key_at, _first_location(entries[key], key_at))
            value = replace(self._node(value_node, depth + 1), key_at=key_at)
            # A block starts on the next line and an empty value nowhere: the location of the key is clearer.
            same_line = value_node.start_mark.index < value_node.end_mark.index and not _is_block(value_node)
            entries[key] = value if same_line else replace(value, at=key_at)
        return entries

    def _key(self, node: yaml.Node, location: Location) -> str | None:
        if not isinstance(node, yaml.ScalarNode):
            self._report("a key must be a string", location)
            return None
        if node.value == "<<" and node.style is None:
            self._report(
                "merge keys (`<<`) are not part of YAML 1.2", location, "write `extends: FILE` at the top level instead"
            )
            return None
        value = node.value if node.style is not None else scalar(node.value)
        if isinstance(value, bool) or not isinstance(value, (str, int)):  # an integer key is read as a string
            self._report(f"a key must be a string, found {node.value or 'nothing'}", location, f"write '{node.value}'")
            return None
        return str(node.value)

    def _report(self, what: str, location: Location, hint: str = "") -> None:
        # An alias would repeat the problems of its anchor.
        if len(self.problems) < MAX_PROBLEMS and all(
            (what, location) != (problem.what, problem.location) for problem in self.problems
        ):
            self.problems.append(ConfigProblem(what, location, hint))

    def _syntax(self, error: yaml.MarkedYAMLError) -> ConfigProblem:
        problem, context = error.problem or "", error.context or ""
        problem = problem.replace("'\\t'", "TAB").removeprefix("but ")
        mark = error.problem_mark or error.context_mark
        assert mark is not None  # the scanner and the parser always give one
        start = error.context_mark or mark
        hint = next((hint for pattern, hint in _SYNTAX_HINTS if re.search(pattern, problem)), "")
        line = self.lines.location(mark.index, mark.index + 1).text
        if re.search("expected ',' or|flow (mapping|sequence)", problem + context):
            problem, mark = "this bracket is not closed", start
            hint = 'inside brackets, write "${NAME}" in quotes' if "${" in line else ""
        elif "quoted scalar" in context and "unexpected end" in problem:
            problem, mark = "this quote is not closed", start
        elif "could not find expected ':'" in problem:
            mark = start
        elif "expected <block end>" in problem:
            problem = "the indentation matches no line above"
        return ConfigProblem(f"invalid YAML: {problem}", self.lines.location(mark.index, mark.index + 1), hint)


def _whole_number(text: str) -> int | float:
    if len(text) >= 1000:  # Python does not convert very long ones
        return float("-inf") if text.startswith("-") else float("inf")
    return int(text, 0) if text.startswith(("0o", "0x")) else int(text)


def _is_block(node: yaml.Node) -> bool:
    return isinstance(node, yaml.CollectionNode) and not node.flow_style


def _first_location(node: Node, location: Location) -> str:
    where = f"line {node.key_at.line}" if node.key_at and location.source != COMMAND_LINE else "the same argument"
    return f"already set in {where}"


def _carets(location: Location, hint: str) -> str:
    """Spaces as wide as the text before the location, then the carets."""
    before = location.text[: location.column - 1]
    spaces = "".join("\t" if character == "\t" else " " * _cells(character) for character in before)
    spaces += " " * (location.column - 1 - len(before))
    marked = location.text[location.column - 1 : location.column - 1 + location.width]
    carets = "^" * max(1, sum(map(_cells, marked)))
    return f"{spaces}{carets} {hint}".rstrip()


def _cells(character: str) -> int:
    """Width of a character in columns of a terminal."""
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _cropped(location: Location, before: int = 60, most: int = 140) -> Location:
    """The location in a line that is short enough to print."""
    if len(location.text) <= most:
        return location
    first = max(0, min(location.column - 1 - before, len(location.text) - most))
    text = ("…" if first else "") + location.text[first : first + most]
    more = "…" if first + most < len(location.text) else ""
    column = location.column - first + (1 if first else 0)
    return replace(location, text=text + more, column=column, width=min(location.width, len(text) - column + 1))


def cropped_line(text: str, most: int = MAX_WIDTH) -> str:
    """The text, or the first characters of a very long one."""
    return text if len(text) <= most else f"{text[:most]}…"


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
    ("mapping values are not allowed", "quote a string that contains `: `, or fix the indentation"),
    ("character TAB", "indent with spaces"),
    ("cannot start any token", "quote a string that starts with this character"),
    ("expected <block end>", "fix the indentation"),
    ("expected the node content", "if it is text, quote it"),
    ("could not find expected ':'", "write `key: value`"),
    ("undefined alias", "quote a string that starts with *"),
    ("another document", "a file contains one config: delete the `---`"),
]
