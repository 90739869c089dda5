"""Integers of 4 bits: what rounding a matrix to them costs."""

from __future__ import annotations

import numpy as np
import pytest

from tinybert_cli.formats import four_bits, rounding
from tinybert_cli.types import Array


def errors(matrix: Array, integers: Array, scales: Array, rows: Array) -> float:
    return float(((rows @ (integers * scales) - rows @ matrix) ** 2).mean())


@pytest.fixture
def matrix() -> Array:
    return np.random.default_rng(0).normal(size=(96, 40)).astype(np.float32)


@pytest.mark.parametrize("axis", [0, 1])
def test_numbers_on_the_grid_are_exact(axis: int) -> None:
    random = np.random.default_rng(1)
    integers = random.integers(-7, 8, size=(64, 32)).astype(np.float32)
    integers[0, :], integers[:, 0] = 7, 7
    steps = np.logspace(-3, 3, 32 if axis == 0 else 64, dtype=np.float32)
    values = integers * (steps if axis == 0 else steps[:, None])
    found, scales = rounding.rounded(values, axis=axis)
    assert (found == integers).all() and found.dtype == np.int8 and scales.dtype == np.float32
    assert np.allclose(found * scales, values, rtol=1e-6)


def test_a_large_number_is_clipped_where_that_lowers_the_error(matrix: Array) -> None:
    matrix[3, 5] = 1.3 * np.abs(matrix[:, 5]).max()
    integers, scales = rounding.rounded(matrix, axis=0)
    plain = np.abs(matrix).max(0, keepdims=True) / 7
    kept = np.rint(matrix / plain) * plain
    assert scales[0, 5] < 0.9 * plain[0, 5] and integers[3, 5] == 7
    assert ((integers * scales - matrix) ** 2).sum() < 0.9 * ((kept - matrix) ** 2).sum()


@pytest.mark.parametrize("value", [0.0, 1e-30, 1e15])
def test_a_matrix_of_one_value_is_finite(value: float) -> None:
    values = np.full((4, 6), value, dtype=np.float32)
    integers, scales = rounding.rounded(values, axis=0)
    assert np.isfinite(scales).all() and np.allclose(integers * scales, values, rtol=1e-5)
    integers, scales = rounding.compensated(values, np.ones((3, 4), np.float32))
    assert np.isfinite(scales).all() and np.allclose(integers * scales, values, rtol=1e-4)


def test_correlated_inputs_make_up_for_each_other(matrix: Array) -> None:
    """On other rows than those that were measured."""
    random = np.random.default_rng(2)
    mixing = random.normal(size=(12, 96)).astype(np.float32)
    measured, others = (random.normal(size=(400, 12)).astype(np.float32) @ mixing for _ in range(2))
    measured += 0.1 * random.normal(size=measured.shape).astype(np.float32)
    plain, steps = rounding.rounded(matrix, axis=0)
    integers, scales = rounding.compensated(matrix, measured)
    assert errors(matrix, integers, scales, others) < 0.5 * errors(matrix, plain, steps[0], others)
    assert np.abs(integers).max() <= 7


def test_inputs_that_are_always_zero_have_an_inverse(matrix: Array) -> None:
    integers, scales = rounding.compensated(matrix, np.zeros((5, 96), np.float32))
    plain, steps = rounding.rounded(matrix, axis=0)
    assert (integers == plain).mean() > 0.99 and np.allclose(scales, steps[0], rtol=0.2)


@pytest.mark.parametrize("rows", [200, 128, 129, 1])
def test_more_rows_than_a_block_are_all_rounded(rows: int) -> None:
    random = np.random.default_rng(3)
    matrix = random.normal(size=(rows, 3)).astype(np.float32)
    integers, scales = rounding.compensated(matrix, random.normal(size=(500, rows)).astype(np.float32))
    assert integers.shape == matrix.shape and np.abs(integers * scales - matrix).max() < 2 * scales.max()


def test_two_integers_are_in_a_byte() -> None:
    integers = np.array([[-7, 0, 7, 3], [1, 2, -3, -1]], dtype=np.int8)
    packed = four_bits.packed(integers)
    assert packed.dtype == np.uint8 and packed.shape == (2, 2)
    assert (np.concatenate([packed & 15, packed >> 4], axis=1).astype(int) - 8 == integers).all()
