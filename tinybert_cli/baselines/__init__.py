"""Baselines: what counting words reaches on the same rows, fitted on the training rows in seconds, without a network.

A model that is no better than its baseline is not worth its cost. `eval` scores them beside the models.
"""

from __future__ import annotations

from collections.abc import Mapping

from tinybert_cli.baselines.answers import best_sentence
from tinybert_cli.baselines.base import Baseline, Fit, Training
from tinybert_cli.baselines.constants import majority, mean
from tinybert_cli.baselines.tags import dictionary
from tinybert_cli.baselines.tfidf import classifier, multi_label_classifier, regressor
from tinybert_cli.tasks import PredictionTask

BASELINES: Mapping[str, Mapping[str, Fit]] = {
    "text-classification": {"majority": majority, "tfidf": classifier},
    "multi-label-classification": {"majority": majority, "tfidf": multi_label_classifier},
    "regression": {"mean": mean, "tfidf": regressor},
    "token-classification": {"majority": majority, "dictionary": dictionary},
    "question-answering": {"best-sentence": best_sentence},
}


def names(task: PredictionTask) -> list[str]:
    """The baselines of a task."""
    return list(BASELINES.get(task.name, {}))


__all__ = ["BASELINES", "Baseline", "Fit", "Training", "names"]
