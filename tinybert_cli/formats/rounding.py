"""Integers of 4 bits for the numbers of a matrix, with the smallest errors.

Shapes: K rows, N columns; n rows that are multiplied by the matrix (tokens).
"""

from __future__ import annotations

import numpy as np

from tinybert_cli.types import Array

MOST = 7  # integers are -7 to 7
SHARES = np.linspace(0.5, 1.0, 21)  # of the largest number, for which the largest integer is tried to stand
DAMPING = 0.1  # of the mean square of the rows
BLOCK = 128  # rows of the matrix that are rounded before the others are updated
TINY = 1e-12


def rounded(values: Array, axis: int, importance: Array | float = 1.0) -> tuple[Array, Array]:
    """int8 (K, N) and the scales, 1 along `axis`, with the smallest squared error.

    A few large numbers are clipped if that makes the steps of all others smaller.

    Args:
        axis: over which a scale is shared.
        importance: what a squared error counts, broadcastable to the values.
    """
    largest = np.maximum(np.abs(values).max(axis, keepdims=True), TINY)
    least, scales = np.full(largest.shape, np.inf), largest / MOST
    for share in SHARES:
        candidate = largest * float(share / MOST)  # a Python number, so that float32 stays float32
        errors = (_integers(values / candidate) * candidate - values) ** 2
        error = (errors * importance).sum(axis, keepdims=True)
        better = error < least
        least, scales = np.where(better, error, least), np.where(better, candidate, scales)
    return _integers(values / scales).astype(np.int8), scales.astype(np.float32)


def compensated(matrix: Array, rows: Array) -> tuple[Array, Array]:
    """int8 (K, N) and a scale per column (N,), such that the products with rows (n, K) change little.

    The rows of the matrix are rounded one after the other, those with large inputs first. What the rounding of one
    changes in the products is taken back, as far as the inputs are correlated, by the rows that are still to be rounded
    (GPTQ, Frantar et al. 2023, arXiv 2210.17323).
    """
    squares = rows.T.astype(np.float64) @ rows
    squares += np.eye(len(squares)) * max(DAMPING * np.trace(squares) / len(squares), TINY)
    _, steps = rounded(matrix, axis=0, importance=np.diag(squares)[:, None])
    scales = steps[0]
    order = np.argsort(-np.diag(squares), kind="stable")
    # row k: how the rows after k make up for a change of row k
    updates = np.linalg.cholesky(np.linalg.inv(squares[np.ix_(order, order)])).T
    remaining = matrix[order].astype(np.float64)
    integers = np.empty(remaining.shape)
    for begin in range(0, len(remaining), BLOCK):
        end = min(begin + BLOCK, len(remaining))
        changes = np.empty((end - begin, remaining.shape[1]))
        for k in range(begin, end):
            integers[k] = _integers(remaining[k] / scales)
            changes[k - begin] = (remaining[k] - integers[k] * scales) / updates[k, k]
            remaining[k + 1 : end] -= np.outer(updates[k, k + 1 : end], changes[k - begin])
        remaining[end:] -= updates[begin:end, end:].T @ changes
    return integers[np.argsort(order)].astype(np.int8), scales


def _integers(steps: Array) -> Array:
    return np.rint(steps).clip(-MOST, MOST)
