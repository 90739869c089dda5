"""Entities out of tags: which words belong together, by the scheme that the names of the tags are in."""

from __future__ import annotations

from collections.abc import Sequence

OUTSIDE = "O"
_INSIDE, _LAST, _ALONE = "I", ("E", "L"), ("S", "U")

_PREFIXES = frozenset(f"{letter}-" for letter in "BIELSU")

Entity = tuple[str, int, int]  # what it is, its first word, and the first word after it


def entities(tags: Sequence[str], *, prefixed: bool, outside: bool) -> list[Entity]:
    """The entities of a row of tags.

    As conlleval has it, an I- after another kind, or after nothing, begins an entity.

    Args:
        prefixed: the tags are IOB, IOB2, BIOES or BILOU: B-PER, I-PER, ...
        outside: there is a tag O for words that belong to none. Without prefixes, words of one tag in a row are one
            entity then; else each word is one of its own, as in part-of-speech tagging.
    """
    found: list[Entity] = []
    kind, begin = None, 0  # the entity that is open
    for place, tag in enumerate([*tags, OUTSIDE]):
        prefix, _, name = tag.partition("-") if prefixed else ("", "", tag)
        if not name or (tag == OUTSIDE and (outside or place == len(tags))):
            prefix, name = "", ""
        ends = kind is not None and (name != kind or (prefix not in (_INSIDE, *_LAST) if prefixed else not outside))
        if ends or (kind is not None and not name):
            found.append((str(kind), begin, place))
            kind = None
        if name and kind is None:
            kind, begin = name, place
        if kind is not None and prefix in (*_LAST, *_ALONE):
            found.append((kind, begin, place + 1))
            kind = None
    return found


def inside_only(tags: Sequence[str]) -> int:
    """Entities of prefixed tags that begin with an I-, or end before they began: read as conlleval reads them."""
    return sum(tags[begin][:1] in (_INSIDE, *_LAST) for _, begin, _ in entities(tags, prefixed=True, outside=True))


def mixed(names: Sequence[str]) -> tuple[list[str], str] | None:
    """The prefixes of a scheme that some names are in, and a name that is not; None if all are, or none."""
    marked = [name for name in names if name != OUTSIDE]
    prefixed = [name for name in marked if name[:2] in _PREFIXES]
    others = [name for name in marked if name[:2] not in _PREFIXES]
    several = len({name[2:] for name in prefixed}) < len(prefixed)  # B-PER and I-PER: no accident
    return (sorted({name[:2] for name in prefixed}), others[0]) if several and others else None


def kinds_of(names: Sequence[str]) -> tuple[list[str], bool, bool]:
    """What entities there may be, and how their tags are to be read: prefixed, outside."""
    outside = OUTSIDE in names
    marked = [name for name in names if name != OUTSIDE]
    prefixed = bool(marked) and all(name[:2] in _PREFIXES for name in marked)
    return sorted({name[2:] if prefixed else name for name in marked}), prefixed, outside
