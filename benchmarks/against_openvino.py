"""OpenVINO against the int8 export in ONNX Runtime, on the same sentences, in turn; prints medians and ratios.

OpenVINO runs the model in float32, and in int8 as NNCF quantizes it from 300 sentences. It has to be 1.2 times as fast
as ONNX Runtime's int8 to be worth a format. Needs `pip install openvino nncf`. One thread each, and the seconds that
the processor worked: what else runs on the machine does not count.

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
from labelling import export

if TYPE_CHECKING:
    from tinybert_cli.config import Data

CALIBRATED, TIMED, ROUNDS, BATCHES = 300, 160, 4, (1, 32)
Batch = dict[str, np.ndarray[Any, Any]]
Ask = Callable[[Batch], np.ndarray[Any, Any]]


def main(*layers: str) -> None:
    settings = sentences(CALIBRATED + TIMED)
    for number in layers or ("2", "6"):
        with scratch() as name:
            asked, batches = prepared(int(number), settings, Path(name))
            for size in BATCHES:
                report(asked, batches(size), f"{number} layers, batch {size}")


def prepared(layers: int, settings: Data, folder: Path) -> tuple[dict[str, Ask], Callable[[int], list[Batch]]]:
    """The same model for every runtime, and what makes batches of like lengths of the sentences that are timed."""
    import openvino

    from tinybert_cli import models
    from tinybert_cli.config import Model

    source = teacher("minilm", folder / "teacher")
    net, tokenizer = models.load(source, "sequence-classification"), models.load_tokenizer(source)
    small = Model.model_validate({"from": str(source.folder), "num_hidden_layers": layers})
    models.save(models.build_student(small, net, range(6 - layers, 6), seed=0), tokenizer, folder / "model")
    shown = texts(settings)

    def batches(size: int) -> list[Batch]:
        rows = sorted(shown[CALIBRATED:], key=len)
        parts = [rows[begin : begin + size] for begin in range(0, len(rows), size)]
        return [dict(tokenizer(part, padding=True, return_tensors="np")) for part in parts]

    calibrated = [dict(tokenizer([text], return_tensors="np")) for text in shown[:CALIBRATED]]
    original = models.load(models.locate(str(folder / "model")), "sequence-classification", cls_only=True)
    example = dict(tokenizer(shown[:2], padding=True, return_tensors="pt"))
    float32 = openvino.convert_model(original, example_input=example)
    return {
        "ONNX Runtime int8": with_onnx_runtime(export(folder / "model", settings, folder / "export")),
        "OpenVINO float32": with_openvino(float32),
        "OpenVINO int8": with_openvino(quantized(float32, calibrated)),
    }, batches


def with_onnx_runtime(folder: Path) -> Ask:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options)
    names = [node.name for node in session.get_inputs()]
    return lambda batch: session.run(None, {name: batch[name] for name in names})[0]


def with_openvino(model: Any) -> Ask:
    import openvino

    hints = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 1}
    request = openvino.Core().compile_model(model, "CPU", hints).create_infer_request()
    return lambda batch: request.infer(batch, share_inputs=True, share_outputs=True)[0]


def quantized(model: Any, rows: list[Batch]) -> Any:
    import nncf

    return nncf.quantize(model, nncf.Dataset(rows), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(rows))


def report(asked: dict[str, Ask], batches: list[Batch], what: str) -> None:
    taken: dict[str, list[float]] = {name: [] for name in asked}
    for turn in range(ROUNDS + 1):
        for batch in batches:
            for name, ask in asked.items():
                begin = time.process_time()
                ask(batch)
                if turn:
                    taken[name].append(1000 * (time.process_time() - begin))
    ours = statistics.median(taken["ONNX Runtime int8"])
    print(what)
    for name, values in taken.items():
        middle = statistics.median(values)
        print(f"  {name:<20}{middle:8.3f} ms   {ours / middle:.2f} times as fast")


if __name__ == "__main__":
    main(*sys.argv[1:])
