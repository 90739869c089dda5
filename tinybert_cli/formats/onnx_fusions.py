"""Changes of a graph that ONNX Runtime's optimizer does not make, and one that it makes and that is slower.

At batch size 1 a small model spends as much time between its nodes as in them.
Shapes: B batch, T tokens, H hidden size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

MASK = "attention_mask"


def fuse_first_token(model: Any, heads: int) -> None:
    """Fuses the attention of a last layer that has queries for the first token only; the optimizer has no such pattern.

    One MultiHeadAttention on queries (B, 1, H), keys and values (B, T, H) replaces about forty nodes, which split and
    join heads and build a mask (B, 1, T, T). Attention of another structure is not changed.

    Args:
        model: an OnnxModel of the optimizer; changed in place.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph = model.model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    producers = model.output_name_to_node()
    readers = model.input_name_to_nodes()
    for softmax in [node for node in graph.node if node.op_type == "Softmax"]:
        scores = _of_type("MatMul", _inputs(_of_type("Add", _inputs(softmax, producers)), producers))
        weighted = _of_type("MatMul", readers[softmax.output[0]])
        joined = _of_type("Reshape", _readers(_of_type("Transpose", _readers(weighted, readers)), readers))
        if scores is None or weighted is None or joined is None:
            continue
        names = (scores.input[0], scores.input[1], weighted.input[1])  # queries, keys, values
        projections = [_projection(name, producers, weights) for name in names]
        matched = [projection for projection in projections if projection is not None]
        if len(matched) < 3:
            continue
        bias, mask = f"{softmax.name}_bias", f"{softmax.name}_mask"
        biases = np.concatenate([numpy_helper.to_array(weights[name]) for _, name in matched])  # (3 H,)
        graph.initializer.append(numpy_helper.from_array(biases, bias))
        graph.node.remove(joined)
        projected = [name for name, _ in matched]
        graph.node.extend([
            helper.make_node("Cast", [MASK], [mask], name=mask, to=TensorProto.INT32),
            helper.make_node(
                "MultiHeadAttention", [*projected, bias, mask], [joined.output[0]], name=f"{softmax.name}_fused",
                domain="com.microsoft", num_heads=heads,
            ),
        ])  # fmt: skip
    model.prune_graph()
    model.topological_sort()


def sum_before_norms(model: Any) -> None:
    """Replaces the Add nodes before layer norms by Sum nodes, which ONNX Runtime does not fuse.

    It fuses Add and LayerNormalization into SkipLayerNormalization, which is slower on a CPU: 40 us instead of 8 for 25
    tokens of hidden size 384 (ONNX Runtime 1.32).

    Args:
        model: an OnnxModel of the optimizer; changed in place.
    """
    graph = model.model.graph
    producers = model.output_name_to_node()
    readers = model.input_name_to_nodes()
    weights = {tensor.name for tensor in graph.initializer}
    for norm in [node for node in graph.node if node.op_type == "LayerNormalization"]:
        added = producers.get(norm.input[0])
        if added is None or added.op_type != "Add":
            continue
        added.op_type = "Sum"
        inner = producers.get(added.input[0])  # embeddings add three: words, types, positions
        mergeable = inner is not None and inner.op_type == "Add" and len(readers[inner.output[0]]) == 1
        if inner is not None and mergeable and not weights & set(inner.input):
            added.input[0] = inner.input[0]
            added.input.append(inner.input[1])
            graph.node.remove(inner)


def name_weights_once(file: Path) -> None:
    """Removes the Identity nodes that the exporter writes for a weight that several layers share; the file is changed.

    Each node then reads the weight itself, so that int8 knows it as a weight.
    """
    import onnx

    model = onnx.load(file)
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    names: dict[str, str] = {}
    for node in graph.node:
        if node.op_type == "Identity" and names.get(node.input[0], node.input[0]) in weights:
            names[node.output[0]] = names.get(node.input[0], node.input[0])
    if not names or names.keys() & {output.name for output in graph.output}:
        return
    nodes = [node for node in graph.node if node.output[0] not in names]
    for node in nodes:
        for index, name in enumerate(node.input):
            node.input[index] = names.get(name, name)
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.save(model, file)


def _projection(name: str, producers: dict[str, Any], weights: dict[str, Any]) -> tuple[str, str] | None:
    """The names of the matrix product (B, T, H) and the bias that queries, keys or values are computed from.

    They come before the scaling and the split into heads. None if the graph has another structure.
    """
    node = producers.get(name)
    while node is not None and node.op_type in ("Mul", "Transpose", "Reshape"):
        node = producers.get(node.input[0])
    if node is None or node.op_type != "Add":
        return None
    biases = [operand for operand in node.input if operand in weights]
    products = [operand for operand in node.input if operand in producers and producers[operand].op_type == "MatMul"]
    return (products[0], biases[0]) if biases and products else None


def _inputs(node: Any, producers: dict[str, Any]) -> list[Any]:
    """The nodes that compute the inputs of a node."""
    return [] if node is None else [producers[name] for name in node.input if name in producers]


def _readers(node: Any, readers: dict[str, list[Any]]) -> list[Any]:
    """The nodes that read the output of a node."""
    return [] if node is None else readers.get(node.output[0], [])


def _of_type(op_type: str, nodes: list[Any]) -> Any:
    return next((node for node in nodes if node.op_type == op_type), None)
