"""predict: ask a finished model, or an export, about some texts; an export is asked without importing torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinybert_cli import tasks
from tinybert_cli.errors import InputError
from tinybert_cli.types import Array

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Forward = Callable[[dict[str, Array]], Array]  # input_ids and so on (B, T) → logits, (B, C) or (B, T, C)

BATCH_SIZE = 32
OVERLAP = 128  # tokens that two windows of a long text have in common, if they have room for it


@dataclass(frozen=True)
class Opened:
    """A model that can be asked, whatever runs it."""

    task: tasks.PredictionTask
    names: list[str]  # the classes in their order
    config: Mapping[str, Any]  # config.json
    tokenizer: Tokenizer
    wanted: Sequence[str]  # what the model takes of input_ids, attention_mask, token_type_ids
    forward: Forward

    def ask(self, texts: Sequence[Any]) -> Iterator[list[tasks.Window]]:
        """Of what `PredictionTask.asked` says what the model says, window by window."""
        longest = _longest(self.config)
        overlap = min(OVERLAP, longest // 4) if self.task.parted else 0
        self.tokenizer.no_padding()
        if self.task.parted == "only_second":
            texts = [(self._cut(first, longest // 2), second) for first, second in texts]
        self.tokenizer.enable_truncation(longest, stride=overlap, strategy=self.task.parted or "longest_first")
        encodings = self.tokenizer.encode_batch(list(texts))
        parts = [[one, *(one.overflowing if self.task.parted else [])] for one in encodings]
        windows = [window for part in parts for window in part]
        said: list[tasks.Window] = []
        for begin in range(0, len(windows), BATCH_SIZE):
            batch = windows[begin : begin + BATCH_SIZE]
            said += zip(self.forward(self._shown(batch)), batch, strict=True)
        for part in parts:
            yield said[: len(part)]
            del said[: len(part)]

    def _cut(self, text: str, count: int) -> str:
        """The text, or of a long one the first `count` pieces, so that the other text of its pair has room."""
        self.tokenizer.no_truncation()
        pieces = self.tokenizer.encode(text, add_special_tokens=False).offsets
        return text if len(pieces) <= count else text[: pieces[count - 1][1]]

    def _shown(self, windows: Sequence[Any]) -> dict[str, Array]:
        padding = {"input_ids": self.config.get("pad_token_id") or 0}
        shape = len(windows), max(len(window.ids) for window in windows)
        shown = {name: np.full(shape, padding.get(name, 0), dtype=np.int64) for name in self.wanted}
        for row, window in enumerate(windows):
            for name, values in shown.items():
                values[row, : len(window.ids)] = getattr(window, FIELDS[name])
        return shown


FIELDS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}


def run(model: str, texts: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Of each text what the model's task has to say of it, `prediction` among it, as they come.

    A tab in a text parts the two texts of a pair.

    Raises:
        InputError: the model is missing or has no answers, or a text is empty or not UTF-8.
    """
    folder = Path(model).expanduser()
    opened = _exported(folder) if (folder / "model.onnx").is_file() else _trained(model)
    task = opened.task
    numbered = enumerate(texts, start=1)
    while batch := list(islice(numbered, BATCH_SIZE)):
        for number, text in batch:
            if not text.strip():
                raise InputError(f"text {number} is empty")
            if any("\ud800" <= letter <= "\udfff" for letter in text):  # what Python makes of bytes that are no text
                raise InputError(f"text {number} is not UTF-8", hint="convert it: iconv -t UTF-8")
        for (_, text), windows in zip(batch, opened.ask([task.asked(text) for _, text in batch]), strict=True):
            yield {"text": text, **task.reply(text, windows, opened.names, opened.config)}


def as_fields(row: dict[str, Any]) -> list[str]:
    """The prediction on one line, and how sure it is, if it says so."""
    said = row["prediction"]
    if isinstance(said, list):
        parts = [f"{one['text']}/{one['type']}" if isinstance(one, dict) else str(one) for one in said]
        said = ", ".join(parts) or "-"
    elif isinstance(said, float):
        said = f"{said:.4f}"
    return [said or "-", *([f"{row['confidence']:.4f}"] if "confidence" in row else [])]


def _exported(folder: Path) -> Opened:
    """An export folder: onnxruntime and tokenizers are enough."""
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError("the package 'onnxruntime' is not installed", hint="pip install 'tinybert[onnx]'") from error
    from tokenizers import Tokenizer

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # both libraries have classes of their own for every kind of broken file
        message, _, _ = str(error).partition("\n")
        raise InputError(f"the export cannot be read: {message}", where=str(folder), hint="export it again") from error
    names = [config["id2label"][key] for key in sorted(config["id2label"], key=int)]
    wanted = [node.name for node in session.get_inputs()]
    return Opened(tasks.of_model(config), names, config, tokenizer, wanted, lambda shown: session.run(None, shown)[0])


def _trained(model: str) -> Opened:
    import torch

    from tinybert_cli import loops, models

    source = models.locate(model)
    config = models.read_config(source)
    task = tasks.of_model(config)
    net = models.load(source, task.head, problem=task.problem, cls_only=True).to(loops.device())
    tokenizer = models.load_tokenizer(source)
    models.check_vocabulary(net, tokenizer, source)
    names = models.label_names(net) or [str(index) for index in range(net.config.num_labels)]

    def forward(shown: dict[str, Array]) -> Array:
        with torch.no_grad():
            said = loops.forward(net, {name: torch.from_numpy(ids).to(loops.device()) for name, ids in shown.items()})
        logits: Array = said["logits"].float().cpu().numpy()
        return logits

    wanted = [name for name in FIELDS if name in (*tokenizer.model_input_names, "attention_mask")]
    return Opened(task, names, config, tokenizer.backend_tokenizer, wanted, forward)


def _longest(config: Mapping[str, Any]) -> int:
    """Tokens that the model has positions for; families that count them from the padding have two fewer."""
    positions = int(config.get("max_position_embeddings") or 512)
    return positions - 2 if config.get("model_type") in ("roberta", "xlm-roberta", "camembert") else positions
