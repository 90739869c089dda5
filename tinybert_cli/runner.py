"""Runs one stage and prints its events; the exit code is what the shell gets."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tinybert_cli import processes
from tinybert_cli.errors import ConfigError, ConfigErrors, UserError, explained
from tinybert_cli.user_paths import argument_path

if TYPE_CHECKING:
    from tinybert_cli.console import Screen

STAGES = {  # command → its module in `stages`
    "finetune": "finetune",
    "gen-soft-labels": "gen_soft_labels",
    "distill": "distill",
    "eval": "evaluate",
    "export": "export",
}
_HEAVY = ("torch._dynamo", "transformers.modeling_utils", "tinybert_cli.console")  # what the first step would import


def execute(
    command: str,
    file: Path,
    overrides: Sequence[str],
    *,
    dry_run: bool,
    force: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    in_recipe: bool = False,
) -> int:
    """Runs one stage and prints its events; returns the exit code.

    Args:
        in_recipe: `tinybert run` has started this stage, and continues with the next one.
    """
    from tinybert_cli import artifacts, configuration, console
    from tinybert_cli.stages.checks import CHECKS

    screen = console.Screen(command, as_json=as_json, quiet=quiet, verbose=verbose, in_recipe=in_recipe)
    folder: Path | None = None
    try:
        processes.check(command)
        file = Path(argument_path(str(file)))
        config = configuration.load(command, file, overrides, CHECKS[command])
        folder = Path(config.output_dir)
        artifacts.check_config_files(folder, configuration.sources(command, file, overrides))
        stage = importlib.import_module(f"tinybert_cli.stages.{STAGES[command]}")  # torch: seconds
        with screen.silenced(folder):
            for row in stage.run(config, force=force, dry_run=dry_run):
                screen.show(row)
        screen.finish(file, config.output_dir, dry_run=dry_run)
        _leave()
        return 0
    except ConfigError as error:
        located: ConfigErrors = configuration.with_location(error, command, file, overrides)
        screen.fail(located)
        return located.exit_code
    except BaseException as error:  # see `failed`
        return failed(screen, error, folder)


def import_stages() -> None:
    """Imports what stages need, for forks of this process. A package that is missing is the error of the stage."""
    with suppress(ImportError):
        for name in (*_HEAVY, *(f"tinybert_cli.stages.{module}" for module in STAGES.values())):
            importlib.import_module(name)


def failed(screen: Screen, error: BaseException, folder: Path | None = None) -> int:
    """Prints an error and returns its exit code; what is no error of the program is raised again."""
    if isinstance(error, KeyboardInterrupt):
        screen.say("interrupted")
        return 130
    user_error = explained(error)  # a panic of Rust code is no Exception
    if isinstance(user_error, UserError):
        screen.fail(user_error)
        return user_error.exit_code
    if not isinstance(error, Exception):
        raise error
    screen.fail_with_bug(error, folder)
    return 1


def _leave() -> None:
    """Ends the process group, if several processes ran this stage."""
    if "torch" in sys.modules:
        from tinybert_cli import loops

        loops.end_process_group()
