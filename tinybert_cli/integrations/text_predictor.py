"""A predictor for documents of other libraries: one text each, any of them empty, labels or entities as the answer."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tinybert_cli import formats, tasks
from tinybert_cli.errors import InputError
from tinybert_cli.metrics.entities import scheme_of
from tinybert_cli.predictor import Predictor, load_predictor
from tinybert_cli.tasks.token_classification import TokenClassification

Prediction = dict[str, Any]  # of `Predictor.predict`

_inherited: list[Predictor | None] = []  # of a parent process; they are not freed, as that waits for their threads
_importer = os.getpid()  # the process that has imported this module; another one is a fork of it

TASKS = formats.FORMATS["spacy"].tasks or ()


class TextPredictor:
    """Opens an export, or a model folder, when it is first used.

    It can be pickled, and used in a process that was forked: each process opens the model for itself, since the threads
    of ONNX Runtime end in a fork. So do those of tokenizers, see `_without_tokenizer_threads`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._predictor: Predictor | None = None
        self._process = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_predictor": None}

    @property
    def predictor(self) -> Predictor:
        """Opens the model.

        Raises:
            InputError: the model is missing or damaged, or its task or its inputs do not fit a text without a label.
        """
        if self._predictor is None or self._process != os.getpid():
            _without_tokenizer_threads()
            predictor = load_predictor(str(self.folder))
            check_task(predictor.task.name, str(self.folder))
            check_columns(predictor.inputs.text_columns or ("text",), str(self.folder))
            _inherited.append(self._predictor)
            self._predictor, self._process = predictor, os.getpid()
        return self._predictor

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, or the types of entities."""
        names = self.predictor.label_names
        return tuple(scheme_of(names)[0] if self.tags_words else names)

    @property
    def tags_words(self) -> bool:
        return isinstance(self.predictor.task, TokenClassification)

    @property
    def tags_every_word(self) -> bool:
        """Whether each word is tagged, as with parts of speech, so that the spans are no entities."""
        _, prefixed, outside = scheme_of(self.predictor.label_names)
        return self.tags_words and not prefixed and not outside

    def predict(self, texts: Sequence[str]) -> Iterator[Prediction | None]:
        """The prediction for each text, in their order; None for a text that is empty or only whitespace.

        Texts of similar length are predicted together.
        """
        filled = sorted((row for row, text in enumerate(texts) if text.strip()), key=lambda row: len(texts[row]))
        outputs = zip(filled, self.predictor.predict([texts[row] for row in filled]), strict=True)
        by_row = {row: {key: value for key, value in output.items() if key != "text"} for row, output in outputs}
        return (by_row.get(row) for row in range(len(texts)))


def _without_tokenizer_threads() -> None:
    """In a fork, tokenizes in one thread: the library would wait for ever for the threads of the parent process.

    It does so itself, unless TOKENIZERS_PARALLELISM is set.
    """
    if os.getpid() != _importer and "TOKENIZERS_PARALLELISM" in os.environ:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"


def check_task(name: str, where: str) -> None:
    """InputError if models of a task have no labels or entities for a text."""
    if name not in TASKS:
        raise InputError(
            f"a model for {name} has no labels or entities for a text",
            where=where,
            hint=f"models for {', '.join(TASKS)} do",
        )


def check_columns(columns: Sequence[str], where: str) -> None:
    """InputError if a model takes pairs of texts."""
    if len(columns) != 1:
        raise InputError(f"the model takes {tasks.in_words(columns)}, and a document is one text", where=where)
