"""Question answering without a network: the sentence of the context that is most like the question."""

from __future__ import annotations

import re

import numpy as np

from tinybert_cli.baselines.base import Baseline, Training
from tinybert_cli.errors import InputError
from tinybert_cli.tasks import text_columns_of
from tinybert_cli.types import Array, Encoded, Predictions, Rows

_SENTENCE = re.compile(r"\S.*?(?:[.!?。！？]+[\"”’')\]]*(?=\s|$)|[。！？]|\n|$)", re.DOTALL)
_MARK = 10.0  # logit of the begin and of the end of the sentence; all others have 0


def best_sentence(training: Training, seed: int) -> Baseline:
    """The sentence with the highest cosine similarity of TF-IDF weights; the weights are from the training contexts.

    Raises:
        InputError: no context has any text.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    _, contexts = text_columns_of(training.rows, training.settings)
    vectorizer = TfidfVectorizer(token_pattern=r"(?u)[^\W_]+|[^\w\s]", sublinear_tf=True)
    try:
        vectorizer.fit(dict.fromkeys(contexts))
    except ValueError as error:  # an empty vocabulary
        raise InputError("the contexts of the training rows have no words") from error

    def compute(rows: Rows) -> Array:
        """Begin, end and similarity in per cent of the chosen sentence (N, 3)."""
        answers = np.zeros((len(rows), 3))
        for row, (question, context) in enumerate(zip(*text_columns_of(rows, training.settings), strict=True)):
            spans = [match.span() for match in _SENTENCE.finditer(context)]
            if not spans:
                continue
            sentences = vectorizer.transform([context[begin:end] for begin, end in spans])
            similarities = (sentences @ vectorizer.transform([question]).T).toarray()[:, 0]
            best = int(similarities.argmax())
            answers[row] = (*spans[best], similarities[best])
        return answers

    def decide(answers: Array, rows: Rows, encoded: Encoded) -> Predictions:
        _, contexts = text_columns_of(rows, training.settings)
        spans = answers[:, :2].astype(np.int64)
        values = [context[begin:end] for context, (begin, end) in zip(contexts, spans.tolist(), strict=True)]
        marks = training.task.align({"labels": spans}, None, encoded)["labels"]
        return Predictions(values, answers[:, 2], (marks * _MARK).astype(np.float32), encoded.layout, spans)

    return Baseline(compute, vectorizer, len(training.rows), decide)
