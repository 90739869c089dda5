"""What ONNX Runtime's optimizer leaves of a BERT graph in small pieces, and what it would fuse into something slower.

At batch 1 a small model spends as much time between its nodes as in them. Shapes: B batch, T tokens, H width.
"""

from __future__ import annotations

from typing import Any

import numpy as np

MASK = "attention_mask"


def fuse_first_token(model: Any, heads: int) -> None:
    """The attention of a last layer that asks for its first token alone, which the optimizer does not know.

    Its queries (B, 1, H), keys and values (B, T, H) go into one MultiHeadAttention, in place of some forty nodes that
    part and join heads and make a mask (B, 1, T, T). What looks otherwise stays as it is.

    Args:
        model: an OnnxModel of the optimizer.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph = model.model.graph
    tables = {tensor.name: tensor for tensor in graph.initializer}
    makers = model.output_name_to_node()
    readers = model.input_name_to_nodes()
    for softmax in [node for node in graph.node if node.op_type == "Softmax"]:
        scores = _of_kind("MatMul", _inputs(_of_kind("Add", _inputs(softmax, makers)), makers))
        weighted = _of_kind("MatMul", readers[softmax.output[0]])
        joined = _of_kind("Reshape", _readers(_of_kind("Transpose", _readers(weighted, readers)), readers))
        if scores is None or weighted is None or joined is None:
            continue
        found = [
            _projection(name, makers, tables) for name in (scores.input[0], scores.input[1], weighted.input[1])
        ]  # fmt: skip
        parts = [part for part in found if part is not None]
        if len(parts) < 3:
            continue
        bias, mask = f"{softmax.name}_bias", f"{softmax.name}_mask"
        joint = np.concatenate([numpy_helper.to_array(tables[name]) for _, name in parts])  # (3 H,)
        graph.initializer.append(numpy_helper.from_array(joint, bias))
        graph.node.remove(joined)
        projected = [name for name, _ in parts]
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
    """What a layer norm reads is added by Sum nodes, because of Add nodes ONNX Runtime makes SkipLayerNormalization.

    On a CPU that takes 40 us for 25 tokens of width 384, adding and LayerNormalization 8 (ONNX Runtime 1.32).
    """
    graph = model.model.graph
    makers = model.output_name_to_node()
    readers = model.input_name_to_nodes()
    tables = {tensor.name for tensor in graph.initializer}
    for norm in [node for node in graph.node if node.op_type == "LayerNormalization"]:
        added = makers.get(norm.input[0])
        if added is None or added.op_type != "Add":
            continue
        added.op_type = "Sum"
        inner = makers.get(added.input[0])  # embeddings are three: words, types, positions
        alone = inner is not None and inner.op_type == "Add" and len(readers[inner.output[0]]) == 1
        if inner is not None and alone and not tables & set(inner.input):
            added.input[0] = inner.input[0]
            added.input.append(inner.input[1])
            graph.node.remove(inner)


def _projection(name: str, makers: dict[str, Any], tables: dict[str, Any]) -> tuple[str, str] | None:
    """What a matrix made (B, T, H) before heads were parted and a bias was added to it; and that bias."""
    node = makers.get(name)
    while node is not None and node.op_type in ("Mul", "Transpose", "Reshape"):
        node = makers.get(node.input[0])
    if node is None or node.op_type != "Add":
        return None
    biases = [given for given in node.input if given in tables]
    matrices = [given for given in node.input if given in makers and makers[given].op_type == "MatMul"]
    return (matrices[0], biases[0]) if biases and matrices else None


def _inputs(node: Any, makers: dict[str, Any]) -> list[Any]:
    return [] if node is None else [makers[name] for name in node.input if name in makers]


def _readers(node: Any, readers: dict[str, list[Any]]) -> list[Any]:
    return [] if node is None else readers.get(node.output[0], [])


def _of_kind(kind: str, nodes: list[Any]) -> Any:
    return next((node for node in nodes if node.op_type == kind), None)
