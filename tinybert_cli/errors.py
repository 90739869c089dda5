"""Errors that a user can fix, and their exit codes.

UserError            1  failed while running
├── ConfigError      2  wrong usage or invalid config
├── InputError       3  an input is missing or unusable
├── OutputError      4  `output_dir` contains something else
├── GateError        5  a requirement is not met
└── Interrupted      130 / 143  Ctrl-C / SIGTERM; run again to resume
"""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")

MAX_WIDTH = 1_000  # characters of a line in a message

LESS_MEMORY = (
    "halve the batch size (per_device_train_batch_size or per_device_train_batch_tokens with twice the "
    "gradient_accumulation_steps, per_device_eval_batch_size, latency.batch_sizes), or lower data.max_seq_length"
)
LESS_MEMORY_OF_HELPERS = "give it fewer rows, or use a machine with more free memory"

_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
_UNUSABLE = {
    errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.ENAMETOOLONG, errno.ELOOP,
}  # fmt: skip
_OUT_OF_MEMORY = re.compile(
    r"OutOfMemoryError|DefaultCPUAllocator|(?:can(?:no|')t|cannot|[Uu]nable to|[Ff]ailed to) allocate|out of memory"
    r"|not enough memory|bad_alloc|bad allocation|_ALLOC_FAILED|realloc of size \d+ failed|malloc of size \d+ failed"
)


class UserError(Exception):
    """An error that the user can fix: what is wrong, where, and how to fix it."""

    exit_code = 1
    replaceable = False  # whether --force replaces what the error is about: an earlier run in output_dir

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  --> {self.where}")
        if self.hint:
            lines.append(f"   = {self.hint}")
        return "\n".join(_cropped(line) for text in lines for line in text.split("\n"))


class ConfigError(UserError):
    """An invalid setting; `key` is its path in the config, for example ("losses", "soft_labels", "temperature")."""

    exit_code = 2

    def __init__(
        self, what: str, *, key: tuple[str | int, ...] = (), where: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(what, where=where, hint=hint)
        self.key = key


class ConfigErrors(UserError):
    """All problems of one config, formatted with their locations in the file."""

    exit_code = 2


class InputError(UserError):
    """A file, column, model, label dataset, optional package or the network is missing or unusable."""

    exit_code = 3


class OutputError(UserError):
    """`output_dir` contains something else, or another process is writing to it."""

    exit_code = 4


class GateError(UserError):
    """A requirement is not met: `require` in eval, `verify` in export."""

    exit_code = 5


class Interrupted(UserError):
    """Ctrl-C or SIGTERM; the state after the last step is saved."""

    def __init__(self, signum: int, what: str, *, hint: str | None = None) -> None:
        super().__init__(what, hint=hint)
        self.exit_code = 128 + signum


def _cropped(line: str) -> str:
    """A line of a message; the start of one that lists thousands of names, or quotes a very long one."""
    return line if len(line) <= MAX_WIDTH else f"{line[:MAX_WIDTH]}…"


# import names of the extra `train`, which predicting with an export does without
TRAINING_PACKAGES = {
    "accelerate", "datasets", "huggingface_hub", "onnx", "pyarrow", "safetensors", "scipy", "sklearn", "torch",
    "transformers",
}  # fmt: skip


def explained(error: BaseException, *, less_memory: str = LESS_MEMORY) -> BaseException:
    """A UserError for failures that are no bugs: no memory, a disk that cannot be used, a package that is missing.

    Any other error is returned unchanged.

    Args:
        less_memory: how the command needs less memory; the default is for stages.
    """
    if isinstance(error, UserError):
        return error
    if is_out_of_memory(error):
        return UserError(f"out of memory: {_first_line(error)}", hint=less_memory)
    if is_panic(error):
        return InputError(
            f"the tokenizer failed: {_first_line(error)}",
            hint="its tokenizer.json holds a pattern that cannot be run on these texts; use the files of the original",
        )
    if isinstance(error, ModuleNotFoundError) and error.name in TRAINING_PACKAGES:
        return InputError(f"the package '{error.name}' is not installed", hint="pip install 'tinybert[train]'")
    if isinstance(error, OSError) and error.errno in _FORBIDDEN:
        return InputError(f"cannot open '{error.filename}': {str(error.strerror).lower()}")
    if isinstance(error, OSError) and error.errno in _UNUSABLE:
        return UserError(f"cannot use '{error.filename}': {str(error.strerror).lower()}")
    return error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a library could not allocate memory, of the machine or of a GPU; each has its own error for it."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return isinstance(error, Exception) and _OUT_OF_MEMORY.search(f"{type(error).__name__}: {error}") is not None


def is_panic(error: BaseException) -> bool:
    """Whether Rust code of a library (tokenizers, safetensors) panicked; its exception is no `Exception`."""
    return type(error).__module__ == "pyo3_runtime"


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def look_up(table: Mapping[str, T], name: str, what: str, *, key: tuple[str | int, ...] = ()) -> T:
    """The entry called `name`.

    Raises:
        ConfigError: there is none; the hint is the most similar name, or the list of names.
    """
    if name in table:
        return table[name]
    raise ConfigError(f"unknown {what} '{name}'", key=key, hint=did_you_mean(name, table))


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """`did you mean 'x'?` for the most similar name, or the list of names if none is similar."""
    known = list(names)
    return nearest(name, known) or f"one of: {', '.join(known)}"


def nearest(name: str, names: Iterable[str]) -> str | None:
    """`did you mean 'x'?` for the most similar name; None if none is similar."""
    near = difflib.get_close_matches(str(name), list(names), n=1, cutoff=0.6)
    return f"did you mean '{near[0]}'?" if near else None
