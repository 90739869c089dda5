"""Tokenizers: each model has its own, whole, and a vocabulary that its embeddings know."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tinybert_cli.errors import ConfigError, InputError
from tinybert_cli.models.families import FAMILIES
from tinybert_cli.models.loading import read_config
from tinybert_cli.models.locate import TOKENIZER_FILES, Source, fetch
from tinybert_cli.models.weight_files import family_of, read_json, some_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


def load_tokenizer(source: Source) -> PreTrainedTokenizerFast:
    """The model's own tokenizer; an InputError if its files are not there, for the library would make one up."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    folder = fetch(source, weights=False)
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise InputError(
            f"'{source.name}' has no tokenizer: none of {', '.join(TOKENIZER_FILES)}",
            where=str(folder),
            hint="copy the tokenizer files of the model that it was made from into the folder",
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True, tokenizer_type=_kind(folder)
        )
    except Exception as error:  # the Rust library raises bare Exception for a file that it cannot read
        raise InputError(f"the tokenizer of '{source.name}' cannot be read: {error}", where=str(folder)) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise InputError(
            f"'{source.name}' has a slow tokenizer, {type(tokenizer).__name__}; a fast one is needed",
            where=str(folder),
            hint="save it as tokenizer.json: AutoTokenizer.from_pretrained(...).save_pretrained(folder)",
        )
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise InputError(
            f"the tokenizer of '{source.name}' knows no words, only special tokens",
            where=str(folder),
            hint="its vocabulary file is missing or empty",
        )
    return tokenizer


def _kind(folder: Path) -> str | None:
    """For a folder that names no family itself: the library would not know whose vocab.txt it is."""
    config = read_json(folder / "config.json")
    named = "model_type" in config or (folder / "tokenizer_config.json").is_file()
    return "bert" if not named and family_of(config) == "bert" else None


def check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, source: Source) -> None:
    """An InputError if the tokenizer says ids that the model has no embeddings for, or pads with another id."""
    pieces, rows = max(tokenizer.get_vocab().values()) + 1, model.get_input_embeddings().num_embeddings
    if pieces > rows:
        raise InputError(
            f"the tokenizer of '{source.name}' is not its own: {pieces:,} pieces, the model has {rows:,} embeddings",
            hint="copy the tokenizer files of the model that it was made from into the folder",
        )
    if model.config.pad_token_id is not None and model.config.pad_token_id != tokenizer.pad_token_id:
        raise InputError(
            f"the tokenizer of '{source.name}' is not its own: it pads with {tokenizer.pad_token_id}, "
            f"the model expects {model.config.pad_token_id}",
            hint="copy the tokenizer files of the model that it was made from into the folder",
        )


def check_length(source: Source, tokens: int, *, key: tuple[str, ...] = ("data", "max_seq_length")) -> None:
    """A ConfigError about the setting `key` if so many tokens are more than the model has positions for."""
    config = read_config(source)
    if config["model_type"] not in FAMILIES:
        return  # many count positions from token to token, and know no end
    after_padding = config["model_type"] in ("roberta", "xlm-roberta", "camembert")
    positions = config["max_position_embeddings"] - (config["pad_token_id"] + 1 if after_padding else 0)
    if tokens > positions:
        raise ConfigError(
            f"'{source.name}' has positions for {positions} tokens, not for {tokens}",
            key=key,
            hint=f"{'.'.join(key)}: at most {positions}",
        )


def tokenizer_difference(first: PreTrainedTokenizerFast, second: PreTrainedTokenizerFast) -> str | None:
    """What two tokenizers do differently, in words; None if both turn every text into the same ids."""
    one, two = first.get_vocab(), second.get_vocab()
    if one != two:
        apart = sorted(piece for piece in one.keys() | two.keys() if one.get(piece) != two.get(piece))
        return f"{len(one)} and {len(two)} pieces, {len(apart)} of them different, such as {some_of(apart[:3])}"
    for name in sorted(first.SPECIAL_TOKENS_ATTRIBUTES):
        if first.special_tokens_map.get(name) != second.special_tokens_map.get(name):
            return f"{name} is {first.special_tokens_map.get(name)} and {second.special_tokens_map.get(name)}"
    for text in PROBES:
        if first(text, text)["input_ids"] != second(text, text)["input_ids"]:
            return f"they split {text!r} into {first.tokenize(text)} and {second.tokenize(text)}"
    return None


# What the normaliser (case, accents, width), the splitter and the special tokens do shows in the ids of these.
PROBES = ("Déjà Vu, the 2ND time!", "ＡＢＣ 中文 don't  stop\t—\u200b it's 3.14 <b>[UNK]</b>")
