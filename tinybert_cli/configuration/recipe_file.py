"""One file with several stages: `recipe.yaml#student` is the stage in `stages:` whose output_dir ends with `student`.

Everything beside `stages:` is shared: each stage has the shared settings that it knows, under its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from tinybert_cli.config import COMMANDS
from tinybert_cli.configuration import suggestions
from tinybert_cli.configuration.extends import Files, entries_of, expanded, merged_nodes
from tinybert_cli.configuration.yaml_reader import ConfigProblem, Node
from tinybert_cli.errors import did_you_mean

STAGES = "stages"


@dataclass(frozen=True)
class Entry:
    """One stage of a recipe file."""

    name: str
    """The last part of its output_dir; without a valid one, its number in the list."""
    node: Node

    @property
    def command(self) -> str | None:
        """The command in its `stage:`; None if that is missing or no command."""
        stage = entries_of(self.node).get("stage")
        return str(stage.value) if stage is not None and str(stage.value) in COMMANDS else None


def split_address(file: str | Path) -> tuple[Path, str | None]:
    """`recipe.yaml#student` as the file and the name of a stage; a file without `#` has no name."""
    path = Path(file)
    name, sign, stage = path.name.rpartition("#")
    if not sign or not name or path.exists():
        return path, None
    return path.with_name(name), stage


def entries(tree: Node) -> list[Entry]:
    """The stages of a recipe file; empty if it has no `stages:`.

    Raises:
        ConfigProblem: `stages` is no list of mappings, or two stages have one name.
    """
    node = entries_of(tree).get(STAGES)
    if node is None:
        return []
    if not isinstance(node.value, list) or not node.value:
        what = f"`stages`: expected a list of stages, found {suggestions.describe(node)}"
        raise ConfigProblem(what, node.at, "write each stage as `- stage: finetune`, with its settings below")
    listed: dict[str, Entry] = {}
    for number, item in enumerate(node.value, start=1):
        if not isinstance(item.value, dict):
            what = f"`stages[{number - 1}]`: expected the settings of a stage, found {suggestions.describe(item)}"
            raise ConfigProblem(what, item.at, "write `- stage: finetune`, with its settings below")
        output_dir = entries_of(item).get("output_dir")
        name = stage_name(output_dir) or str(number)
        if name in listed and output_dir is not None:
            hint = "the last part of output_dir names a stage; choose another one"
            raise ConfigProblem(f"two stages are named '{name}'", output_dir.at, hint)
        listed[name] = Entry(name, item)
    return list(listed.values())


def stage_name(output_dir: Node | None) -> str | None:
    """The last part of an output_dir; None if it is not a path."""
    if output_dir is None or not isinstance(output_dir.value, str):
        return None
    return PurePath(str(expanded(output_dir, output_dir.value, ("output_dir",), []).value)).name or None


def stage_settings(files: Files, command: str, file: str | Path) -> Node:
    """The settings in a config file, or of one stage of a recipe file, merged over the files that they extend.

    Raises:
        ConfigProblem: a file is no valid mapping, or the recipe has no such stage.
        InputError: a file is missing, a folder, or not UTF-8.
    """
    path, name = split_address(file)
    tree = files.read(path)
    stages = entries(tree)
    if not stages:
        if name is None:
            return tree
        raise ConfigProblem(f"'{path}' has no `stages`, so no stage '{name}'", tree.at, f"run: tinybert run {path}")
    entry = next((entry for entry in stages if entry.name == name), None)
    if entry is None:
        raise _no_stage(command, path, name, stages, tree)
    shared = _shared(tree, command)
    return merged_nodes(shared, files.extended(entry.node, path, (path,)))


def unused(tree: Node, commands: Sequence[str | None]) -> list[ConfigProblem]:
    """The shared settings that none of the commands has, though another command has them."""
    known = {key for command in commands if command for key in suggestions.keys_of(command, ())}
    return [
        ConfigProblem(
            f"no stage of this recipe has the setting '{key}'", node.key_at or node.at, "remove it, or add a stage"
        )
        for key, node in entries_of(tree).items()
        if key not in known and key != STAGES and _of_any(key)
    ]


def _shared(tree: Node, command: str) -> Node:
    """The settings beside `stages`, without those that only other commands have."""
    own = suggestions.keys_of(command, ())
    of_others = {key for key in entries_of(tree) if key not in own and _of_any(key)} | {STAGES}
    return replace(tree, value={key: node for key, node in entries_of(tree).items() if key not in of_others})


def _of_any(key: str) -> bool:
    return any(key in suggestions.keys_of(command, ()) for command in COMMANDS)


def _no_stage(command: str, path: Path, name: str | None, stages: Sequence[Entry], tree: Node) -> ConfigProblem:
    names, node = [entry.name for entry in stages], entries_of(tree)[STAGES]
    location = node.key_at or node.at
    if name is not None:
        return ConfigProblem(f"the recipe has no stage '{name}'", location, did_you_mean(name, names))
    own = [entry.name for entry in stages if entry.command == command]
    one = f"; or one stage: tinybert {command} {path}#{own[0]}" if own else ""
    return ConfigProblem(f"this is a recipe of {len(stages)} stages", location, f"run: tinybert run {path}{one}")
