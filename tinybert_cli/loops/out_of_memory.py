"""What a GPU without enough memory for a batch computes instead: the same rows in parts that fit.

Memory of the CPU is not handled: the system ends a process that takes too much of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch

from tinybert_cli.errors import is_out_of_memory

B = TypeVar("B")
T = TypeVar("T")

log = logging.getLogger("tinybert")

_most_tokens: WeakKeyDictionary[object, int] = WeakKeyDictionary()  # of a batch that the memory may suffice for


def is_out_of_gpu_memory(error: RuntimeError, device: torch.device | None = None) -> bool:
    """Whether the memory of a GPU does not suffice, as `errors.is_out_of_memory` judges.

    `accelerate.utils.should_reduce_batch_size` would miss `CUDA error: out of memory` and cuBLAS, and count the
    memory of the CPU.

    Args:
        device: where the error occurred; None if unknown.
    """
    on_gpu = device is not None and device.type != "cpu"
    return isinstance(error, torch.OutOfMemoryError) or (on_gpu and is_out_of_memory(error))


def release_gpu_memory() -> None:
    """Returns what is not referred to any more. Call it after the `except` block: the error refers to tensors."""
    from accelerate.utils.memory import clear_device_cache

    clear_device_cache(garbage_collection=True)


def compute_in_parts(
    model: object,
    rows: list[int],
    read: Callable[[list[int]], tuple[B, int]],
    compute: Callable[[B], T],
    device: torch.device | None = None,
) -> Iterator[tuple[list[int], T]]:
    """Yields (rows, result); parts of the rows in their order, if the memory of a GPU does not suffice for all.

    Each time it does not, the limit of tokens is halved, with a warning. It holds for later batches of the model, too.

    Args:
        read: returns a batch of these rows, and its tokens, padding included.
        device: of the model; None if unknown.

    Raises:
        RuntimeError: the memory does not suffice for a single row.
    """
    waiting = [rows]
    while waiting:
        part = waiting.pop()
        batch, tokens = read(part)
        half = -(-len(part) // 2)
        if len(part) > 1 and tokens > _most_tokens.get(model, tokens):
            waiting += [part[half:], part[:half]]
            continue
        try:
            result = compute(batch)
        except RuntimeError as error:
            if len(part) == 1 or not is_out_of_gpu_memory(error, device):
                raise
        else:
            yield part, result
            continue
        release_gpu_memory()
        _most_tokens[model] = tokens * half // len(part)
        log.warning(
            "out of memory for a batch of %s rows with %s tokens; batches of more than %s tokens are computed in parts "
            "from now on, with the same results (permanent: a lower per_device_eval_batch_size)",
            f"{len(part):,}", f"{tokens:,}", f"{_most_tokens[model]:,}",
        )  # fmt: skip
        waiting.append(part)
