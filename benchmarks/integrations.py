"""An export in spaCy and in flair next to plain pipelines: seconds of CPU to load it, and texts per second of CPU.

    .venv/bin/python benchmarks/integrations.py spacy EXPORT          # after make test-spacy
    .venv-transformers4/bin/python benchmarks/integrations.py flair EXPORT MODEL    # after make test-flair

The plain pipelines have untrained weights of the default size, which does not change their speed: spaCy's bag-of-words
and CNN text classifiers, and flair's TextClassifier over the embeddings of MODEL, a model folder of the same shape as
the export (the folder that it was made from).
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROUNDS, TEXTS = 5, 200
WORDS = ["the", "a", "film", "plot", "cast", "was", "very", "lovely", "dull", "and", "but", "with", "great", "story"]


def texts() -> list[str]:
    draw = random.Random(0)
    return [" ".join(draw.choices(WORDS, k=draw.randint(5, 30))) for _ in range(TEXTS)]


def compare(runs: dict[str, Callable[[list[str]], Any]]) -> None:
    """Prints the median texts per second of each, and its ratio to the first; rounds take turns."""
    given, seconds = texts(), {name: [] for name in runs}
    for run in runs.values():
        run(given[:20])
    for _ in range(ROUNDS):
        for name, run in runs.items():
            begin = time.process_time()
            run(given)
            seconds[name].append(time.process_time() - begin)
    first = statistics.median(next(iter(seconds.values())))
    for name, times in seconds.items():
        median = statistics.median(times)
        print(f"{name:44} {TEXTS / median:8.0f} texts/s  {first / median:5.2f}x the first")


def spacy_pipelines(export: Path) -> None:
    begin = time.process_time()
    import spacy

    import tinybert_cli.integrations.spacy  # noqa: F401  also where the package is not installed

    imported = time.process_time()
    ours = spacy.blank("en")
    ours.add_pipe("tinybert", config={"model": str(export)})
    ours("a lovely film")
    print(f"import {imported - begin:.2f} s, load and first answer {time.process_time() - imported:.2f} s")
    plain = {}
    for architecture in ("TextCatBOW.v3", "TextCatCNN.v2"):
        nlp = spacy.blank("en")
        model = {"@architectures": f"spacy.{architecture}", "exclusive_classes": True}
        if architecture == "TextCatBOW.v3":
            model |= {"ngram_size": 1, "no_output_layer": False}
        else:
            model["tok2vec"] = {
                "@architectures": "spacy.HashEmbedCNN.v2", "pretrained_vectors": None, "width": 96, "depth": 4,
                "embed_size": 2000, "window_size": 1, "maxout_pieces": 3, "subword_features": True,
            }  # fmt: skip
        textcat = nlp.add_pipe("textcat", config={"model": model})
        textcat.add_label("good")
        textcat.add_label("bad")
        nlp.initialize()
        plain[f"spacy.{architecture}"] = nlp
    compare({name: lambda given, nlp=nlp: list(nlp.pipe(given)) for name, nlp in {"tinybert": ours, **plain}.items()})


def flair_models(export: Path, model: Path) -> None:
    begin = time.process_time()
    from flair.data import Dictionary, Sentence
    from flair.embeddings import TransformerDocumentEmbeddings
    from flair.models import TextClassifier

    from tinybert.flair import Model

    imported = time.process_time()
    ours = Model(export)
    ours.predict(Sentence("a lovely film"))
    print(f"import {imported - begin:.2f} s, load and first answer {time.process_time() - imported:.2f} s")
    labels = Dictionary(add_unk=False)
    labels.add_item("good")
    labels.add_item("bad")
    plain = TextClassifier(TransformerDocumentEmbeddings(str(model)), label_type="class", label_dictionary=labels)
    runs = {"tinybert": ours.predict, "flair TextClassifier over the same model": plain.predict}
    compare({name: lambda given, run=run: run([Sentence(text) for text in given]) for name, run in runs.items()})


if __name__ == "__main__":
    library, *folders = sys.argv[1:]
    {"spacy": spacy_pipelines, "flair": flair_models}[library](*map(Path, folders))
