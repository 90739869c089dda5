"""The search for parts that get more bits: as few as pass, and none if int8 passes as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tinybert_cli import formats
from tinybert_cli.config import Verify
from tinybert_cli.stages.int8_search import Int8Result, Int8Search

PARTS = ["embeddings", "layer.0", "layer.1", "classifier"]


@dataclass
class FakeParity:
    """An export whose agreement falls by the given amount for each part that is int8, or pair of parts."""

    losses: dict[tuple[str, ...], float]
    written: list[set[str]] = field(default_factory=list)  # the parts in float32 of each form

    def calibration(self) -> list[Any]:
        return []

    def differences(self, float32_parts: set[str]) -> tuple[dict[str, float], Any]:
        self.written.append(float32_parts)
        loss = sum(loss for parts, loss in self.losses.items() if not float32_parts & set(parts))
        return {"agreement": 1 - loss, "mean_abs_logit_difference": loss}, None

    def compare(self, float32_parts: set[str], file: Path) -> tuple[dict[str, float], Any]:
        numbers, _ = self.differences(float32_parts)
        return {**numbers, "bytes": 1e6 * (1 + len(float32_parts)), "latency_ms_b1": 1.0 + len(float32_parts)}, None


def parts_without(source: Path, exclude: Sequence[str]) -> list[str]:
    return [part for part in PARTS if part not in exclude]


def search(folder: Path, losses: dict[tuple[str, ...], float], exclude: Sequence[str] = ()) -> Int8Result:
    state: set[str] = set()

    def write(source: Path, target: Path, prepared: Any, exclude: Sequence[str], twelve_bits: Sequence[str]) -> None:
        state.clear()
        state.update([*exclude, *twelve_bits])
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(",".join([*exclude, *twelve_bits]))

    int8 = formats.Int8("int8.bin", lambda source, batches: None, write, (), parts_without)
    return Int8Search(
        formats.FORMATS["onnx"], int8, FakeParity(losses), Verify(), folder, lambda path: set(state), exclude, {}  # type: ignore[arg-type]
    ).run()  # fmt: skip


def search_with_fewer_bits(
    folder: Path, four: dict[tuple[str, ...], float], eight: dict[tuple[str, ...], float], exclude: Sequence[str] = (),
    without_effect: str = "",
) -> Int8Result:  # fmt: skip
    """The losses of parts in 4 bits, and in 8; `without_effect`: why there are none in 4 bits."""
    parity, state = FakeParity({}), set[str]()

    def write(
        source: Path, target: Path, prepared: Any, exclude: Sequence[str], *, eight_bits: Sequence[str] = (),
        twelve_bits: Sequence[str] = (), matrix_bits: int = 8,
    ) -> dict[str, str]:  # fmt: skip
        quantized = parts_without(source, exclude)
        in_four_bits = [part for part in quantized if matrix_bits == 4 and part not in eight_bits]
        parity.losses = {
            (part,): loss
            for part in quantized
            if (loss := (four if part in in_four_bits else eight).get((part,), 0.0)) and part not in twelve_bits
        }
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(f"{','.join(in_four_bits)} 12: {','.join(twelve_bits)}")
        return {"matrix_bits": without_effect} if matrix_bits == 4 and without_effect else {}

    int8 = formats.Int8("int8.bin", lambda source, batches, matrix_bits=8: None, write, (), parts_without)
    return Int8Search(
        formats.FORMATS["onnx"], int8, parity, Verify(), folder, lambda path: state, exclude, {"matrix_bits": 4}  # type: ignore[arg-type]
    ).run()  # fmt: skip


def test_int8_that_passes_has_no_float32_parts(tmp_path: Path) -> None:
    result = search(tmp_path, {("layer.0",): 0.009})
    assert (result.parts, result.rejection, result.cost) == ({}, None, None)
    assert (tmp_path / "int8.bin").read_text() == ""


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ({("layer.0",): 0.02, ("embeddings",): 0.004}, ["layer.0"]),
        ({("layer.0",): 0.02, ("layer.1",): 0.03, ("embeddings",): 0.004}, ["layer.1", "layer.0"]),
        ({("layer.0",): 0.006, ("layer.1",): 0.005}, ["layer.0"]),
    ],
)
def test_as_few_parts_as_pass_stay_float32(
    losses: dict[tuple[str, ...], float], expected: list[str], tmp_path: Path
) -> None:
    result = search(tmp_path, losses)
    assert result.parts == {12: expected} and result.numbers["agreement"] >= 0.99
    assert (tmp_path / "int8.bin").read_text() == ",".join(expected)
    assert result.cost == (
        f"{1 + len(expected)}.0 MB instead of 1.0, {1 + len(expected)}.00 ms for one text instead of 1.00"
    )


def test_a_part_that_a_later_one_makes_unnecessary_is_int8_again(tmp_path: Path) -> None:
    losses = {("layer.1", "classifier"): 0.02, ("layer.0",): 0.009, ("layer.1",): 0.001, ("classifier",): 0.0005}
    result = search(tmp_path, losses)
    assert result.parts == {12: ["layer.1"]} and result.rejection is None


def test_int8_is_rejected_only_after_the_search(tmp_path: Path) -> None:
    result = search(tmp_path, {("embeddings",): 0.02, ("layer.0",): 0.02, ("layer.1",): 0.02, ("classifier",): 0.02})
    assert result.rejection is not None and "agreement 0.9200" in result.rejection
    assert "no form with some parts in float32 passes" in result.rejection
    assert not list(tmp_path.iterdir())


def test_parts_that_the_settings_exclude_stay_float32(tmp_path: Path) -> None:
    result = search(tmp_path, {("layer.0",): 0.02}, exclude=["layer.0"])
    assert result.parts == {} and (tmp_path / "int8.bin").read_text() == "layer.0"


def test_a_part_that_fails_in_4_bits_gets_8(tmp_path: Path) -> None:
    result = search_with_fewer_bits(tmp_path, {("layer.1",): 0.02, ("layer.0",): 0.005}, {("layer.1",): 0.001})
    assert (result.parts, result.rejection) == ({8: ["layer.1"]}, None) and result.cost is not None
    assert (tmp_path / "int8.bin").read_text() == "embeddings,layer.0,classifier 12: "


def test_all_parts_get_8_bits_where_no_form_with_fewer_passes(tmp_path: Path) -> None:
    four = {(part,): 0.02 for part in PARTS}
    result = search_with_fewer_bits(tmp_path, four, {("layer.0",): 0.001})
    assert (result.parts, result.rejection) == ({8: PARTS}, None) and result.cost is not None
    assert (tmp_path / "int8.bin").read_text() == " 12: "


def test_a_part_that_fails_in_8_bits_too_computes_in_float32(tmp_path: Path) -> None:
    four = {(part,): 0.02 for part in PARTS}
    result = search_with_fewer_bits(tmp_path, four, {("layer.0",): 0.02})
    in_eight_bits = ["embeddings", "layer.1", "classifier"]
    assert (result.parts, result.rejection) == ({8: in_eight_bits, 12: ["layer.0"]}, None)
    assert not result.has_fewer_bits and (tmp_path / "int8.bin").read_text() == " 12: layer.0"


def test_an_excluded_part_is_not_among_those_with_8_bits(tmp_path: Path) -> None:
    four = {(part,): 0.02 for part in PARTS}
    result = search_with_fewer_bits(tmp_path, four, {("layer.0",): 0.001}, exclude=["classifier"])
    assert result.parts == {8: ["embeddings", "layer.0", "layer.1"]}


def test_bits_without_effect_are_not_why_parts_have_8(tmp_path: Path) -> None:
    losses = {("layer.0",): 0.02}
    result = search_with_fewer_bits(tmp_path, losses, losses, without_effect="no matrix is large")
    assert (result.parts, result.without_effect) == ({12: ["layer.0"]}, {"matrix_bits": "no matrix is large"})


def test_what_passes_with_no_bits_is_rejected(tmp_path: Path) -> None:
    losses = {(part,): 0.02 for part in PARTS}
    result = search_with_fewer_bits(tmp_path, losses, losses)
    assert result.rejection is not None and not list(tmp_path.iterdir())
