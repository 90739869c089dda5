"""The label that an answer in free text names, such as `The answer is: positive.`; none rather than a guess.

An answer is understood in one of these forms, whatever its case, punctuation and Markdown:

1. It is a label: `**Positive**.`
2. Its first sentence is a label: `Positive. The reviewer praises the cast.`
3. Its last line states the label after a colon, or after a word such as answer, label or category and a verb:
   `Sentiment: positive`, `The answer is positive.`
4. It is JSON with one value that is a label: `{"sentiment": "positive", "reason": "..."}`. If it has the key `label` or
   `answer`, its value must be the label.

In the forms 2 and 3 the answer must not name another label, unless the last line begins with `answer`: then what comes
before is reasoning. A question, a negation or a hedge beside the label names none.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping

from tinybert_cli.answers import json_texts
from tinybert_cli.label_values import shape

LONGEST = 10_000  # characters that are read of an answer
STATING = ("label", "answer")  # keys of an object whose value is the label, or none is

_CUE = (
    r"(?:final |correct |best |overall |my |the )*"
    r"(?:answer|label|class|category|classification|sentiment|prediction|verdict|result|output|decision|rating)"
)
_STATED = re.compile(rf"(?:.*\b)?(?P<cue>{_CUE})(?: (?:is|was|would be|should be))?[:=]? ?(?P<label>[^:=]*)")
_AFTER_COLON = re.compile(r"[^:=]{1,60}[:=](?P<label>[^:=]*)")
_FINAL = re.compile(rf"(?:so |therefore |thus |hence |in conclusion )*{_CUE}\b")
_DOUBT = re.compile(
    r"\b(?:not|no|nor|neither|never|cannot|can ?not|\w+n['’]t|unclear|unsure|uncertain|unknown|ambiguous|maybe|perhaps|"
    r"might|may|could|possibly|either|whether|if|or|difficult|hard to|mixed|both|between|unlikely|hardly|barely|"
    r"doubt\w*|wrong|false|incorrect|disagree)\b|\?"
)
_HEDGE = re.compile(
    r"\b(?:maybe|perhaps|possibly|probably|unclear|unsure|uncertain|ambiguous|not (?:sure|certain|clear|really|quite)|"
    r"(?:hard|difficult) to (?:say|tell)|(?:might|may|could) (?:also )?be)\b|\?"
)
_UNSURE = re.compile(
    r"\bi(?:['’]m| am) (?:not (?:sure|certain)|unsure|uncertain|unable)\b|"
    r"\bi (?:can ?not|can['’]t|do not|don['’]t) (?:know|say|tell|judge|decide|determine|answer|classify|help|assist)\b"
)
_END = re.compile(r"[.!;](?:\s|$)")
_SENTENCE = re.compile(r"(?<=[^\W_])\s*(?:[!;\n(]|(?:[.,]|\s[-\u2013\u2014]\s|[\u2013\u2014])(?!\d))")  # not within 4.7


class LabelMatcher:
    """Finds the label of an answer.

    Args:
        labels: what labels are called → their names; several may have one name.
    """

    def __init__(self, labels: Mapping[str, str]) -> None:
        shapes: dict[str, set[str]] = {}
        for label, name in labels.items():
            shapes.setdefault(_bare(label), set()).add(name)
        self._names = {label: names.pop() for label, names in shapes.items() if label and len(names) == 1}
        longest_first = sorted(self._names, key=len, reverse=True)
        self._mention = re.compile("|".join(rf"(?<!\w){re.escape(label)}(?!\w)" for label in longest_first) or r"(?!)")

    def name(self, answer: str) -> str | None:
        """The name of the label; None if there is none, or if it is not clear."""
        text = json_texts.without_fence(answer[:LONGEST])
        try:
            own = self._of_json(json_texts.loads(text))
        except json_texts.RepeatedKey:
            return None
        except (ValueError, RecursionError):  # no JSON
            own = None
        if own is not None:
            return own
        whole = self._names.get(_bare(text))
        if whole is not None:
            return whole
        lines = [line for line in map(_plain, text.splitlines()) if line]
        if not lines:
            return None
        return self._of_last_line(lines) or self._of_first_sentence(lines)

    def _of_json(self, value: object) -> str | None:
        values: Iterable[object] = [value]
        if isinstance(value, dict):
            values = next(([value[key]] for key in STATING if key in value), value.values())
        names = [self._names.get(_bare(item)) for item in values if isinstance(item, str)]
        known = [name for name in names if name is not None]
        return known[0] if len(known) == 1 else None

    def _of_last_line(self, lines: list[str]) -> str | None:
        last = lines[-1]
        stated = _STATED.fullmatch(last)
        candidates = [match for match in (stated, _AFTER_COLON.fullmatch(last)) if match is not None]
        name = self._first_name(match["label"] for match in candidates)
        if name is None or _DOUBT.search(self._without_labels(last)):
            return None
        read = [last] if _FINAL.match(last) and stated is not None else lines
        return name if self._mentioned(read) <= {name} else None

    def _of_first_sentence(self, lines: list[str]) -> str | None:
        first = _SENTENCE.split(lines[0], maxsplit=1)[0]
        name = self._names.get(_bare(first))
        rest = self._without_labels(_END.split(lines[0][len(first) :], maxsplit=1)[0])
        if name is None or _HEDGE.search(rest) or any(map(_UNSURE.search, lines)):
            return None
        return name if self._mentioned(lines) <= {name} else None

    def _first_name(self, texts: Iterable[str]) -> str | None:
        return next((name for text in texts if (name := self._names.get(_bare(text))) is not None), None)

    def _mentioned(self, lines: Iterable[str]) -> set[str]:
        return {self._names[match[0]] for line in lines for match in self._mention.finditer(line)}

    def _without_labels(self, line: str) -> str:
        """A label may be a word of doubt itself: `no`, `unknown`, `mixed`."""
        return self._mention.sub(" ", line)


def label_index(names: Mapping[str, str], labels: Callable[[object], int | None]) -> Callable[[object], int | None]:
    """A function from a label as the answers write it to the index of its class: a key of `names`, or a label."""
    by_bare: dict[str, set[str]] = {}
    for label, name in names.items():
        by_bare.setdefault(_bare(label), set()).add(name)
    bare = {label: own.pop() for label, own in by_bare.items() if len(own) == 1}
    known: dict[tuple[type, object], int | None] = {}

    def index_of(value: object) -> int | None:
        if not isinstance(value, str | int | float):
            return None
        key = (type(value), value)
        if key not in known:
            text = str(value).lower() if isinstance(value, bool) else str(value)
            name = names.get(text)
            if name is None and bare and len(text) <= LONGEST:
                name = bare.get(_bare(text))
            known[key] = labels(value if name is None else name)
        return known[key]

    return index_of


def _plain(line: str) -> str:
    """A line without case, Markdown, quotes and white space around it."""
    text = unicodedata.normalize("NFKC", line)
    text = re.sub(r"[*`#>\"“”„«»]|(?<!\w)_|_(?!\w)|(?<!\w)['‘’]|['‘’](?!\w)", "", text)
    return " ".join(text.casefold().split())


def _bare(text: str) -> str:
    """A label without case and the punctuation around it; a label of punctuation only, such as +, as it is."""
    plain = _plain(text)
    stripped = _strip_punctuation(plain)
    return shape(stripped or plain)


def _strip_punctuation(text: str) -> str:
    begin, end = 0, len(text)
    while begin < end and _is_around(text[begin]):
        begin += 1
    while begin < end and _is_around(text[end - 1]):
        end -= 1
    return text[begin:end]


def _is_around(letter: str) -> bool:
    return letter.isspace() or (unicodedata.category(letter)[0] == "P" and letter not in "+-#@&%/\\")
