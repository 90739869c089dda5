"""Terminal output: rows of a stage on stderr, results on stdout, the output of libraries in run.log."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
import sys
import textwrap
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape

from tinybert_cli import processes
from tinybert_cli.errors import GateError, UserError
from tinybert_cli.escaping import as_json, message, printable, shell_word
from tinybert_cli.event_lines import COLUMNS, LINES, Row, exported, with_interval

if TYPE_CHECKING:
    from rich.progress import Progress

TOKENIZER_THREADS = "TOKENIZERS_PARALLELISM"  # a variable of the tokenizers library
NEXT = {
    "finetune": "tinybert gen-soft-labels with `teacher: {folder}`",
    "gen-soft-labels": "tinybert distill, or tinybert finetune, with `label_dataset: {folder}`",
    "distill": "tinybert eval with `models: {{student: {folder}}}`; for a task-agnostic student, "
    "tinybert finetune with `model: {folder}`",
    "eval": "tinybert export with the `model:` you want to ship",
    "export": "ship {folder}; its README.md explains how to load it",
}


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Hides everything that libraries print; for helpers."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    width: int | None,
    texts: Sequence[str] = (),
    option: str = "--json",
) -> str:
    """A table as text. Columns on the right that exceed the width (None: no limit) are left out, with a note.

    Args:
        texts: titles of the columns with text, which are aligned left, like the first one; numbers are aligned right.
        option: of the command, which prints all columns; for the note.
    """
    from rich.table import Table

    header, rows = list(map(printable, header)), [list(map(printable, row)) for row in rows]
    widths = [max(cell_len(row[index]) for row in (header, *rows)) + 2 for index in range(len(header))]
    columns = len(header)
    while width is not None and columns > 3 and sum(widths[:columns]) - 2 > width:
        columns -= 1
    output = Table(box=None, pad_edge=False, header_style="bold")
    output.add_column(header[0], overflow="fold")
    for title in header[1:columns]:
        output.add_column(title, justify="left" if title in texts else "right", no_wrap=True)
    for row in rows:
        output.add_row(*map(escape, row[:columns]))
    screen = Console(
        file=io.StringIO(), force_terminal=width is not None or None, highlight=False, emoji=False,
        width=width or sum(widths),
    )  # fmt: skip
    with screen.capture() as captured:
        screen.print(output)
        if columns < len(header):
            hidden = ", ".join(header[columns:])
            screen.print(f"({hidden}: in a wider window, or with {option})", style="dim")
    return captured.get().rstrip("\n")


def width_of(stream: TextIO) -> int | None:
    """The number of columns of a terminal; None for a pipe or a file, which have no limit."""
    return shutil.get_terminal_size().columns if stream.isatty() else None


def wrapped(text: str, *, width: int | None) -> str:
    """A message in lines of at most so many columns (None: no limit), the later ones indented."""
    text = message(text)
    if width is None or cell_len(text) <= width:
        return text
    return textwrap.fill(text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def write_line(line: str, file: TextIO) -> bool:
    """Prints one line of a result; False if the pipe is closed, so that no more lines are needed."""
    try:
        print(f"{line}\n", end="", file=file, flush=True)  # in one piece
    except BrokenPipeError:
        _redirect_to_devnull(file)
        return False
    except OSError as error:
        raise UserError(f"cannot write to stdout: {error.strerror}") from error
    return True


def _redirect_to_devnull(file: IO[str]) -> None:
    """Prevents writes to a closed pipe, also when Python flushes its streams at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())


