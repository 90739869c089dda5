"""int8 products in an ONNX graph: integer weights, and activations with a range that was measured on real rows.

The range of an activation is fixed, so a row has the same logits in every batch, alone or padded. A few channels of a
transformer have values far larger than all others, and one range for all channels would leave few steps for those. So
each channel is divided by a factor first, and its row of weights multiplied by it (SmoothQuant, Xiao et al. 2022,
arXiv 2211.10438); how much is shifted to the weights is chosen by the error of the product on the measured rows. If
the activation is the output of an attention, its values are divided instead, which costs nothing at run time.

Processors without VNNI multiply unsigned by signed bytes in pairs, and a pair saturates above 32,767. The scale of a
column is so large that no pair of its weights can: 255 times the sum of two neighbours is less.

Shapes: n rows that were measured (tokens), K channels of an activation, N columns of a matrix.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tinybert_cli.formats import rounding
from tinybert_cli.formats.int8_constants import TINY, ConstantProduct, constant_names
from tinybert_cli.types import Array

MATRICES = ("MatMul", "Gemm", "Attention")
SHIFTS = (0.0, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # exponents of SmoothQuant that are tried; 0: no factors
ROWS_OF_A_BATCH = 8  # tokens of a text on which the error of a product is measured; 512 of 64 texts


@dataclass
class Activation:
    """What was measured of the input of a product."""

    low: Array  # (K,)
    high: Array  # (K,)
    rows: list[Array]  # (n, K)
    constant: Array | None = None  # (..., n, K) its value, if no input of the model changes it

    def add(self, values: Array) -> None:
        rows = values.reshape(-1, values.shape[-1])
        self.low, self.high = np.minimum(self.low, rows.min(0)), np.maximum(self.high, rows.max(0))
        self.rows.append(rows[np.unique(np.linspace(0, len(rows) - 1, ROWS_OF_A_BATCH).astype(int))])


@dataclass(frozen=True)
class IntegerProduct:
    """x @ W as ((x / factors) in steps of `scale` around `zero`) @ (integers of W · factors, times column scales)."""

    factors: Array | None  # (K,)
    scale: np.float32
    zero: int
    weights: Array  # int8 (K, N)
    weight_scales: Array  # (N,)
    divisors: Array | None = None  # (N,) of the result: factors of the product that reads it


Product = IntegerProduct | ConstantProduct


def measure(source: Path, batches: Iterable[Mapping[str, Array]]) -> dict[str, Activation]:
    """The inputs of all products with a matrix, by name, in the float32 file, on unpadded batches."""
    import onnx
    import onnxruntime

    model = onnx.load(source)
    names = list(dict.fromkeys(node.input[0] for node in products(model.graph)))
    known = {node.name for node in (*model.graph.output, *model.graph.input)}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    inputs = [node.name for node in session.get_inputs()]
    constants = constant_names(model.graph)
    measured: dict[str, Activation] = {}
    for batch in batches:
        for name, values in zip(names, session.run(names, {key: batch[key] for key in inputs}), strict=True):
            zeros = np.zeros(values.shape[-1], np.float32)
            constant = values if name in constants else None
            measured.setdefault(name, Activation(zeros, zeros, [], constant)).add(values)
    return measured


def products(graph: Any) -> list[Any]:
    """The nodes that multiply by a matrix of the model."""
    matrices = {tensor.name for tensor in graph.initializer}
    return [node for node in graph.node if node.op_type in MATRICES and node.input[1] in matrices]


def integer_products(
    source: Path, measured: Mapping[str, Activation], *, symmetric: bool, bits: int = 8
) -> dict[str, Product]:
    """Node → its product in integers, with the smallest error on the measured rows; `bits` of a weight are 8 or 4.

    Products with the same matrix (of shared layers) share factors and weights.
    """
    import onnx

    graph = onnx.load(source).graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    by_matrix: dict[str, list[Any]] = {}
    replacements: dict[str, Product] = {}
    for node in products(graph):
        constant = measured[node.input[0]].constant
        if (
            constant is not None
            and constant.size == constant.shape[-1] * constant.shape[-2]
            and node.op_type == "MatMul"
        ):
            replacements[node.name] = ConstantProduct.of(constant, matrix_of(node, tensors))
        else:
            by_matrix.setdefault(node.input[1], []).append(node)
    for nodes in by_matrix.values():
        inputs = [measured[node.input[0]] for node in nodes]
        product = best_product(_together(inputs), matrix_of(nodes[0], tensors), symmetric=symmetric, bits=bits)
        for node, activation in zip(nodes, inputs, strict=True):
            scale, zero = _steps(activation, product.factors, symmetric=symmetric)
            replacements[node.name] = replace(product, scale=scale, zero=zero)
    return replacements


def _together(inputs: Sequence[Activation]) -> Activation:
    """What was measured of all these inputs."""
    rows = [row for activation in inputs for row in activation.rows]
    return Activation(
        np.minimum.reduce([activation.low for activation in inputs]),
        np.maximum.reduce([activation.high for activation in inputs]),
        rows,
    )


def best_product(activation: Activation, matrix: Array, *, symmetric: bool = False, bits: int = 8) -> IntegerProduct:
    """Of the products with each of SHIFTS, the one with the smallest squared error."""
    rows = np.concatenate(activation.rows)
    exact = rows @ matrix
    candidates = [_product(activation, matrix, shift, symmetric=symmetric, bits=bits) for shift in SHIFTS]
    results = [computed(product, rows, symmetric=symmetric) for product in candidates]
    errors = [float(((result - exact) ** 2).mean()) for result in results]
    product = candidates[int(np.argmin(errors))]
    if bits == 8:
        return product
    factors = np.ones(len(matrix), np.float32) if product.factors is None else product.factors
    weights, scales = rounding.compensated(matrix * factors[:, None], rows / factors)
    return replace(product, weights=weights, weight_scales=scales)


def computed(product: IntegerProduct, rows: Array, *, symmetric: bool) -> Array:
    """What an ONNX runtime computes for rows (n, K), in unsigned bytes unless symmetric: (n, N)."""
    scaled = rows if product.factors is None else rows / product.factors
    low, high = (-127, 127) if symmetric else (-product.zero, 255 - product.zero)
    steps = np.rint(scaled / product.scale).clip(low, high)
    result: Array = steps @ product.weights.astype(np.float32) * (product.scale * product.weight_scales)
    return result


def _product(activation: Activation, matrix: Array, shift: float, *, symmetric: bool, bits: int) -> IntegerProduct:
    factors = None
    low, high = activation.low, activation.high
    if shift:
        channels = np.maximum(np.maximum(high, -low), 1e-5)
        factors = channels**shift / np.maximum(np.abs(matrix).max(1), 1e-5) ** (1 - shift)
        factors = np.maximum(factors / np.exp(np.log(factors).mean()), 1e-3).astype(np.float32)
        matrix = matrix * factors[:, None]
    scale, zero = _steps(activation, factors, symmetric=symmetric)
    return IntegerProduct(factors, scale, zero, *quantized_columns(matrix, bits))


def _steps(activation: Activation, factors: Array | None, *, symmetric: bool) -> tuple[np.float32, int]:
    """The scale of an input that is divided by `factors`, and the integer for 0."""
    divisor = np.float32(1) if factors is None else factors
    least, most = float((activation.low / divisor).min()), float((activation.high / divisor).max())
    if symmetric:
        return np.float32(max(most, -least, TINY) / 127), 0
    scale = max(most - least, TINY) / 255
    return np.float32(scale), int(np.rint(-least / scale))


def quantized_columns(matrix: Array, bits: int = 8) -> tuple[Array, Array]:
    """int8 (K, N) and a scale per column (N,); two neighbours in a column that are multiplied together sum to 128 or
    less, so that 255 times their sum fits in 16 bits."""
    if bits == 4:
        integers, steps = rounding.rounded(matrix, axis=0)
        return integers, steps[0]
    padded = np.pad(matrix, ((0, len(matrix) % 2), (0, 0)))
    pairs = np.abs(padded[::2] + padded[1::2]).max(0)
    scales = np.maximum(np.maximum(np.abs(matrix).max(0) / 127, pairs / 127), TINY)  # 127: each may be rounded up
    return np.rint(matrix / scales).astype(np.int8), scales.astype(np.float32)


def matrix_of(node: Any, tensors: Mapping[str, Any]) -> Array:
    """The matrix (K, N) of a product."""
    from onnx import numpy_helper

    matrix: Array = numpy_helper.to_array(tensors[node.input[1]])
    transposed = any(entry.name == "transB" and entry.i for entry in node.attribute)
    return matrix.T if transposed else matrix


def replace_products(model: Any, replacements: Mapping[str, Product], *, plain: bool) -> None:
    """Replaces products of a graph by integer products.

    Args:
        plain: as QuantizeLinear and DequantizeLinear around MatMul, which every runtime reads, instead of operators of
            ONNX Runtime.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    if not plain:
        replacements = _with_divided_values(graph, replacements, readers)
    nodes: list[Any] = []
    merged: set[str] = set()  # outputs of nodes that a product has taken over
    new: dict[str, Array] = {}
    for node in graph.node:
        if node.output[0] in merged:
            continue
        product = replacements.get(node.name)
        if product is None:
            nodes.append(node)
            continue
        if isinstance(product, ConstantProduct):
            nodes += product.nodes(node, new)
            continue
        output, bias = node.output[0], node.input[2] if len(node.input) > 2 else ""
        if node.op_type == "MatMul" and not plain:
            output, bias = _following_bias(node, readers, tensors)
            if bias:
                merged.add(output)
        if product.divisors is not None and bias:
            new[f"{node.output[0]}_bias"] = numpy_helper.to_array(tensors[bias]) / product.divisors
            bias = f"{node.output[0]}_bias"
        nodes += _integer_nodes(node, product, output, bias, new, plain=plain)
    used = {name for node in nodes for name in node.input}
    remaining = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend([*remaining, *(numpy_helper.from_array(values, name) for name, values in new.items())])
    if not plain and replacements and not any(entry.domain == "com.microsoft" for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def _with_divided_values(
    graph: Any, replacements: Mapping[str, Product], readers: Mapping[str, list[Any]]
) -> dict[str, Product]:
    """The products, where an attention divides its values by the factors of the product that alone reads its output.

    The output is a weighted mean of values, so it is divided by the same factors.
    """
    changed = dict(replacements)
    for node in graph.node:
        attention, after = replacements.get(node.name), readers.get(node.output[0], [])
        if node.op_type != "Attention" or not isinstance(attention, IntegerProduct) or len(after) != 1:
            continue
        product = replacements.get(after[0].name)
        if isinstance(product, IntegerProduct) and product.factors is not None and after[0].op_type in MATRICES:
            queries_and_keys = np.ones(len(attention.weight_scales) - len(product.factors), np.float32)
            changed[node.name] = replace(attention, divisors=np.concatenate([queries_and_keys, product.factors]))
            changed[after[0].name] = replace(product, factors=None)
    return changed


def _following_bias(node: Any, readers: Mapping[str, list[Any]], tensors: Mapping[str, Any]) -> tuple[str, str]:
    """The output and the bias of an Add that alone reads the product; the product's own output without one."""
    after = readers.get(node.output[0], [])
    if len(after) == 1 and after[0].op_type == "Add":
        bias = next((name for name in after[0].input if name in tensors and len(tensors[name].dims) == 1), None)
        if bias is not None:
            return after[0].output[0], bias
    return node.output[0], ""


def _integer_nodes(
    node: Any, product: IntegerProduct, output: str, bias: str, new: dict[str, Array], *, plain: bool
) -> list[Any]:
    """The nodes that compute `output`; their constants are added to `new`."""
    from onnx import helper

    name, rows = node.output[0], node.input[0]
    own = {key: f"{name}_{key}" for key in ("scaled", "scale", "zero", "integers")}
    shared = next((key for key, values in new.items() if values is product.weights), f"{name}_weights")
    matrix = shared.removesuffix("_weights")  # the output of the first product with it
    own |= {key: f"{matrix}_{key}" for key in ("factors", "weights")}
    own["columns"] = f"{matrix if product.divisors is None else name}_columns"
    nodes = []
    if product.factors is not None:
        new[own["factors"]] = (1 / product.factors).astype(np.float32)
        nodes.append(helper.make_node("Mul", [rows, own["factors"]], [own["scaled"]]))
        rows = own["scaled"]
    new[own["scale"]], new[own["weights"]] = np.asarray(product.scale), product.weights
    new[own["zero"]] = np.asarray(product.zero, np.int8 if plain else np.uint8)
    new[own["columns"]] = product.weight_scales / (1 if product.divisors is None else product.divisors)
    nodes.append(helper.make_node("QuantizeLinear", [rows, own["scale"], own["zero"]], [own["integers"]]))
    if plain:
        back, floats, result = f"{name}_rows", f"{name}_matrix", f"{name}_product" if bias else output
        nodes += [
            helper.make_node("DequantizeLinear", [own["integers"], own["scale"], own["zero"]], [back]),
            helper.make_node("DequantizeLinear", [own["weights"], own["columns"]], [floats], axis=1),
            helper.make_node("MatMul", [back, floats], [result], name=node.name),
        ]
        return [*nodes, helper.make_node("Add", [result, bias], [output])] if bias else nodes
    integers = [own["integers"], own["weights"]]
    if node.op_type == "Attention":
        mask = node.input[3]
        new[f"{name}_zeros"] = np.zeros(len(product.weight_scales), np.int8)
        operands = [*integers, bias, own["scale"], own["columns"], mask, own["zero"], f"{name}_zeros"]
        kind, attributes = "QAttention", {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
        attributes = {key: value for key, value in attributes.items() if key in ("num_heads", "mask_filter_value")}
    else:
        operands = [*integers, own["scale"], own["columns"], own["zero"], "", bias]
        kind, attributes = "MatMulIntegerToFloat", {}
    return [*nodes, helper.make_node(kind, operands, [output], name=node.name, domain="com.microsoft", **attributes)]
