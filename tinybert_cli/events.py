"""Events: the rows that a stage yields while it runs.

An event is a dict with its name under "event". `console` shows events, `artifacts` appends them to log.jsonl with the
"time" of each, and `EVENTS` lists every name with its keys. The functions make the events that more than one module
yields; all others are made where they happen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Event = dict[str, Any]


def plan(rows: int | None, **facts: Any) -> Event:
    """What the run will do; a dry run ends here. `rows` is None for a stream, whose rows are not counted before."""
    return {"event": "plan", "rows": rows, **facts}


def assumptions(statements: Sequence[str]) -> dict[str, list[str]]:
    """The fact of a plan that lists how the data was read, where it does not prove the reading; none if it does."""
    return {"assumptions": list(statements)} if statements else {}


def warning(message: str) -> Event:
    """Something that the user should know and that does not stop the run."""
    return {"event": "warning", "message": message}


def resume(step: int, max_steps: int | None) -> Event:
    """The run continues an earlier one after `step` of `max_steps`; log.jsonl drops the events after that step."""
    return {"event": "resume", "step": step, "max_steps": max_steps}


def progress(step: int, max_steps: int | None, *, rows: int, seconds: float, **numbers: float) -> Event:
    """`step` of `max_steps` is done; for the screen only, so log.jsonl does not have it.

    Args:
        rows: rows processed, in `seconds`.
        numbers: further numbers to show, such as `loss`.
    """
    return {"event": "progress", "step": step, "max_steps": max_steps, "rows": rows, **numbers, "seconds": seconds}


def done(output_dir: str, metrics: Mapping[str, float]) -> Event:
    """The folder is finished; `metrics` as in metrics.json."""
    return {"event": "done", "output_dir": output_dir, **metrics}


_STEP = {"step": "steps done: optimizer steps in training, rows in gen-soft-labels, texts in augmentation"}
_MAX_STEPS = {"max_steps": "steps of the whole run; null where a stream is labelled, whose rows are not counted before"}
_MODEL_SIZE = {"parameters": "of the model", "embedding_parameters": "those among them that are embeddings"}
_EPOCH = {"epoch": "epochs done, with a fraction"}
_OUTPUT_DIR = {"output_dir": "the folder of the run"}
_METRICS = {"...": "every number of metrics.json under its name"}

EVENTS: dict[str, dict[str, str]] = {
    "plan": {
        "rows": "rows that the stage reads; null for a stream",
        "steps": "optimizer steps",
        **_MODEL_SIZE,
        "source_vocabulary_size": "size of the vocabulary before it is trimmed",
        "vocabulary_size": "size of the trimmed vocabulary",
        "bytes_saved": "bytes of the embeddings that were removed with it",
        "layers_copied_from": "layers of the source model that the student is initialised with, from 1",
        "decoder_layers_copied_from": "the same for the decoder of a translation model",
        "layers_compared_with": "layers of the teacher that the layer losses use, from 1",
        "decoder_layers_compared_with": "the same for the decoder of a translation model",
        "teacher_states": "`stored`, or `running beside it`",
        "label_names": "class names in the order of the logits",
        "target_mean": "mean of regression targets that are trained in standard units",
        "target_deviation": "their standard deviation",
        "assumptions": "how labels are read, where the data alone does not prove it",
        "resolved": "values of training settings that are `auto`, by their names",
        "evaluated": "whether checkpoints are scored on validation rows",
        "validation": "number and files of the validation rows, or that there are none",
        "teachers": "number of teachers",
        "states_bytes": "size of the layer states to store",
        "states_of_layers": "layers of the teacher whose states are stored, from 1",
        "models": "names of the models that are compared",
        "reference": "the one that the others are compared with",
        "split": "the split that is scored",
        "baselines": "names of the baselines that are scored",
        "format": "export format",
        "quantize": "`none`, `int8` or `fp16`",
        "device": "`cpu`, `cuda`, ...",
        "precision": "`no` (float32), `bf16`, `fp16`, or `as exported`",
    },
    "warning": {"message": "the text"},
    "resume": {**_STEP, **_MAX_STEPS},
    "progress": {
        **_STEP,
        **_MAX_STEPS,
        "rows": "rows processed by this command",
        "loss": "of the last batch (training)",
        "seconds": "time for these rows",
    },
    "train": {
        **_STEP,
        **_EPOCH,
        "loss": "mean since the last `train` event",
        "learning_rate": "at this step",
        "samples_per_second": "since the last `train` event",
        "...": "each part of the loss under its name, unweighted",
    },
    "out of memory": {
        "step": "the optimizer step that is repeated in smaller micro-batches",
        "rows_before": "most rows of its micro-batches before",
        "rows": "most rows from now on",
        "micro_batches": "micro-batches that each batch is computed in, in all further steps",
        "settings": "the settings that make batches of this size from the start",
    },
    "evaluate": {
        **_STEP,
        **_EPOCH,
        "is_best": "whether this checkpoint is the best one up to now",
        "...": "the validation metrics",
    },
    "checkpoint": {**_STEP},
    "improving": {
        **_STEP,
        "setting": "twice as much training, which may help: the last checkpoint is clearly the best",
    },
    "stopped": {**_STEP, **_MAX_STEPS, "evaluations": "those without a better score, after which the run stopped"},
    "labels": {
        "rows": "rows of the label dataset",
        "selected": "rows with at least this confidence",
        "min_confidence": "as in the config",
        "unlabelled": "further rows, which the teacher did not label and which are left out",
        "targets": "in translation, as in the config; `selected` are the target texts",
    },
    "candidates": {"texts": "texts for which the masked LM has predicted replacements", "of": "all texts"},
    "augmented": {
        "rows": "rows that were augmented",
        "copies": "augmented examples",
        "at_most": "true in a dry run, where `copies` is an upper bound",
    },
    "teacher check": {
        "checked_rows": "rows with gold labels that the teacher was scored on",
        "confusion": "gold label, then predicted label, then number of rows or words; with up to 20 labels",
        "...": "teacher_<metric> and majority_<metric>",
    },
    "calibration": {
        "answers": "the file with answers",
        "temperature": "that its logits are divided by, fitted on the rows with gold labels",
        "calibration_rows": "these rows",
        "ece": "expected calibration error on them before",
        "ece_scaled": "after, each half of the rows at the temperature that fits the other half",
        "brier": "Brier score before",
        "brier_scaled": "after, in the same way",
    },
    "engine": {
        "engine": "what translates: transformers, ctranslate2, or `as exported`",
        "engine_version": "its version",
        "engine_same": "share of a sample of rows with the translation of transformers, if the teacher was converted",
        "engine_as_good": "the same, with other translations that the teacher gives no lower score",
    },
    "drift": {
        "rows": "sampled rows of the first shard, labelled in float32 as well; only if the labels are not all float32",
        "weights": "precision of the teacher's weights",
        "head": "precision of its head",
        "storage": "`logits_dtype`",
        "...": "max_abs_logit_difference, mean_abs_logit_difference and agreement",
    },
    "shard": {**_STEP, **_MAX_STEPS, "shard": "name of the parquet file", "rows": "its rows"},
    "scored": {"model": "name of the model whose predictions are complete"},
    "baseline": {
        "model": "name of the baseline, whose score on the validation rows is complete",
        "metric": "the task's main metric",
        "scored_by": "the training beside this one, on the same data, whose metrics.json has these numbers",
        "...": "every number of the baseline",
    },
    "model": {
        "model": "name of the model",
        "is_reference": "whether the others are compared with it",
        "is_baseline": "whether it is a baseline without a neural network",
        "metric": "the task's main metric",
        "...": "every number of the model",
    },
    "written": {"bytes": "size of the exported weights"},
    "verify": {"...": "the numbers of the parity check"},
    "rejected": {"message": "why the int8 model was rejected"},
    "eight_bit_parts": {
        "parts": "the parts with 8 bits, where fewer are asked for, so that the model passes",
        "cost": "its size and time with them",
    },
    "float32_parts": {
        "parts": "the parts that compute in float32, from weights of 12 bits, so that int8 passes",
        "cost": "their size and time",
    },
    "done": {**_OUTPUT_DIR, **_METRICS},
    "up to date": {**_OUTPUT_DIR, **_METRICS},
}