class _Console(Console):
    """Continues silently when the pipe is closed; rich would end the run."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        _redirect_to_devnull(self.file)


class Screen:
    """The output of one command, adapted to terminal, pipe, CI, --json, -q and -v."""

    def __init__(self, command: str, *, as_json: bool, quiet: bool, verbose: bool, in_recipe: bool = False) -> None:
        self.command = command
        self.in_recipe = in_recipe  # the recipe continues with the next stage
        self.as_json = as_json
        self.quiet = quiet
        self.verbose = verbose
        self.main = processes.is_main()  # the others print only their errors
        self.stdout, self.stderr = sys.stdout, sys.stderr
        # emoji=False: `:100:` is a line number
        self.console = _Console(file=self.stderr, highlight=False, emoji=False, soft_wrap=True)
        self.live = self.stderr.isatty() and not os.environ.get("CI") and not quiet
        self.bar: Progress | None = None
        self.models: list[Row] = []
        self.last: Row = {}

    # -- while the stage runs --------------------------------------------------------------------------------

    @contextlib.contextmanager
    def silenced(self, folder: Path) -> Iterator[None]:
        """Redirects the output of libraries to run.log; with -v it is printed, too."""
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        threads = os.environ.get(TOKENIZER_THREADS)
        os.environ.setdefault(TOKENIZER_THREADS, "true")  # else each process that reads batches prints a warning
        self.library_output = _LibraryOutput(folder, also=self.stderr if self.verbose else None)
        handler = logging.StreamHandler(self.library_output)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        root, own = logging.getLogger(), logging.getLogger("tinybert")
        root.addHandler(handler)
        warnings = _Warnings(self)
        own.addHandler(warnings)
        try:
            with (
                _redirected_loggers(self.library_output),
                contextlib.redirect_stdout(self.library_output),
                contextlib.redirect_stderr(self.library_output),
            ):
                yield
        finally:
            root.removeHandler(handler)
            own.removeHandler(warnings)
            self._stop_bar()
            if threads is None:  # left behind, it would make forks of a Python program wait for threads
                os.environ.pop(TOKENIZER_THREADS, None)

    def show(self, row: Row) -> None:
        """Prints one row of a stage."""
        if not self.main:
            return
        event = row["event"]
        self.last = row
        if event == "model":
            self.models.append(row)
        if event == "progress":
            self._progress(row)
            return
        line = LINES[event](row) if event in LINES else None
        if line is None or (self.quiet and event != "warning"):
            return
        style = "yellow" if event == "warning" else "green" if event == "done" else None
        self.console.print(escape(message(line)), style=style)

    def _progress(self, row: Row) -> None:
        if not self.live:
            return
        if self.bar is None:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self.bar = Progress(
                TextColumn("{task.fields[phase]}"), BarColumn(), MofNCompleteColumn(),
                TextColumn("{task.fields[speed]}"), TimeRemainingColumn(), console=self.console, transient=True,
                redirect_stdout=False, redirect_stderr=False,  # `silenced` does that
            )  # fmt: skip
            self.bar.start()
            self.bar_id = self.bar.add_task("", total=row["max_steps"], phase=self.command, speed="")
        speed = f"{row['rows'] / max(row['seconds'], 1e-9):,.0f} rows/s"
        loss = f"loss {row['loss']:.4f}  " if "loss" in row else ""
        self.bar.update(self.bar_id, completed=row["step"], total=row["max_steps"], speed=loss + speed)

    def _stop_bar(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    # -- at the end ------------------------------------------------------------------------------------------

    def finish(self, file: Path, folder: str, *, dry_run: bool) -> None:
        """Prints the result on stdout, and the next command on stderr."""
        if not self.main:
            return
        if self.as_json:
            status = "dry run" if dry_run else self.last["event"]
            self.print_json({"command": self.command, "status": status, "output_dir": folder, **_facts(self.last)})
        elif self.models:
            self._table()
        elif "bytes_ratio" in self.last:
            write_line(exported(self.last), self.stdout)
        elif not self.stdout.isatty() and not dry_run:
            write_line(folder, self.stdout)
        if dry_run:
            self.say("dry run: nothing was written")
        elif not self.quiet and not self.in_recipe:
            self.say(f"next: {_next_in_recipe(file) or NEXT[self.command].format(folder=folder)}")

    def fail(self, error: UserError) -> None:
        """Prints an error that the user can fix."""
        self._stop_bar()
        common = error.exit_code != UserError.exit_code  # to all processes of a machine: the first one prints it
        if common and not processes.is_first_on_machine():
            if processes.is_stopped():
                return
            common = False
        if isinstance(error, GateError) and self.models and not self.as_json:
            self._table()  # the scores that missed the requirement
        text = message(str(error))
        source = "" if common else self._source
        self.console.print(f"[red]error:[/] {source}{escape(text)}")
        self._fail_in_json(error.exit_code, text, replaceable=error.replaceable)

    def fail_with_bug(self, error: Exception, folder: Path | None) -> None:
        """Prints a bug as one line; its traceback goes to run.log, and with -v to the screen."""
        self._stop_bar()
        trace = "".join(traceback.format_exception(error))
        logged = False
        if folder is not None and folder.is_dir():
            with contextlib.suppress(OSError), (folder / "run.log").open("a", encoding="utf-8") as file:
                file.write(trace)
                logged = True
        if self.verbose or not logged:
            self.console.print(escape(message(trace)), end="")
        where = f"; traceback in {escape(str(folder))}/run.log" if logged else ""
        self.console.print(
            f"[red]error:[/] {self._source}this is a bug in tinybert: "
            f"{escape(message(f'{type(error).__name__}: {error}'))}{where}"
        )
        self._fail_in_json(1, str(error))

    def _fail_in_json(self, exit_code: int, text: str, *, replaceable: bool = False) -> None:
        if self.as_json and self.main:
            facts = {"replaceable": True} if replaceable else {}
            with contextlib.suppress(UserError):  # stdout itself may be the cause of the error
                self.print_json(
                    {"command": self.command, "status": "error", "exit_code": exit_code, "error": text, **facts}
                )

    @property
    def _source(self) -> str:
        """The process that an error is of, if there are several."""
        return f"rank {processes.rank()}: " if processes.count() > 1 else ""

    def say(self, line: str) -> None:
        """Prints a line on stderr, unless -q is set."""
        if self.main and not self.quiet:
            self.console.print(escape(message(line)))

    def print_json(self, value: Row) -> None:
        write_line(as_json(value), self.stdout)

    def _table(self) -> None:
        from rich.table import Table

        out = _Console(file=self.stdout, highlight=False, emoji=False, width=None if self.stdout.isatty() else 140)
        table = Table(box=None, pad_edge=False, header_style="bold")
        metric = self.models[0].get("metric", "accuracy")
        columns = [(f"{metric} (95 %)", with_interval(metric)), *COLUMNS]
        columns = [column for column in columns if any(column[1](row) for row in self.models)]
        table.add_column("model")
        for title, _ in columns:
            table.add_column(title, justify="right", no_wrap=True)
        for row in self.models:
            table.add_row(escape(printable(row["model"])), *(cell(row) or "-" for _, cell in columns))
        out.print(table)


class _Warnings(logging.Handler):
    """Prints the warnings of tinybert itself; those of libraries go to run.log."""

    def __init__(self, screen: Screen) -> None:
        super().__init__(logging.WARNING)
        self.screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        if self.screen.main:
            self.screen.console.print(escape(message(f"warning: {record.getMessage()}")), style="yellow")


@contextlib.contextmanager
def _redirected_loggers(stream: _LibraryOutput) -> Iterator[None]:
    """Redirects the log handlers of libraries that were imported before, as in the process whose fork runs a stage."""
    screens = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    loggers = [logger for logger in logging.root.manager.loggerDict.values() if isinstance(logger, logging.Logger)]
    before = {
        handler: handler.stream
        for logger in loggers
        for handler in logger.handlers
        if type(handler) is logging.StreamHandler and handler.stream in screens
    }
    for handler in before:
        handler.setStream(stream)
    try:
        yield
    finally:
        for handler, screen in before.items():
            handler.setStream(screen)


class _LibraryOutput(io.TextIOBase):
    """A text stream that is appended to run.log as soon as the output folder exists."""

    def __init__(self, folder: Path, also: Any) -> None:
        self.folder = folder
        self.also = also
        self.buffer = ""

    def write(self, text: str) -> int:
        if self.also is not None:
            with contextlib.suppress(BrokenPipeError):
                self.also.write(text)
        self.buffer += text
        if (self.folder / "checkpoints").is_dir():
            with contextlib.suppress(OSError), (self.folder / "run.log").open("a", encoding="utf-8") as file:
                file.write(self.buffer)
            self.buffer = ""
        return len(text)

    def isatty(self) -> bool:
        return False


def _facts(row: Row) -> Row:
    return {key: value for key, value in row.items() if key not in ("event", "output_dir")}


def _next_in_recipe(file: Path) -> str | None:
    """The command of the stage after this one, in a folder of numbered files; that of the recipe, in a recipe file."""
    from tinybert_cli import configuration  # not at the top: `predict` starts faster without it

    recipe, name = configuration.split_address(file)
    if name is not None:
        return f"tinybert run {shell_word(str(recipe))}"
    following = configuration.following_stage(file)
    return following and f"tinybert {following[0]} {shell_word(str(following[1]))}"
