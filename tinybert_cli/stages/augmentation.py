"""Word-replacement augmentation of the training rows, with candidates of a masked language model or of neighbours.

The masked language model's candidates are stored in the output folder's checkpoints until all rows are labelled, so a
resumed run makes the same augmented rows without computing them again.

Shapes: N texts, M replaceable words of all texts, K candidates per word.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator

from tinybert_cli import artifacts, data, events, loops, models, tasks
from tinybert_cli.config import Augment, GenSoftLabels
from tinybert_cli.data import word_replacement
from tinybert_cli.data.stored_columns import StoredColumns
from tinybert_cli.errors import ConfigError
from tinybert_cli.events import Event
from tinybert_cli.predictor import Predictor
from tinybert_cli.scratch_files import GrowingArray
from tinybert_cli.types import Array, Rows

TEXTS_PER_FILE = 4096  # a killed run loses at most this much work
FILE = "candidates.npz"


def sources(setting: Augment | None) -> dict[str, models.Source]:
    """The models that the setting names, by its keys."""
    named = {} if setting is None else {"masked_lm": setting.masked_lm, "embeddings": setting.embeddings}
    return {key: models.locate(name) for key, name in named.items() if name is not None}


def augmented_rows(
    config: GenSoftLabels,
    setting: Augment,
    rows: Rows,
    teacher: Predictor,
    *,
    output: artifacts.Output,
    accelerator: Accelerator,
) -> Generator[Event, None, Rows]:
    """Augmented variants of the rows: only their texts, since their labels may have changed, too; not in memory.

    Neighbours come from the teacher's word embeddings if the setting names no other model. A dry run computes no
    candidates of a masked language model.
    """
    named, (model, tokenizer) = sources(setting), (teacher.model, teacher.tokenizer)
    names = config.data.text_columns
    texts = _Texts([rows.column(name) for name in names])
    candidates: _Candidates | None = None
    if "masked_lm" in named:
        masked_lm, model, tokenizer = _load_masked_lm(config, setting, named["masked_lm"], accelerator)
        if output.dry_run:
            yield {"event": "augmented", "rows": len(rows), "copies": setting.copies * len(rows), "at_most": True}
            return rows.select([])
        unique = list(dict.fromkeys(chain.from_iterable(texts)))
        candidates = yield from _masked_lm_candidates(masked_lm, unique, config, output, accelerator)
    if "embeddings" in named:
        task = tasks.find_prediction_task(config.task)
        model = models.load(named["embeddings"], task.head, new_head=True)
        tokenizer = models.load_tokenizer(named["embeddings"])
    if model is None:
        raise ConfigError(
            "an export has no word embeddings to find neighbours with", key=("augment", "embeddings"),
            hint="set augment.embeddings to a model folder, such as the one that was exported",
        )  # fmt: skip
    neighbours = word_replacement.nearest_neighbours(
        models.whole_words(tokenizer),
        model.get_input_embeddings().weight.detach().cpu(),
        {word.lower() for text in chain.from_iterable(texts) for word in word_replacement.split_words(text)},
        setting.candidates,
    )

    def replacements(text: str) -> word_replacement.Candidates:
        return word_replacement.replacement_candidates(text, neighbours, candidates.of(text) if candidates else None)

    choices = ([replacements(text) for text in row] for row in texts)
    augmented = word_replacement.augment(
        texts, choices, count=setting.copies, probability=setting.probability, seed=config.seed
    )
    columns, selected = StoredColumns(), GrowingArray(np.int64)
    while part := list(islice(augmented, word_replacement.ROWS)):
        columns.append({name: [example[number] for _, example in part] for number, name in enumerate(names)}, len(part))
        selected.append([index if rows.selected is None else rows.selected[index] for index, _ in part])
    result = Rows(columns.finish(), rows.origins, rows.class_names, selected.finish())
    yield {"event": "augmented", "rows": len(rows), "copies": len(result)}
    return result


@dataclass(frozen=True)
class _Texts:
    """The texts of each row as a tuple, which is made when it is read."""

    columns: Sequence[Sequence[str]]

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        return zip(*self.columns, strict=True)


def _load_masked_lm(
    config: GenSoftLabels, setting: Augment, source: models.Source, accelerator: Accelerator
) -> tuple[models.MaskedLM, Any, Any]:
    model, tokenizer = models.load(source, "masked-lm"), models.load_tokenizer(source)
    models.check_vocabulary(model, tokenizer, source)
    masked_lm = models.MaskedLM(
        model, tokenizer, source, candidates=setting.candidates, is_excluded=word_replacement.is_protected
    )
    family = models.float32_family_of(model)
    masked_lm.to(accelerator.device)
    if loops.precision(config.mixed_precision, float32_family=family) == "bf16":
        models.to_bf16(masked_lm)
    return masked_lm, model, tokenizer


@dataclass(frozen=True)
class _Candidates:
    """The masked language model's candidates for the words of each text."""

    words: Sequence[str]
    number: dict[str, int]  # text → its number
    offsets: Array  # (N + 1,) where the words of each text begin
    positions: Array  # (M,) the position of each word in its text
    candidates: Array  # (M, K) indices in `words`

    def of(self, text: str) -> word_replacement.Candidates:
        begin, end = self.offsets[self.number[text] : self.number[text] + 2]
        positions, candidates = self.positions[begin:end].tolist(), self.candidates[begin:end].tolist()
        return {
            position: [self.words[index] for index in indices]
            for position, indices in zip(positions, candidates, strict=True)
        }


