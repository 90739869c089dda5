"""NumPy: a format for BERT classifiers that only the tests have. All of it is in this file; its row is {"numpy": NUMPY}.

Shapes: B batch, T tokens, H hidden size, A attention heads, D size of one head, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tinybert_cli.errors import ConfigError
from tinybert_cli.formats.base import Export, Format
from tinybert_cli.types import Array

FILE = "model.npz"


class NumpySession:
    """BERT's forward pass without torch."""

    inputs = ("input_ids", "attention_mask", "token_type_ids")

    def __init__(self, path: Path) -> None:
        with np.load(path, allow_pickle=False) as file:
            self.weights = dict(file)
        self.heads, self.layers = int(self.weights["heads"]), int(self.weights["layers"])

    def __call__(self, inputs: Mapping[str, Array]) -> Array:
        ids, types = inputs["input_ids"], inputs["token_type_ids"]
        mask = np.where(inputs["attention_mask"][:, None, None] == 1, 0, -1e9).astype(np.float32)  # (B, 1, 1, T)
        tables = {
            name: self.weights[f"embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type")
        }
        embeddings = tables["word"][ids] + tables["position"][: ids.shape[1]] + tables["token_type"][types]
        states = self._norm("embeddings.LayerNorm", embeddings)  # (B, T, H)
        for layer in range(self.layers):
            states = self._layer(f"encoder.layer.{layer}", states, mask)
        return self._linear("classifier", np.tanh(self._linear("pooler.dense", states[:, 0])))  # (B, C)

    def _layer(self, name: str, states: Array, mask: Array) -> Array:
        query, key, value = (
            self._split_heads(self._linear(f"{name}.attention.self.{part}", states))
            for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 1, 3, 2) / math.sqrt(query.shape[-1]) + mask  # (B, A, T, T)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        context = (weights / weights.sum(-1, keepdims=True) @ value).transpose(0, 2, 1, 3).reshape(states.shape)
        attended = self._linear(f"{name}.attention.output.dense", context)
        states = self._norm(f"{name}.attention.output.LayerNorm", states + attended)
        inner = gelu(self._linear(f"{name}.intermediate.dense", states))
        return self._norm(f"{name}.output.LayerNorm", states + self._linear(f"{name}.output.dense", inner))

    def _split_heads(self, states: Array) -> Array:
        """(B, T, H) → (B, A, T, D)"""
        return states.reshape(*states.shape[:2], self.heads, -1).transpose(0, 2, 1, 3)

    def _linear(self, name: str, states: Array) -> Array:
        result: Array = states @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]
        return result

    def _norm(self, name: str, states: Array) -> Array:
        centred = states - states.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + self.weights["eps"])
        result: Array = scaled * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]
        return result


def gelu(values: Array) -> Array:
    error_function = np.vectorize(math.erf, otypes=[np.float32])
    result: Array = values * (1 + error_function(values / math.sqrt(2))) / 2
    return result


def write_numpy(model: Any, inputs: Mapping[str, Any], folder: Path) -> None:
    config = model.config
    if config.architectures != ["BertForSequenceClassification"]:
        raise ConfigError("`format: numpy` writes BERT classifiers only", key=("format",))
    weights = {name.removeprefix("bert."): values.cpu().numpy() for name, values in model.state_dict().items()}
    sizes = {"heads": config.num_attention_heads, "layers": config.num_hidden_layers}
    np.savez(folder / FILE, eps=np.float32(config.layer_norm_eps), **sizes, **weights)


def usage(export: Export) -> dict[str, str]:
    return {"NumPy": f'```python\nnumpy.load("{export.folder}/{FILE}")\n```\n\n```sh\n{export.command}\n```'}


NUMPY = Format(
    weights=FILE,
    precision="float32",
    write=write_numpy,
    runtime="NumPy",
    usage=usage,
    load=lambda folder: NumpySession(folder / FILE),
    limitations=lambda export: ["It is slow."],
)
