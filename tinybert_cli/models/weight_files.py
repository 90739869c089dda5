"""Reading weights safely: no code in them is run, and their content is checked."""

from __future__ import annotations

import logging
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from tinybert_cli.errors import InputError, is_out_of_memory
from tinybert_cli.files import check_regular, read_object
from tinybert_cli.memory import free_memory

logger = logging.getLogger("tinybert")


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a model folder, by name.

    transformers is not used, because it follows paths out of the folder and searches for adapters.

    Raises:
        InputError: the weights are missing, damaged or not finite, or the file contains more than tensors.
    """
    for name in WEIGHTS_FILES:
        file = folder / name
        check_regular(file)
        if file.is_file():
            weights = _read_shards(file) if name.endswith(".index.json") else _read_file(file)
            break
    else:
        raise InputError(
            f"there are no weights: none of {', '.join(WEIGHTS_FILES)}",
            where=str(folder),
            hint="if this is an export, use the model that it was exported from",
        )
    weights = {_current_name(key): tensor for key, tensor in weights.items()}
    not_finite = [key for key, tensor in weights.items() if not is_finite(tensor)]
    if not_finite:
        raise InputError(f"the model is broken: NaN or infinity in {first_few(not_finite)}", where=str(folder))
    return weights


def family_of(config: dict[str, Any]) -> str:
    """`model_type`; configs of early BERT checkpoints, such as TinyBERT's, have none and give "bert"."""
    if "model_type" not in config and config.keys() >= {"hidden_size", "type_vocab_size", "num_attention_heads"}:
        return "bert"
    return str(config.get("model_type"))


def _current_name(key: str) -> str:
    """Rename the layer-norm weights of early checkpoints."""
    return re.sub(r"(LayerNorm)\.gamma$", r"\1.weight", re.sub(r"(LayerNorm)\.beta$", r"\1.bias", key))


def _read_shards(index: Path) -> dict[str, torch.Tensor]:
    shards = read_object(index).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise InputError("this index has no weight_map", where=str(index))
    weights: dict[str, torch.Tensor] = {}
    for name in sorted(set(shards.values())):
        if name in ("", ".", "..") or "/" in name or "\\" in name:
            raise InputError(f"this index contains a path outside the folder: '{name}'", where=str(index))
        weights.update(_read_file(index.parent / name))
    return weights


def _read_file(file: Path) -> dict[str, torch.Tensor]:
    check_regular(file)
    if file.is_file():
        _check_size(file)
    return _read_safetensors(file) if file.suffix == ".safetensors" else _read_pickled(file)


def _check_size(file: Path) -> None:
    """InputError if the weights are larger than the free memory: a sparse file may claim any size, as may a zip."""
    size = file.stat().st_size
    if zipfile.is_zipfile(file):  # the format of PyTorch
        with zipfile.ZipFile(file) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
    if size > free_memory():
        raise InputError(
            f"the weights need {size / 1e9:.3g} GB of memory, and {free_memory() / 1e9:.3g} GB are free",
            where=str(file),
            hint="use a smaller model, or a machine with more memory",
        )


def _read_safetensors(file: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights: dict[str, torch.Tensor] = load_file(file)
    except (SafetensorError, OSError) as error:
        if is_out_of_memory(error):
            raise
        raise InputError(f"the weights are damaged or incomplete: {error}", where=str(file), hint=COPY_AGAIN) from error
    return weights


def _read_pickled(file: Path) -> dict[str, torch.Tensor]:
    logger.warning("%s: an old format (pickle); only tensors are read, and tinybert saves models as safetensors", file)
    try:
        weights = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            "this file contains more than tensors; no code in it was run",
            where=str(file),
            hint="use a model with model.safetensors",
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        if is_out_of_memory(error):
            raise
        raise InputError(f"the weights are damaged or incomplete: {error}", where=str(file), hint=COPY_AGAIN) from error
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise InputError("this file contains more than tensors; no code in it was run", where=str(file))
    for name, tensor in weights.items():
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise InputError(f"'{name}' claims a shape that the file does not hold", where=str(file), hint=COPY_AGAIN)
    return weights


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether the tensor has no NaN and no infinity."""
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def first_few(names: list[str]) -> str:
    """The first eight names, and the number of the others."""
    listed = ", ".join(names[:8])
    return f"{listed} and {len(names) - 8} more" if len(names) > 8 else listed


COPY_AGAIN = "copy or download it again"

WEIGHTS_FILES = (
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
)  # fmt: skip
