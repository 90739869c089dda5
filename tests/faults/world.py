"""A small finished cascade to damage, and the command line in a process of its own: real signals, codes and limits.

A fork server that has imported torch starts the processes, so that a command takes a fraction of a second instead of
the seconds that the import takes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import os
import re
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from conftest import QUICK, ROWS, write_base_model, write_sentences
from limits import MEMORY, SECONDS

from tinybert_cli.runner import STAGES as MODULES

PRELOADED = [
    "accelerate", "datasets", "huggingface_hub.serialization", "matplotlib.backends.backend_svg", "matplotlib.figure",
    "onnx", "onnxruntime", "scipy.stats", "sklearn.metrics", "sympy", "tokenizers", "torch._dynamo",
    "transformers.models.auto.modeling_auto", "transformers.models.auto.tokenization_auto",
    "transformers.models.bert.modeling_bert",
]  # fmt: skip
PRELOADED += [f"tinybert_cli.stages.{module}" for module in MODULES.values()]
FILES = {f"{split}_file": f"data/{split}.jsonl" for split in ROWS}
TRAINING = {**QUICK, "max_steps": 24, "num_train_epochs": 3.0, "eval_strategy": "steps", "eval_steps": 6}

# The stages of the cascade, in order: folder -> command and settings.
STAGES: dict[str, tuple[str, dict[str, Any]]] = {
    "teacher": ("finetune", {"model": "base", "training": {**QUICK, "logging_steps": 24}}),
    "labels": ("gen-soft-labels", {"teacher": "teacher"}),
    "student": ("distill", {"label_dataset": "labels", "student": {"from": "teacher", "num_hidden_layers": 2}}),
    "student2": ("finetune", {"label_dataset": "labels", "model": {"from": "student", "num_hidden_layers": 1}}),
    "eval": ("eval", {"models": {"teacher": "teacher", "student": "student"}, "latency": None, "bootstrap": 50}),
    "export": ("export", {"model": "student", "verify": {"max_samples": 16}}),
}


@dataclass(frozen=True)
class Result:
    """What a command left: its exit code (minus the number of the signal that killed it), stdout and stderr."""

    code: int | None
    out: str
    err: str

    @property
    def message(self) -> str:
        """The first line of the error, without `error: `; empty if there is none."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        return lines[0].removeprefix("error: ") if lines else ""


@dataclass(frozen=True)
class Moment:
    """The signal comes before the change of a file that has this number, counted from 1; 0: there is none."""

    number: int
    signal: signal.Signals


def write_config(folder: Path, name: str, command: str, **settings: Any) -> None:
    """Writes `name`.yaml: a stage that writes the folder `name`; without `data`, on the sentences in data/."""
    data = {"max_seq_length": 16, **settings.pop("data", FILES)}
    config = {"stage": command, "task": "text-classification", "data": data}
    config |= {"training": TRAINING} if command in ("finetune", "distill") else {}
    config |= {"mixed_precision": "no"} if command == "gen-soft-labels" else {}
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump({**config, **settings, "output_dir": name}, sort_keys=False), encoding="utf-8")


def build(folder: Path) -> Path:
    """The data, the base model and every stage of the cascade, all with paths relative to `folder`."""
    write_sentences(folder / "data")
    write_base_model(folder / "base")
    for name, (command, settings) in STAGES.items():
        write_config(folder, name, command, **settings)
        result = run(folder, command, f"{name}.yaml")
        assert result.code == 0, result.err
    return folder


# -- processes -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Running:
    """A process that runs a command, and the folder with its streams."""

    process: multiprocessing.process.BaseProcess
    streams: Path

    def wait_until(self, condition: Callable[[], bool]) -> bool:
        """Whether the condition became true before the process ended."""
        end = time.monotonic() + SECONDS
        while not condition():
            if self.process.exitcode is not None:
                return False
            assert time.monotonic() < end, "the condition did not become true"
            time.sleep(0.002)
        return True

    def result(self) -> Result:
        """Waits for the end of the process.

        Raises:
            TimeoutError: it takes more than SECONDS.
        """
        self.process.join(SECONDS)
        if self.process.exitcode is None:
            raise TimeoutError(f"no end after {SECONDS} s")
        out, err = ((self.streams / name).read_text("utf-8", "replace") for name in ("out", "err"))
        return Result(self.process.exitcode, out, err)


