"""Verification of a spaCy pipeline: its documents have the predictions that the export in it makes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinybert_cli.config import Export
from tinybert_cli.errors import GateError
from tinybert_cli.formats.spacy import COMPONENT
from tinybert_cli.predictor import load_predictor
from tinybert_cli.stages import parity
from tinybert_cli.tasks.token_classification import TokenClassification
from tinybert_cli.types import Rows

if TYPE_CHECKING:
    from spacy.tokens import Doc


def verify(pipeline: Path, export: Path, rows: Rows, config: Export) -> float:
    """The share of rows whose Doc has the predictions of the export; words are joined by spaces.

    Args:
        pipeline: the folder that `spacy.load` opens; `export`: the one in it.

    Raises:
        GateError: it is below `verify.min_agreement`.
    """
    (name,) = config.data.text_columns
    texts = [" ".join(row) if isinstance(row, list) else row for row in rows.column(name)]
    share = agreement(pipeline, export, texts)
    if share < parity.least_agreement(config.verify):
        raise GateError(
            f"documents of the spaCy pipeline have the predictions of the export in only {share:.2%} of {len(texts):,} "
            "texts",
            where=config.output_dir,
            hint="nothing was stored; set `language`, whose tokenizer must split words where entities begin and end",
        )
    return share


def agreement(pipeline: Path, export: Path, texts: Sequence[str]) -> float:
    """The share of texts whose Doc has the classes, or the entities, that `tinybert predict` prints for the export."""
    import spacy

    import tinybert_cli.integrations.spacy  # registers the component, also where tinybert is not installed  # noqa: F401

    filled = [text for text in texts if text.strip()]
    docs = spacy.load(pipeline).pipe(filled)
    predictor = load_predictor(str(export))
    tags = isinstance(predictor.task, TokenClassification)
    expected = (_of_export(output["prediction"], tags=tags) for output in predictor.predict(filled))
    equal = [_of_doc(doc, tags=tags) == prediction for doc, prediction in zip(docs, expected, strict=True)]
    return sum(equal) / len(equal) if equal else 1.0


def _of_doc(doc: Doc, *, tags: bool) -> object:
    """Classes, or spans with their characters."""
    if not tags:
        return doc._.tinybert["prediction"]
    spans = doc.spans.get(COMPONENT, doc.ents)
    return {(span.label_, span.start_char, span.end_char) for span in spans}


def _of_export(prediction: Any, *, tags: bool) -> object:
    return {(span["type"], span["begin"], span["end"]) for span in prediction} if tags else prediction
