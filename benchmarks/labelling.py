"""gen-soft-labels vs. the transformers pipeline at batch size 32, on the same sentences; prints speeds and ratios.

gen-soft-labels is measured with the teacher itself (bf16 where the machine supports it) and with its int8 export. What
bf16 and int8 change is measured with MiniLM, fine-tuned on the same sentences for an epoch: the share of labels of the
validation rows that are those of float32, because a teacher with random weights is certain of nothing.

    SST2_DATA=path/to/sst2 python benchmarks/labelling.py [minilm|bert-base] [sentences]
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import (
    MINILM,
    forward_operations,
    gen_soft_labels,
    reset_accelerate,
    sentences,
    teacher,
    texts,
    token_counts,
)
from side_by_side import Bar, Benchmark, Clock, Measurement, Settings, Side, main, timed

if TYPE_CHECKING:
    from tinybert_cli.config import Data

BATCH_SIZE = 32
PRECISIONS = {"no": "float32", "bf16": "bf16", "as exported": "int8"}


def prepare(folder: Path, settings: Settings) -> dict[str, Any]:
    from transformers import AutoConfig

    data = sentences(settings["rows"])
    model = teacher(settings["shape"], folder / "teacher")
    export_int8(model, data, folder / "export")
    operations = forward_operations(AutoConfig.from_pretrained(model), token_counts(model, texts(data)))
    return {"flops": operations, "drift": drift(folder / "drift", settings["drift_rows"])}


def pipeline(folder: Path, settings: Settings, prepared: Settings) -> dict[str, Measurement]:
    import transformers

    classify = transformers.pipeline(
        "text-classification", str(folder / "teacher"), batch_size=BATCH_SIZE, top_k=None, device="cpu"
    )
    rows = texts(sentences(settings["rows"]))
    classify(rows[:BATCH_SIZE])
    return {"": timed(len(rows), lambda: classify(rows), precision="float32", flops=prepared["flops"])}


def labels(source: str, folder: Path, settings: Settings, prepared: Settings) -> dict[str, Measurement]:
    """From tokenizing to the written shard; loading the model and the manifest are not timed."""
    from tinybert_cli.config import GenSoftLabels
    from tinybert_cli.stages import gen_soft_labels

    config = GenSoftLabels(
        task="text-classification", data=sentences(settings["rows"]), teacher=str(folder / source),
        per_device_eval_batch_size=BATCH_SIZE, check_teacher=False, output_dir=str(folder / f"{source}-labels"),
    )  # fmt: skip
    clock, precision = Clock(), ""
    for event in gen_soft_labels.run(config, force=True):
        if event["event"] == "plan":
            precision = PRECISIONS[event["precision"]]
        if event["event"] in ("plan", "drift"):
            clock.marks.clear()
            clock.mark(0)
        elif event["event"] == "shard":
            clock.mark(event["step"])
    return {"": clock.measurement(flops=prepared["flops"], precision=precision)}


def export_int8(model: Path, settings: Data, folder: Path) -> Path:
    """The int8 export of a model; without quality limits, because its head is random."""
    from tinybert_cli.config import Export, Verify
    from tinybert_cli.stages import export

    data = settings.model_copy(update={"validation_file": settings.train_file})
    verify = Verify(max_samples=64, min_agreement=0.0, max_metric_drop=1.0)
    config = Export(
        task="text-classification", data=data, model=str(model), quantize="int8", verify=verify, output_dir=str(folder)
    )
    list(export.run(config))
    return folder


def drift(folder: Path, rows: int) -> dict[str, dict[str, float]]:
    """Precision → share of labels that are those of float32, and the mean difference of a logit from float32's."""
    import numpy as np

    from tinybert_cli.config import Finetune, ResolvedTraining
    from tinybert_cli.stages import finetune

    data = sentences(rows)
    training = ResolvedTraining(num_train_epochs=1.0, eval_strategy="no", learning_rate=1e-4)
    reset_accelerate()
    config = Finetune(
        task="text-classification", data=data, model=MINILM, training=training, output_dir=str(folder / "model")
    )
    list(finetune.run(config))
    export_int8(folder / "model", data, folder / "export")
    sources = {"float32": ("model", "no"), "bf16": ("model", "bf16"), "int8": ("export", "no")}
    logits = {}
    for name, (source, precision) in sources.items():
        output = folder / name
        gen_soft_labels(data, folder / source, output, splits=["validation"], mixed_precision=precision)
        logits[name] = stored_logits(output)
    exact = logits.pop("float32")
    return {
        name: {
            "rows": len(exact),
            "agreement": float((values.argmax(-1) == exact.argmax(-1)).mean()),
            "mean_difference": float(np.abs(values - exact).mean()),
            "mean_logit": float(np.abs(exact).mean()),
        }
        for name, values in logits.items()
    }


def stored_logits(folder: Path) -> Any:
    """The logits of the validation rows of a label dataset, (N, C)."""
    import numpy as np
    import pyarrow.parquet as pq

    files = sorted(folder.glob("validation-*.parquet"))
    return np.concatenate([np.array(pq.read_table(file)["teacher_logits"].to_pylist()) for file in files])


BENCHMARK = Benchmark(
    name="labelling",
    script=__file__,
    prepare=prepare,
    sides=(
        Side("transformers pipeline", pipeline),
        Side("gen-soft-labels", partial(labels, "teacher"), own=True),
        Side("gen-soft-labels, int8 export", partial(labels, "export"), own=True),
    ),
    bars=(
        Bar("gen-soft-labels", "transformers pipeline", 5.5),
        Bar("gen-soft-labels, int8 export", "transformers pipeline", 9.0),
    ),
    settings={"shape": "bert-base", "rows": 512, "drift_rows": 2048},
    quick={"shape": "tiny", "rows": 64, "drift_rows": 64},
)

if __name__ == "__main__":
    main(BENCHMARK, ["shape", "rows"])
