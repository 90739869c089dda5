"""CPU time of attention in training, forward and backward: sdpa of torch against eager; prints milliseconds.

Both compute what BERT and Marian compute in training with mixed precision, for several batches of short texts.

    OMP_NUM_THREADS=1 python benchmarks/attention.py
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from common import alternate
from torch.nn import functional as F

ROUNDS, PASSES = 3, 5
SHAPES = {  # rows, heads, tokens, size of a head
    "Marian of 128 units, 100 x 16 tokens": (100, 4, 16, 32),
    "MiniLM, 32 x 24 tokens": (32, 12, 24, 32),
    "MiniLM, 32 x 64 tokens": (32, 12, 64, 32),
    "MiniLM, 32 x 128 tokens": (32, 12, 128, 32),
    "BERT-base, 8 x 128 tokens": (8, 12, 128, 64),
    "BERT-base, 8 x 512 tokens": (8, 12, 512, 64),
}
PRECISIONS = {"bf16": torch.bfloat16, "float32": torch.float32}


def main() -> None:
    for title, shape in SHAPES.items():
        for dropout in (0.0, 0.1):
            steps = {
                f"{kind}, {name}": training_step(shape, precision, kind, dropout)
                for name, precision in PRECISIONS.items()
                for kind in ("sdpa", "eager")
            }
            times = alternate({name: milliseconds(step) for name, step in steps.items()}, ROUNDS)
            medians = ", ".join(f"{name} {sorted(values)[ROUNDS // 2]:.1f}" for name, values in times.items())
            print(f"{title}, dropout {dropout:g}: {medians} ms", flush=True)


def training_step(
    shape: tuple[int, int, int, int], precision: torch.dtype, kind: str, dropout: float
) -> Callable[[], None]:
    """Forward and backward pass of one layer's attention; 10 % of the keys are padding."""
    rows, heads, tokens, size = shape
    query, key, value = (
        torch.randn(rows, tokens, heads, size, dtype=precision).transpose(1, 2).requires_grad_() for _ in range(3)
    )
    visible = (torch.rand(rows, 1, 1, tokens) > 0.1).expand(rows, 1, tokens, tokens)
    added = torch.zeros(visible.shape, dtype=precision).masked_fill(~visible, torch.finfo(precision).min)

    def sdpa() -> torch.Tensor:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=visible, dropout_p=dropout)

    def eager() -> torch.Tensor:
        scores = query @ key.transpose(-1, -2) * size**-0.5 + added
        return F.dropout(scores.float().softmax(-1), dropout).to(precision) @ value

    def step() -> None:
        output = sdpa() if kind == "sdpa" else eager()
        output.backward(torch.ones_like(output))

    return step


def milliseconds(step: Callable[[], None]) -> Callable[[int], float]:
    def measure(turn: int) -> float:
        begin = time.process_time()
        for _ in range(PASSES):
            step()
        return 1000 * (time.process_time() - begin) / PASSES

    return measure


if __name__ == "__main__":
    main()