def _masked_lm_candidates(
    masked_lm: models.MaskedLM,
    texts: Sequence[str],
    config: GenSoftLabels,
    output: artifacts.Output,
    accelerator: Accelerator,
) -> Generator[Event, None, _Candidates]:
    """Candidates for each text, file by file; those of an earlier run are read."""
    names = {begin: f"candidates-{begin // TEXTS_PER_FILE:05d}" for begin in range(0, len(texts), TEXTS_PER_FILE)}
    missing = [begin for begin, name in names.items() if not output.checkpoints.sealed(name)]
    for begin in missing:
        arrays = yield from _compute_candidates(masked_lm, texts, begin, config, accelerator)
        if output.main:
            output.checkpoints.seal(names[begin], partial(_write, arrays))
        yield {"event": "candidates", "texts": min(begin + TEXTS_PER_FILE, len(texts)), "of": len(texts)}
    accelerator.wait_for_everyone()  # the other processes must not look for files that the first has not written yet
    files = [_read(output.checkpoints.folder / name) for name in names.values()]
    arrays = {name: np.concatenate([file[name] for file in files]) for name in files[0]}
    number = {text: index for index, text in enumerate(texts)}
    return _Candidates(masked_lm.words, number, _starts(arrays["counts"]), arrays["positions"], arrays["candidates"])


def _compute_candidates(
    masked_lm: models.MaskedLM, texts: Sequence[str], begin: int, config: GenSoftLabels, accelerator: Accelerator
) -> Generator[Event, None, dict[str, Array]]:
    """The arrays of one file: `counts` (N,), `positions` (M,) and `candidates` (M, K), see _Candidates."""
    chunk = texts[begin : begin + TEXTS_PER_FILE]
    split = [word_replacement.split_words(text) for text in chunk]
    replaceable = [word_replacement.replaceable_indices(words) for words in split]
    spans = [word_replacement.word_spans(words, positions) for words, positions in zip(split, replaceable, strict=True)]
    tokens, offsets, predicted = masked_lm.encode(chunk, spans, config.data.max_seq_length)
    examples = data.Examples(tokens, offsets)
    counts = np.array([len(numbers) for numbers in predicted])
    starts = _starts(counts)
    candidates = np.zeros((starts[-1], masked_lm.candidates), dtype=np.min_scalar_type(len(masked_lm.words)))
    with_words = np.flatnonzero(counts)
    order = data.sorted_batches(examples.lengths[with_words], config.per_device_eval_batch_size)
    done, start = 0, time.perf_counter()
    batches = [with_words[rows].tolist() for rows in order if len(rows)]
    for rows, outputs in loops.predict(masked_lm, examples, batches, accelerator=accelerator, output="candidates"):
        for row, values in zip(rows, outputs, strict=True):
            candidates[starts[row] : starts[row + 1]] = values[: counts[row]]
        done += len(rows)
        yield events.progress(begin + done, len(texts), rows=done, seconds=time.perf_counter() - start)
    positions = [own[number] for own, numbers in zip(replaceable, predicted, strict=True) for number in numbers]
    return {"counts": counts, "positions": np.array(positions, dtype=np.int32), "candidates": candidates}


def _starts(counts: Array) -> Array:
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def _write(arrays: dict[str, Array], folder: Path) -> None:
    np.savez(folder / FILE, counts=arrays["counts"], positions=arrays["positions"], candidates=arrays["candidates"])


def _read(folder: Path) -> dict[str, Array]:
    names = {"places": "positions", "answers": "candidates"}  # of tinybert 0.1
    with np.load(folder / FILE, allow_pickle=False) as file:
        return {names.get(name, name): values for name, values in file.items()}
