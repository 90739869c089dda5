"""Runs the stages of a recipe in order, each as a command in a process of its own, until one fails.

Where a process can be forked, all are forks of one that has imported torch. Elsewhere, stages that look finished share
one process, as each would import torch only to find that there is nothing to do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from tinybert_cli import processes
from tinybert_cli.errors import ConfigErrors, InputError, did_you_mean
from tinybert_cli.escaping import shell_word
from tinybert_cli.events import warning
from tinybert_cli.runner import failed
from tinybert_cli.stage_processes import StageServer, run_command
from tinybert_cli.stage_server import Result
from tinybert_cli.user_paths import argument_path
from tinybert_cli.wording import verb

if TYPE_CHECKING:
    from tinybert_cli.configuration import RecipeStage
    from tinybert_cli.console import Screen


@dataclass(frozen=True)
class Options:
    """What the user set on the command line of `tinybert run`."""

    only: Sequence[str] = ()
    """The names of the stages to run; empty = all."""
    start: str | None = None
    """The first stage to run."""
    dry_run: bool = False
    force: bool = False
    """Replace runs with other settings or inputs, or with damaged files; stages that are up to date stay."""
    as_json: bool = False
    quiet: bool = False
    verbose: bool = False


def run_recipe(recipe: Path, overrides: Sequence[str], options: Options) -> int:
    """Runs the stages of a recipe; returns the exit code of the last one that ran."""
    from tinybert_cli import console

    screen = console.Screen("run", as_json=options.as_json, quiet=options.quiet, verbose=options.verbose)
    try:
        processes.check("run")
        stages = load_stages(recipe, overrides)
        selected = select(stages, options)
        if options.dry_run:
            _print_plan(screen, selected)
            return 0
        began = time.monotonic()
        results, code = _run_stages(screen, selected, options)
        _print_results(screen, stages, results, code)
        _update_pages(screen, stages)
        if code == 0:
            screen.say(f"{_counted(selected)} in {time.monotonic() - began:.0f} s")
            for line in _next(stages):
                screen.say(line)
        return code
    except BaseException as error:  # see `failed`
        return failed(screen, error)


def load_stages(recipe: Path, overrides: Sequence[str]) -> list[RecipeStage]:
    """The stages of a recipe in their order, after all checks that need no torch."""
    from tinybert_cli import configuration
    from tinybert_cli.stages.checks import CHECKS

    return configuration.load_recipe(Path(argument_path(str(recipe))), overrides, CHECKS)


def select(stages: Sequence[RecipeStage], options: Options) -> list[RecipeStage]:
    """The stages that `only` and `start` select.

    Raises:
        ConfigErrors: there is no stage of this name, or none is selected.
    """
    names = [stage.name for stage in stages]
    for name in [*options.only, *([] if options.start is None else [options.start])]:
        if name not in names:
            raise ConfigErrors(f"the recipe has no stage '{name}'", hint=did_you_mean(name, names))
    first = 0 if options.start is None else names.index(options.start)
    selected = [stage for stage in stages[first:] if not options.only or stage.name in options.only]
    if not selected:
        come = f"{', '.join(options.only)} {verb(len(options.only), 'comes', 'come')}"
        raise ConfigErrors(
            f"{come} before {options.start}, so that nothing is left to run",
            hint="use --from or --only",
        )
    return selected


def _run_stages(screen: Screen, stages: Sequence[RecipeStage], options: Options) -> tuple[list[Result], int]:
    """Runs the stages until one fails. Returns what each prints with --json, and the last exit code."""
    results: list[Result] = []
    code = 0
    with StageServer(screen.stderr) as server:
        for number, stage in enumerate(stages, start=1):
            screen.say(f"[{number}/{len(stages)}] {stage.name}: tinybert {stage.command} {shell_word(str(stage.file))}")
            code, result = run_stage(stage, options, screen.stderr, screen.say, server=server)
            results.append({"stage": stage.name, **result})
            if code:
                before = f"; {_counted(stages[: number - 1])} before it finished" if number > 1 else ""
                screen.say(f"{stage.name} ended with exit code {code}{before}")
                break
    return results, code


def looks_finished(stage: RecipeStage) -> bool:
    """Whether the folder of a stage has the manifest of a run with these settings; the stage checks it when it runs."""
    from tinybert_cli import artifacts

    return artifacts.status(stage.command, stage.config) == artifacts.Status("finished")


def run_stage(
    stage: RecipeStage,
    options: Options,
    stderr: TextIO,
    say: Callable[[str], None] = lambda line: None,
    *,
    server: StageServer | None = None,
) -> tuple[int, Result]:
    """The exit code of one stage, and what it prints with --json.

    Args:
        server: the process for stages that it can fork or that look finished; without it, each has one of its own.
    """
    flags = [word for word, is_set in (("--quiet", options.quiet), ("--verbose", options.verbose)) if is_set]
    words = [str(stage.file), *stage.overrides, *flags]
    code, result = _run(stage, words, stderr, server)
    if code and options.force and result.get("replaceable"):
        say(f"replacing {stage.config.output_dir}")
        code, result = _run(stage, [*words, "--force"], stderr, server)
    return code, result


def _run(stage: RecipeStage, words: Sequence[str], stderr: TextIO, server: StageServer | None) -> tuple[int, Result]:
    if server is not None and (server.forks or ("--force" not in words and looks_finished(stage))):
        return server.run(stage.command, words)
    if server is not None:
        server.end()  # its memory is free for the stage
    return run_command(stage.command, words, stderr)


# -- output ----------------------------------------------------------------------------------------------------


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
        [stage.name, stage.command, _in_words(state), stage.config.output_dir, ", ".join(stage.reads) or "-"]
        for stage, state in zip(stages, states, strict=True)
    ]
    header = ["stage", "command", "state", "output_dir", "reads"]
    width = console.width_of(screen.stdout)
    console.write_line(console.table(header, rows, width=width, texts=header), screen.stdout)
    for stage, state in zip(stages, states, strict=True):
        for line in state.differences:
            screen.say(f"{stage.name}: {line}")
    screen.say("dry run: nothing was written")


def _in_words(state: Any) -> str:
    return f"{state.state}, other settings" if state.differences else str(state.state)


def _print_results(screen: Screen, stages: Sequence[RecipeStage], results: list[Result], code: int) -> None:
    """The table of `tinybert report`, also if a gate was missed; with --json also the results of the stages."""
    from tinybert_cli import artifacts, console
    from tinybert_cli.reports import runs, runs_table

    complete = code in (0, 5)
    folders = [Path(stage.config.output_dir) for stage in stages]
    finished = [folder for folder in folders if artifacts.has_manifest(folder)]
    report = runs.run(finished) if finished and complete else None
    if screen.as_json:
        status = {"status": "error" if code else "done", "exit_code": code, "stages": results}
        table = {} if report is None else {"report": runs.as_json(report)}
        screen.print_json({"command": "run", **status, **table})
    elif report is not None and report.models:
        width = console.width_of(screen.stdout)
        for line in [console.table(*runs_table.table(report), width=width, texts=runs_table.TEXTS), *report.notes()]:
            console.write_line(line, screen.stdout)


def _update_pages(screen: Screen, stages: Sequence[RecipeStage]) -> None:
    """Adds the exports of the recipe to the pages of its evaluations, which are finished before them."""
    from tinybert_cli import artifacts
    from tinybert_cli.reports import finished_exports

    for stage in stages:
        folder = Path(stage.config.output_dir)
        if stage.command == "eval" and artifacts.has_manifest(folder):
            try:
                finished_exports.add_to_page(folder)
            except (InputError, OSError) as error:
                screen.show(warning(f"{folder / 'report.html'} does not show the exports: {error}"))


def _counted(stages: Sequence[RecipeStage]) -> str:
    return f"{len(stages)} stage{'s' if len(stages) > 1 else ''}"


def _next(stages: Sequence[RecipeStage]) -> Iterator[str]:
    from tinybert_cli import artifacts

    pages = [Path(stage.config.output_dir) / "report.html" for stage in stages if stage.command == "eval"]
    yield from (f"plots, slices, regressions: {page}" for page in pages if page.is_file())
    exports = [stage.config.output_dir for stage in stages if stage.command == "export"]
    exports = [folder for folder in exports if artifacts.has_manifest(Path(folder))]
    if exports:
        yield f"next: tinybert predict {shell_word(exports[-1])}"
