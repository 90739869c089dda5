"""The recipes that are shipped with tinybert: their list, and copies for the user."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from tinybert_cli import tasks
from tinybert_cli.errors import ConfigError, InputError, OutputError, look_up
from tinybert_cli.escaping import shell_word

DEMO = "demo"


def copy(folder: Path, task: str = "text-classification", *, recipe: str | None = None) -> list[Path]:
    """Copies the files of a recipe into `folder`, and replaces the recipe's name by that of the folder in all paths.

    Args:
        task: whose recipe is copied, if none is named.
        recipe: its name, one of `names`.

    Raises:
        ConfigError: unknown task or recipe, or a task without a recipe.
        OutputError: a file already exists; then nothing is written.
    """
    known = names()
    name = _recipe_of(task) if recipe is None else recipe
    look_up(known, name, "recipe")
    try:
        is_file = folder.is_file()
    except OSError as error:
        raise OutputError(f"cannot write '{folder}': {error.strerror}", hint="name another folder") from error
    if is_file:
        raise OutputError(f"'{folder}' is a file", hint="name a new folder")
    source = known[name]
    if folder.resolve().is_relative_to(source.resolve()):
        raise OutputError(f"'{folder}' is inside the recipe that is copied", hint="name another folder")
    targets = {folder: name, **{folder / other: other for other in _others(known, name)}}
    copies = {
        file: (target / file.relative_to(known[recipe_name]), target)
        for target, recipe_name in targets.items()
        for file in sorted(known[recipe_name].rglob("*"))
        if file.is_file()
    }
    written = [target for target, _ in copies.values()]
    for target in written:
        if target.exists() or target.is_symlink():
            raise OutputError(f"'{target}' already exists", hint="name a new folder; init never overwrites files")
    copied_to = {other: target.as_posix() for target, other in targets.items()}
    for file, (target, root) in copies.items():
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".yaml":
            text = _PATHS.sub(lambda match: f"{copied_to.get(match[1], match[0][:-1])}/", text)
            if root == folder:
                text = text.replace(f"runs}}/{name}/", f"runs}}/{folder.name}/")
                text = _EXTENDS.sub(r"extends: \1", text)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
        except OSError as error:
            raise OutputError(f"cannot write '{target}': {error.strerror}", hint="name another folder") from error
    return written


_EXTENDS = re.compile(r"^extends: \.\./([\w-]+/)", re.MULTILINE)  # a file of another recipe
_READS = re.compile(r"^ *\w+: configs/([\w-]+)/", re.MULTILINE)  # data of a recipe
_PATHS = re.compile(r"configs/([\w-]+)/")


def _others(known: Mapping[str, Path], name: str) -> list[str]:
    """The other recipes whose files a recipe extends or reads; their copies are subfolders of its copy."""
    others: list[str] = []
    rest = [name]
    while rest:
        texts = _texts(known[rest.pop()])
        named = {match.rstrip("/") for text in texts for match in _EXTENDS.findall(text) + _READS.findall(text)}
        new = named - {name, *others}
        others += sorted(new)
        rest += sorted(new)
    return others


def _texts(folder: Path) -> list[str]:
    return [file.read_text(encoding="utf-8") for file in sorted(folder.glob("*.yaml"))]


def lines(folder: Path, task: str, *, recipe: str | None) -> Iterator[str]:
    """Copies a recipe; yields its name, the files, and the command that runs it.

    Args:
        recipe: its name; None: the one of the task, and a line that says how a recipe for other data is made.
    """
    name = _recipe_of(task) if recipe is None else recipe
    written = copy(folder, task, recipe=name)
    yield f"recipe {name}, {descriptions()[name]}"
    yield from map(str, written)
    if recipe is None:
        yield "a recipe for your own data: tinybert init NEW_FOLDER --data FILE"
    commands = [f"tinybert run {shell_word(str(part))}" for part in [*_made_before(folder, name), folder]]
    yield f"next: {', then '.join(commands)}"


def _made_before(folder: Path, name: str) -> list[Path]:
    """The other recipes in the copy of a recipe whose models or labels it reads."""
    known = names()
    own = "".join(_texts(known[name]))
    return [folder / other for other in _others(known, name) if f"runs}}/{other}/" in own]


def names() -> dict[str, Path]:
    """Every shipped recipe: its name and its folder."""
    root = _shipped()
    return {folder.name: folder for folder in sorted(root.iterdir()) if any(folder.glob("[0-9]*.yaml"))}


def descriptions() -> dict[str, str]:
    """Every shipped recipe: its number of stages, and its data or its first stage."""
    return {name: _description(folder) for name, folder in names().items()}


def _description(folder: Path) -> str:
    stages = sorted(folder.glob("[0-9]*.yaml"))
    file = folder / "task.yaml"
    comment = []
    for line in (file if file.is_file() else stages[0]).read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# tinybert "):
            comment.append(line.removeprefix("#").strip())
    text = " ".join(comment).removeprefix("Shared by all files of this recipe: ")
    sentence = re.split(r"\.(?= [A-Z(]|$)|, or from a local folder| \(\w+=", text)[0]
    return f"{len(stages)} stage{'s' * (len(stages) > 1)}: {sentence}"


def _recipe_of(task: str) -> str:
    """The folder in configs/ to start from."""
    recipe = tasks.find(task).recipe
    if recipe is None:
        others = ", ".join(name for name, known in tasks.TASKS.items() if known.recipe is not None)
        raise ConfigError(f"there is no recipe for the task '{task}'", hint=f"copy the one of another task: {others}")
    return recipe


def _shipped() -> Path:
    """configs/ in the installed package, or next to the package in a checkout."""
    package = Path(__file__).parents[1]
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / DEMO).is_dir():
            return folder
    raise InputError("this installation does not contain the recipes", hint="install tinybert from its wheel or git")
