"""predict: predictions of a model folder, a Hub id or an export for some texts."""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from tinybert_cli import files
from tinybert_cli.errors import ConfigError, InputError, nearest
from tinybert_cli.escaping import printable
from tinybert_cli.formats import detect, detect_translation
from tinybert_cli.helpers import predict_tables
from tinybert_cli.predictor import Predictor, load_predictor
from tinybert_cli.tasks import TEXT_COLUMNS, in_words
from tinybert_cli.translation_predictor import TranslationPredictor, load_translation_predictor
from tinybert_cli.types import Rows

LESS_MEMORY = (
    "on a GPU, ACCELERATE_USE_CPU=true computes on the CPU instead; an int8 export needs less memory than its model; "
    "a large file of .csv, .tsv or .jsonl is read and written in parts"
)


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


@dataclass(frozen=True)
class Source:
    """The rows of a file, and the texts in them: both are read in parts, so that the memory does not grow."""

    file: Path
    parts: predict_tables.Parts
    texts_of: Callable[[Rows], list[tuple[str, ...]]]

    def predictions(
        self, predictor: Predictor | TranslationPredictor
    ) -> Iterator[tuple[Rows, Iterator[dict[str, Any]]]]:
        """The rows of each part, and the output for each of them."""
        first = 1
        for rows in self.parts():
            yield rows, predictor.predict(self.texts_of(rows), first=first)
            first += len(rows)


def open_source(
    predictor: Predictor | TranslationPredictor, file: Path, columns: Sequence[str], note: Callable[[str], object]
) -> Source:
    """The rows of a table or of a text file, after all of them were checked.

    Args:
        columns: that hold the texts; empty = those that the model records. A text file has none.

    Raises:
        ConfigError: columns of a text file are named.
        InputError: the file is missing or malformed, or a row has no text.
    """
    recorded = recorded_columns(predictor)
    if predict_tables.is_table(file):
        _check_exists(file)
        parts = predict_tables.open_table(file, recorded)
        texts_of = partial(
            predict_tables.texts_of,
            named=columns, recorded=recorded, model=str(predictor.folder), tags_words=_tags_words(predictor),
        )  # fmt: skip
        source = Source(file, parts, texts_of)
        for rows in parts():
            source.texts_of(rows)  # raises
        return source
    if columns:
        raise ConfigError(
            f"--text {columns[0]}: '{file}' has one text per line and no columns",
            hint=f"columns have files that end in .{', .'.join(predict_tables.TABLES)}; .gz too",
        )
    lines = read_file(file)
    if not lines:
        from tinybert_cli.data.text_files import EMPTY

        raise InputError(f"'{file}' is empty", hint=EMPTY)
    if sentence := tab_note(predictor, lines):
        note(sentence)
    pairs = recorded is not None and len(recorded) == 2
    texts = [tuple(line.split("\t")) if pairs else (line,) for line in lines]
    names = recorded if pairs and all(len(text) == 2 for text in texts) else None
    cells = dict(zip(names, map(list, zip(*texts, strict=True)), strict=True)) if names and texts else {"text": lines}
    rows = Rows({name: list(values) for name, values in cells.items()}, ((str(file), len(lines)),))
    return Source(file, lambda: iter([rows]), lambda _: texts)


def recorded_columns(predictor: Predictor | TranslationPredictor) -> tuple[str, ...] | None:
    """The text columns that the model records; None if it records none."""
    if isinstance(predictor, Predictor):
        return predictor.inputs.text_columns
    columns = predictor.config.get(TEXT_COLUMNS)
    return tuple(columns) if isinstance(columns, list) else None


def _tags_words(predictor: Predictor | TranslationPredictor) -> bool:
    return isinstance(predictor, Predictor) and predictor.task.name == "token-classification"


