"""The spaCy component `tinybert`: classes in `doc.cats`, entities in `doc.ents`, by ONNX Runtime, without torch.

`doc._.tinybert` is the whole prediction, as `tinybert predict --json` prints it: the classes that reach their
thresholds, entities with their characters and scores. None for a Doc without text.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import srsly
from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.util import filter_spans, minibatch

from tinybert_cli.errors import InputError
from tinybert_cli.integrations.text_predictor import Prediction, TextPredictor

log = logging.getLogger("tinybert")

FACTORY = "tinybert"
BATCH_SIZE = 1000  # documents that are sorted by length; they are predicted 32 at a time

if not Doc.has_extension(FACTORY):
    Doc.set_extension(FACTORY, default=None)


@Language.factory(FACTORY, default_config={"model": None}, assigns=["doc.cats", "doc.ents", "doc.spans"])  # type: ignore[untyped-decorator]
def make_component(nlp: Language, name: str, model: str | None) -> Component:
    """The component of a pipeline.

    Args:
        model: an export; None in a pipeline that is read from a folder, which contains the export.
    """
    return Component(name, None if model is None else Path(model))


class Component:
    """Predicts the classes or the entities of a Doc."""

    def __init__(self, name: str, folder: Path | None = None) -> None:
        self.name = name
        self._export = None if folder is None else TextPredictor(folder)
        self._unpacked: tempfile.TemporaryDirectory[str] | None = None  # of `from_bytes`
        self._warned = False

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_unpacked": None}

    @property
    def export(self) -> TextPredictor:
        """The export.

        Raises:
            InputError: the component has none.
        """
        if self._export is None:
            hint = f'nlp.add_pipe("{FACTORY}", config={{"model": "path/to/export"}})'
            raise InputError(f"the component '{self.name}' has no model", hint=hint)
        return self._export

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, or the types of entities; none as long as there is no model."""
        return () if self._export is None else self._export.labels

    def __call__(self, doc: Doc) -> Doc:
        return next(self.pipe([doc]))

    def pipe(self, stream: Iterable[Doc], *, batch_size: int = BATCH_SIZE) -> Iterator[Doc]:
        """Predicts documents in batches; their order stays."""
        for docs in minibatch(stream, batch_size):
            for doc, prediction in zip(docs, self.export.predict([doc.text for doc in docs]), strict=True):
                self._annotate(doc, prediction)
            yield from docs

    def _annotate(self, doc: Doc, prediction: Prediction | None) -> None:
        doc._.set(FACTORY, prediction)
        if not self.export.tags_words:
            doc.cats.update(dict.fromkeys(self.labels, 0.0) if prediction is None else prediction["probabilities"])
            return
        spans = list(self._spans(doc, [] if prediction is None else prediction["prediction"]))
        if self.export.tags_every_word:
            doc.spans[self.name] = spans
        else:
            present = set().union(*(range(entity.start, entity.end) for entity in doc.ents))
            added = [span for span in filter_spans(spans) if present.isdisjoint(range(span.start, span.end))]
            doc.set_ents([*doc.ents, *added])

    def _spans(self, doc: Doc, entities: Iterable[Prediction]) -> Iterator[Span]:
        """The tokens of each entity: all that it touches."""
        for entity in entities:
            span = doc.char_span(entity["begin"], entity["end"], label=entity["type"], alignment_mode="expand")
            if (span.start_char, span.end_char) != (entity["begin"], entity["end"]) and not self._warned:
                self._warned = True
                log.warning(
                    "'%s' is a part of the token '%s', which becomes the entity; doc._.%s has its characters. "
                    "The tokenizer of another language may split such words (`language` of the export)",
                    entity["text"], span.text, FACTORY,
                )  # fmt: skip
            yield span

    # -- on disk ---------------------------------------------------------------------------------------------

    def to_disk(self, path: Path, *, exclude: Iterable[str] = ()) -> None:
        """Copies the export to a folder of a pipeline."""
        source = self.export.predictor.folder
        if Path(path).resolve() != source.resolve():
            shutil.copytree(source, path, dirs_exist_ok=True)

    def from_disk(self, path: Path, *, exclude: Iterable[str] = ()) -> Component:
        """Opens the export in a folder of a pipeline."""
        self._export = TextPredictor(Path(path))
        assert self._export.predictor  # damaged files are errors of spacy.load, not of the first text
        return self

    def to_bytes(self, *, exclude: Iterable[str] = ()) -> bytes:
        """The files of the export."""
        folder = self.export.predictor.folder
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        content: bytes = srsly.msgpack_dumps({path.relative_to(folder).as_posix(): path.read_bytes() for path in files})
        return content

    def from_bytes(self, content: bytes, *, exclude: Iterable[str] = ()) -> Component:
        """Opens an export from `to_bytes`."""
        self._unpacked = tempfile.TemporaryDirectory(prefix="tinybert-")
        root = Path(self._unpacked.name)
        for name, data in srsly.msgpack_loads(content).items():
            path = (root / name).resolve()
            if not path.is_relative_to(root.resolve()):
                raise InputError(f"the bytes of the component '{self.name}' name a file outside of it: {name}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return self.from_disk(root)
