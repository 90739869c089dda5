"""Integers of 4 bits in an ONNX graph: two in a byte, converted back by standard operators.

A matrix is converted to int8 when the file is loaded, so its products take the time of int8. The rows of an embedding
table are converted to float32 when they are looked up.

Shapes: R rows, K columns.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinybert_cli.formats.rounding import MOST
from tinybert_cli.types import Array

SMALL = 10_000  # numbers of a matrix that stays in int8: the nodes that convert it would take as much


def packed(integers: Array) -> Array:
    """Two integers plus 8 in a byte, (R, K / 2): column j in the low bits, column K / 2 + j in the high bits."""
    left, right = np.split((integers + 8).astype(np.uint8), 2, axis=1)
    return np.asarray(left | right << 4)


def packable(integers: Array) -> bool:
    """Whether a matrix of integers of 4 bits is stored in half its bytes."""
    return integers.ndim == 2 and integers.size >= SMALL and integers.shape[1] % 2 == 0


def pack_matrices(model: Any) -> int:
    """Stores the int8 matrices whose integers have 4 bits in half their bytes; returns how many these are.

    Nothing else changes, and the results are the same.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph, count = model.graph, 0
    for index, tensor in enumerate([tensor for tensor in graph.initializer if tensor.data_type == TensorProto.INT8]):
        integers = numpy_helper.to_array(tensor)
        if not packable(integers) or not ((integers >= -MOST) & (integers <= MOST)).all():
            continue
        source, whole = f"matrix_{index}_int4", f"matrix_{index}"
        graph.initializer.remove(tensor)
        constants, nodes = unpacking(source, whole)
        constants[source] = packed(integers)
        nodes.append(helper.make_node("Cast", [whole], [tensor.name], to=TensorProto.INT8))
        graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
        for position, node in enumerate(nodes):
            graph.node.insert(position, node)
        count += 1
    return count


def unpacking(source: str, output: str) -> tuple[dict[str, Array], list[Any]]:
    """Constants, and the nodes in order that compute the integers (..., K) of bytes (..., K / 2), in float32."""
    from onnx import helper

    numbers = {f"{output}_16th": 1 / 16, f"{output}_16": 16, f"{output}_8": 8}
    sixteenth, sixteen, eight = numbers
    bytes_, shifted, high, low = (f"{output}_{step}" for step in ("bytes", "shifted", "high", "low"))
    return {name: np.asarray(number, np.float32) for name, number in numbers.items()}, [
        helper.make_node("Cast", [source], [bytes_], to=1),
        helper.make_node("Mul", [bytes_, sixteenth], [shifted]),
        helper.make_node("Floor", [shifted], [high]),
        helper.make_node("Mul", [high, sixteen], [f"{high}_16"]),
        helper.make_node("Sub", [bytes_, f"{high}_16"], [low]),
        helper.make_node("Concat", [low, high], [f"{output}_joined"], axis=-1),
        helper.make_node("Sub", [f"{output}_joined", eight], [output]),
    ]
