"""ONNX: written by torch, its attention fused by ONNX Runtime's optimizer, loaded by ONNX Runtime without torch."""

from __future__ import annotations

import contextlib
import copy
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinybert_cli.errors import ConfigError, InputError, is_out_of_memory
from tinybert_cli.formats.base import Export, Format, Half, Int8
from tinybert_cli.formats.int8 import PLAIN, need_onnx, parts_of_onnx, prepare_int8, quantize_onnx
from tinybert_cli.formats.onnx_fusions import fuse_first_token, name_weights_once, sum_before_norms
from tinybert_cli.types import Array

if TYPE_CHECKING:
    import torch

FILE, INT8_FILE = "onnx/model.onnx", "onnx/model_quantized.onnx"  # where optimum and transformers.js look
FP16_FILE = "onnx/model_fp16.onnx"
EXAMPLE, THIS_FOLDER = "example.py", "Path(__file__).parent"
OLDER_FILE = "model.onnx"  # of version 0.2.0, in float32 or int8
SPAN_OUTPUTS = ["start_logits", "end_logits"]  # of question answering, as in transformers
FUSED = {"bert", "roberta", "xlm-roberta", "camembert", "distilbert", "electra"}  # families whose attention is fused
NEWEST_OPSET = 20  # that torch.onnx.export(dynamo=False) writes
PLAIN_OPSET = 17  # with layer normalization as one operator, and read by all runtimes