def thresholds(predictor: Predictor | TranslationPredictor) -> dict[str, Any]:
    """The tuned settings of a model that its predictions depend on; a list of numbers by class."""
    if not isinstance(predictor, Predictor):
        return {}
    tuned: dict[str, Any] = {}
    for name in predictor.task.tuned_settings:
        value = predictor.config.get(name)
        if isinstance(value, list) and len(value) == len(predictor.label_names):
            tuned[name] = dict(zip(predictor.label_names, value, strict=True))
        elif value is not None:
            tuned[name] = value
    return tuned


def threshold_note(predictor: Predictor | TranslationPredictor) -> str | None:
    """The tuned settings in a sentence."""
    parts = []
    for name, value in thresholds(predictor).items():
        values = (
            ", ".join(f"{label} {_as_text(number)}" for label, number in list(value.items())[:20])
            if isinstance(value, dict)
            else _as_text(value)
        )
        more = f" and {len(value) - 20} more" if isinstance(value, dict) and len(value) > 20 else ""
        parts.append(f"{name}: {values}{more}")
    return "; ".join(parts) or None


def _as_text(setting: object) -> str:
    """A number, or what a damaged config.json has instead: `predict` of the model says so."""
    return f"{setting:g}" if isinstance(setting, int | float) else repr(setting)


def tab_note(predictor: Predictor | TranslationPredictor, texts: Iterable[str]) -> str | None:
    """A sentence if a text looks like a pair, but the model takes one text."""
    columns = recorded_columns(predictor)
    if columns is None or len(columns) != 1:
        return None
    number = next((number for number, text in enumerate(texts, start=1) if "\t" in text), None)
    if number is None:
        return None
    return f"text {number} has a tab; the model takes {in_words(columns)}, so the tab is a part of it"


def prompted(stdin: TextIO, stderr: TextIO) -> Iterator[str]:
    """The lines that are typed after a prompt, until Ctrl-D; empty ones are left out."""
    while True:
        stderr.write("> ")
        stderr.flush()
        line = stdin.readline()
        if not line:
            stderr.write("\n")
            return
        if line.strip():
            yield line.rstrip("\r\n")


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
    _check_exists(path)
    if not (path.is_file() or path.is_fifo() or path.is_char_device()):
        raise InputError(f"'{path}' is not a text file", hint="--file takes a table, or a file with one text per line")
    with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as stream:
        try:
            return read_lines(stream, str(path))
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise InputError(f"'{path}' is not a complete gzip file: {error}") from error


def _check_exists(path: Path) -> None:
    if not path.exists():
        suggestion = nearest(path.name, (p.name for p in path.parent.iterdir())) if path.parent.is_dir() else None
        raise InputError(f"no such file: '{path}'", hint=suggestion)


def read_lines(stream: BinaryIO | gzip.GzipFile, name: str) -> list[str]:
    """The lines of a stream in UTF-8, or as its byte order mark says, each a text, empty ones included.

    A line ends with \\n or \\r\\n; in a stream without any \\n, with \\r. U+2028, U+0085 and form feeds are part of a
    text. All lines are read before the first is used, so that an unreadable one is an error before any prediction.

    Raises:
        InputError: a line has another encoding.
    """
    from tinybert_cli.data import text_files

    content = stream.read()
    encoding = text_files.encoding_of(content)
    if encoding != "utf-8":
        try:
            content = content.decode(encoding).encode("utf-8")
        except UnicodeDecodeError as error:
            raise text_files.not_as_marked(Path(name), encoding) from error
    lines = content.removeprefix(codecs.BOM_UTF8).split(b"\n" if b"\n" in content else b"\r")
    if not lines[-1]:  # after the last line break
        lines.pop()
    texts = []
    for number, line in enumerate(lines, start=1):
        try:
            texts.append(line.removesuffix(b"\r").decode("utf-8"))
        except UnicodeDecodeError as error:
            raise InputError(
                f"text {number} is not UTF-8: {error}",
                where=f"{name}:{number}",
                hint="convert it: iconv -f ENCODING -t UTF-8",
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
