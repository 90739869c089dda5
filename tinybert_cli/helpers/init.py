"""init: copies a recipe that is shipped with tinybert into a folder of the user."""

from __future__ import annotations

from pathlib import Path

from tinybert_cli import tasks
from tinybert_cli.errors import ConfigError, InputError, OutputError

DEMO = "demo"


def run(folder: Path, task: str = "text-classification", *, demo: bool = False) -> list[Path]:
    """Copies the files of a recipe into `folder`, and replaces the recipe's name by that of the folder in all paths.

    Raises:
        ConfigError: unknown task, or a task without a recipe.
        OutputError: a file already exists; then nothing is written.
    """
    name = DEMO if demo else _recipe_of(task)
    if folder.is_file():
        raise OutputError(f"'{folder}' is a file", hint="name a new folder")
    source = _shipped() / name
    if folder.resolve().is_relative_to(source.resolve()):
        raise OutputError(f"'{folder}' is inside the recipe that is copied", hint="name another folder")
    copies = {file: folder / file.relative_to(source) for file in sorted(source.rglob("*")) if file.is_file()}
    for target in copies.values():
        if target.exists() or target.is_symlink():
            raise OutputError(f"'{target}' already exists", hint="name a new folder; init never overwrites files")
    for file, target in copies.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".yaml":
            text = text.replace(f"configs/{name}/", f"{folder.as_posix()}/")
            text = text.replace(f"runs}}/{name}/", f"runs}}/{folder.name}/")
        target.write_text(text, encoding="utf-8")
    return list(copies.values())


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
