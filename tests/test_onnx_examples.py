"""The lines of Python in the cards of ONNX exports: tags are read as `metrics.entities` reads them."""

from __future__ import annotations

import random
import re
from typing import Any

import numpy as np
import pytest

from tinybert_cli.metrics.entities import entities, scheme_of
from tinybert_cli.tasks.onnx_examples import entities_example

SCHEMES = {
    "BIO": ["O", "B-X", "I-X", "B-Y", "I-Y"],
    "BIOES": ["O", "B-X", "I-X", "E-X", "S-X", "B-Y", "E-Y"],
    "BILOU": ["O", "B-X", "I-X", "L-X", "U-X", "U-Y"],
    "BMEWO": ["O", "B-X", "M-X", "E-X", "W-X"],
    "types": ["O", "PER", "LOC"],
    "words": ["NOUN", "VERB", "B-side"],
}


def read(names: list[str], tags: list[str]) -> list[tuple[str, int, int]]:
    """The entities by the lines of the example: type, first and last character."""
    lines = entities_example(names, r"\w")
    loop = re.search(r"^entities, inside = .*?(?=^for entity in entities)", lines, re.DOTALL | re.MULTILINE)
    assert loop
    scope: dict[str, Any] = {"labels": names, "words": list(re.finditer(r"\w", "a" * len(tags)))}
    scope["probabilities"] = np.eye(len(names))[[names.index(tag) for tag in tags]]
    exec(loop[0], scope)
    return [(entity["type"], entity["begin"], entity["end"]) for entity in scope["entities"]]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_tags_of_every_scheme_are_read_as_by_the_metric(scheme: str) -> None:
    names, draw = SCHEMES[scheme], random.Random(0)
    _, prefixed, outside = scheme_of(names)
    for length in range(1, 9):
        for _ in range(60):
            tags = draw.choices(names, k=length)
            assert read(names, tags) == entities(tags, prefixed=prefixed, outside=outside), tags
