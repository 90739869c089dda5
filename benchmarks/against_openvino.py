"""OpenVINO vs. the int8 export in ONNX Runtime, on the same sentences; prints medians and ratios.

OpenVINO runs the model in float32, and in int8 as quantized by NNCF with 300 calibration sentences. A new export format
must be at least 1.2 times as fast as ONNX Runtime's int8. One thread each. The CPU time of the process is measured, so
other load on the machine has little effect. Needs `pip install openvino nncf`.

    SST2_DATA=path/to/sst2 python benchmarks/against_openvino.py [layers]...
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from common import scratch, sentences, teacher, texts
from labelling import export_int8

if TYPE_CHECKING:
    from tinybert_cli.config import Data

CALIBRATION_ROWS, TIMED_ROWS, ROUNDS, BATCH_SIZES = 300, 160, 4, (1, 32)
BASELINE = "ONNX Runtime int8"
Batch = dict[str, np.ndarray[Any, Any]]
Runtime = Callable[[Batch], np.ndarray[Any, Any]]  # batch → logits


def main(*layers: str) -> None:
    settings = sentences(CALIBRATION_ROWS + TIMED_ROWS)
    for number in layers or ("2", "6"):
        with scratch() as folder:
            runtimes, batches = prepare(int(number), settings, folder)
            for size in BATCH_SIZES:
                report(f"{number} layers, batch size {size}", cpu_times(runtimes, batches(size)))


def prepare(layers: int, settings: Data, folder: Path) -> tuple[dict[str, Runtime], Callable[[int], list[Batch]]]:
    """The same model in every runtime, and a function that makes batches of the timed rows, sorted by length."""
    import openvino

    from tinybert_cli import models
    from tinybert_cli.config import Model

    source = models.locate(str(teacher("minilm", folder / "teacher")))
    net, tokenizer = models.load(source, "sequence-classification"), models.load_tokenizer(source)
    shallow = Model.model_validate({"from": str(source.folder), "num_hidden_layers": layers})
    models.save(models.build_student(shallow, net, range(6 - layers, 6), seed=0), tokenizer, folder / "model")
    rows = texts(settings)

    def batches(size: int) -> list[Batch]:
        timed = sorted(rows[CALIBRATION_ROWS:], key=len)
        parts = [timed[begin : begin + size] for begin in range(0, len(timed), size)]
        return [dict(tokenizer(part, padding=True, return_tensors="np")) for part in parts]

    calibration = [dict(tokenizer([text], return_tensors="np")) for text in rows[:CALIBRATION_ROWS]]
    original = models.load(models.locate(str(folder / "model")), "sequence-classification", cls_only=True)
    example = dict(tokenizer(rows[:2], padding=True, return_tensors="pt"))
    float32 = openvino.convert_model(original, example_input=example)
    return {
        BASELINE: onnx_runtime(export_int8(folder / "model", settings, folder / "export")),
        "OpenVINO float32": openvino_runtime(float32),
        "OpenVINO int8": openvino_runtime(quantize(float32, calibration)),
    }, batches


def onnx_runtime(folder: Path) -> Runtime:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(folder / "onnx" / "model_quantized.onnx"), options)
    names = [node.name for node in session.get_inputs()]
    return lambda batch: session.run(None, {name: batch[name] for name in names})[0]


def openvino_runtime(model: Any) -> Runtime:
    import openvino

    hints = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 1}
    request = openvino.Core().compile_model(model, "CPU", hints).create_infer_request()
    return lambda batch: request.infer(batch, share_inputs=True, share_outputs=True)[0]


def quantize(model: Any, batches: list[Batch]) -> Any:
    import nncf

    return nncf.quantize(model, nncf.Dataset(batches), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(batches))


def cpu_times(runtimes: dict[str, Runtime], batches: list[Batch]) -> dict[str, list[float]]:
    """Milliseconds of CPU time per batch; the runtimes alternate on every batch, and the first round is a warm-up."""
    times: dict[str, list[float]] = {name: [] for name in runtimes}
    for turn in range(ROUNDS + 1):
        for batch in batches:
            for name, predict in runtimes.items():
                begin = time.process_time()
                predict(batch)
                if turn:
                    times[name].append(1000 * (time.process_time() - begin))
    return times


def report(title: str, times: dict[str, list[float]]) -> None:
    baseline = statistics.median(times[BASELINE])
    print(title)
    for name, values in times.items():
        median = statistics.median(values)
        print(f"  {name:<20}{median:8.3f} ms   {baseline / median:.2f} times as fast")


if __name__ == "__main__":
    main(*sys.argv[1:])
