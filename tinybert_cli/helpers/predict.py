"""predict: predictions of a model folder, a Hub id or an export for some texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from tinybert_cli.predictor import load_predictor


def run(model: str, texts: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The model's output for each text, as they come; a tab in a text separates a pair.

    Raises:
        InputError: the model is missing or has no supported head, or a text is empty or not UTF-8.
    """
    yield from load_predictor(model).predict(texts)


def as_fields(output: dict[str, Any]) -> list[str]:
    """The prediction on one line, and its confidence if it has one."""
    prediction = output["prediction"]
    if isinstance(prediction, list):
        parts = [f"{part['text']}/{part['type']}" if isinstance(part, dict) else str(part) for part in prediction]
        prediction = ", ".join(parts)
    elif isinstance(prediction, float):
        prediction = f"{prediction:.4f}"
    return [prediction or "-", *([f"{output['confidence']:.4f}"] if "confidence" in output else [])]
