"""Cost of each loss: training with it and soft_labels vs. soft_labels only; prints rows/s and the ratio of the times.

The student has half of the teacher's layers (minilm), or TinyBERT4's shape with projections (bert-base). Batch size 32,
a few steps for each loss.

    SST2_DATA=path/to/sst2 python benchmarks/losses.py [minilm|bert-base] [steps]
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from typing import Any

from common import (
    TINYBERT4,
    alternate,
    distill,
    distill_config,
    gen_soft_labels,
    ratios,
    scratch,
    sentences,
    teacher,
)

from tinybert_cli.config import ResolvedTraining
from tinybert_cli.losses import LOSSES

ROUNDS = 3
STUDENTS: dict[str, dict[str, Any]] = {"minilm": {"num_hidden_layers": 3}, "bert-base": TINYBERT4}
BASELINE = "soft_labels"


def main(shape: str = "minilm", steps: str = "20") -> None:
    settings = sentences(32 * int(steps))
    training = ResolvedTraining(max_steps=int(steps), eval_strategy="no")
    added: dict[str, dict[str, float]] = {BASELINE: {}} | {name: {name: 1.0} for name in LOSSES if name != BASELINE}
    added["hidden_states, attentions"] = {"hidden_states": 1.0, "attentions": 1.0}
    with scratch() as folder:
        source = teacher(shape, folder / "teacher")
        gen_soft_labels(settings, source, folder / "labels")

        def rows_per_second(number: int, losses: dict[str, float]) -> Callable[[int], float]:
            def measure(turn: int) -> float:
                config = distill_config(
                    settings, folder / "labels", source, STUDENTS[shape], folder / f"student-{turn}-{number}",
                    losses={BASELINE: 1.0, **losses}, training=training,
                )  # fmt: skip
                return distill(config)

            return measure

        speeds = alternate(
            {name: rows_per_second(number, losses) for number, (name, losses) in enumerate(added.items())}, ROUNDS
        )
    print(f"teacher {shape}, student {STUDENTS[shape]}, batch size 32, {steps} steps, mixed_precision auto")
    for name, values in speeds.items():
        times = [1 / ratio for ratio in ratios(speeds, name, BASELINE)]
        per_round = ", ".join(f"{time:.2f}" for time in times)
        median = statistics.median(values)
        print(f"  {name:<27}{median:7.1f} rows/s   time {statistics.median(times):5.2f}x   [{per_round}]")


if __name__ == "__main__":
    main(*sys.argv[1:])
