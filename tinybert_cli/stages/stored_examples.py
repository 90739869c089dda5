"""The training rows of a large run, encoded: stored beside its checkpoints, so that a resumed run does not read and
tokenize them again.

One file for each array, which is mapped into memory, and `facts.json`.
"""

from __future__ import annotations

import errno
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from tinybert_cli import artifacts, data, models, processes, scratch_files, strict_json
from tinybert_cli.artifacts import Output
from tinybert_cli.stages.preparation import NewModel, StoredExamples, TrainingData, TrainingFacts
from tinybert_cli.types import Array

log = logging.getLogger("tinybert")

NAME = "rows"  # of the folder in checkpoints/
FACTS = "facts.json"
SMALL = 4 << 20  # bytes of tokens that are encoded again in seconds
FORMAT = 1  # of the folder
USED = "used"  # ids of the source that the texts use, of a trimmed vocabulary
PACKAGES = ("tinybert", "tokenizers", "transformers")  # whose versions the tokens depend on


def store(output: Output, new: NewModel, training_data: TrainingData) -> None:
    """Stores the examples, unless they are few or were stored before; every process must call it.

    Those of a stream, of translation, and with layer states are not stored. A full disk is a warning: the run goes on.
    """
    examples = training_data.examples
    others = (examples.states, examples.top_k, examples.decoder, training_data.stream)
    size = sum(values.nbytes for values, _ in examples.tokens.values())
    if training_data.rows is None or size <= SMALL or any(one is not None for one in others):
        return
    facts = {
        "facts": asdict(training_data.facts),
        "padding": {name: padding for name, (_, padding) in examples.tokens.items()},
        "versions": _versions(),
    }
    arrays = dict(_arrays(examples))
    if new.vocabulary is not None:
        arrays[USED] = np.asarray(new.vocabulary.used)

    def write(folder: Path) -> None:
        if output.main:
            for name, values in arrays.items():
                scratch_files.save(folder / f"{name}.npy", values)
            (folder / FACTS).write_text(strict_json.dumps(facts), encoding="utf-8")

    try:
        output.checkpoints.seal(NAME, write)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        log.warning("the disk is too full to store the encoded rows: a run that is interrupted will read them again")
    processes.wait()  # a collective operation of the training would not wait as long


def read(output: Output) -> StoredExamples | None:
    """What `store` has written; None if there is nothing, if other versions wrote it, or, with a warning, if it is
    damaged."""
    then = "the training rows are read again"
    folder = next(iter(output.checkpoints.sealed(NAME, then=then)), None) if output.resumed else None
    if not processes.agree(folder is not None) or folder is None:  # all processes read the rows again, or none
        return None
    content = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    if content["versions"] != _versions():
        return None
    arrays = {file.stem: scratch_files.load(file) for file in folder.glob("*.npy")}
    scale = content["facts"].pop("scale")
    facts = TrainingFacts(**content["facts"], scale=None if scale is None else models.OutputScale(**scale))
    examples = data.Examples(
        tokens={name: (arrays[f"tokens-{name}"], padding) for name, padding in content["padding"].items()},
        offsets=arrays["offsets"],
        targets={
            name.removeprefix("targets-"): values for name, values in arrays.items() if name.startswith("targets-")
        },
        window_offsets=arrays.get("window_offsets"),
        positions=arrays.get("positions"),
    )
    used = arrays.get(USED)
    return StoredExamples(facts, examples, None if used is None else used.tolist())


def _arrays(examples: data.Examples) -> Iterator[tuple[str, Array]]:
    """Every array of the examples, by the name of its file."""
    yield from ((f"tokens-{name}", values) for name, (values, _) in examples.tokens.items())
    yield from ((f"targets-{name}", values) for name, values in examples.targets.items())
    optional = {"window_offsets": examples.window_offsets, "positions": examples.positions}
    yield "offsets", examples.offsets
    yield from ((name, values) for name, values in optional.items() if values is not None)


def _versions() -> Mapping[str, Any]:
    installed = artifacts.versions()
    return {"format": FORMAT, **{name: installed[name] for name in PACKAGES}}
