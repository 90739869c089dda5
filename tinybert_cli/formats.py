"""Other runtimes: how a model is written for one, and read back so that it can be compared with the original."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from tinybert_cli.errors import ConfigError, InputError, look_up

FUSED = {"bert", "roberta", "xlm-roberta", "camembert", "distilbert", "electra"}  # whose attention the optimizer knows
SMALL_TABLE = 50_000  # numbers in an embedding table that is not worth quantizing
NEWEST_OPSET = 20  # that torch.onnx.export(dynamo=False) writes


class Write(Protocol):
    def __call__(
        self, model: Any, inputs: Mapping[str, Tensor], folder: Path, *, quantize: str, opset: int | None
    ) -> None: ...


@dataclass(frozen=True)
class Format:
    """A runtime: `write` a model into an empty folder, `read` it back as a model; `weights` is the file to look for."""

    write: Write
    read: Callable[[Path], torch.nn.Module]
    weights: str


def find(name: str) -> Format:
    """The format of that name, or a ConfigError that lists them."""
    return look_up(FORMATS, name, "format")


def read_exported(folder: Path) -> torch.nn.Module | None:
    """The exported model in the folder, in whatever format it is; None if it is no export folder."""
    for form in FORMATS.values():
        if (folder / form.weights).is_file():
            return form.read(folder)
    return None


def write_onnx(
    model: Any, inputs: Mapping[str, Tensor], folder: Path, *, quantize: str = "none", opset: int | None = None
) -> None:
    """Writes model.onnx with dynamic batch and length, attention fused where ONNX Runtime's optimizer knows the family.

    The TorchScript exporter, because ONNX Runtime fuses the attention of its graphs and not of torch.export's; eager
    attention, because scaled_dot_product_attention becomes a pattern that is not recognised.

    Args:
        inputs: a batch of real rows, (B, T) each, to trace the model with.
        quantize: `int8` for dynamic quantization, weights with one scale per output channel.
    """
    _need_onnx()
    if opset is not None and opset > NEWEST_OPSET:
        raise ConfigError(f"`opset` {opset} cannot be written", key=("opset",), hint=f"at most {NEWEST_OPSET}")
    model = copy.deepcopy(model).float().cpu().eval()
    model.set_attn_implementation("eager")
    names = list(inputs)
    path, plain = folder / "model.onnx", folder / "plain.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tracer, about shapes that the parity check settles
        torch.onnx.export(
            _Logits(model, names).eval(),  # a fresh module is in train mode, with dropout
            tuple(inputs.values()),
            str(plain),
            dynamo=False,
            input_names=names,
            output_names=["logits"],
            dynamic_axes={**{name: {0: "batch", 1: "length"} for name in names}, "logits": {0: "batch"}},
            opset_version=opset or NEWEST_OPSET,
        )
    _optimize(plain, path, model.config)
    plain.unlink()
    if quantize == "int8":
        _quantize(path)


def read_onnx(folder: Path) -> torch.nn.Module:
    """model.onnx behind the interface of a model."""
    return OnnxModel(folder / "model.onnx")


class OnnxModel(torch.nn.Module):
    """An ONNX Runtime session on the CPU that is called like a transformers model."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        _, runtime = _need_onnx()
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        try:
            self.session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # every kind of broken file has its own class there
            message, _, _ = str(error).partition("\n")
            raise InputError(f"ONNX Runtime cannot read '{path}': {message}") from error
        self.names = [node.name for node in self.session.get_inputs()]

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        """Logits (B, C) of input_ids, attention_mask, ... (B, T)."""
        (logits,) = self.session.run(None, {name: inputs[name].numpy() for name in self.names})
        return {"logits": torch.from_numpy(logits)}


class _Logits(torch.nn.Module):
    """The model as a function of tensors in a fixed order."""

    def __init__(self, model: Any, names: list[str]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *tensors: Tensor) -> Tensor:
        logits: Tensor = self.model(**dict(zip(self.names, tensors, strict=True))).logits
        return logits


def _optimize(source: Path, target: Path, config: Any) -> None:
    if config.model_type not in FUSED:
        source.replace(target)
        source.touch()
        return
    from onnxruntime.transformers import optimizer
    from onnxruntime.transformers.fusion_options import FusionOptions

    options = FusionOptions("bert")
    options.enable_embed_layer_norm = False  # its int8 form has one scale for the whole table; see _quantize_tables
    optimized = optimizer.optimize_model(
        str(source),
        model_type="bert",
        num_heads=config.num_attention_heads,
        hidden_size=config.hidden_size,
        optimization_options=options,
    )
    optimized.save_model_to_file(str(target))


def _quantize(path: Path) -> None:
    """Matrices dynamically to int8, one scale per output channel; embedding tables to int8, one scale per row."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    full = path.rename(path.with_name("full.onnx"))
    model = onnx.load(full)
    _quantize_tables(model)
    onnx.save(model, full)
    quantize_dynamic(
        full,
        path,
        per_channel=True,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul", "Gemm", "Attention"],
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},  # types are lost in fused graphs
    )
    full.unlink()


def _quantize_tables(model: Any) -> None:
    """Replaces Gather(table, ids) by Cast(Gather(int8 table, ids)) * Gather(scales, ids).

    ONNX Runtime quantizes a table with a single scale, and a few large pieces then cost all the others their digits.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    tables = {tensor.name: tensor for tensor in graph.initializer}
    for node in list(graph.node):
        if node.op_type != "Gather" or node.input[0] not in tables:
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


def _need_onnx() -> tuple[Any, Any]:
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise InputError(f"the package '{error.name}' is not installed", hint="pip install 'tinybert[onnx]'") from error
    return onnx, onnxruntime


FORMATS: dict[str, Format] = {
    "onnx": Format(write_onnx, read_onnx, weights="model.onnx"),
}
