"""Training with memory that stays with the process against giving it back at every step, in turn; prints the ratios.

MiniLM-L6 as the teacher, a student of half its layers, batch 32. Without SST2_DATA, on the demo's reviews.

    SST2_DATA=path/to/sst2 OMP_NUM_THREADS=1 python benchmarks/freed_memory.py [steps]
"""

from __future__ import annotations

import ctypes
import platform
import statistics
import sys
from pathlib import Path
from unittest import mock

from common import fresh, scratch, sentences, teacher

from tinybert_cli.config import Distill, GenSoftLabels, Model, Training
from tinybert_cli.loops import keep_freed_memory, trainer
from tinybert_cli.stages import distill, gen_soft_labels

ROUNDS = 5
LOSSES = {
    "soft_labels": {"soft_labels": 1.0},
    "layers": {"hidden_states": 1.0, "attentions": 1.0, "embeddings": 1.0},
}


def give_back() -> None:
    """What glibc comes to by itself: it keeps no piece over 32 MiB, and no more than 64 MiB that are free."""
    libc = ctypes.CDLL(None)
    libc.mallopt(-3, 32 * 2**20)
    libc.mallopt(-1, 64 * 2**20)
    libc.malloc_trim(0)


def main(steps: str = "20") -> None:
    if platform.libc_ver()[0] != "glibc":
        print("nothing to compare: other allocators have other rules")
        return
    settings = sentences(32 * int(steps))
    with scratch() as name:
        folder = Path(name)
        source = str(teacher("minilm", folder / "teacher").folder)
        labels = str(folder / "labels")
        list(gen_soft_labels.run(GenSoftLabels(task="text-classification", data=settings, teacher=source,
                                               check_teacher=False, output_dir=labels)))  # fmt: skip
        fresh()
        for what, losses in LOSSES.items():
            speeds: dict[str, list[float]] = {}
            for turn in range(ROUNDS):
                for how in (give_back, keep_freed_memory):
                    config = Distill(
                        task="text-classification", data=settings, label_dataset=labels, teacher=source,
                        student=Model(**{"from": source, "num_hidden_layers": 3}), losses=losses,
                        training=Training(max_steps=int(steps), eval_strategy="no"),
                        output_dir=str(folder / f"{what}-{how.__name__}-{turn}"),
                    )  # fmt: skip
                    with mock.patch.object(trainer, "keep_freed_memory", how):
                        *_, done = distill.run(config)
                    speeds.setdefault(how.__name__, []).append(done["train_samples_per_second"])
            ratios = [kept / given for given, kept in zip(*speeds.values(), strict=True)]
            given, kept = map(statistics.median, speeds.values())
            spread = ", ".join(f"{ratio:.2f}" for ratio in ratios)
            print(f"{what:<12} {given:6.1f} -> {kept:6.1f} rows/s   {statistics.median(ratios):.2f}x   [{spread}]")


if __name__ == "__main__":
    main(*sys.argv[1:])
