"""Writes the sentences of configs/made-up: English and a made-up language, for the tests and a first cascade.

    python experiments/made_up_language.py configs/made-up/sentences

In the made-up language a noun has one of two genders, which article and adjective follow; an adjective comes after its
noun; the verb comes at the end. No source sentence occurs twice, in any of the files.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

ROWS = {"train": 4000, "validation": 300, "test": 300}
SEED = 17
ONSETS, VOWELS, CODAS = "ptkbdgmnlsrvzf", "aeiou", ["", "n", "r", "l", "s", "k"]
ARTICLES = {"the": ("lo", "la"), "a": ("un", "una"), "this": ("kest", "kesta"), "every": ("onni", "onna")}
PREPOSITIONS = {"near": "apu", "behind": "deru", "under": "sotu", "with": "konu", "above": "sopu", "before": "antu"}
NOUNS = (
    "man woman boy girl child dog cat horse bird fish farmer teacher doctor baker king queen soldier sailor singer "
    "painter house river tree garden street bridge tower market forest mountain table chair window door lamp book "
    "letter picture song story apple bread cheese cake soup flower stone boat wagon bicycle ball hat coat shoe ring "
    "clock mirror knife spoon basket bottle candle blanket pillow hammer ladder fence gate well road field hill lake "
    "island cloud star moon storm fire winter summer morning evening village city school church castle kitchen roof "
    "wall floor box bag key coin drum bell flag map"
)
ADJECTIVES = (
    "old young big small red green blue white black yellow tall short heavy light warm cold quiet loud happy sad fast "
    "slow clean dirty new strong weak round long dark bright soft hard sweet bitter rich poor kind brave lazy wise "
    "tired hungry famous empty full broken hidden lost strange"
)
VERBS = (
    "sees likes finds carries paints follows hears builds breaks buys sells opens closes cleans draws watches needs "
    "loses wants helps calls visits remembers forgets hides lifts pulls pushes washes moves"
)
ADVERBS = "today often slowly quickly never always here there again alone"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    draw = random.Random(SEED)
    language = Language(draw)
    written: set[str] = set()
    for split, count in ROWS.items():
        rows = []
        while len(rows) < count:
            source, target = language.sentence(draw)
            if source not in written:
                written.add(source)
                rows.append({"english": source, "made_up": target})
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")


class Language:
    """A dictionary, and the sentences of both languages."""

    def __init__(self, draw: random.Random) -> None:
        words: set[str] = set()

        def new(syllables: int, ending: str) -> str:
            while True:
                parts = [draw.choice(ONSETS) + draw.choice(VOWELS) + draw.choice(CODAS) for _ in range(syllables)]
                word = "".join(parts).rstrip(VOWELS) + ending
                if word not in words and len(word) > 3:
                    words.add(word)
                    return word

        self.gender = {noun: draw.random() < 0.5 for noun in NOUNS.split()}
        self.nouns = {noun: new(2, "a" if self.gender[noun] else "o") for noun in NOUNS.split()}
        self.adjectives = {adjective: new(2, "") for adjective in ADJECTIVES.split()}
        self.verbs = {verb: new(2, "et") for verb in VERBS.split()}
        self.adverbs = {adverb: new(2, "im") for adverb in ADVERBS.split()}

    def sentence(self, draw: random.Random) -> tuple[str, str]:
        subject, target_subject = self._noun_phrase(draw)
        verb = draw.choice(VERBS.split())
        object_, target_object = self._noun_phrase(draw)
        source, target = [*subject, verb, *object_], [*target_subject, *target_object]
        if draw.random() < 0.4:
            preposition = draw.choice(list(PREPOSITIONS))
            phrase, target_phrase = self._noun_phrase(draw)
            source += [preposition, *phrase]
            target += [PREPOSITIONS[preposition], *target_phrase]
        if draw.random() < 0.3:
            adverb = draw.choice(ADVERBS.split())
            source.append(adverb)
            target.append(self.adverbs[adverb])
        return _written(source), _written([*target, self.verbs[verb]])

    def _noun_phrase(self, draw: random.Random) -> tuple[list[str], list[str]]:
        article, noun = draw.choice(list(ARTICLES)), draw.choice(NOUNS.split())
        female = self.gender[noun]
        adjectives = draw.sample(ADJECTIVES.split(), draw.choice([0, 1, 1, 2]))
        translated = [self.adjectives[adjective] + ("a" if female else "o") for adjective in adjectives]
        return [article, *adjectives, noun], [ARTICLES[article][female], self.nouns[noun], *translated]


def _written(words: list[str]) -> str:
    text = " ".join(words)
    return f"{text[0].upper()}{text[1:]}."


if __name__ == "__main__":
    main()
