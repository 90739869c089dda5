"""int8 of student2 on the datasets: agreement with float32 at four batch sizes, with VNNI and with AVX2 alone.

    OMP_NUM_THREADS=1 python experiments/int8_table.py path/to/datasets --runs runs/cascade [DATASET]...
    OMP_NUM_THREADS=1 python experiments/int8_table.py path/to/datasets --emulator "qemu-x86_64 -cpu Haswell" --rows 16

`experiments/cascade.py` has trained the models. Here the student2 of seed 42 that learned the student's predictions is
exported, and compared with what version 0.2.0 wrote: dynamic ranges, by `quantize_dynamic` of ONNX Runtime. Texts are
in the order of the data, so batches are padded. The emulator runs only the models, on the same token ids, and the
logits are compared with those of this processor; it is slow, so its rows are few, and it is run last. Times are those
of this processor. Results are added to experiments/results/int8.json, and printed.
"""

from __future__ import annotations

import argparse
import json
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from cascade_sets import EXPERIMENTS, Experiment, write_split

from tinybert_cli.types import Array, Encoded, Rows, padded

BATCH_SIZES = (1, 8, 32, 128)
EMULATED_SIZES = (1, 8)
TIMED, PASSES = (1, 32), 5
RESULTS = "int8.json"
ARM, SEED = "student-hard", 42
MEASURE = "measure"  # the first argument of the process that runs the models


def main() -> None:
    import result_files

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("datasets", type=Path)
    parser.add_argument("names", nargs="*", default=list(EXPERIMENTS), metavar="DATASET")
    parser.add_argument("--runs", type=Path, default=Path("runs/cascade"))
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--emulator", default="", help="of another processor, before the command")
    arguments = parser.parse_intermixed_args()
    for name in arguments.names:
        data = write_split(EXPERIMENTS[name], arguments.datasets, arguments.runs / name / "data")
        export, before = exported(EXPERIMENTS[name], data, arguments.runs / name / f"seed-{SEED}")
        found = compare(export, before, data, arguments)
        known = result_files.read(RESULTS).get(name, {}) if arguments.emulator else {}  # else of an earlier model
        result_files.record(RESULTS, name, {**known, **found})
        print(name, json.dumps(found), flush=True)
    results = result_files.read(RESULTS)
    print("\n".join([*agreement(results), "", *sizes(results)]))


