"""The lines of Python that use an ONNX export with onnxruntime and tokenizers alone, shown in its model card.

They are in its folder as example.py, which finds the other files from any working directory.
"""

from __future__ import annotations

from collections.abc import Sequence

from tinybert_cli.metrics.entities import INSIDE, LAST, OUTSIDE, SINGLE, scheme_of

HEAD = '''\
import json
from pathlib import Path

import numpy as np
import onnxruntime
import tokenizers

folder = Path(__file__).parent
config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
labels = [config["id2label"][key] for key in sorted(config["id2label"], key=int)]
tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
tokenizer.enable_padding(pad_id=config.get("pad_token_id") or 0)
session = onnxruntime.InferenceSession(str(folder / "{file}"))


def run(rows):
    """The outputs of the model for encoded texts."""
    values = {{"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}}
    names = [node.name for node in session.get_inputs()]
    return session.run(None, {{name: np.array([getattr(row, values[name]) for row in rows]) for name in names}})


'''

TEXTS = 'texts = ["Better than it looks.", "It looks bad."]\n'
PAIRS = 'texts = [("Better than it looks.", "It looks bad."), ("It looks bad.", "It is not good.")]\n'

CLASS = """\
(logits,) = run(tokenizer.encode_batch(texts))
probabilities = np.exp(logits - logits.max(-1, keepdims=True))
probabilities /= probabilities.sum(-1, keepdims=True)
for text, row in zip(texts, probabilities):
    print(text, labels[row.argmax()], dict(zip(labels, row.round(4).tolist())), sep="\\t")
"""

CLASSES = """\
(logits,) = run(tokenizer.encode_batch(texts))
thresholds = config.get("{thresholds}") or [0.5] * len(labels)
for text, row in zip(texts, 1 / (1 + np.exp(-logits))):
    predicted = [label for label, value, least in zip(labels, row, thresholds) if value >= least]
    print(text, predicted, dict(zip(labels, row.round(4).tolist())), sep="\\t")
"""

VALUE = """\
(logits,) = run(tokenizer.encode_batch(texts))
for text, row in zip(texts, logits):
    print(text, float(row[0]), sep="\\t")
"""

ENTITIES = """\
text = "Ada wrote it in London."  # tinybert splits long texts into windows, these lines do not
words = list(re.finditer({words}, text))
row = tokenizer.encode(" ".join(word.group() for word in words))
starts = np.cumsum([0, *(len(word.group()) + 1 for word in words[:-1])])
first = [next((token for token, (_, end) in enumerate(row.offsets) if end > start), -2) for start in starts]
(logits,) = run([row])
probabilities = np.exp(logits[0, first] - logits[0, first].max(-1, keepdims=True))
probabilities /= probabilities.sum(-1, keepdims=True)
entities, inside = [], ""  # the type of an entity that the next word may continue
for word, scores in zip(words, probabilities):
    tag = labels[scores.argmax()]
    {split}
    if kind and kind == inside{continues}:
        entities[-1]["end"] = word.end()
        entities[-1]["scores"].append(float(scores.max()))
    elif kind:
        entities.append(
            {{"type": kind, "begin": word.start(), "end": word.end(), "scores": [float(scores.max())]}}
        )
    inside = {inside}
for entity in entities:
    entity["score"] = float(np.mean(entity.pop("scores")))
    print(text[entity["begin"] : entity["end"]], entity, sep="\\t")
"""

ANSWER = """\
question, context = "Who wrote it?", "It was written by Ada in 1843."
overlap = min({stride}, {length} // 2 - 1 - tokenizer.num_special_tokens_to_add(True))
tokenizer.enable_truncation({length}, stride=max(0, overlap), strategy="only_second")
row = tokenizer.encode(question, context)
windows = [row, *row.overflowing]
begin_logits, end_logits = run(windows)
spans = [
    (begin_logits[number, first] + end_logits[number, last], window.offsets[first][0], window.offsets[last][1])
    for number, window in enumerate(windows)
    for first in range(len(window.ids))
    for last in range(first, min(first + {longest}, len(window.ids)))
    if window.sequence_ids[first] == window.sequence_ids[last] == 1
]
score, begin, end = max(spans)
no_answer = (begin_logits[:, 0] + end_logits[:, 0]).min() - score > (config.get("{threshold}") or 0)
print("no answer" if no_answer else context[begin:end], begin, end, sep="\\t")
"""


def text_example(decode: str, *, pair: bool) -> str:
    """The lines after HEAD for a task with one prediction per text, or pair of texts."""
    return (PAIRS if pair else TEXTS) + decode


def entities_example(names: Sequence[str], words: str) -> str:
    """The lines after HEAD for tags of words.

    Args:
        names: the tags; `words`: the regular expression of a word.
    """
    _, prefixed, outside = scheme_of(names)
    if prefixed:
        split, continues = 'prefix, _, kind = tag.partition("-")', f' and prefix in "{"".join(INSIDE + LAST)}"'
        inside = f'"" if prefix in "{"".join(LAST + SINGLE)}" else kind'
    else:
        split = f'kind = "" if tag == "{OUTSIDE}" else tag' if outside else "kind = tag"
        continues, inside = "", "kind" if outside else '""'
    lines = ENTITIES.format(words=ascii(words), split=split, continues=continues, inside=inside)
    return f"import re\n\n{lines}"
