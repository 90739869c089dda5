"""Weights from other people's files: nothing in them runs, and none of them is taken unread."""

from __future__ import annotations

import json
import logging
import pickle
import re
from pathlib import Path
from typing import Any

import torch

from tinybert_cli.errors import InputError

logger = logging.getLogger("tinybert")


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Read here and not by the library, which follows paths out of the folder and looks for adapters elsewhere."""
    for name in WEIGHTS_FILES:
        file = folder / name
        if file.is_file():
            weights = _read_shards(file) if name.endswith(".index.json") else _read_file(file)
            break
    else:
        exported = "this is an export; give the model that it was made from" if any(folder.glob("*.onnx")) else None
        what = f"there are no weights: none of {', '.join(WEIGHTS_FILES)}"
        raise InputError(what, where=str(folder), hint=exported)
    weights = {_today(key): tensor for key, tensor in weights.items()}
    broken = [key for key, tensor in weights.items() if not is_finite(tensor)]
    if broken:
        raise InputError(f"the model is broken: NaN or infinity in {some_of(broken)}", where=str(folder))
    return weights


def read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise InputError(f"there is no {file.name}", where=str(file.parent))
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"this is not JSON: {error}", where=str(file)) from error
    if not isinstance(values, dict):
        raise InputError("this is not a JSON object", where=str(file))
    return values


def family_of(config: dict[str, Any]) -> str:
    """`model_type`; a config from the time when there was only BERT, as TinyBERT's are, names none."""
    if "model_type" not in config and config.keys() >= {"hidden_size", "type_vocab_size", "num_attention_heads"}:
        return "bert"
    return str(config.get("model_type"))


def _today(key: str) -> str:
    """Layer norms had other names in the first checkpoints."""
    return re.sub(r"(LayerNorm)\.gamma$", r"\1.weight", re.sub(r"(LayerNorm)\.beta$", r"\1.bias", key))


def _read_shards(index: Path) -> dict[str, torch.Tensor]:
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise InputError("this index has no weight_map", where=str(index))
    weights: dict[str, torch.Tensor] = {}
    for name in sorted(set(shards.values())):
        if name in ("", ".", "..") or "/" in name or "\\" in name:
            raise InputError(f"this index leads out of the folder: '{name}'", where=str(index))
        weights.update(_read_file(index.parent / name))
    return weights


def _read_file(file: Path) -> dict[str, torch.Tensor]:
    return _read_safetensors(file) if file.suffix == ".safetensors" else _read_pickled(file)


def _read_safetensors(file: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights: dict[str, torch.Tensor] = load_file(file)
    except (SafetensorError, OSError) as error:
        raise InputError(f"the weights are damaged or incomplete: {error}", where=str(file), hint=COPY_AGAIN) from error
    return weights


def _read_pickled(file: Path) -> dict[str, torch.Tensor]:
    logger.warning("%s: an old format; it is read as tensors only, and saved as safetensors", file)
    try:
        weights = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            "this file holds more than tensors; nothing in it was run",
            where=str(file),
            hint="use a model with model.safetensors",
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise InputError(f"the weights are damaged or incomplete: {error}", where=str(file), hint=COPY_AGAIN) from error
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise InputError("this file holds more than tensors; nothing in it was run", where=str(file))
    return weights


def is_finite(tensor: torch.Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def some_of(keys: list[str]) -> str:
    shown = ", ".join(keys[:8])
    return f"{shown} and {len(keys) - 8} more" if len(keys) > 8 else shown


COPY_AGAIN = "copy or download it again"

WEIGHTS_FILES = (
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
)  # fmt: skip
