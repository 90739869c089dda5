"""int8: matrices and embedding tables of an ONNX graph in a quarter of their bytes or less, part by part."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinybert_cli.errors import ConfigError, InputError, nearest
from tinybert_cli.types import Array

SMALL_TABLE = 50_000  # numbers in an embedding table that is not worth quantizing
LARGE_TABLE = 1_000_000  # numbers in one that stays integers in memory, too
MATRICES = ("MatMul", "Gemm", "Attention")

Arrays = dict[str, Array]


def quantize_onnx(source: Path, target: Path, exclude: Sequence[str] = (), *, embedding_bits: int = 8) -> None:
    """Matrices dynamically to int8, one scale per output channel; embedding tables to 8 or 6 bits, one scale per row.

    Args:
        exclude: parts that stay as they are, by the names of the model's modules: `encoder.layer.0`, `classifier`.

    Raises:
        ConfigError: the model has no such part.
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
    kept = [node for node, module in modules.items() if any(_is_in(module, name) for name in exclude)]
    _quantize_tables(model, kept, embedding_bits)
    tables = target.with_name("tables.onnx")
    onnx.save(model, tables)
    quantize_dynamic(
        tables,
        target,
        per_channel=True,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=list(MATRICES),
        nodes_to_exclude=[*kept, *(f"{node}_MatMul" for node in kept)],  # what it makes of a Gemm
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},  # types are lost in fused graphs
    )
    tables.unlink()


def parts_of_onnx(source: Path) -> list[str]:
    """The parts that int8 changes, as `exclude` names them: the embeddings, each layer, and what follows."""
    onnx, _ = need_onnx()
    found = (_part(module) for module in _modules(onnx.load(source).graph).values())
    return list(dict.fromkeys(found))


def _modules(graph: Any) -> dict[str, str]:
    """Node → the module of the model that it belongs to, for every node that int8 changes.

    The optimizer gives fused attention a name of its own; what reads it stands in the same layer.
    """
    tables = {tensor.name for tensor in graph.initializer}
    readers = {name: node for node in graph.node for name in node.input}
    found = {}
    for node in graph.node:
        if node.op_type == "Attention":
            layer, _, _ = _path(readers[node.output[0]].name).partition(".attention.")
            found[node.name] = f"{layer}.attention.self"
        elif (node.op_type in MATRICES and tables & set(node.input)) or _is_table(node, tables):
            found[node.name] = _path(node.name)
    return found


def _path(node: str) -> str:
    """`/model/bert/encoder/layer.0/output/dense/MatMul` → `bert.encoder.layer.0.output.dense`"""
    return ".".join(node.removeprefix("/model/").split("/")[:-1])


def _part(module: str) -> str:
    layer = re.search(r"[^.]+\.layer\.\d+", module)
    if layer:
        return layer[0]
    steps = module.split(".")
    if "embeddings" in steps:
        return "embeddings"
    return steps[-2] if steps[-1] in ("dense", "out_proj") else steps[-1]


def _names(module: str) -> list[str]:
    """Every name that a part of a model may be given by: `a.b.c` → a.b.c, b.c, c, a.b, b, a"""
    steps = module.split(".")
    return [".".join(steps[i:j]) for i in range(len(steps)) for j in range(i + 1, len(steps) + 1)]


def _is_in(module: str, name: str) -> bool:
    return f".{name}." in f".{module}."


def _is_table(node: Any, tables: set[str]) -> bool:
    return node.op_type == "Gather" and node.input[0] in tables and "embeddings/" in node.name


