"""Torch modules on both sides of an ONNX file: what is traced to write it, and what runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tinybert_cli.errors import InputError
from tinybert_cli.formats.int8 import need_onnx


class OnnxModel(torch.nn.Module):
    """An ONNX Runtime session on the CPU that is called like a transformers model."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        _, runtime = need_onnx()
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        try:
            self.session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # every kind of broken file has its own class there
            message, _, _ = str(error).partition("\n")
            raise InputError(f"ONNX Runtime cannot read '{path}': {message}") from error
        self.names = [node.name for node in self.session.get_inputs()]

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        """Logits, (B, C) or (B, T, C), of input_ids, attention_mask, ... (B, T)."""
        (logits,) = self.session.run(None, {name: inputs[name].numpy() for name in self.names})
        return {"logits": torch.from_numpy(logits)}


class LogitsOnly(torch.nn.Module):
    """The model as a function of tensors in a fixed order."""

    def __init__(self, model: Any, names: list[str]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *tensors: Tensor) -> Tensor:
        said = self.model(**dict(zip(self.names, tensors, strict=True)))
        if "start_logits" in said:
            return torch.stack([said.start_logits, said.end_logits], dim=-1)  # (B, T, 2)
        logits: Tensor = said.logits
        return logits
