"""TF-IDF of words and pairs of words, with linear models of scikit-learn.

Shapes: N rows, C classes, V features. A row is one text or a pair of texts.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinybert_cli.baselines.base import Baseline, Training, log_probabilities, logit
from tinybert_cli.errors import InputError
from tinybert_cli.metrics.answer_texts import CJK
from tinybert_cli.tasks import missing, text_columns_of
from tinybert_cli.types import Array, Rows

MOST_CHARACTERS = 3_000_000  # of the training rows; with more, a random part of them is used, so that it takes seconds
MOST_FEATURES = 200_000
WORD = rf"(?u)[{CJK}]|[^\W_{CJK}]+|[^\w\s]"  # a Chinese or Japanese character is a word, and so is a mark
INVERSE_REGULARIZATION = 10.0  # C of LogisticRegression
MOST_WORK = 2_000_000_000  # features of all rows * classes * iterations of a fit: some 20 seconds
LEAST_ITERATIONS, MOST_ITERATIONS = 20, 1_000
MANY_CLASSES = 200  # with more, fewer rows are used, so that LEAST_ITERATIONS take no longer
LEAST_ROWS = 1_000  # from so many on, features that occur in one row only are left out


def classifier(training: Training, seed: int) -> Baseline:
    """Logistic regression on the features of `TextFeatures`."""
    training.task.check_trainable(training.labels[~missing(training.labels)], training.names, training.rows)
    rows, labels = _selected(training, ~missing(training.labels), seed)
    features = TextFeatures(len(training.settings.text_columns), len(rows))
    classes = len(np.unique(labels))
    model = _logistic_regression(
        features.fit(text_columns_of(rows, training.settings)), labels, 1 if classes == 2 else classes
    )

    def compute(own: Rows) -> Array:
        probabilities = np.zeros((len(own), len(training.names)))
        probabilities[:, model.classes_] = model.predict_proba(features(text_columns_of(own, training.settings)))
        return log_probabilities(probabilities)

    return Baseline(compute, (features, model), len(rows))


def multi_label_classifier(training: Training, seed: int) -> Baseline:
    """One logistic regression per label; a label that all rows have, or none, gets its share."""
    complete = np.asarray(~missing(training.labels).any(-1))
    rows, labels = _selected(training, complete, seed)
    features = TextFeatures(len(training.settings.text_columns), len(rows))
    values = features.fit(text_columns_of(rows, training.settings))
    models: list[Any] = [
        _logistic_regression(values, own, len(labels.T)) if np.ptp(own) else float(own[0]) for own in labels.T
    ]

    def compute(own: Rows) -> Array:
        values = features(text_columns_of(own, training.settings))
        columns = [
            np.full(len(own), model) if isinstance(model, float) else model.predict_proba(values)[:, 1]
            for model in models
        ]
        return logit(np.stack(columns, axis=1))

    return Baseline(compute, (features, models), len(rows))


def regressor(training: Training, seed: int) -> Baseline:
    """Ridge regression on the features; of a pair of texts, linear regression on their cosine similarity."""
    from sklearn.linear_model import LinearRegression, Ridge

    training.task.check_trainable(training.labels[~missing(training.labels)], training.names, training.rows)
    rows, labels = _selected(training, ~missing(training.labels), seed)
    pairs = len(training.settings.text_columns) == 2
    features = TextFeatures(len(training.settings.text_columns), len(rows), cosine_only=pairs)
    model = LinearRegression() if pairs else Ridge()
    model.fit(features.fit(text_columns_of(rows, training.settings)), labels.astype(np.float64))

    def compute(own: Rows) -> Array:
        values: Array = model.predict(features(text_columns_of(own, training.settings)))
        return values.astype(np.float32)[:, None]

    return Baseline(compute, (features, model), len(rows))


class TextFeatures:
    """Texts as sparse features (N, V).

    One text: its TF-IDF weights. A pair: those of both texts, their products, and their cosine similarity.
    """

    def __init__(self, texts: int, rows: int, *, cosine_only: bool = False) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        least = 2 if rows >= LEAST_ROWS else 1
        self.vectorizer = TfidfVectorizer(
            token_pattern=WORD, ngram_range=(1, 2), sublinear_tf=True, max_features=MOST_FEATURES, min_df=least
        )
        self.pairs = texts == 2
        self.cosine_only = cosine_only

    def fit(self, texts: Sequence[Sequence[str]]) -> Any:
        """Learns the vocabulary of all columns; returns their features.

        Raises:
            InputError: no row has any text, or, with LEAST_ROWS, none shares a word with another.
        """
        try:
            self.vectorizer.fit([text for column in texts for text in column])
        except ValueError as error:  # an empty vocabulary
            rare = self.vectorizer.min_df > 1
            raise InputError(
                "no word occurs in two training rows" if rare else "the training rows have no words"
            ) from error
        return self(texts)

    def __call__(self, texts: Sequence[Sequence[str]]) -> Any:
        from scipy.sparse import csr_array, hstack

        columns = [csr_array(self.vectorizer.transform(column)) for column in texts]
        if not self.pairs:
            return columns[0]
        first, second = columns
        products = first * second
        cosine = csr_array(products.sum(axis=1)[:, None])
        return cosine.toarray() if self.cosine_only else hstack([first, second, products, cosine], format="csr")


def _logistic_regression(values: Any, labels: Array, classes: int) -> Any:
    """Fitted to the end, or with as many iterations as MOST_WORK allows.

    Args:
        values: features (N, V).
        classes: number of weights of each feature, in this model and in those that are fitted beside it.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    iterations = MOST_WORK // max(1, values.nnz * classes)
    model = LogisticRegression(
        C=INVERSE_REGULARIZATION, max_iter=min(max(iterations, LEAST_ITERATIONS), MOST_ITERATIONS)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(values, labels)


def _selected(training: Training, labelled: Array, seed: int) -> tuple[Rows, Array]:
    """The labelled rows with their labels; a random part of them, if they have more than MOST_CHARACTERS.

    With more than MANY_CLASSES it is a smaller part. It has at least two classes.
    """
    most = MOST_CHARACTERS * min(1.0, MANY_CLASSES / len(training.names))
    indices = np.flatnonzero(labelled)
    texts = text_columns_of(training.rows, training.settings)
    characters = [np.fromiter(map(len, column), dtype=np.int64, count=len(column)) for column in texts]
    lengths = np.sum(characters, axis=0)[indices]
    if lengths.sum() > most:
        order = np.random.default_rng(seed).permutation(len(indices))
        count = max(1, int(np.searchsorted(np.cumsum(lengths[order]), most)))
        selected = order[:count]
        if training.task.output_type == "class":
            classes = training.labels[indices[order]]
            other = int(np.argmax(classes != classes[0]))  # one class alone cannot be learned
            selected = order[[*range(count), other]] if other >= count else selected
        indices = np.sort(indices[selected])
    return training.rows.select(indices.tolist()), training.labels[indices]
