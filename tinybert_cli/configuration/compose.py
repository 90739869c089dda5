"""Composes one tree of settings from a file, the files that it extends, the environment and `KEY=VALUE`s."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tinybert_cli.config import COMMANDS
from tinybert_cli.configuration import suggestions, yaml_reader
from tinybert_cli.configuration.yaml_reader import (
    COMMAND_LINE,
    MAX_BYTES,
    MAX_DEPTH,
    MAX_PROBLEMS,
    ConfigProblem,
    Location,
    Node,
)
from tinybert_cli.errors import ConfigErrors, InputError, nearest
from tinybert_cli.files import read_text
from tinybert_cli.user_paths import with_home, with_variables

Key = tuple[str | int, ...]


class Composed:
    """The tree of settings before validation, and the problems of reading it.

    If reading had to stop, `fatal` is the reason, and the tree is incomplete.
    """

    def __init__(self, command: str, file: str | Path, overrides: Sequence[str]) -> None:
        self.command = command
        self.problems: list[ConfigProblem] = []
        self.fatal: ConfigProblem | None = None
        self.sources: list[str] = []
        self.file_keys: list[str] = []
        self.tree = Node({}, yaml_reader.file_location("", str(file)))
        self._files: dict[str, Node] = {}
        try:
            self.tree = self._file(Path(file), ())
            self.file_keys = list(entries_of(self.tree))
            for number, argument in _arguments(overrides):
                self._override(number, argument)
            self.tree = self._finished(self.tree, ())
        except ConfigProblem as problem:
            self.fatal = problem

    def errors(self, problems: list[ConfigProblem]) -> ConfigErrors:
        """All problems in one message, ordered by location."""
        ranks = {source: rank for rank, source in enumerate([*self.sources, COMMAND_LINE])}
        ordered = sorted(problems, key=lambda it: (ranks[it.location.source], it.location.line, it.location.column))
        listed = list(map(str, ordered[:MAX_PROBLEMS]))
        more = ["there are more problems; fix these first"] if len(ordered) >= MAX_PROBLEMS else []
        return ConfigErrors("\n\nerror: ".join(listed + more))

    def _file(self, file: Path, chain: tuple[Path, ...], extended_at: Location | None = None) -> Node:
        """The mapping in a file, merged over the files that it extends."""
        identity = os.path.realpath(file)
        if identity not in self._files:
            self.sources.append(str(file))
            text = _text_of(file, extended_at)
            node = yaml_reader.read(text, str(file), self.problems)
            top = yaml_reader.file_location(text, str(file))
            if node is None or node.value is None:
                raise ConfigProblem("the file is empty", top, "write `key: value`")
            if not isinstance(node.value, dict):
                raise ConfigProblem(
                    f"expected a mapping, found {suggestions.describe(node)}", node.at, "write `key: value`"
                )
            self._files[identity] = self._extended(replace(node, at=top), file, (*chain, file))
        return self._files[identity]

    def _extended(self, tree: Node, file: Path, chain: tuple[Path, ...]) -> Node:
        entries = dict(entries_of(tree))
        extends = entries.pop("extends", None)
        merged = Node({}, tree.at)
        for entry in [] if extends is None else self._parents(extends):
            parent = file.parent / with_home(str(entry.value))
            if len(chain) > MAX_DEPTH:
                raise ConfigProblem(f"`extends` is nested more than {MAX_DEPTH} files deep", entry.at)
            ancestors = [os.path.realpath(one) for one in chain]
            if os.path.realpath(parent) in ancestors:
                cycle = [*chain[ancestors.index(os.path.realpath(parent)) :], parent]
                raise ConfigProblem("`extends` is circular", entry.at, " -> ".join(map(str, cycle)))
            merged = _merged(merged, self._file(parent, chain, entry.at))
        return _merged(merged, replace(tree, value=entries))

    def _parents(self, extends: Node) -> Iterator[Node]:
        for node in extends.value if isinstance(extends.value, list) else [extends]:
            if not isinstance(node.value, str) or not node.value or "\0" in node.value:
                raise ConfigProblem(f"expected a file or a list of files, found {suggestions.describe(node)}", node.at)
            yield self._expanded(node, node.value, ("extends",))

    def _override(self, number: int, argument: str) -> None:
        name, sign, _ = argument.partition("=")
        keys = name.split(".")
        if not sign or name.startswith("-") or not all(keys):
            location = yaml_reader.argument_location(argument, number, 0, len(name) if sign and name else len(argument))
            what = f"expected KEY=VALUE, found '{argument}'"
            self.problems.append(ConfigProblem(what, location, _argument_hint(self.command, argument)))
            return
        if len(keys) > MAX_DEPTH:
            location = yaml_reader.argument_location(argument, number, 0, len(name))
            self.problems.append(ConfigProblem(f"a key of more than {MAX_DEPTH} parts", location))
            return
        starts = [len(".".join([*keys[:index], ""])) for index in range(len(keys))]
        locations = [
            yaml_reader.argument_location(argument, number, at, at + len(key))
            for at, key in zip(starts, keys, strict=True)
        ]
        try:
            node = yaml_reader.read_argument(argument, number, len(name) + 1, self.problems)
        except ConfigProblem as problem:  # the other arguments can still be read
            self.problems.append(problem)
            return
        nothing = Node(None, yaml_reader.argument_location(argument, number, 0, len(name)))
        self.tree = self._put(self.tree, (), list(zip(keys, locations, strict=True)), node or nothing)

    def _put(self, tree: Node, path: Key, keys: list[tuple[str, Location]], node: Node) -> Node:
        """The tree with the node at `path` and then `keys`."""
        (key, location), rest = keys[0], keys[1:]
        entries = dict(entries_of(tree))
        if rest:
            old = entries.get(key) or self._default(key, path, location)
            opened = _opened(old, suggestions.schemas_at(self.command, (*path, key)), location)
            entries[key] = self._put(opened, (*path, key), rest, node)
        else:
            entries[key] = replace(node, key_at=location)
        return replace(tree, value=entries)

    def _default(self, key: str, path: Key, location: Location) -> Node:
        """The default that a dotted key is merged into: `losses.hard_labels=0.5` keeps the other default losses."""
        default = None if path else default_of(self.command, key)
        return _as_node(default if isinstance(default, dict) else {}, location)

    def _finished(self, node: Node, path: Key) -> Node:
        """The node with its variables expanded, and without any `extends`, which is invalid here."""
        if isinstance(node.value, list):
            return replace(node, value=[self._finished(one, (*path, at)) for at, one in enumerate(node.value)])
        if isinstance(node.value, dict):
            entries = dict(node.value)
            if stray := entries.pop("extends", None):
                what = "`extends` is allowed only at the top level of a file"
                self.problems.append(ConfigProblem(what, stray.key_at or stray.at))
            return replace(node, value={key: self._finished(one, (*path, key)) for key, one in entries.items()})
        return self._expanded(node, node.value, path) if isinstance(node.value, str) else node

    def _expanded(self, node: Node, text: str, path: Key) -> Node:
        def report(what: str, hint: str, part: str) -> None:
            if len(self.problems) < MAX_PROBLEMS:
                self.problems.append(ConfigProblem(what, _inside(node.at, part), hint))

        return replace(node, value=with_variables(text, f"`{suggestions.dotted(path)}`", report))


def _text_of(file: Path, extended_at: Location | None) -> str:
    where = f"{extended_at.source}:{extended_at.line}:{extended_at.column}" if extended_at else None
    try:
        return read_text(file, most=MAX_BYTES, encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(
            f"no such config file: '{file}'", where=where, hint=_similar_files(file, extended_at)
        ) from None
    except IsADirectoryError:
        what = f"'{file}' is a folder, not a config file"
        raise InputError(what, where=where, hint=_listed(_configs_in(file))) from None
    except UnicodeDecodeError as error:
        what = f"'{file}' is not UTF-8 text (byte {error.start + 1})"
        raise InputError(what, where=where, hint="save it as UTF-8") from None
    except InputError as error:
        raise InputError(error.what, where=where, hint=error.hint) from None
    except OSError as error:
        raise InputError(f"cannot read '{file}': {error.strerror}", where=where) from None


def _similar_files(file: Path, extended_at: Location | None) -> str | None:
    if "=" in file.name:
        return "the config file comes first: tinybert COMMAND CONFIG [KEY=VALUE]..."
    if not file.parent.is_dir():
        return f"the folder '{file.parent}' does not exist"
    files = {path.name: path for path in _configs_in(file.parent)}
    if extended_at:  # `extends` is relative to the file that contains it, and cannot refer to that file
        child = Path(extended_at.source)
        files = {name: Path(os.path.relpath(path, child.parent)) for name, path in files.items() if path != child}
    near = difflib.get_close_matches(file.name, files, n=1, cutoff=0.5)
    return f"did you mean '{files[near[0]]}'?" if near else _listed(list(files.values()))


def _configs_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix in (".yaml", ".yml"))


def _listed(files: list[Path]) -> str | None:
    return f"configs: {', '.join(map(str, files[:8]))}{', ...' if len(files) > 8 else ''}" if files else None


def entries_of(node: Node) -> Mapping[str, Node]:
    """The entries of a mapping; empty for any other node."""
    return node.value if isinstance(node.value, dict) else {}


def _merged(below: Node, above: Node) -> Node:
    """Mappings are merged, everything else is replaced."""
    if not isinstance(below.value, dict) or not isinstance(above.value, dict):
        return above
    both = {key: _merged(below.value[key], node) if key in below.value else node for key, node in above.value.items()}
    return replace(above, value=below.value | both)


def _inside(location: Location, part: str) -> Location:
    """The location of `part` in a string, if it is in its first line."""
    at = location.text.find(part, location.column - 1)
    return location if at < 0 else replace(location, column=at + 1, width=len(part))


def _arguments(overrides: Sequence[str]) -> Iterator[tuple[int, str]]:
    """The arguments with their numbers; `--learning-rate 3e-5` counts as one argument."""
    remaining = list(overrides)
    while remaining:
        number, argument = len(overrides) - len(remaining) + 1, remaining.pop(0)
        if argument.startswith("-") and "=" not in argument and remaining and not re.search("^--|=", remaining[0]):
            argument = f"{argument} {remaining.pop(0)}"
        yield number, argument


def _argument_hint(command: str, argument: str) -> str:
    """How to write an argument that is not KEY=VALUE."""
    name, _, value = argument.replace("=", " ", 1).partition(" ")
    key = name.lstrip("-").replace("-", "_")
    if re.search(r"^[^-=].*\.ya?ml$", argument):
        return "only one config per command; combine files with `extends: [FILE, FILE]`"
    syntax = "write settings as KEY=VALUE, for example seed=7"
    if not all(key.split(".")) or (argument == name and not name.startswith("-")):
        return syntax
    path = tuple(key.split("."))
    intended = [path] if suggestions.schemas_at(command, path) else suggestions.intended(command, path[:-1], path[-1])
    if isinstance(intended, str):
        return intended or nearest(name, OPTIONS) or syntax
    return settings_hint(intended, (), value or "VALUE")


def settings_hint(paths: list[tuple[str, ...]], rest: Key, value: str) -> str:
    """`did you mean 'training.max_steps=3'?`, for each path followed by the keys in `rest`."""
    written = [f"'{suggestions.dotted((*path, *rest))}={value}'" for path in paths]
    return f"did you mean {' or '.join(written)}?"


def _as_node(value: Any, location: Location) -> Node:
    """Plain data as a node, all of it at one location."""
    if isinstance(value, dict):
        return Node({key: _as_node(one, location) for key, one in value.items()}, location, location)
    if isinstance(value, list):
        return Node([_as_node(one, location) for one in value], location, location)
    return Node(value, location, location)


def _opened(node: Node, choices: list[suggestions.Schema], location: Location) -> Node:
    """The node as a mapping for a dotted key: a weight or a model's name becomes an entry of it."""
    if isinstance(node.value, dict):
        return node
    mappings = [choice for choice in choices if choice.get("type") == "object"]
    if isinstance(node.value, str) and any("from" in choice.get("properties", {}) for choice in mappings):
        return replace(node, value={"from": node})
    if isinstance(node.value, int | float) and any("properties" not in choice for choice in mappings):
        return replace(node, value={"weight": node})
    return Node({}, location, location)


def default_of(command: str, key: str) -> Any:
    """The default of a top-level key as plain data; None if there is none."""
    field = COMMANDS[command].model_fields.get(key)
    if field is None or field.is_required():
        return None
    default = field.get_default(call_default_factory=True, validated_data={})
    return default.model_dump(by_alias=True) if isinstance(default, BaseModel) else default


OPTIONS = ("--dry-run", "--force", "--json", "--quiet", "--verbose", "--config")  # of every stage
