"""The engine that translates in gen-soft-labels: transformers, or CTranslate2 if it makes the same translations."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import transformers

from tinybert_cli import events, formats, loops
from tinybert_cli.config import GenSoftLabels
from tinybert_cli.errors import InputError
from tinybert_cli.events import Event
from tinybert_cli.translation_predictor import TranslationPredictor
from tinybert_cli.types import Encoded, Search, Translator

SAMPLED_ROWS = 64  # translated by both engines
LEAST_SAME = 0.95  # share of them with the same text: near-ties may differ


@dataclass(frozen=True)
class Engine:
    """What translates, and how well its conversion was verified."""

    name: str
    version: str
    translator: Translator
    same: float | None = None  # share of the sample with the text of transformers; None if nothing was converted

    def for_manifest(self) -> dict[str, object]:
        verified = {} if self.same is None else {"engine_same": self.same}
        return {"engine": self.name, "engine_version": self.version, **verified}


def choose(
    config: GenSoftLabels, teacher: TranslationPredictor, sample: Encoded, scratch: Path
) -> Generator[Event, None, Engine]:
    """The engine of the config; a warning says why `auto` does not use CTranslate2 although it is installed.

    Raises:
        InputError: CTranslate2 is asked for, and it is missing, cannot convert the teacher, or translates differently.
    """
    if teacher.model is None:
        return Engine("as exported", "", teacher.translator)
    own = Engine("transformers", transformers.__version__, teacher.translator)
    if config.engine == "transformers" or (config.engine == "auto" and not _may_convert(teacher)):
        return own
    try:
        folder = scratch / "ctranslate2"
        folder.mkdir()
        formats.write_ctranslate2(teacher.model, teacher.tokenizer, folder)
        translator = formats.Ctranslate2Translator(folder, teacher.tokenizer)
        same = _same(teacher, translator, sample, config)
    except InputError as error:
        if config.engine == "ctranslate2":
            raise
        yield events.warning(f"the teacher runs in transformers: {error.what}")
        return own
    if same >= LEAST_SAME:
        return Engine("ctranslate2", formats.ctranslate2_version(), translator, same)
    message = f"CTranslate2 gives the same translation as transformers for only {same:.1%} of {SAMPLED_ROWS} rows"
    if config.engine == "ctranslate2":
        raise InputError(message, where=str(config.teacher), hint="set engine: transformers")
    yield events.warning(f"the teacher runs in transformers: {message}")
    return own


def _may_convert(teacher: TranslationPredictor) -> bool:
    """Whether the package is there, and the teacher on the CPU; a GPU is not used by the CTranslate2 of PyPI as is."""
    assert teacher.model is not None  # `choose` has checked it
    return formats.ctranslate2_is_installed() and teacher.model.device.type == "cpu"


def _same(teacher: TranslationPredictor, translator: Translator, sample: Encoded, config: GenSoftLabels) -> float:
    settings = config.search
    search = Search(
        beams=settings.beams, length_penalty=settings.length_penalty, max_length_factor=settings.max_length_factor,
        max_target_length=config.data.max_target_length,
    )  # fmt: skip
    ours, theirs = (
        [best[0].ids for best in loops.translate_all(one, sample, search)] for one in (teacher.translator, translator)
    )
    return sum(a == b for a, b in zip(ours, theirs, strict=True)) / max(1, len(ours))
