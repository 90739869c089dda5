"""Matrices and embedding tables of an ONNX graph in 12 bits, which a runtime computes with in float32.

For the parts of a model that int8 changes too much: they need three eighths of their bytes, and their rounding error is
a sixteenth of that of 8 bits. A matrix is converted back when the file is loaded, the rows of a table when they are
looked up. All operators are standard ones.

Shapes: R rows, K columns.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from tinybert_cli.types import Array

MOST = 2047  # integers are -2047 to 2047
SMALL = 10_000  # numbers of a matrix or table that stays as it is


def pack(model: Any, nodes: Collection[str]) -> None:
    """Stores the matrices and tables that these nodes read in 12 bits, with a scale per output channel or row."""
    from onnx import numpy_helper

    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in list(graph.node):
        table = node.op_type == "Gather"
        name = node.input[0 if table else 1] if node.name in nodes else ""
        if name not in tensors:
            continue
        values = numpy_helper.to_array(tensors[name])
        if values.ndim != 2 or values.shape[1] % 2 or values.size < SMALL or values.dtype != np.float32:
            continue
        by_row = table or any(entry.name == "transB" and entry.i for entry in node.attribute)
        initializers = packed(name, values, axis=1 if by_row else 0)
        readers = [other for other in graph.node if name in other.input]
        position = list(graph.node).index(node)
        if table and len(readers) == 1:
            ids, output = node.input[1], node.output[0]
            graph.node.remove(node)
            new = _lookups(name, ids, output) + _unpacked(output, output)
        else:
            new = _unpacked(name, name)
            position = min(list(graph.node).index(reader) for reader in readers)
        graph.initializer.remove(tensors.pop(name))
        graph.initializer.extend(numpy_helper.from_array(array, key) for key, array in initializers.items())
        for offset, one in enumerate(new):
            graph.node.insert(position + offset, one)


def packed(name: str, values: Array, *, axis: int) -> dict[str, Array]:
    """The high 8 bits of the integers (R, K), the low 4 bits of two columns in a byte (R, K / 2), and the scales.

    A byte has column j and column K / 2 + j. The scales are 16 times those of the integers.

    Args:
        axis: over which a scale is shared.
    """
    scales = np.maximum(np.abs(values).max(axis, keepdims=True), 1e-12) / MOST
    integers = np.rint(values / scales).astype(np.int16)
    left, right = np.split((integers & 15).astype(np.uint8), 2, axis=1)
    return {
        f"{name}_high": (integers >> 4).astype(np.int8), f"{name}_low": left | right << 4,
        f"{name}_scales": (16 * scales).astype(np.float32), f"{name}_16th": np.asarray(1 / 16, dtype=np.float32),
    }  # fmt: skip


def _lookups(name: str, ids: str, output: str) -> list[Any]:
    """The rows `ids` of a packed table, as a packed matrix with the name of the output."""
    from onnx import helper

    parts = ("high", "low", "scales")
    nodes = [helper.make_node("Gather", [f"{name}_{part}", ids], [f"{output}_{part}"], axis=0) for part in parts]
    return [*nodes, helper.make_node("Identity", [f"{name}_16th"], [f"{output}_16th"])]


def _unpacked(name: str, output: str) -> list[Any]:
    """The nodes that compute the float32 matrix of a packed one."""
    from onnx import helper

    sixteenth, step = f"{name}_16th", f"{output}_12"
    return [
        helper.make_node("Cast", [f"{name}_low"], [f"{step}_bytes"], to=1),
        helper.make_node("Mul", [f"{step}_bytes", sixteenth], [f"{step}_shifted"]),
        helper.make_node("Floor", [f"{step}_shifted"], [f"{step}_right"]),
        helper.make_node("Sub", [f"{step}_shifted", f"{step}_right"], [f"{step}_left"]),
        helper.make_node("Mul", [f"{step}_right", sixteenth], [f"{step}_right_16ths"]),
        helper.make_node("Concat", [f"{step}_left", f"{step}_right_16ths"], [f"{step}_fraction"], axis=-1),
        helper.make_node("Cast", [f"{name}_high"], [f"{step}_whole"], to=1),
        helper.make_node("Add", [f"{step}_whole", f"{step}_fraction"], [f"{step}_integers"]),
        helper.make_node("Mul", [f"{step}_integers", f"{name}_scales"], [output]),
    ]
