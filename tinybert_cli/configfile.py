"""From YAML to typed settings: extends, env, key=value, complaints with line numbers."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from tinybert_cli import hints, yaml12
from tinybert_cli.config import COMMANDS, Stage
from tinybert_cli.errors import ConfigError, ConfigErrors, InputError
from tinybert_cli.yaml12 import COMMAND_LINE, Complaint, Node, Place

Check = Callable[..., object]
Key = tuple[str | int, ...]


def load(
    command: str,
    file: str | Path,
    overrides: Sequence[str] = (),
    checks: Mapping[str | tuple[str, ...], Check] | None = None,
) -> Stage:
    """The settings of `command` from a file, the files it extends and the command line's `KEY=VALUE`s.

    `checks` are for what the types cannot say: each is called with the setting of its top-level key, as plain data,
    unless that is invalid already; the ConfigErrors it raises have keys relative to that setting. A check of several
    keys, after the others, is called with all their settings, and its ConfigErrors have whole keys.

    Raises:
        ConfigErrors: all that is wrong, in the order of the files and then of the command line.
        InputError: a file is missing, a folder, or not UTF-8.
    """
    composed = _Composed(command, file, overrides)
    complaints = composed.complaints
    if fatal := composed.fatal:
        raise composed.errors([*complaints, fatal])
    if other := hints.other_command(command, composed.file_keys):
        raise composed.errors([_wrong_stage(command, other, composed, file)])
    config, invalid = _validated(command, composed.tree)
    complaints += [complaint for _, complaint in invalid]
    bad_keys = {key[:1] for key, _ in invalid}
    for keys, check in sorted((checks or {}).items(), key=lambda entry: isinstance(entry[0], tuple)):
        names = keys if isinstance(keys, tuple) else (keys,)
        if not bad_keys & {(name,) for name in names} and COMMANDS[command].model_fields.keys() >= set(names):
            found = _checked(command, composed.tree, names, check, within=() if isinstance(keys, tuple) else names)
            complaints += found
            bad_keys |= {names[:1] for _ in found if len(names) == 1}
    if complaints or config is None:
        raise composed.errors(complaints)
    return config


def dump(config: Stage) -> str:
    """The settings as YAML; to `load` it gives equal settings again."""
    return yaml12.write(_escaped(config.model_dump(by_alias=True)))


def complain(error: ConfigError, command: str, file: str | Path, overrides: Sequence[str] = ()) -> ConfigErrors:
    """An error raised after `load`, whose `key` is the whole path of a setting, with the place of that setting."""
    try:
        composed = _Composed(command, file, overrides)
    except InputError:  # the file went away meanwhile; that is not what the user has to hear now
        return ConfigErrors(error.what, where=error.where, hint=error.hint)
    if not error.key or composed.fatal:
        return ConfigErrors(error.what, where=error.where, hint=error.hint)
    return composed.errors([_placed(error, error.key, composed.tree)])


class _Composed:
    """The tree of settings before any of it is validated, and what was wrong on the way there.

    If reading had to stop, `fatal` says why, and the tree is of no use.
    """

    def __init__(self, command: str, file: str | Path, overrides: Sequence[str]) -> None:
        self.command = command
        self.complaints: list[Complaint] = []
        self.fatal: Complaint | None = None
        self.sources: list[str] = []
        self.file_keys: list[str] = []
        self.tree = Node({}, yaml12.file_place("", str(file)))
        self._files: dict[str, Node] = {}
        try:
            self.tree = self._file(Path(file), ())
            self.file_keys = list(_entries(self.tree))
            for number, argument in _arguments(overrides):
                self._override(number, argument)
            self.tree = self._finished(self.tree, ())
        except Complaint as complaint:
            self.fatal = complaint

    def errors(self, complaints: list[Complaint]) -> ConfigErrors:
        """All complaints in one text, in the order in which a reader meets their places."""
        ranks = {source: rank for rank, source in enumerate([*self.sources, COMMAND_LINE])}
        ordered = sorted(complaints, key=lambda it: (ranks[it.place.source], it.place.line, it.place.column))
        return ConfigErrors("\n\nerror: ".join(map(str, ordered)))

    def _file(self, file: Path, chain: tuple[Path, ...], asked: Place | None = None) -> Node:
        """The mapping in a file, with all that it extends below it."""
        identity = os.path.realpath(file)
        if identity not in self._files:
            self.sources.append(str(file))
            text = _text_of(file, asked)
            node = yaml12.read(text, str(file), self.complaints)
            top = yaml12.file_place(text, str(file))
            if node is None or node.value is None:
                raise Complaint("the file is empty", top, "write `key: value`")
            if not isinstance(node.value, dict):
                raise Complaint(f"expected a mapping, found {hints.found(node)}", node.at, "write `key: value`")
            self._files[identity] = self._extended(replace(node, at=top), file, (*chain, file))
        return self._files[identity]

    def _extended(self, tree: Node, file: Path, chain: tuple[Path, ...]) -> Node:
        entries = dict(_entries(tree))
        extends = entries.pop("extends", None)
        merged = Node({}, tree.at)
        for entry in [] if extends is None else self._parents(extends):
            parent = file.parent / str(entry.value)
            known = [os.path.realpath(one) for one in chain]
            if os.path.realpath(parent) in known:
                circle = [*chain[known.index(os.path.realpath(parent)) :], parent]
                raise Complaint("`extends` goes in a circle", entry.at, " -> ".join(map(str, circle)))
            merged = _merged(merged, self._file(parent, chain, entry.at))
        return _merged(merged, replace(tree, value=entries))

    def _parents(self, extends: Node) -> Iterator[Node]:
        for node in extends.value if isinstance(extends.value, list) else [extends]:
            if not isinstance(node.value, str) or not node.value or "\0" in node.value:
                raise Complaint(f"expected a file or a list of files, found {hints.found(node)}", node.at)
            yield self._expanded(node, node.value, ("extends",))

    def _override(self, number: int, argument: str) -> None:
        name, sign, _ = argument.partition("=")
        keys = name.split(".")
        if not sign or name.startswith("-") or not all(keys):
            place = yaml12.argument_place(argument, number, 0, len(name) if sign and name else len(argument))
            what = f"expected KEY=VALUE, found '{argument}'"
            self.complaints.append(Complaint(what, place, _argument_hint(self.command, argument)))
            return
        starts = [len(".".join([*keys[:index], ""])) for index in range(len(keys))]
        places = [
            yaml12.argument_place(argument, number, at, at + len(key)) for at, key in zip(starts, keys, strict=True)
        ]
        try:
            node = yaml12.read_argument(argument, number, len(name) + 1, self.complaints)
        except Complaint as complaint:  # the other arguments can still be read
            self.complaints.append(complaint)
            return
        nothing = Node(None, yaml12.argument_place(argument, number, 0, len(name)))
        self.tree = self._put(self.tree, (), list(zip(keys, places, strict=True)), node or nothing)

    def _put(self, tree: Node, path: Key, keys: list[tuple[str, Place]], node: Node) -> Node:
        """The tree with the node at `path` and then `keys`."""
        (key, place), rest = keys[0], keys[1:]
        entries = dict(_entries(tree))
        if rest:
            old = entries.get(key) or self._default(key, path, place)
            opened = _opened(old, hints.may_be(self.command, (*path, key)), place)
            entries[key] = self._put(opened, (*path, key), rest, node)
        else:
            entries[key] = replace(node, key_at=place)
        return replace(tree, value=entries)

    def _default(self, key: str, path: Key, place: Place) -> Node:
        """What a dotted key changes if no file says it: `losses.hard_labels=0.5` leaves the other default losses be."""
        default = None if path else _default_of(self.command, key)
        entries = default.items() if isinstance(default, dict) else ()
        return Node({name: Node(value, place, place) for name, value in entries}, place, place)

    def _finished(self, node: Node, path: Key) -> Node:
        """The node with its variables expanded, and without any `extends`, which is out of place here."""
        if isinstance(node.value, list):
            return replace(node, value=[self._finished(one, (*path, at)) for at, one in enumerate(node.value)])
        if isinstance(node.value, dict):
            entries = dict(node.value)
            if stray := entries.pop("extends", None):
                what = "`extends` is allowed only at the top level of a file"
                self.complaints.append(Complaint(what, stray.key_at or stray.at))
            return replace(node, value={key: self._finished(one, (*path, key)) for key, one in entries.items()})
        return self._expanded(node, node.value, path) if isinstance(node.value, str) else node

    def _expanded(self, node: Node, text: str, path: Key) -> Node:
        def value_of(match: re.Match[str]) -> str:
            if match[0] == "$$":
                return "$"
            name, default = match["name"], match["default"]
            if name is None or "${" in (default or ""):
                what, hint = f"cannot read `{match[0]}` in `{hints.dotted(path)}`", "write ${NAME} or ${NAME:-default}"
            elif default is not None:
                return os.environ.get(name) or default.replace("$$", "$")
            elif name in os.environ:
                return os.environ[name]
            else:
                what = f"the environment variable {name} is not set, `{hints.dotted(path)}` needs it"
                hint = f"set it, or write ${{{name}:-default}}"
            self.complaints.append(Complaint(what, _inside(node.at, match[0]), hint))
            return match[0]

        return replace(node, value=_VARIABLE.sub(value_of, text))


def _text_of(file: Path, asked: Place | None) -> str:
    where = f"{asked.source}:{asked.line}:{asked.column}" if asked else None
    try:
        return file.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"no such config file: '{file}'", where=where, hint=_near_files(file, asked)) from None
    except IsADirectoryError:
        what = f"'{file}' is a folder; the config has to be a file"
        raise InputError(what, where=where, hint=_listed(_configs_in(file))) from None
    except UnicodeDecodeError as error:
        what = f"'{file}' is not UTF-8 text (byte {error.start + 1})"
        raise InputError(what, where=where, hint="save it as UTF-8") from None
    except OSError as error:
        raise InputError(f"cannot read '{file}': {error.strerror}", where=where) from None


def _near_files(file: Path, asked: Place | None) -> str | None:
    if "=" in file.name:
        return "the config file comes first: tinybert COMMAND CONFIG [KEY=VALUE]..."
    if not file.parent.is_dir():
        return f"there is no folder '{file.parent}'"
    there = {path.name: path for path in _configs_in(file.parent)}
    if asked:  # `extends` is relative to the file that says it, and cannot mean that file
        asker = Path(asked.source)
        there = {name: Path(os.path.relpath(it, asker.parent)) for name, it in there.items() if it != asker}
    near = difflib.get_close_matches(file.name, there, n=1, cutoff=0.5)
    return f"did you mean '{there[near[0]]}'?" if near else _listed(list(there.values()))


def _configs_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix in (".yaml", ".yml"))


def _listed(files: list[Path]) -> str | None:
    return f"there are: {', '.join(map(str, files[:8]))}{', ...' if len(files) > 8 else ''}" if files else None


def _entries(node: Node) -> Mapping[str, Node]:
    return node.value if isinstance(node.value, dict) else {}


def _merged(below: Node, above: Node) -> Node:
    """Mappings merge, everything else replaces."""
    if not isinstance(below.value, dict) or not isinstance(above.value, dict):
        return above
    both = {key: _merged(below.value[key], node) if key in below.value else node for key, node in above.value.items()}
    return replace(above, value=below.value | both)


def _inside(place: Place, part: str) -> Place:
    """The place of `part` in a text, if it can be seen in its first line."""
    at = place.text.find(part, place.column - 1)
    return place if at < 0 else replace(place, column=at + 1, width=len(part))


def _arguments(overrides: Sequence[str]) -> Iterator[tuple[int, str]]:
    """The arguments by number; the two words of `--learning-rate 3e-5` are one."""
    left = list(overrides)
    while left:
        number, argument = len(overrides) - len(left) + 1, left.pop(0)
        if argument.startswith("-") and "=" not in argument and left and not re.search("^--|=", left[0]):
            argument = f"{argument} {left.pop(0)}"
        yield number, argument


def _argument_hint(command: str, argument: str) -> str:
    """The right form of an argument that is not KEY=VALUE."""
    name, _, value = argument.replace("=", " ", 1).partition(" ")
    key = name.lstrip("-").replace("-", "_")
    right = "settings are written KEY=VALUE, for example seed=7"
    if not all(key.split(".")) or (argument == name and not name.startswith("-")):
        return right
    path = tuple(key.split("."))
    meant = [path] if hints.may_be(command, path) else hints.meant(command, path[:-1], path[-1])
    if isinstance(meant, str):
        return meant or right
    return _settings_hint(meant, (), value or "VALUE")


def _settings_hint(paths: list[tuple[str, ...]], rest: Key, value: str) -> str:
    written = [f"'{hints.dotted((*path, *rest))}={value}'" for path in paths]
    return f"did you mean {' or '.join(written)}?"


def _opened(node: Node, choices: list[hints.Schema], place: Place) -> Node:
    """A node that a dotted key goes into: a weight or a model's name makes room for what belongs beside it."""
    if isinstance(node.value, dict):
        return node
    mappings = [choice for choice in choices if choice.get("type") == "object"]
    if isinstance(node.value, str) and any("from" in choice.get("properties", {}) for choice in mappings):
        return replace(node, value={"from": node})
    if isinstance(node.value, int | float) and any("properties" not in choice for choice in mappings):
        return replace(node, value={"weight": node})
    return Node({}, place, place)


