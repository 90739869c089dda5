"""Speedup from computing the last layer for [CLS] only (models/cls_last_layer.py); prints rows/s and the ratios.

Batches of 32 rows of 16 tokens; MiniLM as packaged, and its first layers.

    python benchmarks/last_layer.py
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from common import MINILM, alternate, seconds

from tinybert_cli import models
from tinybert_cli.config import Model

ROWS, TOKENS, STEPS, WARMUP = 32, 16, 9, 3


def main() -> None:
    base = models.load(
        models.locate(MINILM), "sequence-classification", label_names=["negative", "positive"], new_head=True
    )
    batch = {
        "input_ids": torch.randint(1000, base.config.vocab_size, (ROWS, TOKENS)),
        "attention_mask": torch.ones(ROWS, TOKENS, dtype=torch.long),
        "labels": torch.zeros(ROWS, dtype=torch.long),
    }
    print("layers   inference, rows/s            training, rows/s")
    for layers in (6, 3, 2):
        setting = Model(**{"from": "base", "num_hidden_layers": layers})
        all_tokens = models.build_student(setting, base, range(layers), seed=1)
        cls_only = models.build_student(setting, base, range(layers), seed=1, cls_only=True)
        line = f"{layers:>6}"
        for measure in (inference, training):
            steps = {"all tokens": measure(all_tokens, batch), "[CLS] only": measure(cls_only, batch)}
            speeds = alternate(steps, STEPS, warmup=WARMUP)
            before, after = (statistics.median(values) for values in speeds.values())
            line += f"   {before:6.0f} -> {after:6.0f}  ({after / before:.2f}x)"
        print(line)


def inference(net: torch.nn.Module, batch: dict[str, torch.Tensor]) -> Callable[[int], float]:
    net.eval()

    def step() -> None:
        with torch.no_grad():
            net(**batch)

    return lambda turn: ROWS / seconds(step)


def training(net: torch.nn.Module, batch: dict[str, torch.Tensor]) -> Callable[[int], float]:
    net.train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-5, fused=True)

    def step() -> None:
        net(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return lambda turn: ROWS / seconds(step)


if __name__ == "__main__":
    main()
