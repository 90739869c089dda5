"""Integers for the embedding tables in an ONNX graph: one scale per row, in 8 bits, 6 or 4."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import numpy as np

from tinybert_cli.formats import four_bits, rounding
from tinybert_cli.types import Array

SMALL_TABLE = 50_000  # an embedding table with fewer numbers is not quantized
LARGE_TABLE = 1_000_000  # a table with more numbers stays quantized in memory as well
DIVISORS = {8: 1, 6: 4, 4: 2}  # bits → what the numbers of a row must be divisible by to be packed
BLOCK = 8192  # rows of a table that are rounded at a time, for the memory that it takes

Arrays = dict[str, Array]


def quantize_tables(model: Any, excluded: Container[str], bits: int, eight_bits: Container[str] = ()) -> int:
    """Converts embedding tables to integers, with one scale per row; returns how many have fewer than 8 bits.

    Those of the nodes in `excluded` stay as they are, those of `eight_bits` get 8 bits whatever `bits` is.

    ONNX Runtime would use a single scale per table, and a few rows with large values would cost all others precision.
    The rows of a large table are converted back to float32 when they are looked up. A smaller table is converted back
    as a whole, which ONNX Runtime does once, when it loads the file.
    """
    from onnx import numpy_helper

    graph = model.graph
    tables = {tensor.name: tensor for tensor in graph.initializer}
    count = 0
    opset = next(entry.version for entry in model.opset_import if entry.domain == "")
    for node in list(graph.node):
        if node.op_type != "Gather" or node.input[0] not in tables or node.name in excluded:
            continue
        values = numpy_helper.to_array(tables[node.input[0]])
        if values.ndim != 2 or values.size < SMALL_TABLE or values.dtype != np.float32:
            continue
        large = values.size >= LARGE_TABLE
        divisible = values.shape[1] % DIVISORS[bits] == 0
        used_bits = bits if large and divisible and node.name not in eight_bits else 8
        count += used_bits < 8
        integers, scales = _rounded(values, used_bits)
        graph.initializer.remove(tables.pop(node.input[0]))
        position = list(graph.node).index(node)
        if not large:
            initializers, nodes = _dequantized_table(node.input[0], integers, scales)
        else:
            graph.node.remove(node)
            if used_bits == 4:
                initializers, nodes = _lookup_of_four_bits(node, integers, scales)
            elif used_bits == 6:
                initializers, nodes = _lookup_of_six_bits(node, integers, 64 * scales, opset)
            else:
                initializers, nodes = _lookup(node, integers, scales)
        graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in initializers.items())
        for offset, new in enumerate(nodes):
            graph.node.insert(position + offset, new)
    return count


def _rounded(values: Array, bits: int) -> tuple[Array, Array]:
    """int8 (V, H) and a scale per row (V, 1)."""
    if bits == 4:
        blocks = [rounding.rounded(values[begin : begin + BLOCK], axis=1) for begin in range(0, len(values), BLOCK)]
        return np.concatenate([integers for integers, _ in blocks]), np.concatenate([scales for _, scales in blocks])
    scales = np.maximum(np.abs(values).max(1, keepdims=True), 1e-12) / (31 if bits == 6 else 127)
    return np.rint(values / scales).astype(np.int8), scales


def _dequantized_table(name: str, integers: Array, scales: Array) -> tuple[Arrays, list[Any]]:
    """Initializers, and the nodes in order that compute the float32 table from them."""
    from onnx import helper

    return {f"{name}_int8": integers, f"{name}_scales": scales.astype(np.float32)}, [
        helper.make_node("Cast", [f"{name}_int8"], [f"{name}_float"], to=1),
        helper.make_node("Mul", [f"{name}_float", f"{name}_scales"], [name]),
    ]


def _lookup(node: Any, integers: Array, scales: Array) -> tuple[Arrays, list[Any]]:
    """Initializers, and the nodes in order that replace Gather(table, ids)."""
    from onnx import helper

    name, ids, out = node.input[0], node.input[1], node.output[0]
    return {f"{name}_int8": integers, f"{name}_scales": scales.astype(np.float32)}, [
        helper.make_node("Gather", [f"{name}_int8", ids], [f"{out}_int8"], axis=0),
        helper.make_node("Cast", [f"{out}_int8"], [f"{out}_float"], to=1),
        helper.make_node("Gather", [f"{name}_scales", ids], [f"{out}_scales"], axis=0),
        helper.make_node("Mul", [f"{out}_float", f"{out}_scales"], [out]),
    ]


def _lookup_of_four_bits(node: Any, integers: Array, scales: Array) -> tuple[Arrays, list[Any]]:
    """`_lookup` for integers of 4 bits."""
    from onnx import helper

    name, ids, out = node.input[0], node.input[1], node.output[0]
    constants, unpacking = four_bits.unpacking(f"{out}_int4", f"{out}_float")
    initializers = {f"{name}_int4": four_bits.packed(integers), f"{name}_scales": scales.astype(np.float32)}
    return {**initializers, **constants}, [
        helper.make_node("Gather", [f"{name}_int4", ids], [f"{out}_int4"], axis=0),
        *unpacking,
        helper.make_node("Gather", [f"{name}_scales", ids], [f"{out}_scales"], axis=0),
        helper.make_node("Mul", [f"{out}_float", f"{out}_scales"], [out]),
    ]


def _lookup_of_six_bits(node: Any, integers: Array, scales: Array, opset: int) -> tuple[Arrays, list[Any]]:
    """`_lookup` for integers of 6 bits (V, H), four of which are packed in three bytes (V, 3 H / 4).

    `scales` multiply the integers divided by 64. The first three quarters of a row are in the low 6 bits of the bytes.
    A number of the last quarter is split into three times 2 bits, which are the high bits of three bytes.
    """
    from onnx import helper

    name, ids, out = node.input[0], node.input[1], node.output[0]
    first, second, third, last = np.split((integers + 32).astype(np.uint8), 4, axis=1)  # 1 to 63, (V, H / 4)
    low, high = np.concatenate([first, second, third], 1), np.concatenate([last & 3, last >> 2 & 3, last >> 4], 1)
    weights = np.repeat(np.array([1 / 64, 4 / 64, 16 / 64], dtype=np.float32), first.shape[1])  # of the high bits
    initializers = {
        f"{name}_int6": low | high << 6, f"{name}_scales": scales.astype(np.float32), f"{name}_weights": weights,
        f"{name}_64th": np.float32(1 / 64), f"{name}_middle": np.float32(32 / 64),
    }  # fmt: skip
    parts = {"num_outputs": 3} if opset >= 18 else {}
    return {key: np.asarray(value) for key, value in initializers.items()}, [
        helper.make_node("Gather", [f"{name}_int6", ids], [f"{out}_int6"], axis=0),
        helper.make_node("Cast", [f"{out}_int6"], [f"{out}_bytes"], to=1),
        helper.make_node("Mul", [f"{out}_bytes", f"{name}_64th"], [f"{out}_shifted"]),
        helper.make_node("Floor", [f"{out}_shifted"], [f"{out}_top"]),
        helper.make_node("Sub", [f"{out}_shifted", f"{out}_top"], [f"{out}_low"]),
        helper.make_node("Mul", [f"{out}_top", f"{name}_weights"], [f"{out}_weighted"]),
        helper.make_node("Split", [f"{out}_weighted"], [f"{out}_{i}" for i in range(3)], axis=-1, **parts),
        helper.make_node("Sum", [f"{out}_{i}" for i in range(3)], [f"{out}_last"]),
        helper.make_node("Concat", [f"{out}_low", f"{out}_last"], [f"{out}_joined"], axis=-1),
        helper.make_node("Sub", [f"{out}_joined", f"{name}_middle"], [f"{out}_float"]),
        helper.make_node("Gather", [f"{name}_scales", ids], [f"{out}_scales"], axis=0),
        helper.make_node("Mul", [f"{out}_float", f"{out}_scales"], [out]),
    ]
