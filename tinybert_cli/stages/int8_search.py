"""int8 of an export: of the whole model if that passes verification, else with as few parts in more bits as pass.

If the settings ask for fewer than 8 bits, these parts get 8; if that is not enough, the whole model gets 8. If 8 bits
do not pass either, parts compute in float32; their weights are stored in 12 bits, as verified with the rest.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tinybert_cli import formats
from tinybert_cli.config import Verify
from tinybert_cli.stages import parity
from tinybert_cli.stages.parity import Parity
from tinybert_cli.types import Predictions

NAMED_PARTS = 3  # parts that are named when int8 is rejected
MORE_BITS = {8: "eight_bits", 12: "twelve_bits"}  # of parts that would fail → the argument of `int8.write`


@dataclass(frozen=True)
class Int8Result:
    """The int8 form of an export."""

    numbers: dict[str, float]
    predictions: Predictions
    parts: Mapping[int, list[str]] = field(default_factory=dict)  # bits → the parts that got so many to pass
    has_fewer_bits: bool = True  # where the settings ask for fewer than 8; else no part has them, so that it passes
    without_effect: Mapping[str, str] = field(default_factory=dict)  # options that changed nothing → why
    rejection: str | None = None  # why there is none; the numbers are those of the whole model in int8
    cost: str | None = None  # of these parts, in words


@dataclass(frozen=True)
class Int8Search:
    """Writes and compares int8 forms of the float32 file in a folder.

    `load` opens an export folder, `options` are the settings of export that `int8.write` takes.
    """

    form: formats.Format
    int8: formats.Int8
    verification: Parity
    verify: Verify
    folder: Path
    load: Callable[[Path], Any]
    exclude: Sequence[str]
    options: dict[str, Any]

    def run(self) -> Int8Result:
        """Writes the int8 file into the folder if one passes verification."""
        weights = self.folder / self.form.weights
        of_products = {name: value for name, value in self.options.items() if name in ("matrix_bits", "runtime")}
        prepared = self.int8.prepare(weights, self.verification.calibration(), **of_products)
        if all(self.options.get(name, 8) == 8 for name in formats.BITS):
            return self._run(prepared, self.options, 12)
        result = self._run(prepared, self.options, 8)
        if result.rejection is None:
            return result
        in_eight_bits = {name: value for name, value in self.options.items() if name not in formats.BITS}
        other = replace(self._run(prepared, in_eight_bits, 12), without_effect=result.without_effect)
        fewer = {name for name in formats.BITS if self.options.get(name, 8) < 8}
        if other.rejection is not None or fewer <= result.without_effect.keys():
            return other
        in_float32 = other.parts.get(12, [])
        parts = [part for part in self.int8.parts(weights, self.exclude) if part not in in_float32]
        return replace(
            other, parts={8: parts, **other.parts}, has_fewer_bits=False, cost=_cost(other.numbers, result.numbers)
        )

    def _run(self, prepared: Any, options: Mapping[str, Any], more_bits: int) -> Int8Result:
        """The form with these options; parts that would fail get `more_bits`."""
        weights, scratch = self.folder / self.form.weights, self.folder / "int8"
        target = scratch / self.int8.file
        without_effect: list[Mapping[str, str]] = []  # of each form that was written

        def write(parts: Sequence[str]) -> Any:
            more = {MORE_BITS[more_bits]: parts}
            without_effect.append(self.int8.write(weights, target, prepared, self.exclude, **more, **options))
            return self.load(scratch)

        result = replace(self._search(write, target, weights, more_bits), without_effect=without_effect[0])
        if result.rejection is None:
            target.replace(self.folder / self.int8.file)
        shutil.rmtree(scratch)
        return result

    def _search(self, write: Callable[[Sequence[str]], Any], target: Path, weights: Path, more_bits: int) -> Int8Result:
        numbers, predictions = self.verification.compare(write([]), target)
        failures = self._failures(numbers)
        if not failures:
            return Int8Result(numbers, predictions)
        parts = self.int8.parts(weights, self.exclude)
        changes = self._sensitivity(write, parts)
        ranked = [part for part, _ in changes]
        for count in range(1, min(len(ranked), len(parts) - 1) + 1):
            if not self._passes(write(ranked[:count])):
                continue
            chosen = ranked[:count]
            for part in ranked[: count - 1]:  # one that was added before may be unnecessary now
                fewer = [other for other in chosen if other != part]
                if self._passes(write(fewer)):
                    chosen = fewer
            passing, passing_predictions = self.verification.compare(write(chosen), target)
            if not self._failures(passing):
                return Int8Result(passing, passing_predictions, {more_bits: chosen}, cost=_cost(passing, numbers))
        named = ", ".join(f"{part} {change:.3f}" for part, change in changes[:NAMED_PARTS])
        tried = f"no form with some parts in float32 passes; those whose int8 form changes the logits most: {named}"
        return Int8Result(numbers, predictions, rejection="; ".join([*failures, tried]))

    def _sensitivity(self, write: Callable[[Sequence[str]], Any], parts: Sequence[str]) -> list[tuple[str, float]]:
        """Each part, and the mean change of the logits when only this part is int8; the largest first."""
        changes = []
        for part in parts:
            numbers, _ = self.verification.differences(write([other for other in parts if other != part]))
            changes.append((part, numbers["mean_abs_logit_difference"]))
        return sorted((change for change in changes if change[1] > 0), key=lambda change: -change[1])

    def _passes(self, exported: Any) -> bool:
        numbers, _ = self.verification.differences(exported)
        return not self._failures(numbers)

    def _failures(self, numbers: dict[str, float]) -> list[str]:
        return parity.violations(numbers, self.verify, exact=False)


def _cost(numbers: Mapping[str, float], requested: Mapping[str, float]) -> str:
    return (
        f"{numbers['bytes'] / 1e6:.1f} MB instead of {requested['bytes'] / 1e6:.1f}, "
        f"{numbers['latency_ms_b1']:.2f} ms for one text instead of {requested['latency_ms_b1']:.2f}"
    )
