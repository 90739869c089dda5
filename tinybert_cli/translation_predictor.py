"""Opens translation models for prediction: a model folder, a Hub id or an export. Every command uses this module.

An export is loaded without torch, as long as only `predict` is used.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tinybert_cli import artifacts, files, formats, input_limits, tasks, translation_tokenizer
from tinybert_cli.config import Data, Search
from tinybert_cli.errors import ConfigError, InputError
from tinybert_cli.translation_tokenizer import TranslationTokenizer
from tinybert_cli.types import Translator

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from tinybert_cli.models import Source

log = logging.getLogger("tinybert")

DEFAULT_LENGTHS = (512, 512)  # of source and target in tokens, of a model that records none
BATCH_SIZE = 32
CUT = "cut"  # in the output, for a translation that was cut at its limit


@dataclass(frozen=True)
class TranslationPredictor:
    """A model that translates, whatever runs it."""

    outputs_of_some: ClassVar[tuple[str, ...]] = (CUT,)  # what `predict` gives for some texts only
    folder: Path
    tokenizer: TranslationTokenizer
    config: Mapping[str, Any]  # config.json
    translator: Translator
    form: formats.TranslationFormat | None = None  # of an export
    model: PreTrainedModel | None = None  # of a model folder or Hub id, on its device
    _warned: set[str] = field(default_factory=set, repr=False, compare=False)  # which texts were cut before

    @property
    def size(self) -> dict[str, int]:
        """`parameters` and `embedding_parameters`; empty for an export."""
        from tinybert_cli import models

        return {} if self.model is None else models.size(self.model)

    @property
    def torch_model(self) -> PreTrainedModel:
        """The model of transformers.

        Raises:
            InputError: this is an export.
        """
        if self.model is None:
            raise InputError("this is an export; the model folder is needed", where=str(self.folder))
        return self.model

    @property
    def weights_bytes(self) -> int:
        """Bytes of its weights on disk."""
        from tinybert_cli import models

        if self.form is None:
            return models.weights_bytes(self.folder)
        return sum((self.folder / name).stat().st_size for name in self.form.weights)

    @property
    def beams(self) -> int | None:
        """The most beams; None = any number."""
        return None if self.form is None or self.form.beams else 1

    @property
    def search(self) -> Search | None:
        """How it translates in `predict`, if it is an export that records this.

        Raises:
            InputError: the record is damaged.
        """
        recorded = self.config.get(tasks.SEARCH)
        if recorded is None:
            return None
        try:
            return Search.model_validate(recorded)
        except ValueError as error:
            where = str(self.folder / "config.json")
            raise InputError(
                f"`{tasks.SEARCH}` is damaged: {recorded!r:.80}", where=where, hint="export again"
            ) from error

    @property
    def max_lengths(self) -> tuple[int, int]:
        """The longest source and target in tokens, as recorded by training."""
        recorded = self.config.get(tasks.MAX_LENGTHS)
        if isinstance(recorded, list) and len(recorded) == 2 and all(isinstance(number, int) for number in recorded):
            return recorded[0], recorded[1]
        source, target = DEFAULT_LENGTHS
        most = input_limits.max_positions(self.config)
        return source if most is None else min(source, most), self._most_target_tokens(target)

    def _most_target_tokens(self, tokens: int) -> int:
        """So many tokens, or as many as the model can make, which is less in folders of older versions."""
        most = input_limits.max_target_length(self.config, len(self.tokenizer.prefix))
        return tokens if most is None else min(tokens, most)

    @property
    def assumptions(self) -> list[str]:
        """What `predict` assumes about a model that does not record its lengths, in sentences."""
        if tasks.MAX_LENGTHS in self.config:
            return []
        source, target = self.max_lengths
        return [
            f"'{self.folder}' does not record how it was trained: source texts are cut at {source:,} tokens, "
            f"translations at {target:,}"
        ]

    def check(self, data: Data, name: str) -> list[str]:
        """Warnings about settings that differ from what the model records.

        Raises:
            InputError: the model translates from the column with the references.
        """
        recorded: dict[str, tuple[Any, Any]] = {**tasks.language_differences(self.config, data)}
        if isinstance(columns := self.config.get(tasks.TEXT_COLUMNS), list) and len(columns) == 1:
            if columns[0] == data.label_column != data.text_columns[0]:
                raise InputError(
                    f"'{name}' translates from {columns[0]}, and this run takes {columns[0]} as the references and "
                    f"{data.text_columns[0]} as the source",
                    hint=f"swap data.text_column_names and data.label_column_name, or use a model that translates from "
                    f"{data.text_columns[0]}",
                )
            recorded["text_column_names"] = (columns[0], data.text_columns[0])
        if tasks.MAX_LENGTHS in self.config:
            source, target = self.max_lengths
            recorded |= {
                "max_seq_length": (source, data.max_seq_length), "max_target_length": (target, data.max_target_length),
            }  # fmt: skip
        return [
            f"'{name}' was trained with {key} {value}; this run uses {own}, from data.{key}"
            for key, (value, own) in recorded.items()
            if value != own
        ]

    def predict(self, texts: Iterable[str | Sequence[str]], *, first: int = 1) -> Iterator[dict[str, Any]]:
        """`text`, `prediction` and `score` for each text, in their order.

        An export translates with the search that it was verified with, greedily if it has no beam search; a model with
        4 beams.

        Args:
            first: the number of the first text, for messages.

        Raises:
            InputError: a text is empty or not Unicode, before the first translation.
        """
        given: list[Any] = ["\t".join(text) if isinstance(text, list | tuple) else text for text in texts]
        for number, text in enumerate(given, start=first):
            if not isinstance(text, str):
                raise InputError(f"text {number} is no text: {text!r:.80}")
            if not text.strip():
                raise InputError(f"text {number} is empty")
            if any("\ud800" <= letter <= "\udfff" for letter in text):  # Python's stand-in for bytes that are not UTF-8
                raise InputError(f"text {number} is not UTF-8", hint="convert it: iconv -t UTF-8")
        source, target = self.max_lengths
        search = tasks.search_of(self.search or Search(), self._most_target_tokens(target), most_beams=self.beams)
        for begin in range(0, len(given), BATCH_SIZE):
            chunk = given[begin : begin + BATCH_SIZE]
            ids = self.tokenizer.source_ids(chunk)
            if "source" not in self._warned and any(len(row) > source for row in ids):
                self._warned.add("source")
                log.warning("a text is longer than %s tokens and was cut, as in training", f"{source:,}")
            translated = self.translator.translate(self.tokenizer.cut(ids, source), search)
            hypotheses = [best[0] for best in translated]
            translations = self.tokenizer.texts([hypothesis.ids for hypothesis in hypotheses])
            if "translation" not in self._warned and not all(hypothesis.finished for hypothesis in hypotheses):
                self._warned.add("translation")
                log.warning("a translation was cut at its limit, %s tokens or fewer: --json marks it", f"{target:,}")
            for text, translation, hypothesis in zip(chunk, translations, hypotheses, strict=True):
                output = {"text": text, "prediction": translation, "score": hypothesis.score}
                yield output if hypothesis.finished else {**output, CUT: True}


def load_translation_predictor(
    where: str | Source, *, data: Data | None = None, device: torch.device | None = None
) -> TranslationPredictor:
    """A model folder, an export folder or a Hub id, ready to translate.

    Args:
        data: the settings of the run, with the languages, which an export may leave out; None = the languages that the
            model records.
        device: of a model; None = the default one. An export runs on the CPU.

    Raises:
        InputError: the model is missing, damaged or broken, or no translation model.
        ConfigError: the model needs languages, or has none, or an export has other ones.
    """
    folder = Path(where) if isinstance(where, str) else where.folder
    if isinstance(where, str) and folder is not None and artifacts.has_manifest(folder):  # a stage verifies its inputs
        artifacts.verify_folder(folder)
    form = None if folder is None else formats.detect_translation(folder)
    if form is not None and folder is not None:
        assert form.load is not None  # `formats.detect_translation`
        config = files.read_object(folder / "config.json")
        if data is not None:
            _check_export_languages(where if isinstance(where, str) else where.name, config, data)
        tokenizer = translation_tokenizer.read_tokenizer(folder)
        return TranslationPredictor(folder, tokenizer, config, form.load(folder), form)
    from tinybert_cli import loops, models

    source = models.locate(where) if isinstance(where, str) else where
    models.check_family(source)
    config = models.read_config(source)
    languages = tasks.recorded_languages(config) if data is None else (data.source_language, data.target_language)
    if data is None and languages == (None, None) and models.has_languages(source):
        raise InputError(
            f"'{source.name}' translates between several languages, and does not record between which",
            hint="export it with data.source_language and data.target_language: the export records them",
        )
    tokenizer = models.load_translation_tokenizer(source, source_language=languages[0], target_language=languages[1])
    model = models.load_translation_model(source).to(loops.device() if device is None else device)
    translator = models.torch_translator(model, tokenizer)
    return TranslationPredictor(models.fetch(source), tokenizer, config, translator, model=model)


def _check_export_languages(name: str, config: Mapping[str, Any], data: Data) -> None:
    """ConfigError if the settings have other languages than an export, whose tokenizers have the codes built in."""
    from tinybert_cli import models

    family = str(config.get("model_type"))
    if family not in models.WITH_LANGUAGES:
        models.check_languages(name, family, data.source_language, data.target_language)
    if differences := tasks.language_differences(config, data):
        key, (recorded, language) = next(iter(differences.items()))
        source, target = tasks.recorded_languages(config)
        raise ConfigError(
            f"'{name}' is an export that translates from {source} to {target}; `{key}` is {language}",
            key=("data", key),
            hint=f"{key}: {recorded}, or export the model again with {key}: {language}",
        )
