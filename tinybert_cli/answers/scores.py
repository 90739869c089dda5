"""Labels with scores, in the forms that pipelines of transformers and LLMs write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tinybert_cli.answers.base import is_empty

SCORES = ("score", "confidence", "probability")
DISTRIBUTIONS = ("scores", "confidences", "probabilities", "probs")  # keys of a number for each label

Scores = Sequence[tuple[Any, Any]]  # label and number, as they are in the file


def unwrapped(value: Any) -> Any:
    """The list or the mapping in a list of nothing else, as pipelines write the labels of one text; other values
    unchanged."""
    while isinstance(value, list) and len(value) == 1 and isinstance(value[0], (list, Mapping)) and value[0]:
        value = value[0]
    return value


def listed_scores(value: Any) -> Scores | None:
    """Label and score of each item of a list such as [{"label": "negative", "score": 0.2}, ...], or of both lists in
    {"labels": ["negative", ...], "scores": [0.2, ...]}; None for others."""
    if isinstance(value, Mapping):
        labels, scores = value.get("labels"), value.get("scores")
        are_pairs = isinstance(labels, list) and isinstance(scores, list) and 0 < len(labels) == len(scores)
        return list(zip(labels, scores, strict=True)) if are_pairs else None  # type: ignore[arg-type]
    if not (isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value)):
        return None
    pairs = [(item.get("label"), score_of(item)) for item in value]
    return None if any(label is None or score is None for label, score in pairs) else pairs


def score_of(item: Mapping[Any, Any]) -> Any:
    """The score beside a label; None if there is none."""
    return next((item[key] for key in SCORES if item.get(key) is not None), None)


def has_no_value(value: Any) -> bool:
    """Whether a mapping is empty, or has no number at all, as a row of empty cells."""
    return isinstance(value, Mapping) and all(map(is_empty, value.values()))
