"""Verification of the export of a translation model: its translations of real rows, greedy and with beam search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tinybert_cli import formats, loops, metrics
from tinybert_cli.config import Verify
from tinybert_cli.metrics.generation import translation_fidelity
from tinybert_cli.stages.parity import ROUNDING
from tinybert_cli.translation_tokenizer import TranslationTokenizer
from tinybert_cli.types import Encoded, Predictions, ScoringTranslator, Search, Translator
from tinybert_cli.wording import counted

LEAST_AS_GOOD = 0.99  # share of the rows in which a float32 export translates as well as the original
MIN_AGREEMENT, MAX_METRIC_DROP = 0.9, 0.5  # of other precisions: mean sentence chrF / 100, and BLEU
TIMED = {1: 16, 32: 64}  # batch size → rows, greedy, original and export in turn


@dataclass(frozen=True)
class TranslationParity:
    """The original model and the rows on which an export is compared with it."""

    original: ScoringTranslator
    tokenizer: TranslationTokenizer
    encoded: Encoded
    search: Search
    metric: metrics.Metric | None  # None if the rows have no references
    bytes: int  # of the original's weights

    def compare(self, exported: Translator, size: int, *, beams: bool) -> tuple[dict[str, float], Predictions]:
        """How far the export differs, its size and its speed; and its translations with the most beams.

        `same` is the share of equal texts. `as_good` also counts translations of a beam search to which the original
        gives no lower score; of a greedy search it is `same`.

        Args:
            size: bytes of the weights of the export.
            beams: whether it has a beam search.
        """
        numbers: dict[str, float] = {}
        predictions = Predictions([])
        for count in sorted({1, self.search.beams}) if beams else [1]:
            search = replace(self.search, beams=count)
            own, other = (loops.translate_all(one, self.encoded, search) for one in (self.original, exported))
            original, predictions = (loops.best_texts(self.tokenizer, one) for one in (own, other))
            fidelity = translation_fidelity(list(predictions.values), list(original.values))
            good = fidelity["same"]
            if count > 1:
                good = float(np.mean(loops.as_good(self.original, self.encoded, own, other, search)))
            fidelity = {**fidelity, "as_good": good}
            numbers |= {f"{name}_beam{count}": value for name, value in fidelity.items()}
            if self.metric is not None:
                before, after = (metrics.score(self.metric, one)["bleu"] for one in (original, predictions))
                numbers[f"metric_difference_beam{count}"] = after - before
        for name in ("agreement", "same", "as_good", "metric_difference"):
            values = [value for key, value in numbers.items() if key.startswith(f"{name}_beam")]
            if values:
                numbers[name] = min(values)
        numbers |= self._speed(exported)
        return {**numbers, "bytes": float(size), "bytes_ratio": self.bytes / size}, predictions

    def _speed(self, exported: Translator) -> dict[str, float]:
        """`sentences_per_second_b1`, its ratio to the original's, and so on; greedy, since every format can do that."""
        numbers = {}
        for size, rows in TIMED.items():
            translators = {"original": self.original, "export": exported}
            search = replace(self.search, beams=1)
            seconds, _ = loops.translation_seconds(
                translators, dict.fromkeys(translators, self.encoded), search, size, rows
            )
            numbers[f"sentences_per_second_b{size}"] = rows / seconds["export"]
            numbers[f"speedup_b{size}"] = seconds["original"] / seconds["export"]
        return numbers


def translation_violations(numbers: Mapping[str, float], verify: Verify, *, exact: bool) -> list[str]:
    """The requirements that are not met: translations as good in float32 (`exact`), else the limits of `verify`."""
    if exact:
        good, same = numbers["as_good"], numbers["same"]
        failure = (
            f"{good:.2%} of the translations are as good as the original's, less than {LEAST_AS_GOOD:.0%}; "
            f"{same:.2%} are the same"
        )
        return [] if good >= LEAST_AS_GOOD else [failure]
    least = MIN_AGREEMENT if verify.min_agreement is None else verify.min_agreement
    most = MAX_METRIC_DROP if verify.max_metric_drop is None else verify.max_metric_drop
    failures = []
    if not numbers["agreement"] >= least:
        failures.append(f"agreement (chrF) {numbers['agreement']:.4f}, less than min_agreement {least:g}")
    drop = -numbers.get("metric_difference", 0.0)
    if not drop <= most + ROUNDING:
        failures.append(f"BLEU drops by {drop:.2f}, more than max_metric_drop {most:g}")
    return failures


def refusal_hint(compared: int, *, exact: bool) -> str:
    """What to do after violations; of few rows, one may already be a larger share than a float32 export may change.

    Args:
        compared: the number of rows.
    """
    wanted = round(1 / (1 - LEAST_AS_GOOD))
    if exact and compared < wanted:
        return (
            f"nothing was stored; one translation of {compared:,} is {1 / compared:.1%}: "
            f"give `verify.split` and `verify.max_samples` {counted(wanted, 'row')} or more"
        )
    return "nothing was stored; export in another format"


def weights_size(folder: Any, form: formats.TranslationFormat) -> int:
    """Bytes of the weights of an export."""
    names: Sequence[str] = form.weights
    return int(np.sum([(folder / name).stat().st_size for name in names]))
