"""Machine translation: one text, and its translation or several of them as references.

A target token is a prediction: a row has as many as its target text has tokens, the end token included.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tinybert_cli import config
from tinybert_cli.config import Data
from tinybert_cli.errors import InputError
from tinybert_cli.escaping import in_python
from tinybert_cli.metrics.base import Metric
from tinybert_cli.metrics.generation import UNUSUAL_RATIO, TranslationMetric, has_unusual_length, translation_fidelity
from tinybert_cli.tasks.base import GenerationTask
from tinybert_cli.tasks.encoding import text_columns_of
from tinybert_cli.types import Array, Encoded, Predictions, Rows, Search
from tinybert_cli.wording import verb

if TYPE_CHECKING:
    from tinybert_cli.translation_tokenizer import TranslationTokenizer

UNUSUAL_SHARE = 0.05  # of the rows: above it, the data is suspicious
EXAMPLES = 3  # rows that a warning names


def search_of(settings: config.Search, max_target_length: int, *, most_beams: int | None = None) -> Search:
    """The search of these settings; `most_beams`: of a model that has no larger beam search."""
    return Search(
        beams=settings.beams if most_beams is None else min(settings.beams, most_beams),
        length_penalty=settings.length_penalty,
        max_length_factor=settings.max_length_factor,
        max_target_length=max_target_length,
    )


class Translation(GenerationTask):
    name = "translation"
    head = "seq2seq-lm"
    pipeline = "translation"
    recipe = "made-up"
    output_type = "tokens"
    main_metric = "bleu"
    metrics: ClassVar[Mapping[str, bool]] = {"bleu": True, "chrf": True, "loss": False}
    slice_metric = "chrf"
    extra_metrics: ClassVar[Mapping[str, bool]] = {
        "length_ratio": True,
        "empty": False,
        "cut": False,
        "looping": False,
        "copied": False,
    }

    def objective(self, name: str) -> tuple[str, float]:
        """auto is the loss, the cross-entropy with the references: translating the validation rows takes longer than an
        epoch of a small model. See `objective_of_labels` for models that learn no references.
        """
        return super().objective("loss" if name == "auto" else name)

    def objective_of_labels(self, name: str) -> tuple[str, float]:
        """The objective of a model that learns translations of another one, and no references: auto is BLEU.

        Its cross-entropy with the references rises after the first epoch, while its translations still improve.
        """
        return super().objective(name)

    def encode(self, rows: Rows, data: Data, tokenizer: Any) -> Encoded:
        return self.encode_sources(rows, data, tokenizer)

    def encode_sources(self, rows: Rows, data: Data, tokenizer: TranslationTokenizer) -> Encoded:
        (texts,) = text_columns_of(rows, data)
        ids = tokenizer.source_ids(texts, data.max_seq_length)
        longest = [index for index, row in enumerate(ids) if len(row) == data.max_seq_length]
        uncut = tokenizer.source_ids([texts[index] for index in longest])
        values, offsets = _flat(ids)
        return Encoded(
            {"input_ids": (values, tokenizer.padding)},
            offsets,
            truncated=sum(len(row) > data.max_seq_length for row in uncut),
            empty=[index for index, text in enumerate(texts) if not text.strip()],
        )

    def encode_pairs(self, rows: Rows, data: Data, tokenizer: TranslationTokenizer) -> Encoded:
        references = self.references(rows, data)
        assert references is not None  # the caller has checked that there are labels
        return self.encode_targets(rows, data, tokenizer, [texts[0] for texts in references])

    def encode_targets(self, rows: Rows, data: Data, tokenizer: TranslationTokenizer, texts: Sequence[str]) -> Encoded:
        """The source texts with these targets (N,); rows whose target is too long are left out."""
        targets = tokenizer.target_ids(texts)
        selected = [index for index, ids in enumerate(targets) if len(ids) <= data.max_target_length]
        if not selected:
            raise InputError(
                f"every target text has more than {data.max_target_length} tokens",
                where=rows.location(0),
                hint="raise data.max_target_length",
            )
        encoded = self.encode_sources(rows.select(selected), data, tokenizer)
        labels, offsets = _flat([targets[index] for index in selected])
        inputs = np.empty_like(labels)
        inputs[1:] = labels[:-1]
        inputs[offsets[:-1]] = tokenizer.start
        positions = np.arange(len(labels)) - np.repeat(offsets[:-1], np.diff(offsets))
        return Encoded(
            encoded.tokens,
            encoded.offsets,
            encoded.truncated,
            [selected[index] for index in encoded.empty],
            positions=positions,
            window_offsets=offsets,
            decoder=(inputs, tokenizer.padding),
            labels=labels.astype(np.int64),
            rows=np.array(selected),
        )

    def sources(self, rows: Rows, data: Data) -> list[str]:
        """The texts to translate.

        Raises:
            InputError: one is empty or no text.
        """
        (sources,) = text_columns_of(rows, data)
        for index, text in enumerate(sources):
            if not text.strip():
                raise InputError(
                    f"'{data.text_columns[0]}': a source text is empty",
                    where=rows.location(index),
                    hint="leave the row out",
                )
        return sources

    def references(self, rows: Rows, data: Data, *, complete: bool = True) -> list[list[str]] | None:
        """As in `GenerationTask`; without `complete`, a row whose reference is null has none."""
        column = data.label_column
        if column not in rows.columns:
            return None
        references: list[list[str]] = []
        for index, value in enumerate(rows.column(column)):
            if value is None and not complete:
                references.append([])
                continue
            texts = [value] if isinstance(value, str) else value
            if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
                raise InputError(
                    f"'{column}': expected a text or a list of texts, found {value!r}", where=rows.location(index)
                )
            if not all(text.strip() for text in texts):
                raise InputError(
                    f"'{column}': a reference is empty", where=rows.location(index), hint="leave the row out"
                )
            references.append(texts)
        return references

    def check_pairs(self, rows: Rows, data: Data) -> list[str]:
        """Warnings about pairs that are no translations of each other.

        Raises:
            InputError: a source text is empty, or a row has no reference or several.
        """
        references = self.references(rows, data)
        if references is None:
            rows.column(data.label_column)  # raises
        for index, targets in enumerate(references or []):
            if len(targets) > 1:
                raise InputError(
                    f"'{data.label_column}': {len(targets)} references; a training row has one",
                    where=rows.location(index),
                    hint="write a row for each of them",
                )
        return self.pair_warnings(rows, data)

    def pair_warnings(self, rows: Rows, data: Data, *, complete: bool = True) -> list[str]:
        """Warnings if many rows have the same text on both sides, or texts of very different lengths.

        Raises:
            InputError: a source text or a reference is empty or missing.
        """
        sources, references = self.sources(rows, data), self.references(rows, data, complete=complete)
        if references is None:
            return []
        known = [index for index, texts in enumerate(references) if texts]
        return _pair_warnings([(sources[index], references[index][0]) for index in known], rows.select(known))

    def generation_metric(self, rows: Rows, data: Data) -> Metric | None:
        references = self.references(rows, data)
        if references is None:
            return None
        return TranslationMetric(references, self.sources(rows, data))

    def fidelity(self, predictions: Predictions, reference: Predictions) -> dict[str, float]:
        return translation_fidelity(list(predictions.values), list(reference.values))

    def usage(self, folder: str, data: Data) -> str:
        codes = {"src_lang": data.source_language, "tgt_lang": data.target_language}
        languages = "".join(f', {name}="{in_python(code)}"' for name, code in codes.items() if code is not None)
        return _USAGE.format(
            folder=folder, languages=languages, length=data.max_seq_length, tokens=data.max_target_length
        )


def _flat(ids: Sequence[Sequence[int]]) -> tuple[Array, Array]:
    """All ids, concatenated (ΣT,), and where those of each row begin (N + 1,)."""
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in ids], dtype=np.int64)])
    return np.fromiter(itertools.chain.from_iterable(ids), dtype=np.int32, count=int(offsets[-1])), offsets


def _pair_warnings(pairs: Sequence[tuple[str, str]], rows: Rows) -> list[str]:
    identical = [index for index, (source, target) in enumerate(pairs) if source.strip() == target.strip()]
    unequal = [index for index, (source, target) in enumerate(pairs) if has_unusual_length(source, target)]
    warnings = []
    if len(identical) > UNUSUAL_SHARE * len(pairs):
        warnings.append(_warning(identical, pairs, rows, "the same text on both sides"))
    if len(unequal) > UNUSUAL_SHARE * len(pairs):
        warnings.append(_warning(unequal, pairs, rows, f"sides whose lengths differ by more than {UNUSUAL_RATIO:g}"))
    return warnings


def _warning(indices: Sequence[int], pairs: Sequence[tuple[str, str]], rows: Rows, what: str) -> str:
    named = "; ".join(f"{rows.location(index)}: {pairs[index][0][:60]!r}" for index in indices[:EXAMPLES])
    share = len(indices) / len(pairs)
    have = verb(len(indices), "has", "have")
    return f"{len(indices):,} of {len(pairs):,} rows ({share:.1%}) {have} {what}, such as {named}"


_USAGE = """from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

model = AutoModelForSeq2SeqLM.from_pretrained("{folder}", dtype="float32")
tokenizer = AutoTokenizer.from_pretrained("{folder}"{languages})
inputs = tokenizer(["A man rides a bicycle."], return_tensors="pt", truncation=True, max_length={length})
outputs = model.generate(**inputs)  # beams, length penalty and at most {tokens} tokens: generation_config.json
[text.strip() for text in tokenizer.batch_decode(outputs, skip_special_tokens=True)]"""
