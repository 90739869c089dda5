"""Composes one tree of settings from a file, the files that it extends, the environment and `KEY=VALUE`s."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tinybert_cli.config import COMMANDS
from tinybert_cli.configuration import suggestions, yaml_reader
from tinybert_cli.configuration.extends import Files, Key, entries_of, expanded
from tinybert_cli.configuration.recipe_file import stage_settings
from tinybert_cli.configuration.yaml_reader import (
    COMMAND_LINE,
    MAX_DEPTH,
    MAX_PROBLEMS,
    ConfigProblem,
    Location,
    Node,
)
from tinybert_cli.errors import ConfigErrors, nearest


class Composed:
    """The tree of settings before validation, and the problems of reading it.

    If reading had to stop, `fatal` is the reason, and the tree is incomplete.
    """

    def __init__(self, command: str, file: str | Path, overrides: Sequence[str]) -> None:
        self.command = command
        files = Files()
        self.problems = files.problems
        self.sources = files.sources
        self.fatal: ConfigProblem | None = None
        self.file_keys: list[str] = []
        self.tree = Node({}, yaml_reader.file_location("", str(file)))
        try:
            self.tree = stage_settings(files, command, file)
            self.file_keys = list(entries_of(self.tree))
            for number, argument in _arguments(overrides):
                self._override(number, argument)
            self.tree = self._finished(self.tree, ())
        except ConfigProblem as problem:
            self.fatal = problem

    def errors(self, problems: list[ConfigProblem]) -> ConfigErrors:
        """All problems in one message, ordered by location."""
        return in_order(problems, self.sources)

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
        return expanded(node, node.value, path, self.problems) if isinstance(node.value, str) else node


def in_order(problems: Sequence[ConfigProblem], sources: Sequence[str]) -> ConfigErrors:
    """All problems in one message, in the order of the files and then of the command line."""
    ranks = {source: rank for rank, source in enumerate([*sources, COMMAND_LINE])}
    ordered = sorted(problems, key=lambda it: (ranks[it.location.source], it.location.line, it.location.column))
    listed = list(map(str, ordered[:MAX_PROBLEMS]))
    more = ["there are more problems; fix these first"] if len(ordered) >= MAX_PROBLEMS else []
    return ConfigErrors("\n\nerror: ".join(listed + more))


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