def _default_of(command: str, key: str) -> Any:
    """The default of a top-level key as plain data; None if it has none."""
    field = COMMANDS[command].model_fields.get(key)
    if field is None or field.is_required():
        return None
    default = field.get_default(call_default_factory=True, validated_data={})
    return default.model_dump(by_alias=True) if isinstance(default, BaseModel) else default


def _wrong_stage(command: str, other: str, composed: _Composed, file: str | Path) -> Complaint:
    telling = set(hints.keys_of(other, ())).difference(hints.keys_of(command, ())).intersection(composed.file_keys)
    node = next(node for key, node in _entries(composed.tree).items() if key in telling)
    article = "an" if other[0] in "aeiou" else "a"
    return Complaint(
        f"this looks like {article} {other} config", node.key_at or node.at, f"run: tinybert {other} {file}"
    )


def _validated(command: str, tree: Node) -> tuple[Stage | None, list[tuple[Key, Complaint]]]:
    """The settings, or what is wrong with them and under which key."""
    plain = tree.plain()
    try:
        return COMMANDS[command].model_validate(plain, by_alias=True, by_name=False), []
    except ValidationError as invalid:
        by_key: dict[Key, Mapping[str, object]] = {}
        for error in invalid.errors(include_url=False):
            key = _real_path(plain, error["loc"])
            by_key.setdefault((*key, error["loc"][-1]) if error["type"] == "missing" else key, error)
    # Of a union, the branch that came further knows better what was meant.
    deepest = [key for key in by_key if not any(other[: len(key)] == key != other for other in by_key)]
    return None, [(key, _complaint(command, tree, key, by_key[key])) for key in deepest]


