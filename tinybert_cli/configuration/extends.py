"""Reads config files, each merged over the files that it extends."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from tinybert_cli.configuration import suggestions, yaml_reader
from tinybert_cli.configuration.yaml_reader import MAX_BYTES, MAX_DEPTH, MAX_PROBLEMS, ConfigProblem, Location, Node
from tinybert_cli.errors import InputError
from tinybert_cli.files import read_text
from tinybert_cli.user_paths import with_home, with_variables

Key = tuple[str | int, ...]


class Files:
    """The config files that were read, and the problems of reading them."""

    def __init__(self) -> None:
        self.problems: list[ConfigProblem] = []
        self.sources: list[str] = []
        self._files: dict[str, Node] = {}

    def read(self, file: Path) -> Node:
        """The mapping in a file, merged over the files that it extends.

        Raises:
            ConfigProblem: a file cannot be read as a mapping, or `extends` is invalid.
            InputError: a file is missing, a folder, or not UTF-8.
        """
        return self._file(file, ())

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
            self._files[identity] = self.extended(replace(node, at=top), file, (*chain, file))
        return self._files[identity]

    def extended(self, tree: Node, file: Path, chain: tuple[Path, ...]) -> Node:
        """A mapping in `file`, merged over the files that its `extends` names; `chain` ends with `file`."""
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
            merged = merged_nodes(merged, self._file(parent, chain, entry.at))
        return merged_nodes(merged, replace(tree, value=entries))

    def _parents(self, extends: Node) -> Iterator[Node]:
        for node in extends.value if isinstance(extends.value, list) else [extends]:
            if not isinstance(node.value, str) or not node.value or "\0" in node.value:
                raise ConfigProblem(f"expected a file or a list of files, found {suggestions.describe(node)}", node.at)
            yield expanded(node, node.value, ("extends",), self.problems)


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


def merged_nodes(below: Node, above: Node) -> Node:
    """Mappings are merged, everything else is replaced."""
    if not isinstance(below.value, dict) or not isinstance(above.value, dict):
        return above
    both = {
        key: merged_nodes(below.value[key], node) if key in below.value else node for key, node in above.value.items()
    }
    return replace(above, value=below.value | both)


def _inside(location: Location, part: str) -> Location:
    """The location of `part` in a string, if it is in its first line."""
    at = location.text.find(part, location.column - 1)
    return location if at < 0 else replace(location, column=at + 1, width=len(part))


def expanded(node: Node, text: str, path: Key, problems: list[ConfigProblem]) -> Node:
    """The string `text` of a node with its variables expanded; what is wrong with them is added to `problems`."""

    def report(what: str, hint: str, part: str) -> None:
        if len(problems) < MAX_PROBLEMS:
            problems.append(ConfigProblem(what, _inside(node.at, part), hint))

    return replace(node, value=with_variables(text, f"`{suggestions.dotted(path)}`", report))
