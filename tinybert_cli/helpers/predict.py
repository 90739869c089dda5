"""predict: predictions of a model folder, a Hub id or an export for some texts."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from tinybert_cli import files
from tinybert_cli.errors import InputError
from tinybert_cli.escaping import printable
from tinybert_cli.formats import detect, detect_translation
from tinybert_cli.predictor import Predictor, load_predictor
from tinybert_cli.translation_predictor import TranslationPredictor, load_translation_predictor


def run(
    model: str, texts: Iterable[str], *, note: Callable[[str], object] = lambda sentence: None
) -> Iterator[dict[str, Any]]:
    """The model's output for each text, in their order; a tab separates the two texts of a pair.

    Args:
        note: gets what is assumed about a model that does not record its inputs.

    Raises:
        InputError: the model is missing or has no supported head; or, before the first output, a text does not fit it.
    """
    predictor = load(model)
    for sentence in predictor.assumptions:
        note(sentence)
    yield from predictor.predict(texts)


def load(model: str) -> Predictor | TranslationPredictor:
    """The predictor of the model's kind, which its folder tells: that of an export without torch."""
    folder = Path(model)
    if folder.is_dir() and (detect_translation(folder) is not None or _translates(folder)):
        return load_translation_predictor(model)
    if folder.is_dir() or detect(folder) is not None:
        return load_predictor(model)
    from tinybert_cli import models  # a Hub id

    config = models.read_config(models.locate(model))
    return load_translation_predictor(model) if config.get("is_encoder_decoder") else load_predictor(model)


def _translates(folder: Path) -> bool:
    file = folder / "config.json"
    return file.is_file() and bool(files.read_object(file).get("is_encoder_decoder"))


def read_file(path: Path) -> list[str]:
    """The lines of a text file, see `read_lines`."""
    if not path.exists():
        raise InputError(f"no such file: '{path}'")
    if not (path.is_file() or path.is_fifo()):
        raise InputError(f"'{path}' is not a text file", hint="--file takes a file with one text per line")
    with path.open("rb") as stream:
        return read_lines(stream, str(path))


def read_lines(stream: BinaryIO, name: str) -> list[str]:
    """The lines of a UTF-8 stream, each a text, empty ones included.

    A line ends with \\n or \\r\\n and nothing else: U+2028, U+0085 and form feeds are part of a text. All lines are
    read before the first is used, so that an unreadable one is an error before any prediction.

    Raises:
        InputError: a line is not UTF-8.
    """
    lines = stream.read().removeprefix(codecs.BOM_UTF8).split(b"\n")
    if not lines[-1]:  # after the last line break
        lines.pop()
    texts = []
    for number, line in enumerate(lines, start=1):
        try:
            texts.append(line.removesuffix(b"\r").decode("utf-8"))
        except UnicodeDecodeError as error:
            raise InputError(
                f"text {number} is not UTF-8: {error}", where=f"{name}:{number}", hint="convert it: iconv -t UTF-8"
            ) from error
    return texts


def as_fields(output: dict[str, Any]) -> list[str]:
    """The prediction on one line, and its confidence if it has one."""
    prediction = output["prediction"]
    if isinstance(prediction, list):
        parts = [f"{part['text']}/{part['type']}" if isinstance(part, dict) else str(part) for part in prediction]
        prediction = ", ".join(parts)
    elif isinstance(prediction, float):
        prediction = f"{prediction:.4f}"
    return [prediction or "-", *([f"{output['confidence']:.4f}"] if "confidence" in output else [])]


def on_one_line(text: str) -> str:
    """The text with its control characters and line separators escaped, except tabs."""
    return printable(text, keep="\t")
