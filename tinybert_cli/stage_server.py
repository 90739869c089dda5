"""The process that runs the stages of a recipe one after the other: each in a fork of it, or in itself.

A fork has torch and transformers already, whose import takes seconds, and is otherwise a process of its own.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from tinybert_cli.runner import execute, import_stages

SERVE = "serve-stages"  # the hidden command of `serve`
FORK = "--fork"
Result = dict[str, Any]
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def serve(requests: TextIO, answers: TextIO, *, fork: bool) -> None:
    """Runs the stages that are named on the lines of `requests`; writes one line for each, when it has ended.

    Args:
        fork: run each in a fork, so that a signal ends the stage and not this process.
    """
    if fork:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends the process while it imports
        import_stages()
        gc.freeze()  # a fork neither visits nor, when it ends, frees what it shares with this process
    for line in iter(requests.readline, ""):
        request = json.loads(line)
        run = _run_in_fork if fork else _run
        code, output = run(request["command"], request["words"])
        answers.write(json.dumps({"exit_code": code, "output": output}) + "\n")
        answers.flush()


def run_here(command: str, words: Sequence[str]) -> tuple[int, Result]:
    """Runs the command of a stage in this process. Returns its exit code and what it prints with --json."""
    code, output = _run(command, words)
    return code, parsed(command, code, output)


def parsed(command: str, code: int, output: str) -> Result:
    """What a stage has printed with --json."""
    try:
        result: Result = json.loads(output.strip().splitlines()[-1])
    except (IndexError, ValueError):
        return {"command": command, "status": "error", "exit_code": code}
    return result


def _run(command: str, words: Sequence[str]) -> tuple[int, str]:
    file, *others = words
    overrides = [word for word in others if not word.startswith("--")]
    with contextlib.redirect_stdout(io.StringIO()) as stdout:
        code = execute(
            command, Path(file), overrides, dry_run=False, force="--force" in others, as_json=True,
            quiet="--quiet" in others, verbose="--verbose" in others, in_recipe=True,
        )  # fmt: skip
    return code, stdout.getvalue()


def _run_in_fork(command: str, words: Sequence[str]) -> tuple[int, str]:
    """As `_run`, in a fork of this process; the exit code is minus the signal that ended it.

    While it runs, this process ignores Ctrl-C, which the terminal sends to both, and passes SIGTERM on to it.
    """
    reading, writing = os.pipe()
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    child = os.fork()
    if child == 0:
        os.close(reading)
        _be_a_command()
        code, output = _run(command, words)
        with open(writing, "w", encoding="utf-8") as file:  # noqa: PTH123  a descriptor
            file.write(output)
        sys.exit(code)
    os.close(writing)

    def pass_on(number: int, _: Any) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, pass_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    try:
        with open(reading, encoding="utf-8") as file:  # noqa: PTH123  a descriptor
            output = file.read()
        _, status = os.waitpid(child, 0)
    finally:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
    return os.waitstatus_to_exitcode(status), output


def _be_a_command() -> None:
    """In a fork: signals as in a new process, no input, and nothing but results on the pipe to `tinybert run`."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
