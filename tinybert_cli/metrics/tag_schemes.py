"""Tags that look like a scheme of named entities without being one, such as B_PER, PER-B, b-per or OTHER for O."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from tinybert_cli.metrics.entities import OUTSIDE, PREFIXES

_LETTERS = "BIELSUMW"
_SCHEMES = [set("BIES"), set("BILU"), set("BMEW"), set("BMES")]  # BIO and IOB1 are in the first two
_PREFIXED = re.compile(rf"([{_LETTERS}])(?:[^\w\s]|[_\s])+(.+)", re.IGNORECASE | re.DOTALL)
_SUFFIXED = re.compile(rf"(.+?)(?:[^\w\s]|[_\s])+([{_LETTERS}])", re.IGNORECASE | re.DOTALL)
_OUTSIDE_WORDS = {"o", "0", "other", "others", "outside", "out", "none", "null", "nil", "no", "background", "b-o"}
_ONLY_TYPE = "ENTITY"


@dataclass(frozen=True)
class SchemeProblem:
    """Why tags cannot be read as entities, and the tags that they seem to mean."""

    what: str
    standard: dict[str, str] = field(default_factory=dict)  # tag → tag of BIO or BIOES; empty if that is unclear


def scheme_problem(names: Sequence[str]) -> SchemeProblem | None:
    """What is wrong with tags that look like entities; None for BIO, IOB1, BIOES, BILOU, BMEWO and tags of words."""
    marked = [name for name in names if name != OUTSIDE]
    prefixed = [name for name in marked if name[:2] in PREFIXES and len(name) > 2]
    if marked and len(prefixed) == len(marked):
        return _problem_of_letters({name[0] for name in prefixed})
    outside = {name: OUTSIDE for name in marked if name.strip().casefold() in _OUTSIDE_WORDS}
    others = [name for name in marked if name not in outside]
    standard = _standard_tags(others, outside=OUTSIDE in names or bool(outside))
    if standard is not None:
        wrong = next((name for name in others if standard[name] != name), None) or next(iter(outside))
        return SchemeProblem(
            f"the tag '{wrong}' is none of BIO or BIOES",
            {**standard, **outside, **dict.fromkeys(set(names) & {OUTSIDE}, OUTSIDE)},
        )
    if len({name[2:] for name in prefixed}) < len(prefixed):  # B-PER and I-PER: no accident
        other = next(name for name in marked if name not in prefixed)
        letters = ", ".join(sorted({name[:2] for name in prefixed}))
        return SchemeProblem(
            f"tags in two schemes: some begin with {letters}, so that entities have a first word, and {other} does not"
        )
    if outside and OUTSIDE not in names and len(names) > 1:
        return SchemeProblem(
            f"'{next(iter(outside))}' seems to stand for words outside of entities, which are tagged O",
            {**{name: name for name in others}, **outside},
        )
    return None


def _problem_of_letters(letters: set[str]) -> SchemeProblem | None:
    if any(letters <= scheme for scheme in _SCHEMES):
        return None
    return SchemeProblem(
        f"tags in two schemes: {', '.join(sorted(f'{letter}-' for letter in letters))} do not occur together in BIO, "
        "BIOES, BILOU or BMEWO"
    )


def _standard_tags(names: Sequence[str], *, outside: bool) -> dict[str, str] | None:
    """The tags of BIO or BIOES that names in another spelling seem to mean; None if it is not clear.

    Args:
        names: all tags but O; `outside`: whether there is an O.
    """
    if not names:
        return None
    stripped = {name: name.strip() for name in names}
    if all(len(name) == 1 and name.upper() in _LETTERS for name in stripped.values()):
        letters = {name: stripped[name].upper() for name in names}
        first = set(letters.values()) & {"B", "I"}
        return {name: f"{letter}-{_ONLY_TYPE}" for name, letter in letters.items()} if first and outside else None
    for pattern, letter, kind in ((_PREFIXED, 1, 2), (_SUFFIXED, 2, 1)):
        matches = {name: pattern.fullmatch(text) for name, text in stripped.items()}
        pairs = {name: (match[letter].upper(), match[kind]) for name, match in matches.items() if match is not None}
        several = len({kind.casefold() for _, kind in pairs.values()}) < len(pairs)
        if len(pairs) == len(names) and (several or (outside and pattern is _PREFIXED)):
            return {name: f"{letter}-{kind}" for name, (letter, kind) in pairs.items()}
    return None
