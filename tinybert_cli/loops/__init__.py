"""Loops over batches: training, inference and profiling."""

from tinybert_cli.loops.devices import (
    device,
    end_process_group,
    fastest_attention,
    keep_freed_memory,
    precision,
    return_freed_memory,
)
from tinybert_cli.loops.generation import (
    BATCH_TOKENS,
    as_good,
    best_texts,
    token_batches,
    top_k,
    translate,
    translate_all,
    translation_seconds,
)
from tinybert_cli.loops.inference import (
    MODEL_INPUTS,
    SessionModule,
    StepLoss,
    device_of,
    forward,
    mean_loss,
    predict,
    predict_all,
    predict_outputs,
)
from tinybert_cli.loops.profiling import cold_start, latencies, multiply_adds
from tinybert_cli.loops.progress import Progress, read_progress
from tinybert_cli.loops.step_batches import Batches, steps_of_epoch
from tinybert_cli.loops.trainer import Trainer, make_accelerator
from tinybert_cli.loops.unused_parameters import unused_parameters

__all__ = [
    "BATCH_TOKENS",
    "MODEL_INPUTS",
    "Batches",
    "Progress",
    "SessionModule",
    "StepLoss",
    "Trainer",
    "as_good",
    "best_texts",
    "cold_start",
    "device",
    "device_of",
    "end_process_group",
    "fastest_attention",
    "forward",
    "keep_freed_memory",
    "latencies",
    "make_accelerator",
    "mean_loss",
    "multiply_adds",
    "precision",
    "predict",
    "predict_all",
    "predict_outputs",
    "read_progress",
    "return_freed_memory",
    "steps_of_epoch",
    "token_batches",
    "top_k",
    "translate",
    "translate_all",
    "translation_seconds",
    "unused_parameters",
]
