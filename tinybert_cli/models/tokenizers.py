"""Loading the tokenizer of a model, and checking that it fits the model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinybert_cli import input_limits
from tinybert_cli.config import Data
from tinybert_cli.errors import ConfigError, InputError, is_out_of_memory, is_panic
from tinybert_cli.files import check_regular, read_object
from tinybert_cli.input_limits import AFTER_PADDING
from tinybert_cli.models.locate import TOKENIZER_FILES, Source, fetch
from tinybert_cli.models.model_configs import read_config, takes_token_types
from tinybert_cli.models.weight_files import family_of, first_few

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


def load_tokenizer(source: Source) -> PreTrainedTokenizerFast:
    """The model's own fast tokenizer.

    Raises:
        InputError: it is a slow tokenizer, or its files are unreadable or missing (transformers would build another).
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    folder = fetch(source, weights=False)
    _check_files(folder)
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise InputError(
            f"'{source.name}' has no tokenizer: none of {', '.join(TOKENIZER_FILES)}",
            where=str(folder),
            hint=COPY_TOKENIZER,
        )
    _check_record(folder, source)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True, tokenizer_type=_tokenizer_type(folder)
        )
    except BaseException as error:  # tokenizers raises a bare Exception for an unreadable file, or panics
        if is_out_of_memory(error) or not (isinstance(error, Exception) or is_panic(error)):
            raise
        what = f"the tokenizer of '{source.name}' cannot be read: {error}"
        raise InputError(what, where=str(folder), hint=COPY_TOKENIZER) from error
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
    if tokenizer.pad_token_id is None:
        raise InputError(
            f"the tokenizer of '{source.name}' has no padding token, so it makes no batches",
            where=str(folder),
            hint='name one in tokenizer_config.json, such as "pad_token": "[PAD]"',
        )
    if "token_type_ids" in tokenizer.model_input_names and not takes_token_types(source):
        names = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
        tokenizer.model_input_names = tokenizer.init_kwargs["model_input_names"] = names
    return tokenizer


def _check_record(folder: Path, source: Source) -> None:
    """InputError if a model of tinybert has lost the file that records how long its texts were."""
    if (folder / "tokenizer_config.json").is_file():
        return
    if any(key.startswith(OWN_SETTINGS) for key in read_object(folder / "config.json")):
        raise InputError(
            f"'{source.name}' has no tokenizer_config.json, which has the length of its texts",
            where=str(folder),
            hint="copy the whole folder",
        )


def _check_files(folder: Path) -> None:
    """InputError if a file of the tokenizer is no regular file, too large, or JSON nested too deeply."""
    for name in (*TOKENIZER_FILES, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"):
        file = folder / name
        try:
            check_regular(file)
            if name.endswith(".json") and file.exists():
                read_object(file)
        except InputError as error:
            raise InputError(f"the tokenizer cannot be read: {error.what}", where=str(file)) from error


def _tokenizer_type(folder: Path) -> str | None:
    """bert for early checkpoints without a `model_type`: transformers cannot tell to which family vocab.txt belongs."""
    config = read_object(folder / "config.json")
    has_type = "model_type" in config or (folder / "tokenizer_config.json").is_file()
    return "bert" if not has_type and family_of(config) == "bert" else None


def check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, source: Source) -> None:
    """InputError if the tokenizer has ids without an embedding in the model, or another padding id.

    The padding id matters where positions are numbered from it. Multilingual MiniLM and E5 are BERT models with the
    tokenizer of XLM-R, whose padding id is not the one in their config; attention_mask hides the padding either way.
    """
    try:
        embeddings = len(model.get_input_embeddings().weight)
    except NotImplementedError as error:  # CANINE embeds characters
        family = model.config.model_type
        raise InputError(f"'{source.name}' is a {family} model, which has no embeddings of tokens") from error
    tokens = max(tokenizer.get_vocab().values()) + 1
    if tokens > embeddings:
        raise InputError(
            f"the tokenizer of '{source.name}' does not match the model: it has {tokens:,} tokens, "
            f"the model {embeddings:,} embeddings",
            hint=COPY_TOKENIZER,
        )
    padding = model.config.to_dict().get("pad_token_id")
    if padding is not None and padding != tokenizer.pad_token_id and model.config.model_type in AFTER_PADDING:
        raise InputError(
            f"the tokenizer of '{source.name}' does not match the model: its padding id is {tokenizer.pad_token_id}, "
            f"the model expects {model.config.pad_token_id}",
            hint=COPY_TOKENIZER,
        )