def _real_path(plain: Any, steps: Sequence[str | int]) -> Key:
    """Pydantic's path without its names for the branches of unions."""
    path: list[str | int] = []
    for step in steps:
        held = dict(enumerate(plain)) if isinstance(plain, list) else plain
        if isinstance(held, dict) and step in held:
            path.append(step)
            plain = held[step]
    return tuple(path)


def _complaint(command: str, tree: Node, key: Key, error: Mapping[str, object]) -> Complaint:
    """What pydantic found, in our words."""
    *_, node = tree.along(key)
    place = node.key_at or node.at
    section, name = key[:-1], str(key[-1]) if key else ""
    inside = f" in `{hints.dotted(section)}`" if section else ""
    if error["type"] == "missing":
        return Complaint(f"missing key '{name}'{inside}", place, f"{name}: {hints.about(command, key)}")
    if error["type"] == "extra_forbidden":
        return Complaint(f"unknown key '{name}'{inside}", place, _key_hint(command, key, place))
    choices = hints.may_be(command, key)
    if not choices or error["type"] == "value_error":
        return Complaint(str(error["msg"]).removeprefix("Value error, "), node.at)
    what = f"`{hints.dotted(key)}`: expected {hints.expected(choices)}, found {hints.found(node)}"
    return Complaint(what, node.at, hints.instead(node, key, choices))


