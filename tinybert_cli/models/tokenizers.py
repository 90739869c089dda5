"""Loading the tokenizer of a model, and checking that it fits the model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tinybert_cli.errors import ConfigError, InputError
from tinybert_cli.models.families import FAMILIES
from tinybert_cli.models.loading import read_config
from tinybert_cli.models.locate import TOKENIZER_FILES, Source, fetch
from tinybert_cli.models.weight_files import family_of, first_few, read_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


def load_tokenizer(source: Source) -> PreTrainedTokenizerFast:
    """The model's own fast tokenizer.

    Raises:
        InputError: it is a slow tokenizer, or its files are unreadable or missing (transformers would build another).
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    folder = fetch(source, weights=False)
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise InputError(
            f"'{source.name}' has no tokenizer: none of {', '.join(TOKENIZER_FILES)}",
            where=str(folder),
            hint=COPY_TOKENIZER,
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True, tokenizer_type=_tokenizer_type(folder)
        )
    except Exception as error:  # tokenizers raises a bare Exception for an unreadable file
        raise InputError(f"the tokenizer of '{source.name}' cannot be read: {error}", where=str(folder)) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise InputError(
            f"'{source.name}' has a slow tokenizer, {type(tokenizer).__name__}; a fast one is needed",
            where=str(folder),
            hint="save it as tokenizer.json: AutoTokenizer.from_pretrained(...).save_pretrained(folder)",
        )
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise InputError(
            f"the tokenizer of '{source.name}' has only special tokens",
            where=str(folder),
            hint="its vocabulary file is missing or empty",
        )
    return tokenizer


def _tokenizer_type(folder: Path) -> str | None:
    """bert for early checkpoints without a `model_type`: transformers cannot tell to which family vocab.txt belongs."""
    config = read_json(folder / "config.json")
    has_type = "model_type" in config or (folder / "tokenizer_config.json").is_file()
    return "bert" if not has_type and family_of(config) == "bert" else None


def check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, source: Source) -> None:
    """InputError if the tokenizer has ids without an embedding in the model, or another padding id."""
    tokens, embeddings = max(tokenizer.get_vocab().values()) + 1, model.get_input_embeddings().num_embeddings
    if tokens > embeddings:
        raise InputError(
            f"the tokenizer of '{source.name}' does not match the model: it has {tokens:,} tokens, "
            f"the model {embeddings:,} embeddings",
            hint=COPY_TOKENIZER,
        )
    if model.config.pad_token_id is not None and model.config.pad_token_id != tokenizer.pad_token_id:
        raise InputError(
            f"the tokenizer of '{source.name}' does not match the model: its padding id is {tokenizer.pad_token_id}, "
            f"the model expects {model.config.pad_token_id}",
            hint=COPY_TOKENIZER,
        )


def check_length(source: Source, tokens: int, *, key: tuple[str, ...] = ("data", "max_seq_length")) -> None:
    """ConfigError for the setting `key` if the model has fewer than `tokens` positions."""
    config = read_config(source)
    if config["model_type"] not in FAMILIES:
        return  # many of them use relative positions, without a limit
    starts_after_padding = config["model_type"] in ("roberta", "xlm-roberta", "camembert")
    unused = config["pad_token_id"] + 1 if starts_after_padding else 0
    positions = config["max_position_embeddings"] - unused
    if tokens > positions:
        raise ConfigError(
            f"'{source.name}' has positions for {positions} tokens, not for {tokens}",
            key=key,
            hint=f"{'.'.join(key)}: at most {positions}",
        )


def tokenizer_difference(first: PreTrainedTokenizerFast, second: PreTrainedTokenizerFast) -> str | None:
    """A description of the first difference between two tokenizers; None if they tokenize identically."""
    vocabulary, other = first.get_vocab(), second.get_vocab()
    if vocabulary != other:
        different = sorted(
            token for token in vocabulary.keys() | other.keys() if vocabulary.get(token) != other.get(token)
        )
        sizes = f"{len(vocabulary)} and {len(other)} tokens"
        return f"{sizes}, {len(different)} of them different, such as {first_few(different[:3])}"
    for name in sorted(first.SPECIAL_TOKENS_ATTRIBUTES):
        if first.special_tokens_map.get(name) != second.special_tokens_map.get(name):
            return f"{name} is {first.special_tokens_map.get(name)} and {second.special_tokens_map.get(name)}"
    for text in PROBES:
        if first(text, text)["input_ids"] != second(text, text)["input_ids"]:
            return f"they split {text!r} into {first.tokenize(text)} and {second.tokenize(text)}"
    return None


COPY_TOKENIZER = "copy the tokenizer files of the original model into the folder"

# Texts whose ids reveal differences in normalizer (case, accents, full-width forms), pre-tokenizer and special tokens.
PROBES = ("Déjà Vu, the 2ND time!", "ＡＢＣ 中文 don't  stop\t—\u200b it's 3.14 <b>[UNK]</b>")
