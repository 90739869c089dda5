"""Saving models in the format of transformers."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tinybert_cli.errors import UserError
from tinybert_cli.files import read_object
from tinybert_cli.input_limits import NO_LENGTH
from tinybert_cli.models.weight_files import is_finite

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path, *, truncate: bool = False) -> None:
    """Write a folder in the format of transformers, as float32 safetensors, and vocab.txt for older runtimes.

    Args:
        truncate: see `save_tokenizer`.

    Raises:
        UserError: a weight is NaN or infinite (nothing is saved), or the weights cannot be written.
    """
    save_weights(model, folder)
    save_tokenizer(tokenizer, folder, truncate=truncate)


def save_weights(model: PreTrainedModel, folder: Path) -> None:
    """Write weights, as float32 safetensors, and config.json.

    Raises:
        UserError: a weight is NaN or infinite (nothing is saved), or the weights cannot be written.
    """
    from safetensors import SafetensorError

    for name, tensor in model.state_dict().items():
        if not is_finite(tensor):
            raise UserError(
                f"the model is broken: '{name}' contains NaN or infinity, so it was not saved",
                hint="lower the learning rate, or train without mixed precision",
            )
    if model.dtype != torch.float32:
        model = copy.deepcopy(model).float()
    try:
        model.save_pretrained(folder)
    except SafetensorError as error:  # a full disk, without an errno
        raise UserError(f"the weights could not be written: {error}", where=str(folder)) from error


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path, *, truncate: bool = False) -> None:
    """Write the tokenizer's files and, for WordPiece, vocab.txt, which older runtimes need.

    Args:
        truncate: tokenizer.json cuts texts at `model_max_length`, for programs that read no other file.
    """
    backend = tokenizer.backend_tokenizer  # its state is that of the last call
    backend.no_padding()
    backend.no_truncation()
    if truncate and tokenizer.model_max_length < NO_LENGTH:
        backend.enable_truncation(tokenizer.model_max_length, direction=tokenizer.truncation_side)
    tokenizer.save_pretrained(folder)
    _use_names_of_version_4(folder / "tokenizer_config.json")
    _write_wordpiece_vocabulary(tokenizer, folder)


def names_in_config(config: PreTrainedConfig) -> dict[str, dict[str, Any]]:
    """`id2label` and `label2id` as in config.json; transformers leaves out those of two outputs without names."""
    return {
        "id2label": {str(index): name for index, name in config.id2label.items()}, "label2id": dict(config.label2id)
    }  # fmt: skip


def rewrite_config(folder: Path, settings: Mapping[str, Any]) -> None:
    """Update the config.json of a saved model; settings that are None are removed.

    What is null in the file stays null: CTranslate2 4.8 reads undefined memory where `decoder_start_token` is missing.
    """
    file = folder / "config.json"
    removed = {key for key, value in settings.items() if value is None}
    values = {key: value for key, value in {**read_object(file), **settings}.items() if key not in removed}
    file.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def weights_bytes(folder: Path) -> int:
    """Bytes on disk of the weights of a model folder: safetensors, or PyTorch's format."""
    files = list(folder.glob("*.safetensors"))
    return sum(path.stat().st_size for path in files or folder.glob("pytorch_model*.bin"))


def _use_names_of_version_4(file: Path) -> None:
    """Two names in tokenizer_config.json that transformers 4 does not know, which flair needs; version 5 reads both."""
    values = read_object(file)
    if values.get("tokenizer_class") == "TokenizersBackend":
        values["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(values.get("extra_special_tokens"), list):
        values["additional_special_tokens"] = values.pop("extra_special_tokens")
    file.write_text(json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_wordpiece_vocabulary(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write vocab.txt, which transformers 5 no longer writes and older runtimes need: the line number is the id."""
    from tokenizers.models import WordPiece

    if not isinstance(tokenizer.backend_tokenizer.model, WordPiece):
        return
    ids = tokenizer.backend_tokenizer.get_vocab(with_added_tokens=True)
    tokens = sorted(ids, key=ids.__getitem__)
    if [ids[token] for token in tokens] == list(range(len(tokens))):
        (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
