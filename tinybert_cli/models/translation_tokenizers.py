"""Loading the tokenizers of translation models: Marian, M2M100, NLLB, mBART, T5, BART."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinybert_cli.errors import ConfigError, InputError, nearest
from tinybert_cli.files import read_object
from tinybert_cli.models.locate import Source, fetch
from tinybert_cli.models.model_configs import read_config
from tinybert_cli.models.tokenizers import COPY_TOKENIZER, load_tokenizer
from tinybert_cli.translation_tokenizer import FastSide, SentencePieceSide, Side, TranslationTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

WITH_LANGUAGES = ("mbart", "m2m_100")  # families whose models translate between several languages (NLLB is m2m_100)
MARIAN_FILES = ("source.spm", "target.spm", "vocab.json")
M2M100_FILES = ("sentencepiece.bpe.model", "vocab.json")
_OWN_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "source.spm", "target.spm", "target_vocab.json", "spiece.model", "sentencepiece.bpe.model",
)  # fmt: skip
_MOST_CODES = 5


def load_translation_tokenizer(
    source: Source, *, source_language: str | None = None, target_language: str | None = None
) -> TranslationTokenizer:
    """The model's own tokenizers for source and target.

    Args:
        source_language: the code of the language, for models that need it; likewise `target_language`.

    Raises:
        ConfigError: a language is missing, unknown, or given for a model that has none.
        InputError: the files are missing or unreadable, or do not fit the model.
    """
    folder, config = fetch(source, weights=False), read_config(source)
    family = config["model_type"]
    check_languages(source.name, family, source_language, target_language)
    files = {name: (folder / name).read_bytes() for name in _OWN_FILES if (folder / name).is_file()}
    end, padding = (_number(config, name, source) for name in ("eos_token_id", "pad_token_id"))
    last: int | None = None
    prefix: tuple[int, ...] = ()
    if family == "marian" and _has(folder, MARIAN_FILES):
        sides: tuple[Side, Side] = _marian(folder, end)
    elif family == "m2m_100" and _has(folder, M2M100_FILES) and "tokenizer.json" not in files:
        sides = _m2m100(folder, str(source_language), str(target_language))
        prefix = _before(sides[1])
    else:
        fast = load_tokenizer(source)
        sides, last = _fast(fast, family, source_language, target_language)
        prefix = _before(sides[1])
    start = _number(config, "decoder_start_token_id", source) if last is None else last
    if len(prefix) > 1:
        raise InputError(
            f"the tokenizer of '{source.name}' adds {len(prefix)} special tokens before a target text, not one at most",
            where=str(folder),
            hint="use the tokenizer of the original model",
        )
    tokenizer = TranslationTokenizer(*sides, start, end, padding, prefix, files)
    _check_size(tokenizer, config, source)
    return tokenizer


def has_languages(source: Source) -> bool:
    """Whether the model translates between several languages, of which settings name two."""
    return read_config(source).get("model_type") in WITH_LANGUAGES


def check_languages(name: str, family: str, source_language: str | None, target_language: str | None) -> None:
    """ConfigError if a language is missing, or given for a model of a family that has none."""
    given = {"source_language": source_language, "target_language": target_language}
    for key, language in given.items():
        if family in WITH_LANGUAGES and language is None:
            raise ConfigError(
                f"'{name}' translates between several languages, and `{key}` is not set",
                key=("data", key),
                hint=f"{key}: a code of its tokenizer, such as "
                + ("en" if family == "m2m_100" else "en_XX")
                + (" (M2M100) or eng_Latn (NLLB)" if family == "m2m_100" else ""),
            )
        if family not in WITH_LANGUAGES and language is not None:
            codes = "; in multilingual Marian models the code stands at the start of the source text: >>deu<< A text."
            raise ConfigError(
                f"'{name}' has no setting for languages, so `{key}` has no effect",
                key=("data", key),
                hint="leave it out" + (codes if family == "marian" else ""),
            )


def translation_tokenizer_difference(
    first: TranslationTokenizer, second: TranslationTokenizer, *, both_sides: bool = False
) -> str | None:
    """The first difference between the target tokens of two tokenizers; None if they split target text identically.

    Args:
        both_sides: compare the source tokens, too.
    """
    sides = [(first.target, second.target), *([(first.source, second.source)] if both_sides else [])]
    for one, another in sides:
        difference = _side_difference(one, another)
        if difference is not None:
            return difference
    if (first.start, first.end, first.prefix) != (second.start, second.end, second.prefix):
        return "their target texts begin or end with other special tokens"
    return None


def _side_difference(first: Side, second: Side) -> str | None:
    vocabulary, other = first.tokens(), second.tokens()
    if vocabulary != other:
        different = sorted(
            token for token in vocabulary.keys() | other.keys() if vocabulary.get(token) != other.get(token)
        )
        names = ", ".join(map(repr, different[:3]))
        return f"{len(vocabulary):,} and {len(other):,} tokens, {len(different):,} of them different, such as {names}"
    for text in ("Déjà Vu, the 2ND time!", "ＡＢＣ 中文 don't  stop\t—\u200b it's 3.14"):
        if first.encode([text]) != second.encode([text]):
            return f"they split {text!r} differently"
    return None


def _marian(folder: Path, end: int) -> tuple[SentencePieceSide, SentencePieceSide]:
    """Both sides of a Marian model: two SentencePiece models and, in most models, one vocabulary."""
    vocabulary = read_object(folder / "vocab.json")
    own = read_object(folder / "target_vocab.json") if (folder / "target_vocab.json").is_file() else vocabulary
    return tuple(  # type: ignore[return-value]
        SentencePieceSide(
            (folder / file).read_bytes(),
            file,
            ids,
            name,
            {token: ids[token] for token in ("</s>", "<unk>", "<pad>") if token in ids},
            _unknown(ids, folder / name),
            after=(end,),
            codes=any(token.startswith(">>") and token.endswith("<<") for token in ids),
        )
        for file, ids, name in (
            ("source.spm", vocabulary, "vocab.json"),
            ("target.spm", own, "vocab.json" if own is vocabulary else "target_vocab.json"),
        )
    )


def _m2m100(folder: Path, source_language: str, target_language: str) -> tuple[SentencePieceSide, SentencePieceSide]:
    """Both sides of an M2M100 model: language code, text, end."""
    from transformers import M2M100Tokenizer

    slow = M2M100Tokenizer.from_pretrained(folder, local_files_only=True)
    codes = {code: int(slow.lang_code_to_id[code]) for code in slow.lang_code_to_id}
    vocabulary = read_object(folder / "vocab.json")
    special = {token: int(slow.convert_tokens_to_ids(token)) for token in slow.all_special_tokens}

    def side(key: str, language: str) -> SentencePieceSide:
        return SentencePieceSide(
            (folder / M2M100_FILES[0]).read_bytes(), M2M100_FILES[0], vocabulary, "vocab.json", special,
            _unknown(vocabulary, folder / "vocab.json"), before=(_code(codes, key, language),),
            after=(int(slow.eos_token_id),), languages={f"__{code}__": index for code, index in codes.items()},
        )  # fmt: skip

    return side("source_language", source_language), side("target_language", target_language)


def _fast(
    tokenizer: PreTrainedTokenizerFast, family: str, source_language: str | None, target_language: str | None
) -> tuple[tuple[FastSide, FastSide], int | None]:
    """Both sides of a model with one fast tokenizer; and the language code, if a target ends with it.

    Such a target, that of mBART, is `text </s> code`, and the decoder starts with the code.
    """
    from tokenizers import Tokenizer

    backend: Any = tokenizer.backend_tokenizer
    if family not in WITH_LANGUAGES:
        side = FastSide(Tokenizer.from_str(backend.to_str()))
        return (side, side), None
    codes = _codes(tokenizer)
    code = _code(codes, "target_language", str(target_language))
    _code(codes, "source_language", str(source_language))
    sides: list[FastSide] = []
    for language, side_name in ((source_language, "src"), (target_language, "tgt")):
        getattr(tokenizer, f"set_{side_name}_lang_special_tokens")(language)
        sides.append(FastSide(Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())))
    ids = sides[1].encode(["a"])[0]
    return (sides[0], sides[1]), code if ids[-1] == code else None


def _codes(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    """Language code → id: the special tokens that are no end, start, padding, unknown or mask token."""
    named = {str(value) for name, value in tokenizer.special_tokens_map.items() if isinstance(value, str)}
    vocabulary = tokenizer.get_vocab()
    return {token: vocabulary[token] for token in tokenizer.all_special_tokens if token not in named}


def _code(codes: Mapping[str, int], key: str, language: str) -> int:
    if language not in codes:
        similar = nearest(language, codes)
        alike = sorted(codes, key=lambda code: (code[:2].lower() != language[:2].lower(), code))
        examples = ", ".join(alike[:_MOST_CODES])
        raise ConfigError(
            f"the tokenizer has no language '{language}'",
            key=("data", key),
            hint=f"{similar + '; ' if similar else ''}it has {len(codes):,}: {examples}, ...",
        )
    return codes[language]


def _before(side: Side) -> tuple[int, ...]:
    """The special tokens before every text of this side."""
    one, other = side.encode(["a", "1"])
    common = 0
    while common < min(len(one), len(other)) and one[common] == other[common]:
        common += 1
    empty = side.encode([""])[0]
    return tuple(empty[: min(common, max(0, len(empty) - 1))])


def _has(folder: Path, names: tuple[str, ...]) -> bool:
    return all((folder / name).is_file() for name in names)


def _unknown(vocabulary: Mapping[str, int], file: Path) -> int:
    if "<unk>" not in vocabulary:
        raise InputError("the vocabulary has no token <unk>", where=str(file), hint=COPY_TOKENIZER)
    return int(vocabulary["<unk>"])


def _number(config: Mapping[str, Any], name: str, source: Source) -> int:
    value = config.get(name)
    if isinstance(value, list) and value:
        value = value[0]
    if not isinstance(value, int):
        what = f"'{source.name}': {name} of config.json is {value!r}"
        raise InputError(what, hint="restore the original config.json")
    return value


def _check_size(tokenizer: TranslationTokenizer, config: Mapping[str, Any], source: Source) -> None:
    """InputError if the tokenizer has more tokens than the model embeddings."""
    embeddings = config.get("vocab_size")
    if isinstance(embeddings, int) and tokenizer.size > embeddings and config["model_type"] != "m2m_100":
        raise InputError(
            f"the tokenizer of '{source.name}' does not match the model: it has {tokenizer.size:,} tokens, the model "
            f"{embeddings:,} embeddings",
            hint=COPY_TOKENIZER,
        )
