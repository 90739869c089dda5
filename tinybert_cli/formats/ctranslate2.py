"""CTranslate2: a translation model for its C++ engine, which needs neither torch nor transformers."""

from __future__ import annotations

import copy
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tinybert_cli.errors import InputError, is_out_of_memory
from tinybert_cli.files import read_object
from tinybert_cli.formats.base import Export, TranslationFormat
from tinybert_cli.translation_tokenizer import TranslationTokenizer, read_tokenizer
from tinybert_cli.types import Hypothesis, Search

FILE = "model.bin"
VOCABULARY = "shared_vocabulary.json"
START = "decoder_start_token"  # in config.json; null: the translation begins with the language code
PATIENCE = 2.0  # of a beam search, with which it ends like `early_stopping=False` of transformers; measured
LONG_PATIENCE = 3.0  # the same for a length penalty above 1, with which long translations win
NORMALIZATION = {"bart": (False, True), "mbart": (True, True)}  # before each layer, after the embeddings


def write_ctranslate2(model: Any, tokenizer: TranslationTokenizer, folder: Path, *, quantize: str = "none") -> None:
    """Writes model.bin in float32 or int8, and the tokenizers.

    Marian starts the decoder with the padding token, whose embedding CTranslate2's own converter takes as zero and
    removes, if it is the last token. A model in which it is not zero, or not the last one, is converted with it.

    Raises:
        InputError: the package is missing, or the family cannot be converted.
    """
    ctranslate2 = _package()
    _check_family(model)
    with tempfile.TemporaryDirectory() as scratch:
        prepared = copy.deepcopy(model).float().cpu().eval()
        family = prepared.config.model_type
        if family in NORMALIZATION:  # the config classes of transformers 5 lack these two
            prepared.config.normalize_before, prepared.config.normalize_embedding = NORMALIZATION[family]
        if family == "mbart":  # the decoder starts with the language code, or with the end token and then the code
            prepared.config.tokenizer_class = "MBart50Tokenizer" if tokenizer.prefix else "MBartTokenizer"
        prepared.config.save_pretrained(scratch)
        if family in ("t5", "mt5"):  # its loader takes "tied" for "scaled", and transformers 5 calls every T5 tied
            prepared.config.tie_word_embeddings = getattr(prepared.config, "scale_decoder_outputs", False)
        try:
            _converter(prepared, tokenizer, scratch).convert(
                str(folder / "converted"), quantization=None if quantize == "none" else quantize, force=True
            )
        except (ValueError, RuntimeError, AttributeError, KeyError) as error:
            if is_out_of_memory(error):
                raise
            raise InputError(
                f"{family} model cannot be converted by CTranslate2 {ctranslate2.__version__}: {error}",
                hint="use `format: onnx` or `format: safetensors`",
            ) from error
    own = read_object(folder / "converted" / "config.json")
    for file in (folder / "converted").iterdir():
        file.replace(folder / file.name)
    (folder / "converted").rmdir()
    config = {**model.config.to_dict(), **own}  # CTranslate2 reads its own keys, all other programs those of the model
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    tokenizer.write(folder)


