"""The one place that opens a model for prediction: a model folder, a Hub id or an export.

An export is loaded without torch, as long as only `Predictor.predict` is used. Texts are encoded by the task, as in
training and in `eval`, with the settings that the model folder records.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tinybert_cli import artifacts, files, formats, input_limits, tasks
from tinybert_cli.errors import InputError, is_panic
from tinybert_cli.label_values import without_default_names
from tinybert_cli.types import Array, Encoded, Layout, Rows, first_infinite_row, padded
from tinybert_cli.wording import counted

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from tinybert_cli.models import Source

log = logging.getLogger("tinybert")

BATCH_SIZE = 32
_COPY = "copy the whole folder, or export the model again"
PER_TOKEN = ("token-classification", "question-answering")  # the heads with outputs for each token
COLUMNS = ("text", "text_pair")  # the text columns of a model that records none

Text = str | Sequence[str]  # a text, or the texts of a pair; in a string, a tab separates these


@dataclass(frozen=True)
class Predictor:
    """A model that makes predictions, whatever runs it."""

    outputs_of_some: ClassVar[tuple[str, ...]] = ()  # what `predict` gives for some texts only
    folder: Path
    task: tasks.PredictionTask
    label_names: list[str]  # the classes in the order of the outputs
    config: Mapping[str, Any]  # config.json
    inputs: tasks.ModelInputs
    tokenizer: PreTrainedTokenizerFast | tasks.TokenizerFile  # the second for an export that `predict` alone is used of
    session: formats.Session | None = None  # of an export
    model: PreTrainedModel | None = None  # of a model folder or Hub id, on its device
    _warned: list[int] = field(default_factory=list, repr=False, compare=False)  # has a length once it was exceeded

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
    def torch_tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer of transformers, for the stages."""
        from transformers import PreTrainedTokenizerFast

        assert isinstance(self.tokenizer, PreTrainedTokenizerFast)  # not for exports that `predict` alone is used of
        return self.tokenizer

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
        file = None if form is None else form.file(self.folder)
        return models.weights_bytes(self.folder) if file is None else file.stat().st_size

    def predict(self, texts: Iterable[Text], *, first: int = 1) -> Iterator[dict[str, Any]]:
        """The task's output for each text, in their order; see `PredictionTask.format_prediction`.

        Args:
            texts: a string, or a sequence of two for a pair. In a string, a tab separates the texts of a pair; for a
                model that takes one text, a tab is part of it.
            first: the number of the first text, for messages.

        Raises:
            InputError: before the first prediction, if a text is empty, not Unicode, or one where the model takes a
                pair, or the other way round; then for the first text with logits that are NaN or infinite.
        """
        given = list(texts)
        inputs = self._parsed(given, first)
        for begin in range(0, len(given), BATCH_SIZE):
            chunk = slice(begin, begin + BATCH_SIZE)
            outputs = zip(given[chunk], inputs[chunk], self._row_logits(inputs[chunk]), strict=True)
            for number, (text, parts, (logits, layout)) in enumerate(outputs, start=first + begin):
                if not np.isfinite(logits).all():
                    raise _infinite_logits(str(self.folder), f"text {number}")
                output = self.task.format_prediction(parts, logits, layout, self.label_names, self.config)
                yield {"text": text if isinstance(text, str) else "\t".join(text), **output}

    @property
    def assumptions(self) -> list[str]:
        """What `predict` assumes about a model that does not record its inputs, in sentences."""
        if self.inputs.recorded:
            return []
        kind = "" if len(self.task.text_counts) == 1 else ", and a tab separates the two texts of a pair"
        return [
            f"'{self.folder}' does not record how it was trained: texts are cut at {self.inputs.max_seq_length:,} "
            f"tokens{kind}"
        ]

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

    def _parsed(self, given: Sequence[Any], first: int) -> list[tuple[str, ...]]:
        """The text, or the two texts, of each input; whatever it is, since Python code may give anything."""
        columns = self.inputs.text_columns
        counts = self.task.text_counts if columns is None else (len(columns),)
        inputs: list[tuple[str, ...]] = []
        for number, text in enumerate(given, start=first):
            one = isinstance(text, str)
            if isinstance(text, str):
                parts = tuple(text.split("\t") if counts != (1,) else [text])
            else:
                parts = tuple(text) if isinstance(text, list | tuple) else (text,)
            _check_text(number, parts)
            if len(parts) not in counts:
                raise InputError(
                    f"text {number} is {_count(len(parts))}, but the model takes {self._takes(counts)}",
                    where=repr("\t".join(parts)[:80]),
                    hint="a tab separates the two texts of a pair" if one and 2 in counts else None,
                )
            if columns is None and inputs and len(parts) != len(inputs[0]):
                raise InputError(
                    f"text {first} is {_count(len(inputs[0]))} and text {number} is {_count(len(parts))}, separated by "
                    "a tab; the model does not record what it takes",
                    hint=f'add "{tasks.TEXT_COLUMNS}": ["text"] to config.json, or ["text", "text_pair"] if it takes '
                    "pairs",
                )
            inputs.append(parts)
        if inputs and len(inputs[0]) == 2:
            input_limits.check_pairs(self.config, self.tokenizer, str(self.folder))
        return inputs

    def _takes(self, counts: Sequence[int]) -> str:
        columns = self.inputs.text_columns
        return tasks.in_words(columns) if columns else " or ".join(map(_count, counts))

    def _row_logits(self, inputs: Sequence[tuple[str, ...]]) -> Iterator[tuple[Array, Layout | None]]:
        """The raw logits of each input (P, C), and their layout."""
        names = self.inputs.text_columns or COLUMNS[: len(inputs[0])]
        values = zip(*map(self.task.row_of, inputs), strict=True)
        rows = Rows(dict(zip(names, map(list, values), strict=True)), (("the texts", len(inputs)),))
        encoded = self.task.encode(rows, self.inputs.data(list(names)), self.tokenizer)
        if encoded.truncated and not self._warned:  # once: a service predicts texts for weeks
            longest = self.inputs.max_seq_length
            self._warned.append(longest)
            what, most = ("question", longest // 2) if encoded.cuts_questions else ("text", longest)
            log.warning("a %s is longer than %s tokens and was cut, as in training", what, f"{most:,}")
        logits = self._all_logits(encoded)
        layout = encoded.layout
        if layout is None:
            yield from ((values[None], None) for values in logits)
        else:
            for row, (begin, end) in enumerate(layout.ranges()):
                yield logits[begin:end], layout.select(np.array([row]))

    def _all_logits(self, encoded: Encoded) -> Array:
        """The logits (P, C) of all windows, like `loops.predict_all`, which needs torch."""
        count = len(encoded.offsets) - 1
        parts = []
        for begin in range(0, count, BATCH_SIZE):
            windows = np.arange(begin, min(begin + BATCH_SIZE, count))
            logits = self.logits(padded(encoded.tokens, encoded.offsets, windows))
            if encoded.window_offsets is None or encoded.positions is None:
                parts.append(logits)
                continue
            for row, window in enumerate(windows):
                begin, end = encoded.window_offsets[window : window + 2]
                parts.append(logits[row][encoded.positions[begin:end]])
        return np.concatenate(parts)


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
        InputError: the model is missing, damaged or broken, belongs to another task, or has other classes.
    """
    folder = Path(where) if isinstance(where, str) else where.folder
    if isinstance(where, str) and folder is not None and artifacts.has_manifest(folder):  # a stage verifies its inputs
        artifacts.verify_folder(folder)
    form = None if folder is None else formats.detect(folder)
    if form is not None and folder is not None:
        return _load_export(folder / form.subfolder, form, task, label_names)
    if folder is not None and _has_layout(folder):
        weights = " nor ".join(formats.FORMATS["onnx"].files[:2])
        raise InputError(f"the export has no weights, neither {weights}", where=str(folder), hint=_COPY)
    from tinybert_cli import loops, models

    source = models.locate(where) if isinstance(where, str) else where
    if folder is None and (form := formats.detect(models.fetch(source))) is not None:
        return _load_export(
            models.fetch(source) / form.subfolder, form, task, label_names
        )  # of a Hub id, from the cache
    config = models.read_config(source)
    task = task or tasks.of_model(config)
    tokenizer = models.load_tokenizer(source)
    names = models.check_outputs(source, label_names, task.problem)
    model = models.load(source, task.head, label_names=label_names, problem=task.problem, cls_only=True)
    models.check_vocabulary(model, tokenizer, source)
    model = model.to(loops.device() if device is None else device)
    folder = models.fetch(source)
    _check_names(names, folder)
    inputs = tasks.read_model_inputs(config, models.read_tokenizer_config(source))
    return Predictor(folder, task, names, config, inputs, tokenizer, model=model)


@dataclass(frozen=True)
class _FittingSession:
    """A session whose outputs are those that config.json describes: its weights may be of another export.

    B rows, T tokens, C classes.
    """

    session: formats.Session
    names: Sequence[str]  # (C,)
    per_token: bool  # whether the outputs are (B, T, C), not (B, C)
    folder: Path

    @property
    def inputs(self) -> Sequence[str]:
        return self.session.inputs

    def __call__(self, inputs: Mapping[str, Array]) -> Array:
        logits = self.session(inputs)
        rows_and_tokens = next(iter(inputs.values())).shape
        expected = (*(rows_and_tokens if self.per_token else rows_and_tokens[:1]), len(self.names))
        if logits.shape != expected:
            actual, needed = (" x ".join(map(str, shape)) for shape in (logits.shape, expected))
            raise InputError(
                f"the weights do not fit config.json: they return {actual} numbers, not {needed} for its task and its "
                f"{counted(len(self.names), 'label')}",
                where=str(self.folder),
                hint=_COPY,
            )
        return logits


def check_logits(logits: Array, layout: Layout | None, rows: Rows, model: str) -> None:
    """Checks that the logits (P, C) of a model for these rows are finite.

    Raises:
        InputError: those of a row are not; names the first one.
    """
    row = first_infinite_row(logits, layout)
    if row is not None:
        raise _infinite_logits(model, rows.location(row))


def _infinite_logits(model: str, where: str) -> InputError:
    return InputError(
        f"the logits of '{model}' are NaN or infinite",
        where=where,
        hint="its weights are broken or far too large: train it again, or use another model",
    )


def _load_export(
    folder: Path, form: formats.Format, task: tasks.PredictionTask | None, label_names: list[str] | None
) -> Predictor:
    assert form.load is not None  # `formats.detect`
    _check_files(folder)
    try:
        config = files.read_object(folder / "config.json")
        names = _names_of_outputs(config)
    except (InputError, ValueError, KeyError, TypeError) as error:
        raise _broken_export(folder, error) from error
    if config.get(formats.LAYOUT_KEY, 1) not in range(1, formats.LAYOUT + 1):
        raise InputError(
            f"the export has layout {config[formats.LAYOUT_KEY]!r} and was written by another version of tinybert; "
            f"this version reads layouts up to {formats.LAYOUT}",
            where=str(folder / "config.json"),
            hint="pip install --upgrade tinybert",
        )
    tokenizer_file = folder / "tokenizer_config.json"
    tokenizer_config = files.read_object(tokenizer_file) if tokenizer_file.exists() else {}
    inputs = tasks.read_model_inputs(config, tokenizer_config)
    _check_names(names, folder)
    opened = form.load(folder)
    own = tasks.of_model(config) if task is None else task
    if own.output_type == "value" and len(names) > 1:
        what = f"config.json has {len(names)} outputs, and a model for regression has one"
        raise InputError(what, where=str(folder), hint=_COPY)
    session = _FittingSession(opened, names, own.head in PER_TOKEN, folder)
    if task is None:
        tokenizer = _read_tokenizer(folder, config, session.inputs, inputs.truncation_side)
        return Predictor(folder, own, names, config, inputs, tokenizer, session=session)
    from tinybert_cli import models

    source = models.locate(str(folder))
    names = models.check_outputs(source, label_names, task.problem)
    return Predictor(folder, own, names, config, inputs, models.load_tokenizer(source), session=session)


def _names_of_outputs(config: Mapping[str, Any]) -> list[str]:
    """The classes of an export; their positions if they have no names, as of a model folder."""
    in_config = config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}  # what transformers leaves out
    positions = sorted(in_config, key=int)
    if list(map(int, positions)) != list(range(len(positions))):
        raise ValueError(f"`id2label` of config.json has the positions {', '.join(map(str, positions))}")
    names = [str(in_config[key]) for key in positions]
    return without_default_names(names) or [str(index) for index in range(len(names))]


def _check_names(names: Sequence[str], folder: Path) -> None:
    """InputError if two classes have one name: the probability of one of them would be lost."""
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise InputError(
            f"`id2label` of config.json gives several classes the name '{twice[0]}'",
            where=str(folder / "config.json"),
            hint="give each class a name of its own",
        )


def _check_files(folder: Path) -> None:
    """InputError for a file that an export has since layout 2, and this folder has not."""
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        if not (folder / name).is_file() and (name != "tokenizer_config.json" or _has_layout(folder)):
            raise InputError(f"the export has no {name}", where=str(folder), hint=_COPY)


def _has_layout(folder: Path) -> bool:
    config = folder / "config.json"
    return config.is_file() and formats.LAYOUT_KEY in files.read_object(config)


def _read_tokenizer(
    folder: Path, config: Mapping[str, Any], inputs: Sequence[str], truncation_side: str
) -> tasks.TokenizerFile:
    """Of the tokenizers library, which needs neither torch nor transformers."""
    from tokenizers import Tokenizer

    padding = config.get("pad_token_id") or 0
    if not isinstance(padding, int):
        what = f"`pad_token_id` of config.json is {padding!r}, and not the id of a token"
        raise InputError(what, where=str(folder), hint=_COPY)
    try:
        backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except BaseException as error:  # tokenizers raises bare exceptions, or panics
        if not (isinstance(error, Exception) or is_panic(error)):
            raise
        raise _broken_export(folder, error) from error
    return tasks.TokenizerFile(backend, inputs, truncation_side, pad_token_id=padding)


def _broken_export(folder: Path, error: BaseException) -> InputError:
    message, _, _ = str(error).partition("\n")
    return InputError(f"the export cannot be read: {message}", where=str(folder), hint="export it again")


def _check_text(number: int, parts: Sequence[str]) -> None:
    for part in parts:
        if not isinstance(part, str):
            raise InputError(f"text {number} is no text: {part!r:.80}")
        if not part.strip():
            raise InputError(f"text {number} is empty" if len(parts) == 1 else f"a text of pair {number} is empty")
        if any("\ud800" <= letter <= "\udfff" for letter in part):  # Python's stand-in for bytes that are not UTF-8
            raise InputError(f"text {number} is not UTF-8", hint="convert it: iconv -t UTF-8")


def _count(texts: int) -> str:
    return "one text" if texts == 1 else "two texts" if texts == 2 else f"{texts} texts"
