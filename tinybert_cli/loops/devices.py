"""Which device, which precision and which attention are the fastest here, and what becomes of memory and processes."""

from __future__ import annotations

import ctypes
import gc
import sys

import torch

from tinybert_cli.errors import ConfigError

if torch.distributed.is_available():
    # Its functions take the group of processes as their default: imported after there is one, they keep it for ever.
    import torch.distributed.nn.functional


def to_bf16_if_faster(model: torch.nn.Module, asked: str) -> str:
    """For prediction: bf16 weights where the machine multiplies them faster; says which precision was taken."""
    taken = precision(asked)
    if taken == "bf16":
        model.to(torch.bfloat16)
    return taken


def fastest_attention(device: str, max_seq_length: int) -> str:
    """`eager` for training on short text on a CPU, where sdpa with dropout falls back to a slower path; else `sdpa`."""
    return "eager" if device == "cpu" and max_seq_length <= SHORT else "sdpa"


def keep_freed_memory() -> None:
    """Memory that is freed stays with the process, whose next step wants as much again; given back, every page of it
    has to be made anew. With glibc alone, which gives back what is large."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:  # musl has none
        mallopt(_MMAP_THRESHOLD, 2**30)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def device() -> torch.device:
    """The accelerator if there is one, else the CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def end_process_group() -> None:
    """Ends the group of processes that this one ran in, if any, once all are done: one that goes early may abort.

    Its threads end with the last reference to it. One that is alive when the interpreter ends may abort that, too:
    https://github.com/pytorch/pytorch/pull/179291.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        gc.collect()  # models that were trained together refer to it
        torch.distributed.destroy_process_group()


def precision(asked: str) -> str:
    """What `auto` comes to: bf16 where the device computes it faster than float32 (no); fp16 on older GPUs."""
    if asked == "fp16" and device().type == "cpu":
        raise ConfigError("fp16 needs a GPU", key=("training", "mixed_precision"), hint="auto, no or bf16")
    if asked != "auto":
        return asked
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    cpu = torch.cpu.get_capabilities()
    return "bf16" if cpu.get("avx512_bf16") or cpu.get("amx_bf16") else "no"


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h
SHORT = 256  # tokens; below it sdpa gains nothing on a CPU
