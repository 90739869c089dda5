"""int8: quantizes the matrices and embedding tables of an ONNX graph to a quarter of their size or less."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinybert_cli.errors import ConfigError, InputError, nearest
from tinybert_cli.types import Array

SMALL_TABLE = 50_000  # an embedding table with fewer numbers is not quantized
LARGE_TABLE = 1_000_000  # a table with more numbers stays quantized in memory as well
MATRICES = ("MatMul", "Gemm", "Attention")

Arrays = dict[str, Array]


def quantize_onnx(source: Path, target: Path, exclude: Sequence[str] = (), *, embedding_bits: int = 8) -> None:
    """Quantizes matrices dynamically to int8 with a scale per output channel, embedding tables with a scale per row.

    Args:
        exclude: parts that are not quantized, by the names of the model's modules: `encoder.layer.0`, `classifier`.
        embedding_bits: 8, or 6 for large tables.

    Raises:
        ConfigError: the model has no such part.
        InputError: onnx or onnxruntime is not installed.
    """
    onnx, _ = need_onnx()
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(source)
    modules = _modules(model.graph)
    for index, name in enumerate(exclude):
        if not any(_is_in(module, name) for module in modules.values()):
            known = sorted({part for module in modules.values() for part in _names(module)})
            parts = ", ".join(dict.fromkeys(map(_part, modules.values())))
            hint = nearest(name, known) or f"its parts: {parts}"
            raise ConfigError(f"the model has no part '{name}'", key=("quantize_exclude", index), hint=hint)
    excluded = [node for node, module in modules.items() if any(_is_in(module, name) for name in exclude)]
    _quantize_tables(model, excluded, embedding_bits)
    target.parent.mkdir(parents=True, exist_ok=True)
    tables = target.with_name("tables.onnx")
    onnx.save(model, tables)
    quantize_dynamic(
        tables,
        target,
        per_channel=True,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=list(MATRICES),
        nodes_to_exclude=[*excluded, *(f"{node}_MatMul" for node in excluded)],  # its name for the product of a Gemm
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},  # fused graphs have no types
    )
    tables.unlink()


def parts_of_onnx(source: Path) -> list[str]:
    """The names for `exclude` of all parts that int8 changes: the embeddings, each layer, and the layers after them."""
    onnx, _ = need_onnx()
    parts = (_part(module) for module in _modules(onnx.load(source).graph).values())
    return list(dict.fromkeys(parts))


def need_onnx() -> tuple[Any, Any]:
    """The modules onnx and onnxruntime.

    Raises:
        InputError: one of them is not installed.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise InputError(f"the package '{error.name}' is not installed", hint="pip install 'tinybert[onnx]'") from error
    return onnx, onnxruntime


def _modules(graph: Any) -> dict[str, str]:
    """Node → the module of the model that it belongs to, for every node that int8 changes.

    A fused attention node has a name by the optimizer; its layer is that of the node that reads its output.
    """
    tables = {tensor.name for tensor in graph.initializer}
    readers = {name: node for node in graph.node for name in node.input}
    modules = {}
    for node in graph.node:
        if node.op_type == "Attention":
            layer, _, _ = _path(readers[node.output[0]].name).partition(".attention.")
            modules[node.name] = f"{layer}.attention.self"
        elif (node.op_type in MATRICES and tables & set(node.input)) or _is_table(node, tables):
            modules[node.name] = _path(node.name)
    return modules


def _path(node: str) -> str:
    """`/model/bert/encoder/layer.0/output/dense/MatMul` → `bert.encoder.layer.0.output.dense`"""
    return ".".join(node.removeprefix("/model/").split("/")[:-1])


def _part(module: str) -> str:
    """The part of the model that a module belongs to: `layer.0`, `embeddings`, `classifier`, ..."""
    layer = re.search(r"[^.]+\.layer\.\d+", module)
    if layer:
        return layer[0]
    steps = module.split(".")
    if "embeddings" in steps:
        return "embeddings"
    return steps[-2] if steps[-1] in ("dense", "out_proj") else steps[-1]


def _names(module: str) -> list[str]:
    """Every name for `exclude` that matches a module: `a.b.c` → a.b.c, b.c, c, a.b, b, a"""
    steps = module.split(".")
    return [".".join(steps[i:j]) for i in range(len(steps)) for j in range(i + 1, len(steps) + 1)]


def _is_in(module: str, name: str) -> bool:
    return f".{name}." in f".{module}."


def _is_table(node: Any, tables: set[str]) -> bool:
    return node.op_type == "Gather" and node.input[0] in tables and "embeddings/" in node.name


def _quantize_tables(model: Any, excluded: Sequence[str], bits: int) -> None:
    """Converts embedding tables to integers, with one scale per row.

    ONNX Runtime would use a single scale per table, and a few rows with large values would cost all others precision.
    The rows of a large table are converted back to float32 when they are looked up. A smaller table is converted back
    as a whole, which ONNX Runtime does once, when it loads the file.
    """
    from onnx import numpy_helper

    graph = model.graph
    tables = {tensor.name: tensor for tensor in graph.initializer}
    opset = next(entry.version for entry in model.opset_import if entry.domain == "")
    for node in list(graph.node):
        if node.op_type != "Gather" or node.input[0] not in tables or node.name in excluded:
            continue
        values = numpy_helper.to_array(tables[node.input[0]])
        if values.ndim != 2 or values.size < SMALL_TABLE or values.dtype != np.float32:
            continue
        large = values.size >= LARGE_TABLE
        packed = large and bits == 6 and values.shape[1] % 4 == 0
        scales = np.maximum(np.abs(values).max(1, keepdims=True), 1e-12) / (31 if packed else 127)  # (V, 1)
        integers = np.rint(values / scales).astype(np.int8)
        graph.initializer.remove(tables.pop(node.input[0]))
        position = list(graph.node).index(node)
        if packed:
            graph.node.remove(node)
            initializers, nodes = _packed_lookup(node, integers, 64 * scales, opset)
        elif large:
            graph.node.remove(node)
            initializers, nodes = _lookup(node, integers, scales)
        else:
            initializers, nodes = _dequantized_table(node.input[0], integers, scales)
        graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in initializers.items())
        for offset, new in enumerate(nodes):
            graph.node.insert(position + offset, new)


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


def _packed_lookup(node: Any, integers: Array, scales: Array, opset: int) -> tuple[Arrays, list[Any]]:
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
