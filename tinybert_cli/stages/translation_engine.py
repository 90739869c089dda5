"""The engine that translates in gen-soft-labels: transformers, or CTranslate2 if it makes the same translations."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import transformers

from tinybert_cli import events, formats, loops, models, tasks
from tinybert_cli.config import GenSoftLabels
from tinybert_cli.errors import InputError
from tinybert_cli.events import Event
from tinybert_cli.translation_predictor import TranslationPredictor
from tinybert_cli.types import Encoded, Translator

SAMPLED_ROWS = 64  # translated by both engines
LEAST_AS_GOOD = 0.95  # share of them with the same translation, or one that the teacher gives no lower score


@dataclass(frozen=True)
class Engine:
    """What translates, and how well its conversion was verified."""

    name: str
    version: str
    translator: Translator
    verified: Mapping[str, float] = field(default_factory=dict)  # `_agreement` of a teacher that was converted

    def for_manifest(self) -> dict[str, object]:
        return {"engine": self.name, "engine_version": self.version, **self.verified}


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
        verified = _agreement(teacher, translator, sample, config)
    except InputError as error:
        if config.engine == "ctranslate2":
            raise
        yield events.warning(f"the teacher runs in transformers: {error.what}")
        return own
    if verified["engine_as_good"] >= LEAST_AS_GOOD:
        return Engine("ctranslate2", formats.ctranslate2_version(), translator, verified)
    message = (
        f"CTranslate2 translates as well as transformers in only {verified['engine_as_good']:.1%} of {SAMPLED_ROWS} "
        f"rows, and {verified['engine_same']:.1%} are the same"
    )
    if config.engine == "ctranslate2":
        raise InputError(message, where=str(config.teacher), hint="set engine: transformers")
    yield events.warning(f"the teacher runs in transformers: {message}")
    return own


def _may_convert(teacher: TranslationPredictor) -> bool:
    """Whether the package is there, and the teacher on the CPU; a GPU is not used by the CTranslate2 of PyPI as is."""
    assert teacher.model is not None  # `choose` has checked it
    return formats.ctranslate2_is_installed() and teacher.model.device.type == "cpu"


def _agreement(
    teacher: TranslationPredictor, translator: Translator, sample: Encoded, config: GenSoftLabels
) -> dict[str, float]:
    """Shares of the sample: the translation of transformers, and one that is as good, see `loops.as_good`."""
    search = tasks.search_of(config.search, config.data.max_target_length)
    own = models.torch_translator(teacher.model, teacher.tokenizer)
    ours, theirs = (loops.translate_all(one, sample, search) for one in (own, translator))
    count = max(1, len(ours))
    same = sum(a[0].ids == b[0].ids for a, b in zip(ours, theirs, strict=True))
    as_good = sum(loops.as_good(own, sample, ours, theirs, search))
    return {"engine_same": same / count, "engine_as_good": as_good / count}