class Ctranslate2Translator:
    """A folder that `write_ctranslate2` wrote.

    Raises:
        InputError: the package is not installed, or it cannot read the folder.
    """

    def __init__(self, folder: Path, tokenizer: TranslationTokenizer | None = None) -> None:
        ctranslate2 = _package()
        config = read_object(folder / "config.json")
        if START not in config:
            raise InputError(
                f"'{folder / 'config.json'}' lacks `{START}`: CTranslate2 would read undefined memory instead, which "
                "can end the process or change translations",
                hint="export it again",
            )
        self.tokenizer = tokenizer or read_tokenizer(folder)
        self.names = _names(self.tokenizer, int(config.get("vocab_size", 0)))
        self.ids = {name: index for index, name in enumerate(self.names)}
        try:
            self.engine = ctranslate2.Translator(str(folder), device="cpu", intra_threads=_threads())
            self.batches = 1  # that are translated at the same time
            if self.engine.compute_type.startswith("int8") and _threads() > 1:
                # its matrix products are so short that threads which share one wait for each other most of the time
                self.batches = _threads()
                self.engine = ctranslate2.Translator(
                    str(folder), device="cpu", intra_threads=1, inter_threads=self.batches
                )
        except (RuntimeError, ValueError) as error:
            if is_out_of_memory(error):
                raise
            raise InputError(f"CTranslate2 cannot read '{folder}': {error}", hint="export it again") from error
        start = self.names[self.tokenizer.start]
        begins_with_code = config[START] is None
        self.prefix = [*([start] if begins_with_code else []), *(self.names[token] for token in self.tokenizer.prefix)]
        padding = self.names[self.tokenizer.padding]
        known = padding in json.loads((folder / VOCABULARY).read_text(encoding="utf-8"))
        self.suppressed = [[padding]] if known and self.tokenizer.padding != self.tokenizer.end else None

    def translate(self, sources: Sequence[Sequence[int]], search: Search) -> list[list[Hypothesis]]:
        """See `Translator`.

        CTranslate2 has one limit for all rows. A row with a hypothesis beyond its own limit is searched again with that
        limit. One case is not noticed: a hypothesis that a shorter search returns as cut, and that ends later with a
        lower score than the others.
        """
        limits = [search.limit(len(source)) for source in sources]
        hypotheses = self._search(sources, max(limits), search)
        late: dict[int, list[int]] = {}  # limit → rows
        for row, (best, limit) in enumerate(zip(hypotheses, limits, strict=True)):
            if limit < max(limits) and any(len(one.ids) + one.finished > limit for one in best):
                late.setdefault(limit, []).append(row)
        for limit, rows in late.items():
            again = self._search([sources[row] for row in rows], limit, search)
            for row, best in zip(rows, again, strict=True):
                hypotheses[row] = best
        return hypotheses

    def _search(self, sources: Sequence[Sequence[int]], limit: int, search: Search) -> list[list[Hypothesis]]:
        """The hypotheses of each source; a translation has at most `limit` tokens."""
        results = self.engine.translate_batch(
            [[self.names[token] for token in source] for source in sources],
            [self.prefix] * len(sources) if self.prefix else None,
            beam_size=search.beams,
            patience=_patience(search),
            num_hypotheses=search.keep,
            length_penalty=search.length_penalty,
            max_input_length=0,
            max_batch_size=-(-len(sources) // self.batches),
            max_decoding_length=limit + len(self.tokenizer.prefix),
            return_scores=True,
            return_end_token=True,
            suppress_sequences=self.suppressed,
        )
        return [
            [self._hypothesis(tokens, score, search) for tokens, score in zip(one.hypotheses, one.scores, strict=True)]
            for one in results
        ]

    def _hypothesis(self, tokens: list[str], score: float, search: Search) -> Hypothesis:
        """CTranslate2 counts the language code as part of the length by which it divides the score."""
        ids = [self.ids[token] for token in tokens[len(self.tokenizer.prefix) :]]
        ended = bool(ids) and ids[-1] == self.tokenizer.end
        score *= (1 + len(self.tokenizer.prefix) / max(1, len(ids))) ** search.length_penalty
        return Hypothesis(tuple(ids[:-1] if ended else ids), score, ended)


def ctranslate2_usage(export: Export) -> dict[str, str]:
    return {"tinybert": f"```sh\n{export.command}\n```\n\nThis needs no torch."}


def is_installed() -> bool:
    """Whether the package is there."""
    import importlib.util

    return importlib.util.find_spec("ctranslate2") is not None


def version() -> str:
    return str(_package().__version__)


def _converter(model: Any, tokenizer: TranslationTokenizer, folder: str) -> Any:
    """A converter of CTranslate2 for a model in memory."""
    from ctranslate2.converters import TransformersConverter
    from ctranslate2.converters.converter import Converter
    from ctranslate2.converters.transformers import BartLoader

    adapter = _Vocabulary(tokenizer, model.config.vocab_size)

    class InMemory(TransformersConverter):  # type: ignore[misc]
        def load_model(self, *_: Any, **__: Any) -> Any:
            return model

        def load_tokenizer(self, *_: Any, **__: Any) -> Any:
            return adapter

    class WithPadding(Converter):  # type: ignore[misc]
        """Marian as a BART whose decoder starts with the padding token."""

        def _load(self) -> Any:
            import torch

            model.config.normalize_before = model.config.normalize_embedding = False
            with torch.no_grad():
                return BartLoader()(model, adapter)

    if model.config.model_type == "marian" and not starts_from_zero(model, tokenizer):
        return WithPadding()
    return InMemory(folder)


def starts_from_zero(model: Any, tokenizer: TranslationTokenizer) -> bool:
    """Whether the padding token of a Marian model is its last one, and its embedding is zero."""
    embeddings = model.get_input_embeddings().weight
    last = tokenizer.padding == len(embeddings) - 1
    return last and not bool(embeddings[tokenizer.padding].any())


class _Vocabulary:
    """What the loaders of CTranslate2 read from a tokenizer of transformers."""

    def __init__(self, tokenizer: TranslationTokenizer, size: int) -> None:
        self.names = _names(tokenizer, size)
        self.eos_token, self.pad_token = self.names[tokenizer.end], self.names[tokenizer.padding]
        self.unk_token = next((name for name in ("<unk>", "[UNK]") if name in self.names), self.pad_token)
        self.unk_token_id, self.bos_token = self.names.index(self.unk_token), _first(self.names, "<s>", self.eos_token)
        self.special_tokens_map: Mapping[str, Any] = {}
        self.num_madeup_words = 0

    def get_vocab(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.names)}

    def convert_ids_to_tokens(self, index: int) -> str:
        return self.names[index]


