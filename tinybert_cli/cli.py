"""The command line: each stage reads one config file and writes one folder, and is imported only when it runs."""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from tinybert_cli import __version__, stage_server
from tinybert_cli.errors import LESS_MEMORY_OF_HELPERS, GateError, InputError, UserError, explained
from tinybert_cli.escaping import ESCAPED, message
from tinybert_cli.escaping import as_json as as_json_text
from tinybert_cli.recipe_runner import Options, run_recipe
from tinybert_cli.runner import execute
from tinybert_cli.user_paths import argument_path
from tinybert_cli.wording import counted

app = typer.Typer(
    name="tinybert",
    help="Distil a BERT-class teacher into a small, fast student, in stages that communicate through folders.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"tinybert {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """The options of the program itself."""


HELP = {
    "finetune": "Train a model on gold labels (the teacher), or on the predictions of another model (student2).",
    "gen-soft-labels": "Run a model once over the data and store its predictions.",
    "distill": "Train a student to match a teacher's outputs and, optionally, its layers.",
    "eval": "Score models side by side: quality, fidelity, size, latency.",
    "export": "Write ONNX, CTranslate2, int8 or half-precision safetensors, and verify it against the original.",
}


def main() -> None:
    """The console script; also `python -m tinybert_cli`."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the parent process
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115  open until the end
        getattr(sys, name).reconfigure(errors=ESCAPED)  # for a terminal that cannot show every character
    if sys.platform == "win32" and "PYTHONIOENCODING" not in os.environ:
        for stream in (sys.stdin, sys.stdout, sys.stderr):
            if stream is not None and not stream.isatty():  # else pipes have the code page of the system
                stream.reconfigure(encoding="utf-8")
    app(prog_name="tinybert")


def _completions(context: typer.Context, incomplete: str) -> list[str]:
    """Completions for the shell: a config file first, then the settings of the stage."""
    from tinybert_cli.helpers import schema as helper

    if context.params.get("arguments") or context.params.get("config"):
        stages = [context.info_name] if context.info_name in HELP else list(HELP)  # a recipe has stages of any command
        keys = dict.fromkeys(key for stage in stages for key in helper.keys(str(stage)))
        return [f"{key}=" for key in keys if key.startswith(incomplete)]
    paths = sorted(Path().glob(f"{incomplete}*"))
    return [f"{path}/" if path.is_dir() else str(path) for path in paths if path.is_dir() or path.suffix == ".yaml"]


def _command(command: str) -> Callable[..., None]:
    def run(
        arguments: Annotated[
            list[str] | None,
            typer.Argument(
                metavar="CONFIG [KEY=VALUE]...",
                help="A YAML file, and settings to change.",
                autocompletion=_completions,
            ),
        ] = None,
        config: Annotated[
            Path | None, typer.Option("--config", metavar="FILE", help="The YAML file, instead of the argument.")
        ] = None,
        dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Check everything, write nothing.")] = False,
        force: Annotated[bool, typer.Option("--force", "-f", help="Replace the previous run in output_dir.")] = False,
        as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
        quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only results, warnings and errors.")] = False,
        verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Also print the output of libraries.")] = False,
        in_recipe: Annotated[bool, typer.Option("--in-recipe", hidden=True)] = False,
    ) -> None:
        words = list(arguments or [])
        if config is None and not words:
            raise typer.BadParameter(f"no config; try: tinybert {command} FILE.yaml", param_hint="CONFIG")
        if config is None and words[0].startswith("-"):
            raise typer.BadParameter(f"expected the config first, found '{words[0]}'", param_hint="CONFIG")
        file = config if config is not None else Path(words.pop(0))
        raise typer.Exit(
            execute(
                command, file, words, dry_run=dry_run, force=force, as_json=as_json, quiet=quiet, verbose=verbose,
                in_recipe=in_recipe,
            )
        )  # fmt: skip

    return run


for _name, _help in HELP.items():
    # An option of another tool (--learning-rate 3e-5) is not just unknown: the error names the setting here.
    app.command(_name, help=_help, context_settings={"ignore_unknown_options": True})(_command(_name))


@app.command(
    "run",
    help="Run all stages of a recipe in order; finished stages are skipped, interrupted ones resume.",
    context_settings={"ignore_unknown_options": True},
)
def run(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RECIPE [KEY=VALUE]...",
            help="A folder of stages or one YAML file, and settings to change: KEY=VALUE in every stage that has this "
            "setting, finetune:KEY=VALUE in the stages of one command, student:KEY=VALUE in one stage.",
            autocompletion=_completions,
        ),
    ] = None,
    start: Annotated[str | None, typer.Option("--from", metavar="STAGE", help="Start with this stage.")] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="STAGE", help="Run only this stage; may be repeated.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Print the plan, write nothing.")] = False,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Replace finished runs that have other settings or inputs.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only results, warnings and errors.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Also print the output of libraries.")] = False,
) -> None:
    words = list(arguments or [])
    if not words or words[0].startswith("-"):
        raise typer.BadParameter(
            "no recipe; try: tinybert init mine --data FILE, then tinybert run mine/recipe.yaml", param_hint="RECIPE"
        )
    options = Options(
        only=only or (), start=start, dry_run=dry_run, force=force, as_json=as_json, quiet=quiet, verbose=verbose
    )
    raise typer.Exit(run_recipe(Path(words[0]), words[1:], options))


@app.command(stage_server.SERVE, hidden=True)
def serve_stages(fork: Annotated[bool, typer.Option(stage_server.FORK)] = False) -> None:
    stage_server.serve(sys.stdin, sys.stdout, fork=fork)


@app.command(
    "inspect", help="Check data before training: rows, labels, lengths, unknown words, repeats, leaks; with advice."
)
def inspect(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="DATA_OR_CONFIG [KEY=VALUE]...",
            help="A data file, a folder with splits, a config or a recipe; and settings to change.",
            autocompletion=_completions,
        ),
    ],
    task: Annotated[str | None, typer.Option("--task", help="The task, for a data file; otherwise guessed.")] = None,
    text: Annotated[str | None, typer.Option(metavar="COLUMN[,COLUMN]", help="The text, or the two of a pair.")] = None,
    label: Annotated[str | None, typer.Option(metavar="COLUMN[,COLUMN]...", help="The label column.")] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="The model whose tokens are counted: a folder or Hub id.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    from tinybert_cli import console
    from tinybert_cli.helpers import inspect as helper
    from tinybert_cli.stages.checks import CHECKS

    width = console.width_of(sys.stdout)
    wrapped = partial(console.wrapped, width=width)
    request = helper.Request(
        argument_path(arguments[0]),
        arguments[1:],
        task=task,
        text=_names(text),
        label=_names(label),
        model=model and argument_path(model),
    )
    unfit = False

    def output() -> Iterator[str]:
        nonlocal unfit
        results = list(helper.run(request, CHECKS))
        unfit = any(result.summary.errors for result in results)
        if as_json:
            yield as_json_text({"inspections": [helper.as_json(result) for result in results]})
            return
        for result in results:
            yield from map(wrapped, result.lines)
            yield from ["", console.table(*helper.split_table(result), width=width)]
            yield from map(wrapped, helper.split_legend(result))
            if result.summary.labels:
                yield from ["", console.table(*helper.label_table(result), width=width, texts=["example"])]
            yield from ["", *map(wrapped, helper.messages(result)), *([""] if len(results) > 1 else [])]
        if results[-1].next and not unfit:
            yield wrapped(f"next: {results[-1].next}")

    _print_lines(output)
    if unfit:
        raise typer.Exit(InputError.exit_code)


@app.command("schema", help="Print the settings of a stage and their meaning.")
def schema(
    stage: Annotated[
        str | None, typer.Argument(help="finetune, gen-soft-labels, distill, eval, export, or recipe.")
    ] = None,
    key: Annotated[str | None, typer.Argument(help="Only this setting, for example training.learning_rate.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON Schema.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print all stages as one page of tables.")] = False,
) -> None:
    from tinybert_cli.helpers import schema as helper

    if as_markdown and (stage or as_json):
        raise typer.BadParameter("--markdown prints all stages; it cannot be combined with STAGE or --json")
    if as_markdown:
        _print_lines(lambda: [helper.as_markdown()])
    else:
        _print_lines(lambda: [helper.as_json(stage, key) if as_json else helper.as_text(stage, key)])


@app.command(
    "predict",
    help="Predict for texts with a model folder or an export; without TEXT and --file, for the lines of stdin.",
)
def predict(
    model: Annotated[str, typer.Argument(help="A model folder, an export folder or a Hub id.")],
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="[TEXT]...", help="A tab separates the two texts of a pair.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", help="A csv, tsv, json, jsonl, conll or parquet file, or one with one text per line; .gz too."
        ),
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            "--text", metavar="COLUMN", help="The column with the texts; twice for pairs. Default: as in training."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Write a csv, tsv, jsonl or parquet file: the columns of --file, and predictions."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace the file of --output.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, with all probabilities.")] = False,
) -> None:
    from tinybert_cli.helpers import predict as helper
    from tinybert_cli.helpers import predict_tables

    if texts and file is not None:
        raise typer.BadParameter("TEXT and --file cannot be combined")
    if file is None and (columns or out is not None):
        raise typer.BadParameter("--text and --output need --file")
    if force and out is None:
        raise typer.BadParameter("--force needs --output")

    stdin, stderr = sys.stdin, sys.stderr  # before they are silenced

    def note(sentence: str | None) -> None:
        if sentence:
            print(message(f"note: {sentence}"), file=stderr)

    def line(row: dict[str, Any]) -> str:
        return "\t".join(map(helper.on_one_line, [*helper.as_fields(row), row["text"]]))

    def warn(sentence: str) -> None:
        print(message(f"warning: {sentence}"), file=stderr)

    def output() -> Iterator[str]:
        if file is not None and out is not None:
            predict_tables.check_output(_path(out), _path(file), force=force)
        typed = not texts and file is None
        is_prompt = typed and stdin.isatty()
        given: Sequence[Any] = texts or (helper.read_lines(stdin.buffer, "stdin") if typed and not is_prompt else [])
        if typed and not is_prompt and not given:
            note("stdin is empty, so that nothing is predicted")
        predictor = helper.load(argument_path(model))
        for sentence in predictor.assumptions:
            note(sentence)
        note(helper.tab_note(predictor, given))
        if not as_json:
            note(helper.threshold_note(predictor))
        source = None if file is None else helper.open_source(predictor, _path(file), columns or [], note)
        facts = {"model": model, **helper.thresholds(predictor)}
        if is_prompt:
            for text in helper.prompted(stdin, stderr):
                note(helper.tab_note(predictor, [text]))
                try:
                    (row,) = predictor.predict([text])
                except InputError as error:  # of this text; the next one may fit
                    print(message(f"error: {error}"), file=stderr)
                else:
                    yield as_json_text(row) if as_json else line(row)
            return
        if source is not None and out is not None:
            predict_tables.check_cells(_path(out), source.parts)
            count = predict_tables.write(
                _path(out), source.predictions(predictor), source.file, sometimes=predictor.outputs_of_some
            )
            print(message(f"written: {_path(out)}, {counted(count, 'row')}"), file=stderr)
            if as_json:
                yield as_json_text({**facts, "output": str(_path(out)), "rows": count})
            return
        predictions = (
            predictor.predict(given)
            if source is None
            else itertools.chain.from_iterable(outputs for _, outputs in source.predictions(predictor))
        )
        if as_json:
            yield as_json_text({**facts, "answers": list(predictions)})
        else:
            yield from map(line, predictions)

    with predict_tables.warnings_to(warn):
        _print_lines(output, less_memory=helper.LESS_MEMORY)


@app.command("report", help="Compare finished runs; without RUN, all runs in runs/.")
def report(
    runs: Annotated[list[Path] | None, typer.Argument(metavar="[RUN]...", help="Folders that stages wrote.")] = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="Choose the best model for latency_ms=3, size_mb=15, retention=0.97, ..."
        ),
    ] = None,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, with every metric.")] = False,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write an HTML page with plots, which needs no network.")
    ] = None,
) -> None:
    from tinybert_cli import console
    from tinybert_cli.reports import budget as budgets
    from tinybert_cli.reports import runs as helper
    from tinybert_cli.reports import runs_html, runs_table

    if as_markdown and as_json:
        raise typer.BadParameter("--markdown and --json cannot be combined")
    width = console.width_of(sys.stdout)

    def output() -> Iterator[str]:
        finished = helper.run([*map(_path, runs or [])])
        limits = budgets.limits(budget, finished.models) if budget else []
        choice: budgets.Choice | None = None
        missed: GateError | None = None
        try:
            choice = budgets.choose(finished.models, limits) if limits else None
        except GateError as error:
            missed = error
        if as_json:
            chosen = {"budget": asdict(choice) if choice else None} if limits else {}
            yield as_json_text({**helper.as_json(finished), **chosen})
        else:
            header, rows = runs_table.table(finished)
            if as_markdown:
                yield runs_table.as_markdown(header, rows)
            else:
                yield console.table(header, rows, width=width, texts=runs_table.TEXTS, option="--markdown")
            notes = [*finished.notes(), *(budgets.as_lines(choice) if choice else [])]
            yield from ["", *map(message, notes)] if notes else []
        if html is not None:
            runs_html.write(_path(html), finished, choice)
        if missed is not None:
            raise missed

    _print_lines(output)
    if html is not None:
        print(f"written: {_path(html)}", file=sys.stderr)


@app.command("init", help="Write a recipe for your data, or copy a shipped one; nothing is overwritten.")
def init(
    folder: Annotated[Path | None, typer.Argument(metavar="DIR", help="The new folder.")] = None,
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[data.KEY=VALUE]...", help="How the data is read; see schema.")
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", metavar="FILE_OR_FOLDER", help="Your data; it is split, if it is one file.")
    ] = None,
    validation: Annotated[str | None, typer.Option(metavar="FILE", help="Validation rows, if they are given.")] = None,
    test: Annotated[str | None, typer.Option(metavar="FILE", help="Test rows, if they are given.")] = None,
    unlabeled: Annotated[str | None, typer.Option(metavar="FILE", help="More text, without labels.")] = None,
    text: Annotated[str | None, typer.Option(metavar="COLUMN[,COLUMN]", help="The text, or the two of a pair.")] = None,
    label: Annotated[str | None, typer.Option(metavar="COLUMN[,COLUMN]...", help="The label column.")] = None,
    task: Annotated[str | None, typer.Option("--task", help="The task of the model.")] = None,
    teacher: Annotated[
        str | None, typer.Option(metavar="MODEL", help="A fine-tuned model: a folder or Hub id, instead of finetune.")
    ] = None,
    model: Annotated[str | None, typer.Option(metavar="MODEL", help="The model that the teacher starts from.")] = None,
    seed: Annotated[int, typer.Option(help="Of the splits and the training.")] = 42,
    recipe: Annotated[str | None, typer.Option(metavar="NAME", help="Copy this shipped recipe.")] = None,
    demo: Annotated[bool, typer.Option("--demo", help="Copy the offline demo, with its data.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="List the shipped recipes.")] = False,
) -> None:
    from tinybert_cli.helpers import init as helper
    from tinybert_cli.helpers import shipped_recipes

    if listed:
        _print_lines(lambda: (f"{name:<14} {text}" for name, text in shipped_recipes.descriptions().items()))
        return
    if folder is None:
        raise typer.BadParameter("no folder; try: tinybert init mine --data FILE", param_hint="DIR")
    needs_data = {
        "--validation": validation, "--test": test, "--unlabeled": unlabeled, "--text": text, "--label": label,
        "--teacher": teacher, "--model": model, "KEY=VALUE": settings,
    }  # fmt: skip
    if data is None:
        if needing := [name for name, value in needs_data.items() if value]:
            raise typer.BadParameter(f"{needing[0]} needs --data FILE_OR_FOLDER")
        name = shipped_recipes.DEMO if demo else recipe
        target = _path(folder)
        _print_lines(lambda: shipped_recipes.lines(target, task or "text-classification", recipe=name))
        return
    if demo or recipe is not None:
        raise typer.BadParameter("--data cannot be combined with --demo or --recipe")
    request = helper.Request(
        _path(folder),
        argument_path(data),
        validation=validation and argument_path(validation),
        test=test and argument_path(test),
        unlabeled=unlabeled and argument_path(unlabeled),
        task=task,
        text=_names(text),
        label=_names(label),
        teacher=teacher and argument_path(teacher),
        model=model and argument_path(model),
        settings=settings or [],
        seed=seed,
        choose=_choose if sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty() else None,
    )
    _print_lines(lambda: helper.run(request))


def _names(columns: str | None) -> list[str]:
    return [] if columns is None else [name.strip() for name in columns.split(",")]


def _choose(question: str, names: Sequence[str]) -> str:
    """The user's choice of one of several names, on the terminal."""
    import click

    return str(typer.prompt(question, type=click.Choice(list(names)), err=True))


@app.command("doctor", help="Print versions, machine, device and caches, for bug reports.")
def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    from tinybert_cli.helpers import doctor as helper

    facts = helper.run()
    print(json.dumps(facts) if as_json else helper.as_text(facts))


def _path(path: Path) -> Path:
    return Path(argument_path(str(path)))


def _print_lines(lines: Callable[[], Iterable[str]], *, less_memory: str = LESS_MEMORY_OF_HELPERS) -> None:
    """Prints the output of a helper on stdout as it comes; errors that the user can fix go to stderr.

    Args:
        less_memory: how the helper needs less memory.
    """
    from tinybert_cli import console

    out = sys.stdout
    try:
        with console.silenced():
            for line in lines():
                if not console.write_line(line, out):
                    break
    except BaseException as error:  # a panic of Rust code is no Exception
        user_error = explained(error, less_memory=less_memory)
        if not isinstance(user_error, UserError):
            raise
        print(message(f"error: {user_error}"), file=sys.stderr)
        raise typer.Exit(user_error.exit_code) from error
