"""Training with `keep_freed_memory` vs. glibc's defaults, which return freed memory at every step; prints the ratios.

Teacher MiniLM-L6, a student of half its layers, batch size 32.

    SST2_DATA=path/to/sst2 OMP_NUM_THREADS=1 python benchmarks/freed_memory.py [steps]
"""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Callable
from unittest import mock

from common import alternate, distill, distill_config, gen_soft_labels, report, scratch, sentences, teacher

from tinybert_cli.config import ResolvedTraining
from tinybert_cli.loops import keep_freed_memory, trainer

ROUNDS = 5
LOSSES = {
    "soft_labels": {"soft_labels": 1.0},
    "layers": {"hidden_states": 1.0, "attentions": 1.0, "embeddings": 1.0},
}


def return_freed_memory() -> None:
    """The largest values that glibc's dynamic thresholds reach: mmap above 32 MiB, trim above 64 MiB."""
    libc = ctypes.CDLL(None)
    libc.mallopt(-3, 32 * 2**20)
    libc.mallopt(-1, 64 * 2**20)
    libc.malloc_trim(0)


def main(steps: str = "20") -> None:
    if platform.libc_ver()[0] != "glibc":
        print("nothing to compare: keep_freed_memory has an effect with glibc only")
        return
    settings = sentences(32 * int(steps))
    training = ResolvedTraining(max_steps=int(steps), eval_strategy="no")
    with scratch() as folder:
        source = teacher("minilm", folder / "teacher")
        gen_soft_labels(settings, source, folder / "labels")

        def rows_per_second(loss: str, allocator: Callable[[], None]) -> Callable[[int], float]:
            def measure(turn: int) -> float:
                output = folder / f"{loss}-{allocator.__name__}-{turn}"
                config = distill_config(
                    settings, folder / "labels", source, {"num_hidden_layers": 3}, output,
                    losses=LOSSES[loss], training=training,
                )  # fmt: skip
                with mock.patch.object(trainer, "keep_freed_memory", allocator):
                    return distill(config)

            return measure

        for loss in LOSSES:
            allocators = {"glibc defaults": return_freed_memory, "keep_freed_memory": keep_freed_memory}
            speeds = alternate({name: rows_per_second(loss, set_up) for name, set_up in allocators.items()}, ROUNDS)
            report(loss, speeds, "rows/s")


if __name__ == "__main__":
    main(*sys.argv[1:])
