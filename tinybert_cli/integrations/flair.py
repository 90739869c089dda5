"""A classifier or tagger for flair: it adds labels to a `Sentence`, or to spans of it, by ONNX Runtime.

from flair.data import Sentence
from tinybert.flair import Model

model = Model("runs/mine/export")
sentence = Sentence("The parcel never arrived.")
model.predict(sentence)
sentence.labels
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from flair.data import Sentence

from tinybert_cli.integrations.text_predictor import Prediction, TextPredictor

log = logging.getLogger("tinybert")

BATCH_SIZE = 1000  # sentences that are sorted by length; they are predicted 32 at a time


class Model:
    """Predicts labels as flair's own classifiers and taggers do."""

    def __init__(self, folder: str | Path, *, label_type: str | None = None) -> None:
        """Opens an export.

        Args:
            label_type: the name of the labels in flair; None = class, or ner if entities are predicted, or tag if each
                word has one.

        Raises:
            InputError: the model is missing or damaged, or predicts neither labels nor entities of one text.
        """
        self._model = TextPredictor(Path(folder))
        default = "tag" if self._model.tags_every_word else "ner" if self._model.tags_words else "class"
        self.label_type = default if label_type is None else label_type
        self._warned = False

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, or the types of entities."""
        return self._model.labels

    def predict(self, sentences: Sentence | Iterable[Sentence]) -> None:
        """Adds the predictions to the sentences, in place of those that a model with this `label_type` added before.

        A class is a label of the sentence; several classes are the labels that reach their thresholds. An entity is a
        label of the span of tokens that it touches. Scores are probabilities.
        """
        rest = iter([sentences] if isinstance(sentences, Sentence) else sentences)
        while batch := list(islice(rest, BATCH_SIZE)):
            texts = [sentence.to_original_text() for sentence in batch]
            for sentence, prediction in zip(batch, self._model.predict(texts), strict=True):
                sentence.remove_labels(self.label_type)
                if prediction is not None:
                    self._annotate(sentence, prediction)

    def _annotate(self, sentence: Sentence, prediction: Prediction) -> None:
        if self._model.tags_words:
            for entity in prediction["prediction"]:
                self._add_span(sentence, entity)
            return
        classes = prediction["prediction"]
        for name in [classes] if isinstance(classes, str) else classes:
            sentence.add_label(self.label_type, name, prediction["probabilities"][name])

    def _add_span(self, sentence: Sentence, entity: Prediction) -> None:
        ranges = _token_ranges(sentence)
        touched = [
            index for index, (begin, end) in enumerate(ranges) if begin < entity["end"] and entity["begin"] < end
        ]
        if not touched:
            return
        span = sentence[touched[0] : touched[-1] + 1]
        first, last = ranges[touched[0]][0], ranges[touched[-1]][1]
        if (first, last) != (entity["begin"], entity["end"]) and not self._warned:
            self._warned = True
            log.warning("'%s' is a part of '%s', whose tokens become the entity", entity["text"], span.text)
        span.add_label(self.label_type, entity["type"], entity["score"])


def _token_ranges(sentence: Sentence) -> list[tuple[int, int]]:
    """Where each token begins and ends in `to_original_text`, in characters.

    The positions in the tokens are others after `infer_space_after`, and in a sentence that does not begin where its
    document does.
    """
    text = sentence.to_original_text()
    begin = len(text) - len(text.lstrip(" "))
    ranges: list[tuple[int, int]] = []
    for token in sentence:
        ranges.append((begin, begin + len(token.text)))
        begin += len(token.text) + token.whitespace_after
    return ranges
