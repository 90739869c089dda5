"""ONNX of a translation model: two graphs for ONNX Runtime, greedy, without torch.

encoder.onnx computes the keys and values of the cross-attention of every decoder layer, once per text. decoder.onnx
computes one step: the logits of the next token, and the keys and values of the self-attention, which the next step gets
back. At the first step they have length 0, so that one graph serves all steps.

Shapes: B rows, T source tokens, S steps done, A attention heads, D head dimension, V tokens of the vocabulary.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinybert_cli.errors import ConfigError, InputError, is_out_of_memory
from tinybert_cli.formats.base import Export, TranslationFormat
from tinybert_cli.formats.int8 import need_onnx
from tinybert_cli.formats.onnx import NEWEST_OPSET, OnnxSession, not_exportable
from tinybert_cli.translation_tokenizer import TranslationTokenizer, read_tokenizer
from tinybert_cli.types import Array, Hypothesis, Search, padded

ENCODER, DECODER = "encoder.onnx", "decoder.onnx"
PARTS = ("cross_key", "cross_value", "self_key", "self_value")


def write_onnx_translation(
    model: Any, tokenizer: TranslationTokenizer, folder: Path, *, opset: int | None = None
) -> None:
    """Writes encoder.onnx, decoder.onnx, config.json and the tokenizers.

    Raises:
        ConfigError: the operator set is too new.
        InputError: the family cannot be exported, or onnx is not installed.
    """
    import torch

    need_onnx()
    if opset is not None and opset > NEWEST_OPSET:
        raise ConfigError(f"`opset` {opset} cannot be written", key=("opset",), hint=f"at most {NEWEST_OPSET}")
    model = copy.deepcopy(model).float().cpu().eval()
    model.set_attn_implementation("eager")
    encoder, decoder, layers = _modules(model, tokenizer.start)
    ids = torch.arange(3, 10).remainder(tokenizer.size).view(1, -1).repeat(2, 1)
    mask = torch.ones_like(ids)
    mask[1, -2:] = 0
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer warns about shapes; verification settles these
        try:
            cross = encoder(ids, mask)
            past = [values[:, :, :2].clone() for values in cross]  # of the same shape, for two steps
            options: dict[str, Any] = {"dynamo": False, "opset_version": opset or NEWEST_OPSET}
            source_axes, steps_axes = {0: "batch", 1: "source"}, {0: "batch", 2: "steps"}
            names = [f"{part}_{layer}" for layer in range(layers) for part in PARTS[:2]]
            axes = {0: "batch", 2: "source"}
            torch.onnx.export(
                encoder, (ids, mask), str(folder / ENCODER),
                input_names=["input_ids", "attention_mask"], output_names=names,
                dynamic_axes={
                    "input_ids": source_axes, "attention_mask": source_axes,
                    **dict.fromkeys(names, axes),
                },
                **options,
            )  # fmt: skip
            own = [f"{part}_{layer}" for layer in range(layers) for part in PARTS[2:]]
            new = [f"new_{name}" for name in own]
            torch.onnx.export(
                decoder, (ids[:, :1], mask, *cross, *past), str(folder / DECODER),
                input_names=["decoder_input_ids", "attention_mask", *names, *own], output_names=["logits", *new],
                dynamic_axes={
                    "decoder_input_ids": {0: "batch"}, "attention_mask": source_axes,
                    "logits": {0: "batch"}, **dict.fromkeys(names, axes),
                    **dict.fromkeys([*own, *new], steps_axes),
                },
                **options,
            )  # fmt: skip
        except torch.onnx.errors.UnsupportedOperatorError as error:
            if opset is None:
                raise not_exportable(model.config.model_type, error) from error
            raise ConfigError(
                f"`opset` {opset} lacks an operator that this model needs: {error}", key=("opset",), hint="leave it out"
            ) from error
        except (RuntimeError, ValueError, TypeError, AttributeError, torch.onnx.errors.OnnxExporterError) as error:
            if is_out_of_memory(error):
                raise
            raise not_exportable(model.config.model_type, error) from error
    config = {**model.config.to_dict()}
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    tokenizer.write(folder)


class OnnxTranslator:
    """A folder that `write_onnx_translation` wrote, on the CPU.

    Raises:
        InputError: onnxruntime is not installed, or it cannot read the files.
    """

    def __init__(self, folder: Path) -> None:
        self.tokenizer = read_tokenizer(folder)
        self.encoder, self.decoder = (OnnxSession(folder / name).session for name in (ENCODER, DECODER))
        self.cross = [node.name for node in self.encoder.get_outputs()]
        self.own = [node.name for node in self.decoder.get_inputs() if node.name.startswith(PARTS[2:])]
        self.shape: dict[str, tuple[int, int]] = {
            node.name: (node.shape[1], node.shape[3]) for node in self.decoder.get_inputs() if node.name in self.own
        }

    def translate(self, sources: Sequence[Sequence[int]], search: Search) -> list[list[Hypothesis]]:
        if search.beams > 1:
            raise InputError(
                "an ONNX export translates greedily, it has no beam search",
                hint="set search: {beams: 1}, or export to format: ctranslate2",
            )
        limits = np.array([search.limit(len(source)) for source in sources])
        values: Array = np.concatenate([np.asarray(source, dtype=np.int64) for source in sources])
        offsets = np.concatenate([[0], np.cumsum([len(source) for source in sources])])
        tokens = {"input_ids": (values, self.tokenizer.padding)}
        batch = padded(tokens, offsets, np.arange(len(sources)))
        cross = dict(zip(self.cross, self.encoder.run(None, batch), strict=True))
        state = {
            name: np.zeros((len(sources), heads, 0, size), np.float32) for name, (heads, size) in self.shape.items()
        }
        rows = np.arange(len(sources))  # those that are not finished
        ids: list[list[int]] = [[] for _ in sources]
        totals, finished = np.zeros(len(sources)), np.zeros(len(sources), dtype=bool)
        mask, step = batch["attention_mask"], np.full((len(sources), 1), self.tokenizer.start, dtype=np.int64)
        for position in range(int(limits.max()) + len(self.tokenizer.prefix)):
            logits, *new = self.decoder.run(None, {"decoder_input_ids": step, "attention_mask": mask, **cross, **state})
            state = dict(zip(self.own, new, strict=True))
            if position < len(self.tokenizer.prefix):
                step = np.full((len(rows), 1), self.tokenizer.prefix[position], dtype=np.int64)
                continue
            chosen, log_probabilities = self._next(logits)
            totals[rows] += log_probabilities
            ended = chosen == self.tokenizer.end
            for row, token, is_end in zip(rows, chosen.tolist(), ended, strict=True):
                if not is_end:
                    ids[row].append(token)
            finished[rows[ended]] = True
            done = ended | (position - len(self.tokenizer.prefix) + 1 >= limits[rows])
            rows, mask, step = rows[~done], mask[~done], chosen[~done, None]
            if not len(rows):
                break
            if done.any():
                cross = {name: array[~done] for name, array in cross.items()}
                state = {name: array[~done] for name, array in state.items()}
        return [
            [Hypothesis(tuple(row), float(total) / max(1, len(row) + end) ** search.length_penalty, bool(end))]
            for row, total, end in zip(ids, totals, finished.tolist(), strict=True)
        ]

    def _next(self, logits: Array) -> tuple[Array, Array]:
        """The most probable token of each row (B,), padding excepted, and its log-probability."""
        logits = logits.astype(np.float64)
        highest = logits.max(-1, keepdims=True)
        normalizers = highest[:, 0] + np.log(np.exp(logits - highest).sum(-1))
        if self.tokenizer.padding != self.tokenizer.end:
            logits[:, self.tokenizer.padding] = -np.inf
        chosen = logits.argmax(-1)
        return chosen, logits[np.arange(len(chosen)), chosen] - normalizers


def onnx_translation_usage(export: Export) -> dict[str, str]:
    return {"tinybert": f"```sh\n{export.command}\n```\n\nThis needs no torch."}


def _modules(model: Any, start: int) -> tuple[Any, Any, int]:
    """Encoder and decoder step as functions of tensors, and the number of decoder layers."""
    import torch
    from transformers import DynamicCache, EncoderDecoderCache
    from transformers.modeling_outputs import BaseModelOutput

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
            begin = torch.full_like(input_ids[:, :1], start)
            outputs = self.model(
                input_ids=input_ids, attention_mask=attention_mask, decoder_input_ids=begin, use_cache=True
            )
            layers = outputs.past_key_values.cross_attention_cache.layers
            return tuple(values for layer in layers for values in (layer.keys, layer.values))

    class Decoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, step: torch.Tensor, mask: torch.Tensor, *states: torch.Tensor) -> tuple[torch.Tensor, ...]:
            half = len(states) // 2
            cross, own = (_pairs(part) for part in (states[:half], states[half:]))
            cache = EncoderDecoderCache(DynamicCache(own), DynamicCache(cross))
            for layer in range(len(cross)):
                cache.is_updated[layer] = True
            # never read, because the keys and values of the cross-attention are known
            hidden = torch.zeros(mask.shape[0], mask.shape[1], self.model.config.d_model)
            outputs = self.model(
                attention_mask=mask, decoder_input_ids=step, past_key_values=cache, use_cache=True,
                encoder_outputs=BaseModelOutput(last_hidden_state=hidden),
            )  # fmt: skip
            layers = outputs.past_key_values.self_attention_cache.layers
            return outputs.logits[:, -1], *(values for layer in layers for values in (layer.keys, layer.values))

    count = len(model.get_decoder().layers if hasattr(model.get_decoder(), "layers") else model.get_decoder().block)
    return Encoder().eval(), Decoder().eval(), count


def _pairs(tensors: Sequence[Any]) -> list[tuple[Any, Any]]:
    return list(zip(tensors[::2], tensors[1::2], strict=True))


ONNX_TRANSLATION = TranslationFormat(
    weights=(DECODER, ENCODER),
    precision="float32",
    write=write_onnx_translation,
    runtime="ONNX Runtime",
    usage=onnx_translation_usage,
    options=("opset",),
    load=OnnxTranslator,
    beams=False,
)
