"""What gen_soft_labels stands on when it augments: which models are asked for other words, and copies made of them.

No stage of its own. What a masked language model says is kept in the output folder's checkpoints until all is labelled,
so that a run that goes on makes the same copies, and asks nothing twice.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator

from tinybert_cli import artifacts, data, loops, models, tasks
from tinybert_cli.config import Augment, GenSoftLabels
from tinybert_cli.data import word_replacement
from tinybert_cli.errors import ConfigError
from tinybert_cli.types import Array, Rows

TEXTS_PER_FILE = 4096  # a killed run loses at most this much work

Arrays = dict[str, Array]


def sources(setting: Augment | None) -> dict[str, models.Source]:
    """The models that the setting names, by its keys."""
    named = {} if setting is None else {"masked_lm": setting.masked_lm, "embeddings": setting.embeddings}
    return {key: models.locate(name) for key, name in named.items() if name is not None}


def copies(
    config: GenSoftLabels,
    setting: Augment,
    rows: Rows,
    model: Any,
    tokenizer: Any,
    *,
    output: artifacts.Output,
    accelerator: Accelerator,
) -> Generator[artifacts.Row, None, Rows]:
    """Changed copies of the rows: their texts and nothing else, for their labels may have changed, too.

    `model` and its tokenizer say what is near if the setting names no other. A dry run asks no masked language model.
    """
    named = sources(setting)
    names = data.text_columns(config.data)
    texts = list(zip(*(rows.column(name) for name in names), strict=True))
    said: _Said | None = None
    if "masked_lm" in named:
        lm, model, tokenizer = _load(config, setting, named["masked_lm"], accelerator)
        if output.dry_run:
            yield {"event": "augmented", "rows": len(rows), "copies": setting.copies * len(rows), "at_most": True}
            return rows.select([])
        said = yield from _ask(lm, list(dict.fromkeys(chain(*texts))), config, output, accelerator)
    if "embeddings" in named:
        model = models.load(named["embeddings"], tasks.find_prediction_task(config.task).head, new_head=True)
        tokenizer = models.load_tokenizer(named["embeddings"])
    if not hasattr(model, "get_input_embeddings"):
        raise ConfigError(
            "an export keeps no word embeddings that could say what is near", key=("augment", "embeddings"),
            hint="name a model folder there, such as the one that it was exported from",
        )  # fmt: skip
    near = word_replacement.nearest_neighbours(
        models.whole_words(tokenizer),
        model.get_input_embeddings().weight.detach().cpu(),
        {word.lower() for text in chain(*texts) for word in word_replacement.split_words(text)},
        setting.candidates,
    )
    candidates = (
        [word_replacement.replacement_candidates(text, near, said.of(text) if said else None) for text in row]
        for row in texts
    )
    made = list(
        word_replacement.augment(
            texts, candidates, count=setting.copies, probability=setting.probability, seed=config.seed
        )
    )
    yield {"event": "augmented", "rows": len(rows), "copies": len(made)}
    chosen = rows.select([index for index, _ in made])
    return replace(chosen, columns={name: [copy[place] for _, copy in made] for place, name in enumerate(names)})


def _load(
    config: GenSoftLabels, setting: Augment, source: models.Source, accelerator: Accelerator
) -> tuple[models.MaskedLM, Any, Any]:
    model, tokenizer = models.load(source, "masked-lm"), models.load_tokenizer(source)
    models.check_vocabulary(model, tokenizer, source)
    lm = models.MaskedLM(
        model, tokenizer, source, candidates=setting.candidates, is_excluded=word_replacement.is_protected
    )
    loops.to_bf16_if_faster(lm.to(accelerator.device), config.mixed_precision)
    return lm, model, tokenizer


@dataclass(frozen=True)
class _Said:
    """What the masked language model said of each text."""

    words: Sequence[str]
    number: dict[str, int]  # text → its number
    offsets: Array  # (N + 1,) where the answers about each text begin
    positions: Array  # (ΣM,) the place in its text that each answer is about
    answers: Array  # (ΣM, K) positions in `words`

    def of(self, text: str) -> word_replacement.Candidates:
        begin, end = self.offsets[self.number[text] : self.number[text] + 2]
        places, answers = self.positions[begin:end].tolist(), self.answers[begin:end].tolist()
        return {place: [self.words[index] for index in row] for place, row in zip(places, answers, strict=True)}


def _ask(
    lm: models.MaskedLM,
    texts: Sequence[str],
    config: GenSoftLabels,
    output: artifacts.Output,
    accelerator: Accelerator,
) -> Generator[artifacts.Row, None, _Said]:
    """Asks about each text once, file by file; what an earlier run was told stands."""
    names = {begin: f"candidates-{begin // TEXTS_PER_FILE:05d}" for begin in range(0, len(texts), TEXTS_PER_FILE)}
    missing = [begin for begin, name in names.items() if not output.sealed(name)]
    for begin in missing:
        told = yield from _answers(lm, texts, begin, config, accelerator)
        if output.main:
            output.seal(names[begin], partial(_write, told))
        yield {"event": "asked", "texts": min(begin + TEXTS_PER_FILE, len(texts)), "of": len(texts)}
    accelerator.wait_for_everyone()  # the others must not look for what the first has not written yet
    files = [_read(output.folder / "checkpoints" / name) for name in names.values()]
    told = {name: np.concatenate([file[name] for file in files]) for name in files[0]}
    number = {text: index for index, text in enumerate(texts)}
    return _Said(lm.words, number, _starts(told["counts"]), told["positions"], told["answers"])


def _answers(
    lm: models.MaskedLM, texts: Sequence[str], begin: int, config: GenSoftLabels, accelerator: Accelerator
) -> Generator[artifacts.Row, None, Arrays]:
    """One file's `counts` (N,), `places` (ΣM,) and `answers` (ΣM, K), see _Said."""
    chunk = texts[begin : begin + TEXTS_PER_FILE]
    split = [word_replacement.split_words(text) for text in chunk]
    places = [word_replacement.replaceable_indices(parts) for parts in split]
    spans = [word_replacement.word_spans(parts, at) for parts, at in zip(split, places, strict=True)]
    tokens, offsets, answered = lm.encode(chunk, spans, config.data.max_seq_length)
    examples = data.Examples(tokens, offsets)
    counts = np.array([len(numbers) for numbers in answered])
    starts = _starts(counts)
    answers = np.zeros((starts[-1], lm.candidates), dtype=np.min_scalar_type(len(lm.words)))
    asked = np.flatnonzero(counts)
    order = data.sorted_batches(examples.lengths[asked], config.per_device_eval_batch_size)
    done, start = 0, time.perf_counter()
    batches = [asked[rows].tolist() for rows in order if len(rows)]
    for rows, found in loops.predict(lm, examples, batches, accelerator=accelerator, output="candidates"):
        for row, said in zip(rows, found, strict=True):
            answers[starts[row] : starts[row + 1]] = said[: counts[row]]
        done += len(rows)
        yield {"event": "progress", "step": begin + done, "max_steps": len(texts), "rows": done,
               "seconds": time.perf_counter() - start}  # fmt: skip
    about = [at[number] for at, numbers in zip(places, answered, strict=True) for number in numbers]
    return {"counts": counts, "positions": np.array(about, dtype=np.int32), "answers": answers}


def _starts(counts: Array) -> Array:
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def _write(told: Arrays, folder: Path) -> None:
    np.savez(folder / FILE, counts=told["counts"], positions=told["positions"], answers=told["answers"])


def _read(folder: Path) -> Arrays:
    with np.load(folder / FILE, allow_pickle=False) as file:
        return dict(file)


FILE = "candidates.npz"
