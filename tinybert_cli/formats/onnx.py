"""ONNX: written by torch, its attention fused by ONNX Runtime's optimizer, read back as a model."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinybert_cli.errors import ConfigError
from tinybert_cli.formats.int8 import need_onnx
from tinybert_cli.formats.onnx_fusions import fuse_first_token, sum_before_norms

if TYPE_CHECKING:
    import torch
    from torch import Tensor

FILE = "model.onnx"
FUSED = {"bert", "roberta", "xlm-roberta", "camembert", "distilbert", "electra"}  # whose attention the optimizer knows
NEWEST_OPSET = 20  # that torch.onnx.export(dynamo=False) writes


def write_onnx(model: Any, inputs: Mapping[str, Tensor], folder: Path, *, opset: int | None = None) -> None:
    """Writes model.onnx with dynamic batch and length, attention fused where ONNX Runtime's optimizer knows the family.

    The TorchScript exporter, because ONNX Runtime fuses the attention of its graphs and not of torch.export's; eager
    attention, because scaled_dot_product_attention becomes a pattern that is not recognised.

    Args:
        inputs: a batch of real rows, (B, T) each, to trace the model with.
    """
    need_onnx()
    import torch

    from tinybert_cli.formats.onnx_model import LogitsOnly

    if opset is not None and opset > NEWEST_OPSET:
        raise ConfigError(f"`opset` {opset} cannot be written", key=("opset",), hint=f"at most {NEWEST_OPSET}")
    model = copy.deepcopy(model).float().cpu().eval()
    model.set_attn_implementation("eager")
    names = list(inputs)
    path, plain = folder / FILE, folder / "plain.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tracer, about shapes that the parity check settles
        traced = LogitsOnly(model, names).eval()  # a fresh module is in train mode, with dropout
        axes = dict(enumerate(("batch", "length")))
        of_tokens = traced(*inputs.values()).dim() == 3  # (B, T, C), not (B, C)
        try:
            torch.onnx.export(
                traced,
                tuple(inputs.values()),
                str(plain),
                dynamo=False,
                input_names=names,
                output_names=["logits"],
                dynamic_axes={**dict.fromkeys(names, axes), "logits": axes if of_tokens else {0: "batch"}},
                opset_version=opset or NEWEST_OPSET,
            )
        except torch.onnx.errors.UnsupportedOperatorError as error:
            raise ConfigError(
                f"`opset` {opset} has not all that this model needs: {error}", key=("opset",), hint="leave it out"
            ) from error
    _optimize(plain, path, model.config)
    plain.unlink()


def read_onnx(folder: Path) -> torch.nn.Module:
    """model.onnx behind the interface of a model."""
    from tinybert_cli.formats.onnx_model import OnnxModel

    return OnnxModel(folder / FILE)


def _optimize(source: Path, target: Path, config: Any) -> None:
    if config.model_type not in FUSED:
        source.replace(target)
        source.touch()
        return
    from onnxruntime.transformers import optimizer
    from onnxruntime.transformers.fusion_options import FusionOptions

    options = FusionOptions("bert")
    options.enable_embed_layer_norm = False  # its int8 form has one scale for the whole table; see _quantize_tables
    options.enable_skip_layer_norm = options.enable_bias_skip_layer_norm = False  # see sum_before_norms
    options.use_raw_attention_mask(True)  # else padding is thought to be on the right
    optimized = optimizer.optimize_model(
        str(source),
        model_type="bert",
        num_heads=config.num_attention_heads,
        hidden_size=config.hidden_size,
        optimization_options=options,
    )
    fuse_first_token(optimized, config.num_attention_heads)
    sum_before_norms(optimized)
    optimized.save_model_to_file(str(target))