def _quantize_tables(model: Any, kept: Sequence[str], bits: int) -> None:
    """Embedding tables become integers, with one scale for each row.

    ONNX Runtime quantizes a table with a single scale, and a few large pieces then cost all the others their digits.
    Of a large table only the rows that are asked for become float32 again; a smaller one does as a whole, which ONNX
    Runtime does once, when it loads the file.
    """
    from onnx import numpy_helper

    graph = model.graph
    tables = {tensor.name: tensor for tensor in graph.initializer}
    opset = next(entry.version for entry in model.opset_import if entry.domain == "")
    for node in list(graph.node):
        if node.op_type != "Gather" or node.input[0] not in tables or node.name in kept:
            continue
        values = numpy_helper.to_array(tables[node.input[0]])
        if values.ndim != 2 or values.size < SMALL_TABLE or values.dtype != np.float32:
            continue
        large = values.size >= LARGE_TABLE
        packed = large and bits == 6 and values.shape[1] % 4 == 0
        scales = np.maximum(np.abs(values).max(1, keepdims=True), 1e-12) / (31 if packed else 127)  # (V, 1)
        integers = np.rint(values / scales).astype(np.int8)
        graph.initializer.remove(tables.pop(node.input[0]))
        place = list(graph.node).index(node)
        if packed:
            graph.node.remove(node)
            stored, steps = _looked_up_packed(node, integers, 64 * scales, opset)
        elif large:
            graph.node.remove(node)
            stored, steps = _looked_up(node, integers, scales)
        else:
            stored, steps = _made_whole(node.input[0], integers, scales)
        graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in stored.items())
        for offset, new in enumerate(steps):
            graph.node.insert(place + offset, new)


def _made_whole(name: str, integers: Array, scales: Array) -> tuple[Arrays, list[Any]]:
    """What is to be stored, and the nodes in their order, which make the table."""
    from onnx import helper

    return {f"{name}_int8": integers, f"{name}_scales": scales.astype(np.float32)}, [
        helper.make_node("Cast", [f"{name}_int8"], [f"{name}_float"], to=1),
        helper.make_node("Mul", [f"{name}_float", f"{name}_scales"], [name]),
    ]


def _looked_up(node: Any, integers: Array, scales: Array) -> tuple[Arrays, list[Any]]:
    """In place of Gather(table, ids)."""
    from onnx import helper

    name, ids, out = node.input[0], node.input[1], node.output[0]
    return {f"{name}_int8": integers, f"{name}_scales": scales.astype(np.float32)}, [
        helper.make_node("Gather", [f"{name}_int8", ids], [f"{out}_int8"], axis=0),
        helper.make_node("Cast", [f"{out}_int8"], [f"{out}_float"], to=1),
        helper.make_node("Gather", [f"{name}_scales", ids], [f"{out}_scales"], axis=0),
        helper.make_node("Mul", [f"{out}_float", f"{out}_scales"], [out]),
    ]


def _looked_up_packed(node: Any, integers: Array, scales: Array, opset: int) -> tuple[Arrays, list[Any]]:
    """The same for integers of 6 bits (V, H), four of them in three bytes (V, 3 H / 4), and the scale of their 64ths.

    The first three quarters of a row are the low 6 bits of its bytes; the last one has 2 bits on top of each.
    """
    from onnx import helper

    name, ids, out = node.input[0], node.input[1], node.output[0]
    first, second, third, last = np.split((integers + 32).astype(np.uint8), 4, axis=1)  # 1 to 63, (V, H / 4)
    low, top = np.concatenate([first, second, third], 1), np.concatenate([last & 3, last >> 2 & 3, last >> 4], 1)
    weights = np.repeat(np.array([1 / 64, 4 / 64, 16 / 64], dtype=np.float32), first.shape[1])  # of the bits on top
    stored = {
        f"{name}_int6": low | top << 6, f"{name}_scales": scales.astype(np.float32), f"{name}_weights": weights,
        f"{name}_64th": np.float32(1 / 64), f"{name}_middle": np.float32(32 / 64),
    }  # fmt: skip
    parts = {"num_outputs": 3} if opset >= 18 else {}
    return {key: np.asarray(value) for key, value in stored.items()}, [
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


def need_onnx() -> tuple[Any, Any]:
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise InputError(f"the package '{error.name}' is not installed", hint="pip install 'tinybert[onnx]'") from error
    return onnx, onnxruntime
