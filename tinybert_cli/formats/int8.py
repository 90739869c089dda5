"""int8: quantizes the matrices and embedding tables of an ONNX graph to a quarter of their size, or an eighth."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tinybert_cli.errors import ConfigError, InputError, nearest
from tinybert_cli.formats.four_bits import SMALL, pack_matrices, packable
from tinybert_cli.formats.int8_matrices import (
    MATRICES,
    IntegerProduct,
    Product,
    integer_products,
    measure,
    replace_products,
)
from tinybert_cli.formats.int8_tables import LARGE_TABLE, quantize_tables
from tinybert_cli.formats.twelve_bits import pack
from tinybert_cli.types import Array

NO_MATRIX = f"no quantized matrix has {SMALL:,} weights, in rows that can be packed"
NO_TABLE = f"no quantized embedding table has {LARGE_TABLE:,} numbers, in rows that can be packed"
PLAIN = "any"  # the setting `runtime` of a graph with standard operators only

Products = Mapping[int, Mapping[str, Product]]  # bits of a weight → node → its product


def prepare_int8(
    source: Path, batches: Iterable[Mapping[str, Array]], *, matrix_bits: int = 8, runtime: str = "onnxruntime"
) -> Products:
    """What `quantize_onnx` needs: every product with a matrix in integers, measured on unpadded batches of real rows.

    Args:
        matrix_bits: of a weight, 8 or 4; with 4 the products are also prepared in 8.

    Raises:
        InputError: onnx or onnxruntime is not installed.
    """
    need_onnx()
    measured, symmetric = measure(source, batches), runtime == PLAIN
    return {bits: integer_products(source, measured, symmetric=symmetric, bits=bits) for bits in {8, matrix_bits}}


def quantize_onnx(
    source: Path,
    target: Path,
    products: Products,
    exclude: Sequence[str] = (),
    *,
    eight_bits: Sequence[str] = (),
    twelve_bits: Sequence[str] = (),
    matrix_bits: int = 8,
    embedding_bits: int = 8,
    runtime: str = "onnxruntime",
) -> dict[str, str]:
    """Quantizes matrices with a scale per output channel, embedding tables with a scale per row.

    Returns the options that changed nothing, and why.

    Args:
        products: from `prepare_int8`.
        exclude: parts that are not quantized, by the names of the model's modules: `encoder.layer.0`, `classifier`.
        eight_bits: parts with 8 bits for every weight.
        twelve_bits: parts that compute in float32, from weights of 12 bits.
        matrix_bits: 8, or 4, which are converted to int8 when the file is loaded.
        embedding_bits: 8, or 6 or 4 for large tables.
        runtime: onnxruntime, or any: standard operators only.

    Raises:
        ConfigError: the model has no such part.
        InputError: onnx or onnxruntime is not installed.
    """
    onnx, _ = need_onnx()
    model = onnx.load(source)
    modules = _modules(model.graph)
    for index, name in enumerate(exclude):
        if not any(_is_in(module, name) for module in modules.values()):
            known = sorted({part for module in modules.values() for part in _names(module)})
            parts = ", ".join(dict.fromkeys(map(_part, modules.values())))
            hint = nearest(name, known) or f"its parts: {parts}"
            raise ConfigError(f"the model has no part '{name}'", key=("quantize_exclude", index), hint=hint)
    excluded, packed, in_eight_bits = (
        {node for node, module in modules.items() if any(_is_in(module, name) for name in names)}
        for names in ([*exclude, *twelve_bits], twelve_bits, eight_bits)
    )
    fewer = {node: product for node, product in products[matrix_bits].items() if node not in in_eight_bits}
    if not any(isinstance(product, IntegerProduct) and packable(product.weights)
               for node, product in fewer.items() if node not in excluded):  # fmt: skip
        fewer = {}  # they would lose precision, and save nothing
    replacements = {node: product for node, product in {**products[8], **fewer}.items() if node not in excluded}
    replace_products(model, replacements, plain=runtime == PLAIN)
    matrices = pack_matrices(model) if matrix_bits < 8 else 0
    tables = quantize_tables(model, excluded, embedding_bits, in_eight_bits)
    pack(model, packed)
    target.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, target)
    without_effect = {}
    if matrix_bits < 8 and not matrices:
        without_effect["matrix_bits"] = NO_MATRIX
    if embedding_bits < 8 and not tables:
        without_effect["embedding_bits"] = NO_TABLE
    return without_effect


def parts_of_onnx(source: Path, exclude: Sequence[str] = ()) -> list[str]:
    """The names for `exclude` of all parts that int8 changes: the embeddings, each layer, and the layers after them.

    Args:
        exclude: what is not quantized; a part of which nothing else is left is none.
    """
    onnx, _ = need_onnx()
    modules = _modules(onnx.load(source).graph).values()
    return list(dict.fromkeys(_part(module) for module in modules if not any(_is_in(module, name) for name in exclude)))


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
    """The part of the model that a module belongs to: `encoder.layer.0`, `layers.0`, `embeddings`, `classifier`, ..."""
    layer = re.search(r"(?:[^.]+\.layer|\w*layer\w*)\.\d+", module)
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
