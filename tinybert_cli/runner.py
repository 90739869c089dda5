"""Runs one stage, or all stages of a recipe, and prints their events; the exit code is what the shell gets."""

from __future__ import annotations

import gc
import importlib
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinybert_cli import processes
from tinybert_cli.errors import ConfigError, ConfigErrors, UserError, did_you_mean, explained
from tinybert_cli.escaping import shell_word
from tinybert_cli.user_paths import argument_path

if TYPE_CHECKING:
    from tinybert_cli.configuration import RecipeStage
    from tinybert_cli.console import Screen

STAGES = {  # command → its module in `stages`
    "finetune": "finetune",
    "gen-soft-labels": "gen_soft_labels",
    "distill": "distill",
    "eval": "evaluate",
    "export": "export",
}


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
) -> int:
    """Runs one stage and prints its events; returns the exit code."""
    from tinybert_cli import console

    screen = console.Screen(command, as_json=as_json, quiet=quiet, verbose=verbose)
    return _run_stage(screen, command, file, overrides, dry_run=dry_run, force=force)


def run_recipe(
    recipe: Path,
    overrides: Sequence[str],
    *,
    only: Sequence[str] = (),
    start: str | None = None,
    dry_run: bool,
    force: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> int:
    """Runs the stages of a recipe in order, until one fails; returns the exit code of the last.

    Args:
        only: the names of the stages to run; empty = all.
        start: the first stage to run.
        force: replace runs with other settings or inputs, or with damaged files; stages that are up to date stay.
    """
    from tinybert_cli import configuration, console
    from tinybert_cli.stages.checks import CHECKS

    screen = console.Screen("run", as_json=as_json, quiet=quiet, verbose=verbose)
    try:
        processes.check("run")
        stages = configuration.load_recipe(Path(argument_path(str(recipe))), overrides, CHECKS)
        selected = _selected(stages, only, start)
        if dry_run:
            _print_plan(screen, selected)
            return 0
        began = time.monotonic()
        code = _run_stages(screen, selected, replace_different=force)
        _print_results(screen, stages)
        if code == 0:
            screen.say(f"{_stages(selected)} in {time.monotonic() - began:.0f} s")
            for line in _next(stages):
                screen.say(line)
        return code
    except BaseException as error:  # see `_failed`
        return _failed(screen, error)


def _run_stages(screen: Screen, stages: Sequence[RecipeStage], *, replace_different: bool) -> int:
    """Runs the stages until one fails; their results are in `screen.result`."""
    from tinybert_cli import console

    results: list[dict[str, Any]] = []
    code = 0
    for number, stage in enumerate(stages, start=1):
        screen.say(f"[{number}/{len(stages)}] {stage.name}: tinybert {stage.command} {shell_word(str(stage.file))}")
        part = console.Screen(
            stage.command, as_json=screen.as_json, quiet=screen.quiet, verbose=screen.verbose, in_recipe=True
        )
        code = _run_stage(
            part, stage.command, stage.file, stage.overrides, dry_run=False, force=False,
            replace_different=replace_different,
        )  # fmt: skip
        results.append({"stage": stage.name, **part.result})
        if code:
            before = f"; {_stages(stages[: number - 1])} before it finished" if number > 1 else ""
            screen.say(f"{stage.name} ended with exit code {code}{before}")
            break
        gc.collect()  # the models of this stage
    screen.result = {"command": "run", "status": "error" if code else "done", "exit_code": code, "stages": results}
    return code


def _run_stage(
    screen: Screen,
    command: str,
    file: Path,
    overrides: Sequence[str],
    *,
    dry_run: bool,
    force: bool,
    replace_different: bool = False,
) -> int:
    from tinybert_cli import artifacts, configuration
    from tinybert_cli.stages.checks import CHECKS

    folder: Path | None = None
    try:
        processes.check(command)
        file = Path(argument_path(str(file)))
        config = configuration.load(command, file, overrides, CHECKS[command])
        folder = Path(config.output_dir)
        artifacts.check_config_files(folder, configuration.sources(command, file, overrides))
        stage = importlib.import_module(f"tinybert_cli.stages.{STAGES[command]}")  # torch: seconds
        with screen.silenced(folder):
            try:
                for row in stage.run(config, force=force, dry_run=dry_run):
                    screen.show(row)
            except UserError as error:
                if not (replace_different and error.replaceable):
                    raise
                screen.say(f"replaced, as it differs: {folder}")
                for row in stage.run(config, force=True, dry_run=dry_run):
                    screen.show(row)
        screen.finish(file, config.output_dir, dry_run=dry_run)
        _leave()
        return 0
    except ConfigError as error:
        located: ConfigErrors = configuration.with_location(error, command, file, overrides)
        screen.fail(located)
        return located.exit_code
    except BaseException as error:  # see `_failed`
        return _failed(screen, error, folder)


def _failed(screen: Screen, error: BaseException, folder: Path | None = None) -> int:
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


# -- a recipe --------------------------------------------------------------------------------------------------


def _selected(stages: Sequence[RecipeStage], only: Sequence[str], start: str | None) -> list[RecipeStage]:
    names = [stage.name for stage in stages]
    for name in [*only, *([] if start is None else [start])]:
        if name not in names:
            raise ConfigErrors(f"the recipe has no stage '{name}'", hint=did_you_mean(name, names))
    first = 0 if start is None else names.index(start)
    return [stage for stage in stages[first:] if not only or stage.name in only]


def _print_plan(screen: Screen, stages: Sequence[RecipeStage]) -> None:
    """The stages in order with the state of their folders: on stdout, as it is the result of a dry run."""
    from tinybert_cli import artifacts, console

    states = [artifacts.status(stage.command, stage.config) for stage in stages]
    if screen.as_json:
        listed = [
            {
                "stage": stage.name, "command": stage.command, "config": str(stage.file), "reads": list(stage.reads),
                "output_dir": stage.config.output_dir, "state": state.state, "differences": list(state.differences),
            }
            for stage, state in zip(stages, states, strict=True)
        ]  # fmt: skip
        screen.print_json({"command": "run", "status": "dry run", "stages": listed})
        return
    rows = [
        [stage.name, stage.command, ", ".join(stage.reads) or "-", _in_words(state), stage.config.output_dir]
        for stage, state in zip(stages, states, strict=True)
    ]
    console.write_line(
        console.table(["stage", "command", "reads", "state", "output_dir"], rows, width=None), screen.stdout
    )
    for stage, state in zip(stages, states, strict=True):
        for line in state.differences:
            screen.say(f"{stage.name}: {line}")
    screen.say("dry run: nothing was written")


def _in_words(state: Any) -> str:
    if state.differences:
        return f"{state.state}, other settings"
    return str(state.state)


def _print_results(screen: Screen, stages: Sequence[RecipeStage]) -> None:
    """The table of `tinybert report`, unless a stage failed; with --json also the results of the stages."""
    from tinybert_cli import artifacts, console
    from tinybert_cli.reports import runs, runs_table

    folders = [Path(stage.config.output_dir) for stage in stages]
    finished = [folder for folder in folders if artifacts.has_manifest(folder)]
    report = runs.run(finished) if finished and screen.result["status"] == "done" else None
    if screen.as_json:
        table = {} if report is None else {"report": runs.as_json(report)}
        screen.print_json({**screen.result, **table})
    elif report is not None and report.models:
        width = console.width_of(screen.stdout)
        for line in [console.table(*runs_table.table(report), width=width), *report.notes()]:
            console.write_line(line, screen.stdout)


def _stages(stages: Sequence[RecipeStage]) -> str:
    return f"{len(stages)} stage{'s' if len(stages) > 1 else ''}"


def _next(stages: Sequence[RecipeStage]) -> Iterator[str]:
    pages = [Path(stage.config.output_dir) / "report.html" for stage in stages if stage.command == "eval"]
    yield from (f"plots, slices, regressions: {page}" for page in pages if page.is_file())
    exports = [stage.config.output_dir for stage in stages if stage.command == "export"]
    if exports:
        yield f"next: tinybert predict {shell_word(exports[-1])}"