def write_onnx(
    model: Any,
    inputs: Mapping[str, torch.Tensor],
    folder: Path,
    *,
    opset: int | None = None,
    runtime: str = "onnxruntime",
) -> None:
    """Writes onnx/model.onnx with dynamic batch size and length; attention is fused for the families in FUSED.

    It uses the TorchScript exporter, because ONNX Runtime does not fuse the attention in graphs of torch.export, and
    eager attention, because scaled_dot_product_attention becomes a pattern that the optimizer does not recognise.

    Args:
        inputs: a batch of real rows, (B, T) each, to trace the model with.
        runtime: onnxruntime, or any: standard operators only, so without fused attention.

    Raises:
        ConfigError: the operator set is too new, or lacks an operator that the model needs.
    """
    import torch

    need_onnx()
    if opset is not None and opset > NEWEST_OPSET:
        raise ConfigError(f"`opset` {opset} cannot be written", key=("opset",), hint=f"at most {NEWEST_OPSET}")
    model = copy.deepcopy(model).float().cpu().eval()
    model.set_attn_implementation("eager")
    names = list(inputs)
    path = folder / FILE
    plain = path.with_name("plain.onnx")
    path.parent.mkdir(exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer warns about shapes; verification settles these
        traced = _logits_module(model, names)
        axes = dict(enumerate(("batch", "length")))
        with torch.no_grad():
            outputs = traced(*inputs.values())
        per_span = isinstance(outputs, tuple)
        per_token = per_span or outputs.dim() == 3  # (B, T, C), not (B, C)
        outputs_named = SPAN_OUTPUTS if per_span else ["logits"]
        output_axes = axes if per_token else {0: "batch"}
        try:
            with _silent_stdout():
                torch.onnx.export(
                    traced,
                    tuple(inputs.values()),
                    str(plain),
                    dynamo=False,
                    input_names=names,
                    output_names=outputs_named,
                    dynamic_axes={**dict.fromkeys(names, axes), **dict.fromkeys(outputs_named, output_axes)},
                    opset_version=opset or (PLAIN_OPSET if runtime == PLAIN else NEWEST_OPSET),
                )
        except torch.onnx.errors.UnsupportedOperatorError as error:
            if opset is None:
                raise not_exportable(model.config.model_type, error) from error
            raise ConfigError(
                f"`opset` {opset} lacks an operator that this model needs: {error}", key=("opset",), hint="leave it out"
            ) from error
        except (RuntimeError, ValueError, TypeError, torch.onnx.errors.OnnxExporterError) as error:
            if is_out_of_memory(error) or model.config.model_type in FUSED:
                raise
            raise not_exportable(model.config.model_type, error) from error
    if runtime == PLAIN or model.config.model_type not in FUSED:
        plain.replace(path)
        name_weights_once(path)
    else:
        _optimize(plain, path, model.config)
        plain.unlink()


class OnnxSession:
    """An ONNX Runtime session on the CPU.

    Raises:
        InputError: onnxruntime is not installed, or it cannot read the file.
    """

    def __init__(self, path: Path) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            hint = "pip install 'tinybert[onnx]'"
            raise InputError("the package 'onnxruntime' is not installed", hint=hint) from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has a class of its own for every kind of broken file
            if is_out_of_memory(error):
                raise
            message, _, _ = str(error).partition("\n")
            raise InputError(f"ONNX Runtime cannot read '{path}': {message}", hint="export it again") from error
        self.inputs = [node.name for node in self.session.get_inputs()]
        self.outputs = [node.name for node in self.session.get_outputs()]

    def __call__(self, inputs: Mapping[str, Array]) -> Array:
        """Logits, (B, C) or (B, T, C), of input_ids, attention_mask, ... (B, T). Begin and end of spans are classes."""
        logits: Array
        try:
            outputs = self.session.run(None, {name: inputs[name] for name in self.inputs})
        except Exception as error:  # onnxruntime has a class of its own for every kind of failure
            if is_out_of_memory(error):
                raise
            shape = " x ".join(map(str, inputs[self.inputs[0]].shape))
            message, _, _ = str(error).partition("\n")
            raise InputError(
                f"the ONNX export cannot be run on {shape} tokens: {message}",
                hint="some families only run on inputs as long as those of the export; use `format: safetensors`",
            ) from error
        logits = np.stack(outputs, axis=-1) if self.outputs == SPAN_OUTPUTS else outputs[0]
        return logits


def load_onnx(folder: Path) -> OnnxSession:
    """The int8 file of an export folder if it has one, else the float32 file."""
    file = ONNX.file(folder)
    assert file is not None  # `formats.detect`
    return OnnxSession(file)


def write_fp16(source: Path, target: Path) -> None:
    """The float32 file with weights and arithmetic in float16; inputs and outputs stay as they are."""
    onnx, _ = need_onnx()
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about numbers that are too small for float16, and become 0
        model = convert_float_to_float16(onnx.load(source), keep_io_types=True, disable_shape_infer=True)
    onnx.save(model, target)


def onnx_usage(export: Export) -> dict[str, str]:
    lines = export.example.replace(THIS_FOLDER, f'Path("{export.folder}")')
    return {
        "ONNX Runtime": f"`python {EXAMPLE}` runs these lines, from any folder; they need {_NEEDED}:\n\n"
        f"```python\n{lines}```",
        "tinybert": f"```sh\n{export.command}\n```\n\nThis needs no torch.",
        "transformers": f"Load {export.model}, the original; this export is for ONNX Runtime.",
    }


def not_exportable(family: str, error: Exception) -> InputError:
    message, _, _ = str(error).partition("\n")
    return InputError(f"{family} models cannot be exported to ONNX: {message}", hint="use `format: safetensors`")


@contextlib.contextmanager
def _silent_stdout() -> Iterator[None]:
    """Drops what C++ code writes to stdout: the exporter writes its whole graph there when an operator is unknown."""
    sys.stdout.flush()
    try:
        stdout = os.dup(1)
    except OSError:  # closed
        yield
        return
    try:
        with Path(os.devnull).open("wb") as nothing:
            os.dup2(nothing.fileno(), 1)
        yield
    finally:
        sys.stdout.flush()
        os.dup2(stdout, 1)
        os.close(stdout)


def _logits_module(model: Any, names: list[str]) -> Any:
    """The model as a function of tensors in a fixed order, in eval mode."""
    import torch

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *tensors: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
            outputs = self.model(**dict(zip(names, tensors, strict=True)))
            if "start_logits" in outputs:
                return outputs.start_logits, outputs.end_logits  # (B, T) each
            logits: torch.Tensor = outputs.logits
            return logits

    return Logits().eval()  # a new module is in train mode, with dropout


def _optimize(source: Path, target: Path, config: Any) -> None:
    from onnxruntime.transformers import optimizer
    from onnxruntime.transformers.fusion_options import FusionOptions

    options = FusionOptions("bert")
    options.enable_embed_layer_norm = False  # its int8 form has one scale per table
    options.enable_skip_layer_norm = options.enable_bias_skip_layer_norm = False  # see sum_before_norms
    options.use_raw_attention_mask(True)  # else padding is assumed to be on the right
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


_NEEDED = "`pip install onnxruntime tokenizers numpy` and nothing else"

ONNX = Format(
    weights=FILE,
    precision="float32",
    write=write_onnx,
    runtime="ONNX Runtime",
    usage=onnx_usage,
    options=("opset", "runtime"),
    load=load_onnx,
    int8=Int8(INT8_FILE, prepare_int8, quantize_onnx, ("matrix_bits", "embedding_bits", "runtime"), parts_of_onnx),
    half=Half(FP16_FILE, write_fp16, OnnxSession),
    older=(OLDER_FILE,),
    example=EXAMPLE,
)
