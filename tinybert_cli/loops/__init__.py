"""The only loops over batches: training and prediction."""

from tinybert_cli.loops.devices import device, fastest_attention, keep_freed_memory, leave, precision, to_bf16_if_faster
from tinybert_cli.loops.inference import (
    MODEL_INPUTS,
    Array,
    Batch,
    StepLoss,
    forward,
    mean_loss,
    predict,
    predict_all,
    predict_several,
)
from tinybert_cli.loops.profiling import first_answer, latencies, multiply_adds
from tinybert_cli.loops.trainer import Learner, Row

__all__ = [
    "MODEL_INPUTS",
    "Array",
    "Batch",
    "Learner",
    "Row",
    "StepLoss",
    "device",
    "fastest_attention",
    "first_answer",
    "forward",
    "keep_freed_memory",
    "latencies",
    "leave",
    "mean_loss",
    "multiply_adds",
    "precision",
    "predict",
    "predict_all",
    "predict_several",
    "to_bf16_if_faster",
]