def _key_hint(command: str, key: Key, place: Place) -> str:
    """Which key was meant, written as it has to be written there."""
    section, name = key[:-1], str(key[-1])
    meant = hints.meant(command, section, name)
    if isinstance(meant, str):
        keys = hints.keys_of(command, section)
        listed = f"one of: {', '.join(keys)}" if len(keys) <= 8 else f"all keys: tinybert schema {command}"
        return meant or listed
    argument, _, value = place.text.partition("=")
    if place.source == COMMAND_LINE and place.column <= len(argument):
        return _settings_hint(meant, tuple(argument.split(".")[len(key) :]), value)
    path = meant[0]
    if path[:-1] == section:
        return f"did you mean '{path[-1]}'?"
    sections = [f"in `{hints.dotted(one[:-1])}`" if one[:-1] else "at the top level" for one in meant]
    if path[-1] == name:
        return f"`{name}` belongs {' or '.join(sections)}"
    return f"did you mean '{path[-1]}' {' or '.join(sections)}?"


def _checked(command: str, tree: Node, keys: Sequence[str], check: Check, *, within: Key) -> list[Complaint]:
    nodes = {key: _entries(tree).get(key) for key in keys}
    try:
        check(*(_default_of(command, key) if node is None else node.plain() for key, node in nodes.items()))
    except ConfigError as error:
        return [_placed(error, (*within, *error.key), tree)]
    return []


def _placed(error: ConfigError, key: Key, tree: Node) -> Complaint:
    """The error with the place of its setting, or of the nearest mapping around it."""
    nodes = list(tree.along(key))
    node = nodes[-1]
    about_key = error.what.startswith("unknown ") and f"'{key[-1]}'" in error.what
    at_key = about_key or (len(nodes) <= len(key) and isinstance(node.value, dict))
    return Complaint(error.what, (at_key and node.key_at) or node.at, error.hint or "")


def _escaped(value: Any) -> Any:
    """With `$$` for every `$`, so that nothing is taken for a variable."""
    if isinstance(value, dict):
        return {key: _escaped(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_escaped(one) for one in value]
    return value.replace("$", "$$") if isinstance(value, str) else value


_VARIABLE = re.compile(r"\$\$|\$\{(?:(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}|[^}]*\}?)")
