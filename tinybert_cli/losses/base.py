"""What every loss is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

ModelOutputs = Mapping[str, Any]
"""What a model says: "logits" (A, C); "embeddings" (B, T, H), what enters the first layer; and one tensor per compared
layer: "hidden_states" L times (B, T, H), what leaves it; "scores" L times (B, N, T, T), QK^T / sqrt(D) before softmax;
"queries", "keys", "values" L times (B, N, T, D)."""
Batch = Mapping[str, Tensor]
"""What it was shown: "labels" (A, ...), one for each answer, and "label_weights", how much each of them counts;
"attention_mask" (B, T), 0 where there is padding."""
Loss = Callable[..., Tensor]
