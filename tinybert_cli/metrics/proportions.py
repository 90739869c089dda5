"""95 % intervals of proportions and of paired differences of proportions; they have a width near 0 and 1, too."""

from __future__ import annotations

import numpy as np

Z = 1.959964  # the standard normal deviate of a two-sided 95 % interval
Interval = tuple[float, float]


def wilson(hits: float, count: float) -> Interval:
    """The score interval of a proportion, `hits` of `count` (Wilson 1927)."""
    share, spread = min(1.0, hits / count), Z**2 / count
    centre = (share + spread / 2) / (1 + spread)
    width = Z * np.sqrt(share * (1 - share) / count + spread / (4 * count)) / (1 + spread)
    return (0.0 if hits == 0 else float(centre - width)), (1.0 if hits == count else float(centre + width))


def paired_difference(won: float, lost: float, count: float) -> Interval:
    """The interval of (won - lost) / count, half a row added to each cell of the 2 x 2 table (Agresti, Min 2005)."""
    won, lost, count = won + 0.5, lost + 0.5, count + 2
    difference = (won - lost) / count
    width = Z * float(np.sqrt(won + lost - (won - lost) ** 2 / count)) / count
    return max(-1.0, difference - width), min(1.0, difference + width)
