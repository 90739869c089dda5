"""predict: ask a finished model, or an export, about some texts; an export is asked without importing torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from tinybert_cli import tasks
from tinybert_cli.errors import InputError

Array = np.ndarray[Any, np.dtype[Any]]
Said = tuple[Array, tasks.Pieces]  # logits, (C,) or (T, C), and what the tokenizer made of the text
Ask = Callable[[Sequence[Any]], list[Said]]  # what `Answering.asked` says → what the model says

BATCH_SIZE = 32


def run(model: str, texts: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Of each text what the model's task has to say of it, `prediction` among it, as they come.

    A tab in a text parts the two texts of a pair.

    Raises:
        InputError: the model is missing or has no answers, or a text is empty or not UTF-8.
    """
    folder = Path(model).expanduser()
    ask, task, names = _exported(folder) if (folder / "model.onnx").is_file() else _trained(model)
    numbered = enumerate(texts, start=1)
    while batch := list(islice(numbered, BATCH_SIZE)):
        for number, text in batch:
            if not text.strip():
                raise InputError(f"text {number} is empty")
            if any(
                "\ud800" <= character <= "\udfff" for character in text
            ):  # what Python makes of bytes that are no text
                raise InputError(f"text {number} is not UTF-8", hint="convert it: iconv -t UTF-8")
        for (_, text), (logits, pieces) in zip(batch, ask([task.asked(text) for _, text in batch]), strict=True):
            yield {"text": text, **task.reply(text, logits, pieces, names)}


def as_fields(row: dict[str, Any]) -> list[str]:
    """The prediction on one line, and how sure it is, if it says so."""
    said = row["prediction"]
    if isinstance(said, list):
        parts = [f"{one['text']}/{one['type']}" if isinstance(one, dict) else str(one) for one in said]
        said = ", ".join(parts) or "-"
    elif isinstance(said, float):
        said = f"{said:.4f}"
    return [said or "-", *([f"{row['confidence']:.4f}"] if "confidence" in row else [])]


def _exported(folder: Path) -> tuple[Ask, tasks.Answering, list[str]]:
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
    padding = config.get("pad_token_id") or 0
    tokenizer.enable_truncation(_longest(config))
    tokenizer.enable_padding(pad_id=padding, pad_token=tokenizer.id_to_token(padding))
    fields = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
    wanted = [node.name for node in session.get_inputs()]

    def ask(texts: Sequence[Any]) -> list[Said]:
        encodings = tokenizer.encode_batch(list(texts), is_pretokenized=isinstance(texts[0], list))
        shown = {name: np.array([getattr(one, fields[name]) for one in encodings]) for name in wanted}
        logits = session.run(None, shown)[0]
        return list(zip(logits, encodings, strict=True))

    return ask, tasks.of_model(config), names


def _trained(model: str) -> tuple[Ask, tasks.Answering, list[str]]:
    import torch

    from tinybert_cli import loops, models

    source = models.locate(model)
    task = tasks.of_model(models.read_config(source))
    net = models.load(source, task.head, problem=task.problem).to(loops.device())
    tokenizer = models.load_tokenizer(source)
    models.check_vocabulary(net, tokenizer, source)
    names = models.label_names(net) or [str(index) for index in range(net.config.num_labels)]
    longest = _longest(net.config.to_dict())

    def ask(texts: Sequence[Any]) -> list[Said]:
        shown = tokenizer(
            list(texts), truncation=True, max_length=longest, padding=True, return_tensors="pt",
            is_split_into_words=isinstance(texts[0], list),
        )  # fmt: skip
        with torch.no_grad():
            said = loops.forward(net, {name: value.to(loops.device()) for name, value in shown.items()})
        logits = said["logits"].float().cpu().numpy()
        return list(zip(logits, shown.encodings, strict=True))

    return ask, task, names


def _longest(config: dict[str, Any]) -> int:
    """Tokens that the model has positions for; families that count them from the padding have two fewer."""
    positions = int(config.get("max_position_embeddings") or 512)
    return positions - 2 if config.get("model_type") in ("roberta", "xlm-roberta", "camembert") else positions
