"""Generation: the translations of many rows, in batches of similar lengths, shared by several processes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tinybert_cli.loops.inference import forward, map_batches, of_all_processes, own_batches
from tinybert_cli.loops.out_of_memory import compute_in_parts
from tinybert_cli.types import (
    Array,
    Batch,
    Encoded,
    Examples,
    Hypothesis,
    Predictions,
    ScoringTranslator,
    Search,
    Translator,
)

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

    from tinybert_cli.translation_tokenizer import TranslationTokenizer

TURNS = 3
ROUNDING = 1e-4  # of the score of a translation in float32
BATCH_TOKENS = 8192  # source tokens of a batch, padding included, times the number of beams


def translate(
    translator: Translator, encoded: Encoded, batches: Sequence[list[int]], search: Search
) -> Iterator[tuple[list[int], list[list[Hypothesis]]]]:
    """The hypotheses for every batch, or for its parts, with the indices of their rows; see `compute_in_parts`."""
    values, offsets = encoded.tokens["input_ids"][0], encoded.offsets

    def read(rows: list[int]) -> tuple[list[list[int]], int]:
        sources = [values[offsets[row] : offsets[row + 1]].tolist() for row in rows]
        return sources, len(sources) * max(map(len, sources))

    for rows in batches:
        yield from compute_in_parts(translator, rows, read, lambda sources: translator.translate(sources, search))


def translate_all(
    translator: Translator, encoded: Encoded, search: Search, *, accelerator: Accelerator | None = None
) -> list[list[Hypothesis]]:
    """The hypotheses of every row, in the order of the rows; several processes exchange theirs at the end."""
    batches = token_batches(np.diff(encoded.offsets), BATCH_TOKENS, search.beams)
    result: dict[int, list[Hypothesis]] = {}
    own = list(translate(translator, encoded, own_batches(batches, accelerator), search))
    for rows, hypotheses in of_all_processes(own, accelerator):
        result |= dict(zip(rows, hypotheses, strict=True))
    return [result[row] for row in range(len(result))]


def best_texts(tokenizer: TranslationTokenizer, hypotheses: Sequence[Sequence[Hypothesis]]) -> Predictions:
    """The best hypothesis of each row as text."""
    best = [of_row[0] for of_row in hypotheses]
    cut = np.array([not one.finished for one in best], dtype=bool)
    return Predictions(tokenizer.texts([one.ids for one in best]), cut=cut)


def as_good(
    translator: ScoringTranslator,
    encoded: Encoded,
    own: Sequence[list[Hypothesis]],
    others: Sequence[list[Hypothesis]],
    search: Search,
) -> list[bool]:
    """For each row, whether the best hypothesis of another program is as good as the translator's own one.

    It is if it has the same tokens, or if the translator itself gives it no lower score: two beam searches with the
    same model end at different times, and the longer one finds better translations.
    """
    values, offsets = encoded.tokens["input_ids"][0], encoded.offsets
    good = [mine[0].ids == other[0].ids for mine, other in zip(own, others, strict=True)]
    differing = np.flatnonzero(~np.array(good, dtype=bool))
    for rows in token_batches(np.diff(encoded.offsets)[differing], BATCH_TOKENS, 1):
        part = differing[rows].tolist()
        sources = [values[offsets[row] : offsets[row + 1]].tolist() for row in part]
        scores = translator.score(sources, [others[row][0] for row in part], search)
        for row, score in zip(part, scores, strict=True):
            good[row] = score >= own[row][0].score - ROUNDING
    return good


def translation_seconds(
    translators: Mapping[str, Translator], encoded: Mapping[str, Encoded], search: Search, size: int, rows: int
) -> tuple[dict[str, float], dict[str, int]]:
    """Of each translator the median seconds for the first `rows` rows in batches of `size`, and its target tokens.

    The translators take turns, so that their ratios are right even if the speed of the machine drifts.

    Args:
        encoded: of each translator the source texts. If they are fewer, they are repeated, so that batches are full.
        rows: a multiple of `size`.
    """
    seconds: dict[str, list[float]] = {name: [] for name in translators}
    tokens: dict[str, int] = {}
    for turn in range(TURNS + 1):  # the first one warms up
        for name, translator in translators.items():
            values, offsets = encoded[name].tokens["input_ids"][0], encoded[name].offsets
            timed = np.resize(np.arange(min(rows, len(offsets) - 1)), rows)
            order = timed[np.argsort(-np.diff(offsets)[timed], kind="stable")]
            batches = [
                [values[offsets[row] : offsets[row + 1]].tolist() for row in part]
                for part in np.split(order, range(size, rows, size))
            ]
            begin = time.perf_counter()
            best = [one[0] for batch in batches for one in translator.translate(batch, search)]
            if turn:
                seconds[name].append(time.perf_counter() - begin)
            tokens[name] = sum(len(one.ids) + one.finished for one in best)
    return {name: float(np.median(values)) for name, values in seconds.items()}, tokens


def token_batches(lengths: Array, budget: int, beams: int) -> list[list[int]]:
    """Batches of rows with lengths (N,), the longest first, with at most `budget` / `beams` tokens, padding included.

    A row that is longer is a batch of its own. The batches depend on these three alone, so that a resumed run makes the
    same ones.
    """
    batches: list[list[int]] = []
    for row in np.argsort(-lengths, kind="stable").tolist():
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) * beams <= budget:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def top_k(
    model: torch.nn.Module,
    examples: Examples,
    batches: Sequence[list[int]],
    k: int,
) -> Iterator[tuple[list[int], dict[str, Array]]]:
    """Of each target token (P,) of a batch the K largest log-probabilities, from one teacher-forced pass.

    `topk_ids` and `topk_logprobs` (P, K), the largest first, and `logsumexp` (P,), the logarithm of the sum of p^(1/2)
    over the vocabulary.
    """

    def compute(batch: Batch) -> dict[str, Array]:
        log_probabilities = forward(model, batch)["logits"].float().log_softmax(-1)
        values, ids = log_probabilities.topk(min(k, log_probabilities.shape[-1]), dim=-1)
        half = (log_probabilities / 2).logsumexp(-1)
        return {
            "topk_ids": ids.cpu().numpy(),
            "topk_logprobs": values.cpu().numpy(),
            "logsumexp": half.cpu().numpy(),
        }

    return map_batches(compute, model, examples, batches, None)
