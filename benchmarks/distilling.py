"""distill from stored logits vs. two ways to use transformers.Trainer; prints speeds and ratios.

The common way runs the float32 teacher in the training step. The well-written one reads the same stored logits, groups
rows of similar length, computes in bf16 and uses the fused AdamW. Same student (TinyBERT4's shape), batch size 32, one
epoch, one thread each. The first batch, and what comes after the last one, are not timed.

    SST2_DATA=path/to/sst2 python benchmarks/distilling.py [minilm|bert-base] [sentences] [sentences of the first way]
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common import (
    TINYBERT4,
    distill_config,
    forward_operations,
    gen_soft_labels,
    sentences,
    student_shape,
    teacher,
    texts,
    token_counts,
)
from side_by_side import Bar, Benchmark, Clock, Measurement, Settings, Side, main

TEMPERATURE = 2.0


def prepare(folder: Path, settings: Settings) -> dict[str, Any]:
    from transformers import AutoConfig

    source = teacher(settings["shape"], folder / "teacher")
    data = sentences(settings["rows"])
    gen_soft_labels(data, source, folder / "labels")
    lengths = token_counts(source, texts(data))
    training = 3 * forward_operations(student_shape(source), lengths)  # the backward pass is twice the forward pass
    return {"training": training, "teacher": forward_operations(AutoConfig.from_pretrained(source), lengths)}


def distill(folder: Path, settings: Settings, prepared: Settings) -> dict[str, Measurement]:
    from tinybert_cli.config import ResolvedTraining
    from tinybert_cli.stages import distill

    config = distill_config(
        sentences(settings["rows"]), folder / "labels", folder / "teacher", TINYBERT4, folder / "student",
        losses={"soft_labels": {"weight": 1.0, "temperature": TEMPERATURE}},
        training=ResolvedTraining(num_train_epochs=1.0, eval_strategy="no"),
    )  # fmt: skip
    return {"": training_speed(distill.run(config, force=True), flops=prepared["training"])}


def trainer_with_teacher(folder: Path, settings: Settings, prepared: Settings) -> dict[str, Measurement]:
    """The teacher is a part of `compute_loss`."""
    import torch
    from transformers import AutoModelForSequenceClassification

    teacher = AutoModelForSequenceClassification.from_pretrained(folder / "teacher").eval()

    def teacher_logits(inputs: dict[str, Any]) -> torch.Tensor:
        with torch.no_grad():
            logits: torch.Tensor = teacher(**inputs).logits
        return logits

    rows = min(settings["online_rows"], settings["rows"])
    clock = train(folder, encoded(folder, rows), teacher_logits)
    return {"": clock.measurement(flops=prepared["training"] + prepared["teacher"], precision="float32")}


def trainer_with_logits(folder: Path, settings: Settings, prepared: Settings) -> dict[str, Measurement]:
    """The logits are a column of the data set; bf16 where `distill` would use it, too."""
    from tinybert_cli import loops

    precision = loops.precision("auto")
    columns = encoded(folder, settings["rows"])
    columns["teacher_logits"] = stored_logits(folder / "labels")
    columns["length"] = [len(ids) for ids in columns["input_ids"]]
    clock = train(
        folder, columns, lambda inputs: inputs.pop("teacher_logits"), bf16=precision == "bf16",
        optim="adamw_torch_fused", train_sampling_strategy="group_by_length", length_column_name="length",
    )  # fmt: skip
    return {"": clock.measurement(flops=prepared["training"], precision=precision.replace("no", "float32"))}


def encoded(folder: Path, count: int) -> dict[str, Any]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "teacher")
    return dict(tokenizer(texts(sentences(count)), truncation=True, max_length=128))


def stored_logits(labels: Path) -> list[list[float]]:
    import pyarrow.parquet as pq

    files = sorted(labels.glob("train-*.parquet"))
    return [row for file in files for row in pq.read_table(file)["teacher_logits"].to_pylist()]


def train(folder: Path, columns: dict[str, Any], teacher_logits: Any, **arguments: Any) -> Clock:
    """One epoch of a Trainer; `teacher_logits(inputs)` returns those of a batch, and leaves the student's inputs."""
    import torch
    from datasets import Dataset
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    clock = Clock()

    class DistillationTrainer(Trainer):
        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            targets = torch.softmax(teacher_logits(inputs) / TEMPERATURE, -1)
            outputs = model(**inputs)
            log_probabilities = torch.log_softmax(outputs.logits.float() / TEMPERATURE, -1)
            loss = -(targets * log_probabilities).sum(-1).mean() * TEMPERATURE**2
            return (loss, outputs) if return_outputs else loss

    class Marks(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            clock.mark(min(state.global_step * args.per_device_train_batch_size, len(dataset)))

    dataset = Dataset.from_dict(columns)
    settings = TrainingArguments(
        output_dir=str(folder / "trainer"), num_train_epochs=1, per_device_train_batch_size=32, save_strategy="no",
        report_to=[], disable_tqdm=True, learning_rate=5e-5, logging_steps=10_000, remove_unused_columns=False,
        use_cpu=not torch.cuda.is_available(),
        **arguments,
    )  # fmt: skip
    pad = DataCollatorWithPadding(AutoTokenizer.from_pretrained(folder / "teacher"))
    DistillationTrainer(
        AutoModelForSequenceClassification.from_config(student_shape(folder / "teacher")), settings,
        train_dataset=dataset, callbacks=[Marks()],
        data_collator=lambda rows: pad([{key: row[key] for key in row if key != "length"} for row in rows]),
    ).train()  # fmt: skip
    return clock


def training_speed(events: Any, **more: Any) -> Measurement:
    """From the end of the first step to the end of the last one, of a training stage."""
    clock, precision = Clock(), ""
    for event in events:
        if event["event"] == "plan":
            precision = event["precision"].replace("no", "float32")
        elif event["event"] == "progress":
            clock.mark(event["rows"])
    return clock.measurement(precision=precision, **more)


ONLINE, STORED = "Trainer, online teacher", "Trainer, stored logits, by length, bf16, fused AdamW"

BENCHMARK = Benchmark(
    name="distilling",
    script=__file__,
    prepare=prepare,
    sides=(
        Side(ONLINE, trainer_with_teacher),
        Side(STORED, trainer_with_logits),
        Side("distill, stored logits", distill, own=True),
    ),
    bars=(Bar("distill, stored logits", ONLINE, 25.0), Bar("distill, stored logits", STORED, 1.8)),
    threads=1,
    settings={"shape": "bert-base", "rows": 2048, "online_rows": 256},
    quick={"shape": "tiny", "rows": 128, "online_rows": 96},
)

if __name__ == "__main__":
    main(BENCHMARK, ["shape", "rows", "online_rows"])