def check_inputs(source: Source, tokenizer: PreTrainedTokenizerFast, data: Data) -> None:
    """Checks that the model can take the texts of `data`: before rows are encoded, so before anything is computed.

    Raises:
        InputError: it has fewer positions than `max_seq_length`, or cannot take pairs.
        ConfigError: `max_seq_length` leaves no room for text between the special tokens.
    """
    config, pair = read_config(source), len(data.text_columns) == 2
    input_limits.check_length(config, data.max_seq_length, source.name)
    if pair:
        input_limits.check_pairs(config, tokenizer, source.name)
    special = tokenizer.num_special_tokens_to_add(pair=pair)
    if data.max_seq_length < special + len(data.text_columns):
        raise ConfigError(
            f"`max_seq_length` {data.max_seq_length} leaves no room for text: the tokenizer of '{source.name}' adds "
            f"{special} special tokens",
            key=("data", "max_seq_length"),
            hint=f"{special + len(data.text_columns)} or more",
        )


def check_length(source: Source, tokens: int, *, setting: str = "data.max_seq_length") -> None:
    """InputError that names the setting, if the model has fewer than `tokens` positions."""
    input_limits.check_length(read_config(source), tokens, source.name, setting=setting)


def read_tokenizer_config(source: Source) -> dict[str, Any]:
    """tokenizer_config.json; empty if there is none."""
    file = fetch(source, weights=False) / "tokenizer_config.json"
    return read_object(file) if file.is_file() else {}


def record_length(tokenizer: PreTrainedTokenizerFast, max_seq_length: int) -> None:
    """Makes the saved tokenizer cut texts at this length, and on the same side, in every program that loads it."""
    tokenizer.model_max_length = max_seq_length
    tokenizer.init_kwargs["truncation_side"] = tokenizer.truncation_side
    for name in ("max_length", "stride", "truncation_strategy"):  # from the tokenizer.json of the source
        tokenizer.init_kwargs.pop(name, None)


def check_token_types(teacher: Source, tokenizer: PreTrainedTokenizerFast) -> None:
    """InputError if pairs that this tokenizer has encoded lack the token types that a teacher was trained with.

    BERT and DistilBERT have the same tokens, but only BERT reads which of them belong to the second text.
    """
    own, types = load_tokenizer(teacher), read_config(teacher).get("type_vocab_size")
    if types != 0 and _types_of_pair(own) not in (_types_of_pair(tokenizer), None):
        raise InputError(
            f"'{teacher.name}' reads which tokens belong to the second text of a pair (token_type_ids), and the "
            "student's tokenizer does not tell: beside this student it would have other states than for its own inputs",
            hint="store its states in the label dataset (gen-soft-labels: states: [hidden_states]), or take a student "
            "of the teacher's family",
        )


def _types_of_pair(tokenizer: PreTrainedTokenizerFast) -> list[int] | None:
    """The token types of a pair; None if they are all 0, as those of a tokenizer without them."""
    types: list[int] = tokenizer(["a"], ["a"]).get("token_type_ids", [[]])[0]
    return types if any(types) else None


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


OWN_SETTINGS = "tinybert_"  # how the keys begin that tinybert adds to config.json

COPY_TOKENIZER = "copy the tokenizer files of the original model into the folder"

# Texts whose ids reveal differences in normalizer (case, accents, full-width forms), pre-tokenizer and special tokens.
PROBES = ("Déjà Vu, the 2ND time!", "ＡＢＣ 中文 don't  stop\t—\u200b it's 3.14 <b>[UNK]</b>")
