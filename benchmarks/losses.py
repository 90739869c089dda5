"""What each loss costs: training with it against training with soft_labels alone, in turn; prints rows/s and ratios.

A student of half the teacher's layers (minilm), or TinyBERT4's shape beside BERT-base's (bert-base, projected), batch
32, a few steps each. Without SST2_DATA, on the demo's reviews.

    SST2_DATA=path/to/sst2 python benchmarks/losses.py [minilm|bert-base] [steps]
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Any

from common import fresh, scratch, sentences, teacher

from tinybert_cli.config import Distill, GenSoftLabels, Model, Training
from tinybert_cli.losses import LOSSES
from tinybert_cli.stages import distill, gen_soft_labels

ROUNDS = 3
STUDENTS: dict[str, dict[str, Any]] = {
    "minilm": {"num_hidden_layers": 3},
    "bert-base": {"preset": "tinybert-4l-312", "initialize": "random"},  # the shape is what costs time
}
SOFT = "soft_labels"


def main(shape: str = "minilm", steps: str = "20") -> None:
    settings = sentences(32 * int(steps))
    added: dict[str, dict[str, float]] = {SOFT: {}} | {name: {name: 1.0} for name in LOSSES if name != SOFT}
    added["hidden_states, attentions"] = {"hidden_states": 1.0, "attentions": 1.0}
    with scratch() as name:
        folder = Path(name)
        source = teacher(shape, folder / "teacher")
        assert source.folder is not None
        labelled = GenSoftLabels(
            task="text-classification", data=settings, teacher=str(source.folder), check_teacher=False,
            output_dir=str(folder / "labels"),
        )  # fmt: skip
        list(gen_soft_labels.run(labelled))
        fresh()
        speeds: dict[str, list[float]] = {what: [] for what in added}
        for turn in range(ROUNDS):
            for number, (what, losses) in enumerate(added.items()):
                config = Distill(
                    task="text-classification", data=settings, label_dataset=str(folder / "labels"),
                    teacher=str(source.folder), student=Model(**{"from": str(source.folder), **STUDENTS[shape]}),
                    losses={SOFT: 1.0, **losses}, training=Training(max_steps=int(steps), eval_strategy="no"),
                    output_dir=str(folder / f"student-{turn}-{number}"),
                )  # fmt: skip
                *_, done = distill.run(config)
                speeds[what].append(done["train_samples_per_second"])
    print(f"teacher {shape}, student {STUDENTS[shape]}, batches of 32, {steps} steps, precision as `auto` takes it")
    for what, values in speeds.items():
        ratios = [soft / ours for soft, ours in zip(speeds[SOFT], values, strict=True)]
        spread = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        print(
            f"  {what:<27}{statistics.median(values):7.1f} rows/s   time {statistics.median(ratios):5.2f}x   [{spread}]"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