def exported(experiment: Experiment, data: dict[str, Any], runs: Path) -> tuple[Path, Path]:
    """The export of student2 with int8, and what version 0.2.0 made of the same float32 file."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from tinybert_cli.formats.int8_matrices import MATRICES
    from tinybert_cli.formats.int8_tables import quantize_tables

    export, before = runs / "export", runs / "int8-before.onnx"
    if not (export / "manifest.json").exists():
        verify = {"max_samples": 500, **({"min_agreement": 0.95} if experiment.task == "regression" else {})}
        settings = {"task": experiment.task, "data": data, "model": str(runs / f"{ARM}-{experiment.rate:g}"),
                    "quantize": "int8", "verify": verify, "output_dir": str(export)}  # fmt: skip
        file = runs / "export.yaml"
        file.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
        command = [sys.executable, "-m", "tinybert_cli", "export", str(file)]
        done = subprocess.run(command, stdout=subprocess.DEVNULL)
        if done.returncode not in (0, 5):  # 5: int8 is refused, which is a result
            sys.exit(done.returncode)
    if not before.exists():
        model = onnx.load(export / "onnx/model.onnx")
        quantize_tables(model, (), 8)
        onnx.save(model, runs / "tables.onnx")
        types = {"DefaultTensorType": onnx.TensorProto.FLOAT}  # they are lost in fused graphs
        quantize_dynamic(
            runs / "tables.onnx", before, per_channel=True, weight_type=QuantType.QInt8,
            op_types_to_quantize=list(MATRICES), extra_options=types,
        )  # fmt: skip
        (runs / "tables.onnx").unlink()
    return export, before


def compare(export: Path, before: Path, data_settings: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """The agreement of both with float32 at each batch size; without an emulator also sizes and times."""
    from tinybert_cli import data
    from tinybert_cli.config import Data
    from tinybert_cli.predictor import load_predictor

    predictor = load_predictor(str(export))
    settings = Data(**data_settings, max_eval_samples=arguments.rows)
    rows: Rows = data.read(settings, "test")
    encoded = predictor.task.encode(rows, settings, predictor.tokenizer)
    files = {"float32": export / "onnx/model.onnx", "before": before, "after": export / "onnx/model_quantized.onnx"}
    if not files["after"].exists():
        return {"refused": True}
    if arguments.emulator:
        del files["float32"]
        return {"processors": other_processor(files, encoded, arguments.emulator, len(rows))}
    measured = outputs_of(files, encoded, "", BATCH_SIZES, passes=PASSES)
    float32 = measured.pop("float32")

    def agreement(logits: Array) -> float:
        original, other = (
            predictor.task.decide(one, encoded.layout, predictor.label_names, rows, settings, predictor.config)
            for one in (float32["logits"][1], logits)
        )
        return round(predictor.task.fidelity(other, original)["agreement"], 4)

    found: dict[str, Any] = {
        which: {size: agreement(logits) for size, logits in outputs["logits"].items()}
        for which, outputs in measured.items()
    }
    found["rows"] = len(rows)
    found["bytes"] = {which: file.stat().st_size for which, file in files.items()}
    found["bytes"]["float32"] = (export / "onnx/model.onnx").stat().st_size
    found["time"] = ratios(measured["after"], measured["before"])
    found["time_to_float32"] = ratios(measured["after"], float32)
    floats = [row for row in log(export) if row["event"] == "float32_parts"]
    found["float32_parts"] = floats[-1]["parts"] if floats else []
    return found


def ratios(one: dict[str, Any], other: dict[str, Any]) -> dict[int, float]:
    """The median over all passes of a ratio of CPU seconds, by batch size."""
    return {size: round(float(np.median(np.divide(one["seconds"][size], other["seconds"][size]))), 3) for size in TIMED}


def other_processor(files: dict[str, Path], encoded: Encoded, emulator: str, rows: int) -> dict[str, Any]:
    """The largest difference of a logit between both processors, at any batch size, and the largest logit."""
    here, there = (outputs_of(files, encoded, words, EMULATED_SIZES) for words in ("", emulator))
    found: dict[str, Any] = {"emulator": emulator, "rows": rows}
    for which in files:
        pairs = [(here[which]["logits"][size], there[which]["logits"][size]) for size in EMULATED_SIZES]
        found[which] = round(float(max(np.abs(one - other).max() for one, other in pairs)), 6)
        found[f"{which}_largest_logit"] = round(float(np.abs(pairs[0][0]).max()), 3)
    return found


def log(folder: Path) -> Iterator[dict[str, Any]]:
    yield from map(json.loads, (folder / "log.jsonl").read_text(encoding="utf-8").splitlines())


def outputs_of(
    files: dict[str, Path], encoded: Encoded, emulator: str, sizes: tuple[int, ...], passes: int = 1
) -> dict[str, Any]:
    """Model → logits (P, C), and CPU seconds of each pass, by batch size; from a process that may be emulated."""
    with tempfile.TemporaryDirectory() as folder:
        job, answer = Path(folder) / "job", Path(folder) / "answer"
        job.write_bytes(pickle.dumps((files, encoded, sizes, passes)))
        words = [*emulator.split(), sys.executable, __file__, MEASURE, str(job), str(answer)]
        subprocess.run(words, check=True)
        result: dict[str, Any] = pickle.loads(answer.read_bytes())
        return result


def measure(job: Path, answer: Path) -> None:
    import onnxruntime

    files, encoded, sizes, passes = pickle.loads(job.read_bytes())
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    sessions = {name: onnxruntime.InferenceSession(str(file), options) for name, file in files.items()}
    result: dict[str, Any] = {name: {"logits": {}, "seconds": {}} for name in sessions}
    for size in sizes:
        runs = [one_pass(sessions, encoded, size) for _ in range(passes if size in TIMED else 1)]
        for name in sessions:
            result[name]["logits"][size] = runs[0][0][name]
            result[name]["seconds"][size] = [seconds[name] for _, seconds in runs]
    answer.write_bytes(pickle.dumps(result))


def one_pass(sessions: dict[str, Any], encoded: Encoded, size: int) -> tuple[dict[str, Array], dict[str, float]]:
    """Logits (P, C) and CPU seconds of each session for all rows, the sessions in turns."""
    parts: dict[str, list[Array]] = {name: [] for name in sessions}
    seconds = dict.fromkeys(sessions, 0.0)
    count = len(encoded.offsets) - 1
    for begin in range(0, count, size):
        windows = np.arange(begin, min(begin + size, count))
        batch = padded(encoded.tokens, encoded.offsets, windows)
        for name, session in sessions.items():
            inputs = {node.name: batch[node.name] for node in session.get_inputs()}
            start = time.process_time()
            outputs = session.run(None, inputs)
            seconds[name] += time.process_time() - start
            logits = np.stack(outputs, axis=-1) if len(outputs) > 1 else outputs[0]
            parts[name] += list(predictions_of(logits, encoded, windows))
    return {name: np.concatenate(rows) for name, rows in parts.items()}, seconds


def predictions_of(logits: Array, encoded: Encoded, windows: Array) -> Iterator[Array]:
    """The logits that are read of each window, (P of the window, C)."""
    if encoded.window_offsets is None or encoded.positions is None:
        yield logits
        return
    for row, window in enumerate(windows):
        begin, end = encoded.window_offsets[window : window + 2]
        yield logits[row][encoded.positions[begin:end]]


def agreement(results: dict[str, Any]) -> Iterator[str]:
    """Rows of a Markdown table: agreement at each batch size."""
    columns = [str(size) for size in BATCH_SIZES]
    yield f"| dataset, rows | before: {' | '.join(columns)} | now: {' | '.join(columns)} |"
    yield f"|---|{'---:|' * 2 * len(columns)}"
    for name, found in results.items():
        if "refused" in found:
            yield f"| {name}, refused |{' |' * 2 * len(columns)}"
            continue
        numbers = [f"{found[which][size]:.3f}" for which in ("before", "after") for size in columns]
        yield f"| {name}, {found['rows']} | {' | '.join(numbers)} |"


def sizes(results: dict[str, Any]) -> Iterator[str]:
    """Rows of a Markdown table: size, time, and the other processor."""
    yield (
        "| dataset | float32 | int8 | ratio | time now / before, batch 1 | 32 | now / float32, batch 1 | 32 "
        "| VNNI and AVX2: before | now | rows |"
    )
    yield f"|---|{'---:|' * 10}"
    for name, found in results.items():
        if "refused" in found:
            yield f"| {name}, refused |{' |' * 10}"
            continue
        size, other = found["bytes"], found.get("processors", {})
        times = [
            f"{found[key][batch]:.2f}" if key in found else ""
            for key in ("time", "time_to_float32")
            for batch in map(str, TIMED)
        ]
        cells = [
            *(f"{size[which] / 1e6:.1f} MB" for which in ("float32", "after")),
            f"{size['float32'] / size['after']:.2f}",
            *times, *(str(other.get(key, "")) for key in ("before", "after", "rows")),
        ]  # fmt: skip
        yield f"| {name} | {' | '.join(cells)} |"


if __name__ == "__main__":
    if sys.argv[1:2] == [MEASURE]:
        measure(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main()
