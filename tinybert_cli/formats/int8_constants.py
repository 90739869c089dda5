"""Products of an ONNX graph that no input of the model changes: those of DeBERTa's distances, the same in every run.

ONNX Runtime computes them once when it loads a float32 file, but not if they are integer products. So int8 stores their
results, with a scale per row.

Shapes: R rows (distances), N columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tinybert_cli.types import Array

TINY = 1e-12


@dataclass(frozen=True)
class ConstantProduct:
    """The result of a product, as integers (..., R, N) times a scale per row (R,)."""

    integers: Array
    scales: Array

    @classmethod
    def of(cls, rows: Array, matrix: Array) -> ConstantProduct:
        """The product of an input (..., R, K) whose leading dimensions are 1 with a matrix (K, N)."""
        result = rows @ matrix
        scales = np.maximum(np.abs(result).reshape(-1, result.shape[-1]).max(-1) / 127, TINY).astype(np.float32)
        return cls(np.rint(result / scales[:, None]).astype(np.int8), scales)

    def nodes(self, node: Any, new: dict[str, Array]) -> list[Any]:
        """The nodes that replace a product; their constants are added to `new`.

        ONNX Runtime computes Cast and Mul of constants when it loads the file, but not DequantizeLinear.
        """
        from onnx import TensorProto, helper

        name = node.output[0]
        new[f"{name}_integers"], new[f"{name}_scales"] = self.integers, self.scales[:, None]
        return [
            helper.make_node("Cast", [f"{name}_integers"], [f"{name}_floats"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{name}_floats", f"{name}_scales"], [name], name=node.name),
        ]


def constant_names(graph: Any) -> set[str]:
    """The names of all values that depend on weights and constants only."""
    names = {tensor.name for tensor in graph.initializer} | {""}
    for node in graph.node:
        if all(name in names for name in node.input):
            names |= set(node.output)
    return names
