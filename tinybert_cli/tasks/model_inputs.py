"""What a model folder records about its inputs, so that every program cuts a text as training did.

The length and the side on which a text is cut are in tokenizer_config.json (`model_max_length`, `truncation_side`),
where transformers reads them. config.json has what transformers has no key for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tinybert_cli.config import Data
from tinybert_cli.errors import InputError
from tinybert_cli.input_limits import NO_LENGTH, full_attention_length, max_positions
from tinybert_cli.tasks.base import GenerationTask, PredictionTask, Task

TEXT_COLUMNS = "tinybert_text_columns"  # the text columns of the training data: one, or the two of a pair
DOC_STRIDE = "tinybert_doc_stride"  # `doc_stride` of tasks that split long texts into windows

MAX_LENGTHS = "tinybert_max_lengths"  # of a translation model: the longest source and target in tokens
SEARCH = "tinybert_search"  # of an export of a translation model: the settings `search` of the export
LANGUAGES = "tinybert_languages"  # of a translation model that needs them: source and target

# Families whose outputs change with the padding of their batch; BigBird is one of them above `full_attention_length`.
READS_PADDING = {"convbert", "fnet", "funnel", "nystromformer", "yoso"}

DEFAULT_LENGTH = 512  # of a model that names neither a length nor a number of positions
SHORTEST = 4  # as `max_seq_length` may be
_EXPECTED = {
    "model_max_length": f"{SHORTEST} or more, in tokenizer_config.json",
    "truncation_side": "left or right, in tokenizer_config.json",
    TEXT_COLUMNS: '["text"], or two names for pairs, in config.json',
    DOC_STRIDE: "a whole number, in config.json",
}


@dataclass(frozen=True)
class ModelInputs:
    """How texts become inputs of a model."""

    max_seq_length: int
    truncation_side: str
    text_columns: tuple[str, ...] | None  # None: not recorded, as in models of other tools
    doc_stride: int | None  # None: not recorded
    reads_padding: bool = False

    @property
    def recorded(self) -> bool:
        return self.text_columns is not None

    def data(self, columns: list[str]) -> Data:
        """The settings with which rows with these text columns are encoded."""
        names = columns[0] if len(columns) == 1 else columns
        data = Data(text_column_names=names, max_seq_length=self.max_seq_length)
        return data if self.doc_stride is None else data.model_copy(update={"doc_stride": self.doc_stride})

    def check(self, data: Data, model: str) -> list[str]:
        """Warnings about settings that differ from what the model records, and about padding.

        Raises:
            InputError: the data has one text column and the model takes pairs, or the other way round.
        """
        padding = (
            f"'{model}' reads padding: its outputs for a text depend a little on the longest one of the batch; "
            "batches of one text (per_device_eval_batch_size: 1) avoid that"
        )
        return [*([padding] if self.reads_padding else []), *self._differences(data, model)]

    def _differences(self, data: Data, model: str) -> list[str]:
        if self.text_columns is None:
            return []
        columns = data.text_columns
        if len(columns) != len(self.text_columns):
            raise InputError(
                f"'{model}' was trained on {in_words(self.text_columns)}, but the data has {in_words(columns)}",
                hint="check data.text_column_names",
            )
        differences = {
            "max_seq_length": (self.max_seq_length, data.max_seq_length),
            "doc_stride": (self.doc_stride, data.doc_stride),
        }
        swapped = columns != list(self.text_columns) and sorted(columns) == sorted(self.text_columns)
        order = f"'{model}' was trained on {in_words(self.text_columns)}; this run reads them in the other order"
        return [
            *([f"{order}: check data.text_column_names"] if swapped else []),
            *(
                f"'{model}' was trained with {name} {recorded}; this run uses {value}, from data.{name}"
                for name, (recorded, value) in differences.items()
                if recorded not in (None, value)
            ),
        ]


def recorded_settings(data: Data, task: Task) -> dict[str, Any]:
    """The keys of config.json for a model that was trained with these settings; None removes a key."""
    if isinstance(task, GenerationTask):
        return {
            TEXT_COLUMNS: data.text_columns,
            MAX_LENGTHS: [data.max_seq_length, data.max_target_length],
            LANGUAGES: None if data.source_language is None else [data.source_language, data.target_language],
        }
    return {
        TEXT_COLUMNS: data.text_columns if isinstance(task, PredictionTask) else None,
        DOC_STRIDE: data.doc_stride if isinstance(task, PredictionTask) and task.splits_long_texts else None,
    }


def recorded_languages(config: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """The languages of source and target in config.json; None if it records none."""
    recorded = config.get(LANGUAGES)
    if isinstance(recorded, list) and len(recorded) == 2 and all(isinstance(code, str) for code in recorded):
        return recorded[0], recorded[1]
    return None, None


def language_differences(config: Mapping[str, Any], data: Data) -> dict[str, tuple[str, str]]:
    """Setting → the language that a translation model records in config.json, and another one in the settings."""
    given = {"source_language": data.source_language, "target_language": data.target_language}
    pairs = zip(given.items(), recorded_languages(config), strict=True)
    return {
        name: (recorded, language)
        for (name, language), recorded in pairs
        if language is not None and recorded not in (None, language)
    }


def language_warnings(config: Mapping[str, Any], data: Data, model: str) -> list[str]:
    """Warnings about languages that differ from those that a translation model was trained with."""
    return [
        f"'{model}' was trained with {name} {recorded}; this run uses {language}, from data.{name}"
        for name, (recorded, language) in language_differences(config, data).items()
    ]


def cuts_long_texts(task: Task) -> bool:
    """Whether a text that is too long loses its end, or its beginning; other tasks split it into windows or blocks."""
    return isinstance(task, PredictionTask) and not task.splits_long_texts


def read_model_inputs(config: Mapping[str, Any], tokenizer_config: Mapping[str, Any]) -> ModelInputs:
    """The record of a model, from config.json (completed with defaults, if it has others) and tokenizer_config.json."""
    longest, side = tokenizer_config.get("model_max_length"), tokenizer_config.get("truncation_side", "right")
    columns, stride = config.get(TEXT_COLUMNS), config.get(DOC_STRIDE)
    names = columns if isinstance(columns, list) else []
    known = {
        "model_max_length": longest is None or (isinstance(longest, int | float) and longest >= SHORTEST),
        "truncation_side": side in ("left", "right"),
        TEXT_COLUMNS: columns is None or (len(names) in (1, 2) and all(isinstance(name, str) for name in names)),
        DOC_STRIDE: stride is None or (isinstance(stride, int) and stride >= 0),
    }
    for name, fits in known.items():
        if not fits:
            value = {**tokenizer_config, **config}[name]
            raise InputError(f"`{name}` of the model has an unusable value, {value!r}", hint=_EXPECTED[name])
    lengths = [int(length) for length in (max_positions(config), longest) if length is not None and length < NO_LENGTH]
    length, limit = min(lengths, default=DEFAULT_LENGTH), full_attention_length(config)
    reads_padding = config.get("model_type") in READS_PADDING or (limit is not None and length > limit)
    return ModelInputs(length, side, tuple(names) or None, stride, reads_padding)


def in_words(columns: Sequence[str]) -> str:
    """`one text, sentence` or `two texts, premise and hypothesis`."""
    return f"one text, {columns[0]}" if len(columns) == 1 else f"two texts, {' and '.join(columns)}"