def _names(tokenizer: TranslationTokenizer, size: int) -> list[str]:
    """The token of each id; an id without one has a name of its own, as those that T5 has beyond its tokenizer.

    Args:
        size: of the vocabulary of the model.
    """
    names = [f"madeupid{index}" for index in range(tokenizer.size)]
    for side in (tokenizer.target, tokenizer.source):
        for token, index in side.tokens().items():
            names[index] = token
    return names + [f"madeupword{index}" for index in range(size - len(names))]


def _first(names: Sequence[str], wanted: str, other: str) -> str:
    return wanted if wanted in names else other


def _patience(search: Search) -> float:
    if search.beams == 1:
        return 1.0
    return LONG_PATIENCE if search.length_penalty > 1 else PATIENCE


def _threads() -> int:
    """As many as torch would use; OMP_NUM_THREADS limits both."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdigit() and int(given):
        return int(given)
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _check_family(model: Any) -> None:
    tied = getattr(model.config, "share_encoder_decoder_embeddings", True)
    if not tied:
        raise InputError(
            "this model has a vocabulary for each side, which CTranslate2's converter does not read",
            hint="use `format: onnx` or `format: safetensors`",
        )

    if model.config.model_type == "m2m_100" and model.config.pad_token_id != 1:
        raise InputError(
            f"CTranslate2 reads the positions of M2M100 models with padding id 1, and this one has "
            f"{model.config.pad_token_id}",
            hint="use `format: safetensors`",
        )


def _package() -> Any:
    try:
        import ctranslate2
    except ImportError as error:
        raise InputError(
            "the package 'ctranslate2' is not installed", hint="pip install 'tinybert[translation]'"
        ) from error
    return ctranslate2


CTRANSLATE2 = TranslationFormat(
    weights=(FILE,),
    precision="float32",
    write=write_ctranslate2,
    runtime="CTranslate2",
    usage=ctranslate2_usage,
    load=Ctranslate2Translator,
    int8=True,
)
