"""Translation models in `eval`: their translations of the rows, and how many they make per second."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from tinybert_cli import data, input_limits, loops, models, tasks, types
from tinybert_cli.config import Data, Eval, Search
from tinybert_cli.errors import ConfigError
from tinybert_cli.stages.translation_training import known_labels, reference_loss
from tinybert_cli.translation_predictor import TranslationPredictor, load_translation_predictor
from tinybert_cli.types import Array, Encoded, Predictions, Rows
from tinybert_cli.wording import verb

if TYPE_CHECKING:
    from accelerate import Accelerator

TIMED_ROWS = {1: 32}  # rows that are timed, by batch size; of other sizes two batches
BEAMS = (1, 4)  # that are timed
NO_LIMIT = 2**20  # tokens of a reference, for models without positions


@dataclass(frozen=True)
class TranslationCandidate:
    """A translation model with the source texts encoded for it."""

    source: models.Source
    predictor: TranslationPredictor
    encoded: Encoded
    facts: Mapping[str, float]
    without_loss: int = 0  # rows whose reference has too many tokens for `loss`

    @property
    def lengths(self) -> Array:
        """Source tokens of each row (N,)."""
        return np.diff(self.encoded.offsets)

    def search(self, config: Eval) -> types.Search:
        """The search of the config; greedy for an export without beam search."""
        return tasks.search_of(config.search, config.data.max_target_length, most_beams=self.predictor.beams)

    def translations(self, config: Eval, *, accelerator: Accelerator | None = None) -> Predictions:
        """The translations of all rows; several processes share the rows."""
        search = self.search(config)
        hypotheses = loops.translate_all(self.predictor.translator, self.encoded, search, accelerator=accelerator)
        return loops.best_texts(self.predictor.tokenizer, hypotheses)


def settings_of(config: Eval, source: models.Source, sources: Iterable[models.Source]) -> Eval:
    """The settings for one of several models: without languages if it has none, and another one of them has."""
    if models.has_languages(source) or not any(map(models.has_languages, sources)):
        return config
    data = config.data.model_copy(update={"source_language": None, "target_language": None})
    return config.model_copy(update={"data": data})


def check_startup(sources: Mapping[str, models.Source]) -> None:
    """ConfigError if `predict`, whose start is measured, does not know between which languages a model translates."""
    for name, source in sources.items():
        recorded = tasks.recorded_languages(models.read_config(source))
        if models.has_languages(source) and recorded == (None, None):
            raise ConfigError(
                f"the start of `tinybert predict` is measured, and {name} ('{source.name}') does not record between "
                "which languages it translates",
                key=("latency", "startup"),
                hint="set it to false, or evaluate an export of the model",
            )


def load_candidate(
    config: Eval,
    task: tasks.Translation,
    source: models.Source,
    rows: Rows,
    *,
    accelerator: Accelerator | None = None,
) -> TranslationCandidate:
    """A model with the source texts encoded for it, and its loss on the references."""
    predictor = load_translation_predictor(source, data=config.data)
    models.check_positions(source.name, predictor.config, predictor.tokenizer, config.data)
    encoded = task.encode_sources(rows, config.data, predictor.tokenizer)
    facts = {"bytes": float(predictor.weights_bytes), **predictor.size}
    without_loss = 0
    if predictor.model is not None:
        readable = input_limits.max_positions(predictor.config) or NO_LIMIT  # the search limits translations only
        settings = config.data.model_copy(update={"max_target_length": readable})
        pairs = task.encode_pairs(rows, settings, predictor.tokenizer)
        without_loss = len(rows) - (len(pairs.offsets) - 1)
        examples = data.Examples.of(pairs, labels=known_labels(pairs))
        size = config.per_device_eval_batch_size
        facts["loss"] = reference_loss(predictor.model, examples, size, accelerator=accelerator)
    return TranslationCandidate(source, predictor, encoded, facts, without_loss)


def warnings(config: Eval, candidate: TranslationCandidate) -> Iterator[str]:
    """Settings that differ from those of the training or the export, and a search that the model cannot do."""
    predictor, name = candidate.predictor, candidate.source.name
    yield from predictor.check(config.data, name)
    if candidate.without_loss:
        have, are = (verb(candidate.without_loss, *pair) for pair in (("has", "have"), ("is", "are")))
        count = f"{candidate.without_loss:,} of {len(candidate.lengths):,} references"
        yield f"{count} {have} more tokens than '{name}' has positions, and {are} left out of its loss"
    if predictor.beams is not None and predictor.beams < config.search.beams:
        yield f"'{name}' has no beam search: its translations are greedy"
    elif predictor.search is not None and predictor.search != config.search:
        recorded, own = _in_words(predictor.search), _in_words(config.search)
        yield f"'{name}' was exported with {recorded}, as `predict` translates; this run uses {own}"


def cut_warning(settings: Data, search: Search, translations: Predictions, name: str) -> Iterator[str]:
    """That translations are not complete, since they reached their limit."""
    if translations.cut is not None and translations.cut.any():
        cut = int(translations.cut.sum())
        are = f"{cut:,} of {len(translations):,} translations of '{name}' {verb(cut, 'is', 'are')}"
        limits = f"data.max_target_length {settings.max_target_length}"
        limits += f", search.max_length_factor {search.max_length_factor:g}"
        yield f"{are} cut at the limit of their length: {limits}"


def _in_words(search: Search) -> str:
    """`4 beams, length_penalty 1.3, max_length_factor 2`."""
    beams = "1 beam" if search.beams == 1 else f"{search.beams} beams"
    return f"{beams}, length_penalty {search.length_penalty:g}, max_length_factor {search.max_length_factor:g}"


def costs(candidates: Mapping[str, TranslationCandidate], config: Eval) -> dict[str, dict[str, float]]:
    """`latency_ms_b1`, `sentences_per_second_b32_beam4`, ... → model → number.

    The models take turns, so that their ratios are right even if the speed of the machine drifts. The latency is that
    of whole translations of a batch, with the search of the config.
    """
    assert config.latency is not None
    result: dict[str, dict[str, float]] = {}
    for size in config.latency.batch_sizes:
        beams = sorted({*BEAMS, config.search.beams})
        for count in beams:
            able = {
                name: candidate
                for name, candidate in candidates.items()
                if candidate.predictor.beams is None or count <= candidate.predictor.beams
            }
            search = replace(tasks.search_of(config.search, config.data.max_target_length), beams=count)
            rows = TIMED_ROWS.get(size, 2 * size)
            seconds, tokens = loops.translation_seconds(
                {name: candidate.predictor.translator for name, candidate in able.items()},
                {name: candidate.encoded for name, candidate in able.items()},
                search, size, rows,
            )  # fmt: skip
            suffix = f"b{size}_beam{count}"
            result[f"sentences_per_second_{suffix}"] = {name: rows / value for name, value in seconds.items()}
            result[f"target_tokens_per_second_{suffix}"] = {
                name: tokens[name] / value for name, value in seconds.items()
            }
            if count == config.search.beams:
                result[f"latency_ms_b{size}"] = {name: 1000 * value * size / rows for name, value in seconds.items()}
    return result
