"""Hardware choices: device, precision and attention kernel; memory allocation and the process group."""

from __future__ import annotations

import ctypes
import gc
import os
import sys

import torch

from tinybert_cli import processes
from tinybert_cli.errors import ConfigError, InputError

if torch.distributed.is_available():
    # Functions of this module take the default process group as a default argument. Imported after a group exists, they
    # keep a reference to it, and it is never freed.
    import torch.distributed.nn.functional


def device() -> torch.device:
    """The accelerator (GPU) if there is one, else the CPU. For prediction; training uses its Accelerator's device.

    ACCELERATE_USE_CPU=true chooses the CPU for both.
    """
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes", "on", "y", "t"):
        return torch.device("cpu")
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def precision(requested: str, *, float32_family: str | None = None) -> str:
    """The precision to compute in, `no` (float32), `bf16` or `fp16`.

    `auto` becomes bf16 where the device computes it faster than float32, fp16 on older GPUs, else `no`.

    Args:
        float32_family: the family of the model, if it cannot compute in fewer bits.

    Raises:
        ConfigError: fp16 without a GPU.
        InputError: the model cannot compute in the requested precision.
    """
    if float32_family is not None and requested not in ("auto", "no"):
        raise InputError(f"{float32_family} models compute in float32 only", hint="mixed_precision: auto or no")
    if float32_family is not None:
        return "no"
    if requested == "fp16" and device().type == "cpu":
        raise ConfigError("fp16 needs a GPU", key=("training", "mixed_precision"), hint="auto, no or bf16")
    if requested != "auto":
        return requested
    if device().type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    cpu = torch.cpu.get_capabilities()
    return "bf16" if cpu.get("avx512_bf16") or cpu.get("amx_bf16") else "no"


def fastest_attention(device: str, max_seq_length: int) -> str:
    """The fastest attention implementation for training: `eager` for short text on a CPU, else `sdpa`.

    On a CPU, sdpa with dropout falls back to a slower path. Without dropout it takes 7 to 11 times as long as eager in
    bf16 for 16 to 24 tokens, and 3 to 4 times for 64 to 128, forward and backward (`benchmarks/attention.py`).
    """
    return "eager" if device == "cpu" and max_seq_length <= SHORT else "sdpa"


def keep_freed_memory() -> None:
    """Makes malloc keep freed memory in the process; only with glibc, which returns large blocks to the system.

    Every training step allocates blocks of similar sizes. Blocks that were returned cost a page fault per page.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:  # musl has none
        mallopt(_MMAP_THRESHOLD, 2**30)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def return_freed_memory() -> None:
    """Returns the freed memory that malloc has kept to the system; only with glibc.

    Batches of other shapes leave gaps that later blocks do not fit, so that a long run would need more and more.
    """
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if malloc_trim is not None:
        malloc_trim(0)


def end_process_group() -> None:
    """Destroys the default process group, if any, after all processes are done: others may abort if one exits early.

    The threads of the group end with the last reference to it. A group that is alive when the interpreter exits may
    abort the process as well: https://github.com/pytorch/pytorch/pull/179291.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        processes.disconnect()
        gc.collect()  # models that were trained with DistributedDataParallel refer to the group
        torch.distributed.destroy_process_group()


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h
SHORT = 256  # tokens; up to this length sdpa gains nothing on a CPU
