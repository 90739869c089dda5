"""A teacher and how it translates rows: hypotheses, and the translation that becomes the label."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tinybert_cli import data, loops, tasks
from tinybert_cli.config import GenSoftLabels
from tinybert_cli.errors import InputError
from tinybert_cli.metrics.generation import best_by_reference
from tinybert_cli.translation_predictor import TranslationPredictor
from tinybert_cli.types import Hypothesis, Rows, Search, Translator


@dataclass(frozen=True)
class TranslationLabeller:
    """The teacher, and how it translates rows."""

    config: GenSoftLabels
    task: tasks.Translation
    teacher: TranslationPredictor
    translator: Translator  # of the engine

    @property
    def search(self) -> Search:
        """All beams are kept if one of them is selected by its reference."""
        settings = self.config.search
        keep = settings.keep if settings.select == "score" else settings.beams
        return replace(tasks.search_of(settings, self.config.data.max_target_length), keep=keep)

    def translate(self, rows: Rows) -> Generator[int, None, list[list[Hypothesis]]]:
        """Yields how many rows are done, and returns the hypotheses of each row, best score first."""
        encoded, search = self.task.encode_sources(rows, self.config.data, self.teacher.tokenizer), self.search
        batches = loops.token_batches(np.diff(encoded.offsets), loops.BATCH_TOKENS, search.beams)
        result: dict[int, list[Hypothesis]] = {}
        for indices, best in loops.translate(self.translator, encoded, batches, search):
            result |= dict(zip(indices, best, strict=True))
            yield len(result)
        return [result[row] for row in range(len(rows))]

    def labels(self, rows: Rows, hypotheses: Sequence[Sequence[Hypothesis]]) -> data.Translations:
        """The selected translation of each row, and the n-best if they are stored.

        Raises:
            InputError: a score is NaN or infinite.
        """
        texts = [self.teacher.tokenizer.texts([one.ids for one in row]) for row in hypotheses]
        for index, row in enumerate(hypotheses):
            if not np.isfinite([one.score for one in row]).all():
                raise InputError(
                    f"the scores of '{self.config.teacher}' are NaN or infinite",
                    where=rows.location(index),
                    hint="its weights are broken or far too large: train it again, or use another model",
                )
        finished = [[rank for rank, one in enumerate(row) if one.finished] for row in hypotheses]
        chosen, keep = self._chosen(rows, texts, finished), self.config.search.keep
        best = [row[index] for row, index in zip(hypotheses, chosen, strict=True)]
        stored = [_stored(index, ranks, keep) for index, ranks in zip(chosen, finished, strict=True)]
        return data.Translations(
            rows,
            [row[index] for row, index in zip(texts, chosen, strict=True)],
            np.array([one.score for one in best], dtype=np.float32),
            np.array([len(one.ids) + one.finished for one in best], dtype=np.int32),
            np.array([one.finished for one in best], dtype=bool),
            [[row[rank] for rank in ranks] for row, ranks in zip(texts, stored, strict=True)] if keep > 1 else None,
            [[row[rank].score for rank in ranks] for row, ranks in zip(hypotheses, stored, strict=True)]
            if keep > 1
            else None,
        )

    def _chosen(self, rows: Rows, texts: Sequence[Sequence[str]], finished: Sequence[Sequence[int]]) -> list[int]:
        """Of each row the rank with the best score, or the one nearest to the reference if there is one.

        Args:
            finished: the ranks that are not cut: only they are compared with the reference, if there are any.
        """
        by, column = self.config.search.select, self.config.data.label_column
        if by == "score" or column not in rows.columns:
            return [0] * len(texts)
        references = self.task.references(rows, self.config.data, complete=False)
        assert references is not None  # the column is there
        compared = [ranks or range(len(row)) for row, ranks in zip(texts, finished, strict=True)]
        candidates = [[row[rank] for rank in ranks] for row, ranks in zip(texts, compared, strict=True)]
        nearest = best_by_reference(candidates, references, by)
        return [
            ranks[index] if present else 0 for ranks, index, present in zip(compared, nearest, references, strict=True)
        ]


def _stored(chosen: int, finished: Sequence[int], keep: int) -> list[int]:
    """The ranks of at most `keep` translations, best score first: the chosen one, and others that are not cut."""
    ranks = sorted({chosen, *finished})
    return ranks[:keep] if chosen in ranks[:keep] else [*ranks[: keep - 1], chosen]
