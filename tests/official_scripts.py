"""The official evaluation scripts of CoNLL-2000 (conlleval) and SQuAD 2.0, written once more as references for tests."""

from __future__ import annotations

import collections
import re
import string


def conlleval(gold: list[list[str]], predicted: list[list[str]]) -> tuple[int, int, int]:
    """Right, predicted and gold chunks as the Perl script counts them: a chunk is right if it begins and ends with it."""

    def ends(before: str, tag: str) -> bool:
        return before[0] in "ES" or (before[0] in "BI" and (tag[0] in "BSO" or before[2:] != tag[2:]))

    def begins(before: str, tag: str) -> bool:
        return tag[0] in "BS" or (tag[0] in "IE" and (before[0] in "ESO" or before[2:] != tag[2:]))

    right = predicted_count = gold_count = 0
    is_equal = False
    tags, gold_tags = ([tag for row in rows for tag in [*row, "O"]] for rows in (predicted, gold))
    for index, (tag, gold_tag) in enumerate(zip(tags, gold_tags, strict=True)):
        before, gold_before = (values[index - 1] if index else "O" for values in (tags, gold_tags))
        if is_equal:
            both = ends(before, tag) + ends(gold_before, gold_tag)
            if both == 2:
                right, is_equal = right + 1, False
            elif both or tag[2:] != gold_tag[2:]:
                is_equal = False
        starts = begins(before, tag), begins(gold_before, gold_tag)
        is_equal = is_equal or (all(starts) and tag[2:] == gold_tag[2:])
        predicted_count, gold_count = predicted_count + starts[0], gold_count + starts[1]
    return right, predicted_count, gold_count


def squad(answer: str, gold: list[str]) -> tuple[float, float]:
    """Exact match and F1 of one row, as in evaluate-v2.0.py."""

    def words(text: str) -> list[str]:
        plain = "".join(character for character in text.lower() if character not in set(string.punctuation))
        return re.sub(r"\b(a|an|the)\b", " ", plain).split()

    def f1(reference: list[str], predicted: list[str]) -> float:
        if not reference or not predicted:
            return float(reference == predicted)
        same = sum((collections.Counter(reference) & collections.Counter(predicted)).values())
        if not same:
            return 0.0
        precision, recall = same / len(predicted), same / len(reference)
        return 2 * precision * recall / (precision + recall)

    references = [words(text) for text in gold if words(text)] or [[]]
    predicted = words(answer)
    return max(float(predicted == words) for words in references), max(f1(words, predicted) for words in references)