def run(folder: Path, *words: str, **options: Any) -> Result:
    """Runs `tinybert WORDS` in `folder` until it ends; the options are those of `started`."""
    with started(folder, *words, **options) as running:
        return running.result()


@contextlib.contextmanager
def started(
    folder: Path, *words: str, stdin: bytes = b"", memory: int = MEMORY, moment: Moment | None = None
) -> Iterator[Running]:
    """A running `tinybert WORDS`; it is killed at the end of the block.

    Args:
        memory: the bytes that it may allocate.
        moment: when it receives a signal.
    """
    streams = Path(tempfile.mkdtemp(dir=folder.parent))
    (streams / "in").write_bytes(stdin)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=_main, args=(str(folder), list(words), streams, memory, moment))
    process.start()
    try:
        yield Running(process, streams)
    finally:
        process.kill()
        process.join()


def count_changes(folder: Path, *words: str) -> int:
    """The number of changes of files that `tinybert WORDS` makes below the folder."""
    with started(folder, *words, moment=Moment(0, signal.SIGKILL)) as running:
        result = running.result()
        assert result.code == 0, result.err
        return int((running.streams / "changes").read_text())


def _main(folder: str, words: list[str], streams: Path, memory: int, moment: Moment | None) -> None:
    """In the child: the command line, with its streams in files."""
    import torch

    from tinybert_cli import cli

    torch.set_num_threads(1)
    os.chdir(folder)
    if moment is not None:
        sys.addaudithook(_Changes(folder, moment, streams / "changes"))
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    for number, name, mode in ((0, "in", os.O_RDONLY), (1, "out", os.O_WRONLY), (2, "err", os.O_WRONLY)):
        flags = mode | (0 if number == 0 else os.O_CREAT | os.O_TRUNC)
        os.dup2(os.open(streams / name, flags), number)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["tinybert", *words]
    try:
        cli.main()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


class _Changes:
    """An audit hook that counts the changes of files below the folder, and sends a signal before one of them."""

    def __init__(self, folder: str, moment: Moment, file: Path) -> None:
        self.folder, self.moment, self.file = folder + os.sep, moment, file
        self.number = 0

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            writes = isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        else:
            writes = event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate")
        path = arguments[0] if arguments and isinstance(arguments[0], str | os.PathLike) else ""
        if not writes or not os.path.abspath(path).startswith(self.folder):  # noqa: PTH100  a hook must be quick
            return
        self.number += 1
        if self.moment.number == 0:
            self.file.write_text(str(self.number))
        elif self.moment.number == self.number:
            os.kill(os.getpid(), self.moment.signal)


# -- files ---------------------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, str]:
    """The sha256 of every file below the folder, by relative path; of a link, its target."""
    return {
        str(path.relative_to(folder)): str(path.readlink())
        if path.is_symlink()
        else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


# What names a moment or a duration, and so differs between two runs that did the same.
VOLATILE = re.compile(
    r"(^|/)(run\.log|run\.yaml|log\.jsonl|manifest\.json|metrics\.json|README\.md|report\.(md|html))$"
)


def results(folder: Path) -> dict[str, str]:
    """The contents of the files that two equal runs write alike, to the last bit: weights, labels, predictions."""
    return {name: value for name, value in contents(folder).items() if not VOLATILE.search(name)}


def is_complete(folder: Path) -> bool:
    """Whether the folder has a manifest, and every file that it lists, unchanged."""
    if not (folder / "manifest.json").is_file():
        return False
    listed = {entry["path"]: entry["sha256"] for entry in json.loads((folder / "manifest.json").read_text())["outputs"]}
    return listed.items() <= contents(folder).items()


def is_being_replaced(folder: Path) -> bool:
    """Whether a finished new run is beside a run without a manifest, which no stage reads: a rerun moves the rest."""
    new = list((folder / "checkpoints").glob(".replacement-*/manifest.json"))
    return len(new) == 1 and not (folder / "manifest.json").exists()


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """The files that were added, removed or changed, each with +, - or ~."""
    return sorted(
        [f"+{name}" for name in after.keys() - before.keys()]
        + [f"-{name}" for name in before.keys() - after.keys()]
        + [f"~{name}" for name in after.keys() & before.keys() if after[name] != before[name]]
    )
