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
from tinybert_cli.input_limits import max_positions
from tinybert_cli.tasks.base import PredictionTask, Task

TEXT_COLUMNS = "tinybert_text_columns"  # the text columns of the training data: one, or the two of a pair
DOC_STRIDE = "tinybert_doc_stride"  # `doc_stride` of tasks that split long texts into windows

DEFAULT_LENGTH = 512  # of a model that names neither a length nor a number of positions
_NO_LENGTH = 10**6  # transformers writes 10**30 for a tokenizer without a maximum length


@dataclass(frozen=True)
class ModelInputs:
    """How texts become inputs of a model."""

    max_seq_length: int
    truncation_side: str
    text_columns: tuple[str, ...] | None  # None: not recorded, as in models of other tools
    doc_stride: int | None  # None: not recorded

    @property
    def recorded(self) -> bool:
        return self.text_columns is not None

    def data(self, columns: list[str]) -> Data:
        """The settings with which rows with these text columns are encoded."""
        names = columns[0] if len(columns) == 1 else columns
        data = Data(text_column_names=names, max_seq_length=self.max_seq_length)
        return data if self.doc_stride is None else data.model_copy(update={"doc_stride": self.doc_stride})

    def check(self, data: Data, model: str) -> list[str]:
        """Warnings about settings that differ from what the model records.

        Raises:
            InputError: the data has one text column and the model takes pairs, or the other way round.
        """
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
        return [
            f"'{model}' was trained with {name} {recorded}; this run uses {value}, from data.{name}"
            for name, (recorded, value) in differences.items()
            if recorded not in (None, value)
        ]


def recorded_settings(data: Data, task: Task) -> dict[str, Any]:
    """The keys of config.json for a model that was trained with these settings; None removes a key."""
    return {
        TEXT_COLUMNS: data.text_columns if isinstance(task, PredictionTask) else None,
        DOC_STRIDE: data.doc_stride if isinstance(task, PredictionTask) and task.splits_long_texts else None,
    }


def cuts_long_texts(task: Task) -> bool:
    """Whether a text that is too long loses its end, or its beginning; other tasks split it into windows or blocks."""
    return isinstance(task, PredictionTask) and not task.splits_long_texts


def read_model_inputs(config: Mapping[str, Any], tokenizer_config: Mapping[str, Any]) -> ModelInputs:
    """The record of a model, from config.json (completed with defaults, if it has others) and tokenizer_config.json."""
    lengths = [max_positions(config), tokenizer_config.get("model_max_length")]
    known = [int(length) for length in lengths if length is not None and length < _NO_LENGTH]
    columns = config.get(TEXT_COLUMNS)
    return ModelInputs(
        max_seq_length=min(known, default=DEFAULT_LENGTH),
        truncation_side=str(tokenizer_config.get("truncation_side", "right")),
        text_columns=None if columns is None else tuple(columns),
        doc_stride=config.get(DOC_STRIDE),
    )


def in_words(columns: Sequence[str]) -> str:
    """`one text, sentence` or `two texts, premise and hypothesis`."""
    return f"one text, {columns[0]}" if len(columns) == 1 else f"two texts, {' and '.join(columns)}"
