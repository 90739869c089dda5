"""The one place that opens a model for prediction: a model folder, a Hub id or an export.

An export is loaded without torch, as long as only `Predictor.predict` is used.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinybert_cli import formats, tasks
from tinybert_cli.errors import InputError
from tinybert_cli.types import Array

if TYPE_CHECKING:
    import torch
    from tokenizers import Encoding, Tokenizer
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from tinybert_cli.models import Source

BATCH_SIZE = 32
OVERLAP = 128  # tokens that two windows of a long text share, if they have room for it
FIELDS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}


@dataclass(frozen=True)
class Predictor:
    """A model that makes predictions, whatever runs it."""

    folder: Path
    task: tasks.PredictionTask
    label_names: list[str]  # the classes in the order of the outputs
    config: Mapping[str, Any]  # config.json
    session: formats.Session | None = None  # of an export
    model: PreTrainedModel | None = None  # of a model folder or Hub id, on its device
    tokenizer: PreTrainedTokenizerFast | None = None  # None for an export that `predict` alone is used of

    @cached_property
    def module(self) -> torch.nn.Module:
        """The model as a torch module, for batches of `data.Examples`."""
        from tinybert_cli import loops

        return loops.SessionModule(self.session) if self.session is not None else self.torch_model

    @property
    def torch_model(self) -> PreTrainedModel:
        assert self.model is not None  # not for exports
        return self.model

    @property
    def size(self) -> dict[str, int]:
        """`parameters` and `embedding_parameters`; empty for an export."""
        from tinybert_cli import models

        return {} if self.model is None else models.size(self.model)

    @property
    def weights_bytes(self) -> int:
        """Bytes of its weights on disk."""
        from tinybert_cli import models

        form = formats.detect(self.folder)
        return models.weights_bytes(self.folder) if form is None else (self.folder / form.weights).stat().st_size

    def predict(self, texts: Iterable[str]) -> Iterator[dict[str, Any]]:
        """The task's output for each text, as they come; see `PredictionTask.format_prediction`.

        Raises:
            InputError: a text is empty or not UTF-8.
        """
        numbered = enumerate(texts, start=1)
        while batch := list(islice(numbered, BATCH_SIZE)):
            for number, text in batch:
                _check_text(number, text)
            inputs = [self.task.parse_input(text) for _, text in batch]
            for (_, text), windows in zip(batch, self._windows(inputs), strict=True):
                yield {"text": text, **self.task.format_prediction(text, windows, self.label_names, self.config)}

    def logits(self, inputs: dict[str, Array]) -> Array:
        """Logits, (B, C) or (B, T, C), of inputs (B, T)."""
        if self.session is not None:
            return self.session(inputs)
        import torch

        from tinybert_cli import loops

        batch = {name: torch.from_numpy(values).to(self.torch_model.device) for name, values in inputs.items()}
        with torch.no_grad():
            logits: Array = loops.forward(self.torch_model, batch)["logits"].float().cpu().numpy()
        return logits

    def _windows(self, inputs: Sequence[Any]) -> Iterator[list[tasks.Window]]:
        """Logits and encoding of every window of each input."""
        longest = _longest_input(self.config)
        windowed = self.task.windowed_text
        tokenizer = self._backend_tokenizer
        tokenizer.no_padding()
        if windowed == "only_second":
            inputs = [(self._cut(first, longest // 2), second) for first, second in inputs]
        overlap = min(OVERLAP, longest // 4) if windowed else 0
        tokenizer.enable_truncation(longest, stride=overlap, strategy=windowed or "longest_first")
        encodings = tokenizer.encode_batch(list(inputs))
        windows_of = [[first, *(first.overflowing if windowed else [])] for first in encodings]
        encoded = [window for windows in windows_of for window in windows]
        ready: list[tasks.Window] = []
        for begin in range(0, len(encoded), BATCH_SIZE):
            batch = encoded[begin : begin + BATCH_SIZE]
            ready += zip(self.logits(self._batch(batch)), batch, strict=True)
        for windows in windows_of:
            yield ready[: len(windows)]
            del ready[: len(windows)]

    def _cut(self, text: str, count: int) -> str:
        """The text, or the first `count` tokens of a long one, so that the other text of the pair has room."""
        tokenizer = self._backend_tokenizer
        tokenizer.no_truncation()
        characters = tokenizer.encode(text, add_special_tokens=False).offsets
        return text if len(characters) <= count else text[: characters[count - 1][1]]

    def _batch(self, windows: Sequence[Encoding]) -> dict[str, Array]:
        padding = {"input_ids": self.config.get("pad_token_id") or 0}
        shape = len(windows), max(len(window.ids) for window in windows)
        batch = {name: np.full(shape, padding.get(name, 0), dtype=np.int64) for name in self._input_names}
        for row, window in enumerate(windows):
            for name, values in batch.items():
                values[row, : len(window.ids)] = getattr(window, FIELDS[name])
        return batch

    @cached_property
    def _backend_tokenizer(self) -> Tokenizer:
        """Of the tokenizers library, which needs neither torch nor transformers."""
        if self.tokenizer is not None:
            backend: Tokenizer = self.tokenizer.backend_tokenizer
            return backend
        from tokenizers import Tokenizer

        try:
            return Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        except Exception as error:  # tokenizers raises bare exceptions
            raise _broken_export(self.folder, error) from error

    @property
    def _input_names(self) -> Sequence[str]:
        if self.session is not None:
            return self.session.inputs
        assert self.tokenizer is not None  # only exports come without
        return [name for name in FIELDS if name in (*self.tokenizer.model_input_names, "attention_mask")]


def load_predictor(
    where: str | Source,
    *,
    task: tasks.PredictionTask | None = None,
    label_names: list[str] | None = None,
    device: torch.device | None = None,
) -> Predictor:
    """A model folder, an export folder or a Hub id, ready to predict.

    Args:
        task: None = the task that the model was made for; then an export is loaded without torch, for `predict` alone.
        label_names: the classes that the model must have, in this order; None = its own.
        device: of a model; None = the default one. An export runs on the CPU.

    Raises:
        InputError: the model is missing or broken, belongs to another task, or has other classes.
    """
    folder = Path(where).expanduser() if isinstance(where, str) else where.folder
    form = None if folder is None else formats.detect(folder)
    if form is not None and folder is not None:
        return _load_export(folder, form, task, label_names)
    from tinybert_cli import loops, models

    source = models.locate(where) if isinstance(where, str) else where
    if folder is None and (form := formats.detect(models.fetch(source))) is not None:
        return _load_export(models.fetch(source), form, task, label_names)  # of a Hub id, from the cache
    config = models.read_config(source)
    task = task or tasks.of_model(config)
    tokenizer = models.load_tokenizer(source)
    names = models.check_outputs(source, label_names, task.problem)
    model = models.load(source, task.head, label_names=label_names, problem=task.problem, cls_only=True)
    models.check_vocabulary(model, tokenizer, source)
    model = model.to(loops.device() if device is None else device)
    return Predictor(models.fetch(source), task, names, config, model=model, tokenizer=tokenizer)


def _load_export(
    folder: Path, form: formats.Format, task: tasks.PredictionTask | None, label_names: list[str] | None
) -> Predictor:
    assert form.load is not None  # `formats.detect`
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        names = [config["id2label"][key] for key in sorted(config["id2label"], key=int)]
    except (OSError, ValueError, KeyError) as error:
        raise _broken_export(folder, error) from error
    if task is None:
        return Predictor(folder, tasks.of_model(config), names, config, session=form.load(folder))
    from tinybert_cli import models

    source = models.locate(str(folder))
    tokenizer = models.load_tokenizer(source)
    names = models.check_outputs(source, label_names, task.problem)
    return Predictor(folder, task, names, config, session=form.load(folder), tokenizer=tokenizer)


def _broken_export(folder: Path, error: Exception) -> InputError:
    message, _, _ = str(error).partition("\n")
    return InputError(f"the export cannot be read: {message}", where=str(folder), hint="export it again")


def _check_text(number: int, text: str) -> None:
    if not text.strip():
        raise InputError(f"text {number} is empty")
    if any("\ud800" <= letter <= "\udfff" for letter in text):  # Python's stand-in for bytes that are not UTF-8
        raise InputError(f"text {number} is not UTF-8", hint="convert it: iconv -t UTF-8")


def _longest_input(config: Mapping[str, Any]) -> int:
    """Tokens that the model has positions for; families that count from the padding id have two fewer."""
    positions = int(config.get("max_position_embeddings") or 512)
    return positions - 2 if config.get("model_type") in ("roberta", "xlm-roberta", "camembert") else positions
