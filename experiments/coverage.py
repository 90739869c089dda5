"""How often do 95 % intervals contain the true value? Simulated models with a known accuracy, or difference.

    python experiments/coverage.py

Wilson's interval and the bootstrap for a proportion, Agresti and Min's interval and the bootstrap for a paired
difference, and the bootstrap for the calibration error of a calibrated model, whose true value is 0.
"""

from __future__ import annotations

import numpy as np

from tinybert_cli.metrics.calibration import calibration_error, gaps_by_bin
from tinybert_cli.metrics.proportions import Interval, paired_difference, wilson

SETS, RESAMPLES = 2000, 1000  # simulated evaluation sets, and resamples of each
ROWS = (20, 100, 872)
SHARES = (0.8, 0.95, 0.99)
PAIRS = ((0.05, 0.05), (0.03, 0.01), (0.005, 0.005))  # rows that only one model, or only the other, gets right


def coverage(intervals: list[Interval], true: float) -> float:
    """The share of intervals that contain the true value."""
    return float(np.mean([low <= true <= high for low, high in intervals]))


def proportion(rows: int, share: float, random: np.random.Generator) -> tuple[float, float]:
    """Coverage of Wilson's interval and of the bootstrap."""
    hits = random.binomial(rows, share, size=SETS)
    bootstrap = [np.percentile(random.binomial(rows, k / rows, size=RESAMPLES) / rows, [2.5, 97.5]) for k in hits]
    return coverage([wilson(k, rows) for k in hits], share), coverage([(low, high) for low, high in bootstrap], share)


def difference(rows: int, won: float, lost: float, random: np.random.Generator) -> tuple[float, float]:
    """Coverage of Agresti and Min's interval and of the bootstrap."""
    counts = random.multinomial(rows, [won, lost, 1 - won - lost], size=SETS)
    bootstrap = []
    for count in counts:
        drawn = random.multinomial(rows, count / rows, size=RESAMPLES)
        low, high = np.percentile((drawn[:, 0] - drawn[:, 1]) / rows, [2.5, 97.5])
        bootstrap.append((low, high))
    exact = [paired_difference(k, m, rows) for k, m, _ in counts]
    return coverage(exact, won - lost), coverage(bootstrap, won - lost)


def calibration(rows: int, random: np.random.Generator) -> float:
    """Coverage of the bootstrap of the calibration error of a model that is right as often as it is confident."""
    bootstrap = []
    for _ in range(SETS // 10):
        confidence = random.uniform(0.5, 1, size=rows)
        gaps = gaps_by_bin(confidence, random.random(rows) < confidence)
        drawn = random.multinomial(rows, np.full(rows, 1 / rows), size=RESAMPLES)
        low, high = np.percentile(calibration_error(drawn @ gaps, np.full(RESAMPLES, rows)), [2.5, 97.5])
        bootstrap.append((low, high))
    return coverage(bootstrap, 0.0)


def main() -> None:
    random = np.random.default_rng(0)
    print("| rows | true value | interval | bootstrap |\n|---:|---|---:|---:|")
    for rows in ROWS:
        for share in SHARES:
            print("| {} | share {} | {:.3f} | {:.3f} |".format(rows, share, *proportion(rows, share, random)))
        for won, lost in PAIRS:
            numbers = difference(rows, won, lost, random)
            print("| {} | difference {} - {} | {:.3f} | {:.3f} |".format(rows, won, lost, *numbers))
        print(f"| {rows} | calibration error 0 | | {calibration(rows, random):.3f} |")


if __name__ == "__main__":
    main()
