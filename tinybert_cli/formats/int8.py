"""int8: matrices and embedding tables of an ONNX graph in a quarter of their bytes, part by part."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinybert_cli.errors import ConfigError, InputError, nearest

SMALL_TABLE = 50_000  # numbers in an embedding table that is not worth quantizing
MATRICES = ("MatMul", "Gemm", "Attention")


def quantize_onnx(source: Path, target: Path, exclude: Sequence[str] = ()) -> None:
    """Matrices dynamically to int8, one scale per output channel; embedding tables to int8, one scale per row.

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
    _quantize_tables(model, kept)
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


def _quantize_tables(model: Any, kept: Sequence[str]) -> None:
    """Replaces Gather(table, ids) by Cast(Gather(int8 table, ids)) * Gather(scales, ids).

    ONNX Runtime quantizes a table with a single scale, and a few large pieces then cost all the others their digits.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    tables = {tensor.name: tensor for tensor in graph.initializer}
    for node in list(graph.node):
        if node.op_type != "Gather" or node.input[0] not in tables or node.name in kept:
            continue
        values = numpy_helper.to_array(tables[node.input[0]])
        if values.ndim != 2 or values.size < SMALL_TABLE or values.dtype != np.float32:
            continue
        scales = np.maximum(np.abs(values).max(1, keepdims=True), 1e-12) / 127  # (V, 1)
        name, ids, out = node.input[0], node.input[1], node.output[0]
        graph.initializer.remove(tables.pop(name))
        graph.initializer.append(numpy_helper.from_array(np.rint(values / scales).astype(np.int8), f"{name}_int8"))
        graph.initializer.append(numpy_helper.from_array(scales.astype(np.float32), f"{name}_scales"))
        place = list(graph.node).index(node)
        graph.node.remove(node)
        for offset, new in enumerate([
            helper.make_node("Gather", [f"{name}_int8", ids], [f"{out}_int8"], axis=0),
            helper.make_node("Cast", [f"{out}_int8"], [f"{out}_float"], to=1),
            helper.make_node("Gather", [f"{name}_scales", ids], [f"{out}_scales"], axis=0),
            helper.make_node("Mul", [f"{out}_float", f"{out}_scales"], [out]),
        ]):  # fmt: skip
            graph.node.insert(place + offset, new)


def need_onnx() -> tuple[Any, Any]:
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise InputError(f"the package '{error.name}' is not installed", hint="pip install 'tinybert[onnx]'") from error
    return onnx, onnxruntime
