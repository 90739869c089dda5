"""The recipe that `tinybert init --data` writes: all stages of a cascade, sized for the data, with reasons."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tinybert_cli.configuration import yaml_writer
from tinybert_cli.escaping import printable, shell_word
from tinybert_cli.helpers.text_lengths import BaseModel
from tinybert_cli.wording import counted

SCHEMA = "https://raw.githubusercontent.com/tinybert/tinybert/main/configs/schemas/recipe.json"
WIDTH = 120  # of a line with a comment

Path = tuple[str | int, ...]
Comments = dict[Path, str]


@dataclass(frozen=True)
class Plan:
    """What the recipe depends on."""

    task: str
    folder: str  # as the user wrote it, for the command
    name: str  # of the runs
    source: str  # the data file, for the first lines
    data: dict[str, Any]
    rows: Mapping[str, int]  # of each split
    base: BaseModel
    teacher: str | None  # a finished teacher
    plain_model: str | None  # what the shape of student2 is trained from without distillation; None = it is not
    max_seq_length: int
    length_reason: str
    seed: int

    @property
    def has_classes(self) -> bool:
        return self.task not in ("regression", "translation")

    @property
    def labelled(self) -> int:
        """Rows of a label dataset."""
        return self.rows["train"] * (1 + self.copies) + self.rows.get("unlabeled", 0)

    @property
    def copies(self) -> int:
        """Augmented examples per row, where there are few rows."""
        if self.task not in ("text-classification", "multi-label-classification"):
            return 0
        return min(10, math.ceil(FEW_ROWS / self.rows["train"]) - 1)

    @property
    def matches_layers(self) -> bool:
        """Whether student2 learns the student's layers before its labels (measured in docs/recipes.md)."""
        if self.student2_layers == self.student_layers:
            return False
        tags_or_pairs = self.task == "token-classification" or isinstance(self.data["text_column_names"], list)
        return tags_or_pairs and self.rows["train"] < SHORT_ROWS

    @property
    def student_layers(self) -> int:
        return max(1, math.ceil(self.base.layers / 2))

    @property
    def student2_layers(self) -> int:
        return max(1, math.ceil(self.student_layers / 2))


FEW_ROWS = 5_000  # below it, examples with replaced words are added
SHORT_ROWS = 20_000  # below it, a training takes minutes and needs no checkpoints to resume from
MANY_STEPS = 2_000  # of an epoch: above it, the model is evaluated within the epoch


def batch_size(rows: int) -> int:
    """Rows of a batch: small ones for few rows, since the number of steps is what counts there."""
    return 16 if rows < 2_000 else 32


def as_yaml(plan: Plan) -> str:
    """The recipe as YAML with comments."""
    recipe, comments = _recipe(plan)
    return "\n".join([*_header(plan), *_lines(recipe, comments)]) + "\n"


def stages(plan: Plan) -> list[str]:
    """The names of the stages, in their order."""
    return [str(stage["output_dir"]).rpartition("/")[2] for stage in _recipe(plan)[0]["stages"]]


def _header(plan: Plan) -> Iterator[str]:
    yield f"# yaml-language-server: $schema={SCHEMA}"
    yield f"# tinybert run {shell_word(plan.folder + '/recipe.yaml')}"
    yield f"# Written by tinybert init from {printable(plan.source)}. Everything can be changed here;"
    yield "# `tinybert schema finetune` explains each setting of a stage."


def _recipe(plan: Plan) -> tuple[dict[str, Any], Comments]:
    comments: Comments = {
        ("data", "max_seq_length"): plan.length_reason,
        ("data", "label_names"): "the classes, in the order of the outputs",
    }
    listed: list[dict[str, Any]] = []
    for stage, own in (_translation_stages if plan.task == "translation" else _stages)(plan):
        at = len(listed)
        comments |= {("stages", at, *path): text for path, text in own.items()}
        listed.append(stage)
    return {"task": plan.task, "data": yaml_writer.escaped(plan.data), "seed": plan.seed, "stages": listed}, comments


def _runs(plan: Plan, name: str) -> str:
    return f"${{RUNS:-runs}}/{yaml_writer.escaped(plan.name)}/{name}"


# -- the stages of a cascade -----------------------------------------------------------------------------------


def _stages(plan: Plan) -> Iterator[tuple[dict[str, Any], Comments]]:
    learned = "probabilities" if plan.has_classes else "numbers"
    teacher = plan.teacher or _runs(plan, "teacher")
    if plan.teacher is None:
        training, own = _training(plan.rows["train"])
        stage = {"stage": "finetune", "model": plan.base.name, "training": training}
        yield (
            {**stage, "output_dir": teacher},
            {(): f"the teacher: {counted(plan.base.layers, 'layer')}, trained on your labels", **own},
        )
    yield _labels(plan, teacher, "teacher-labels", "the teacher predicts the training rows")
    stage, own = _distilled(plan, "teacher-labels", _cut(teacher, plan.student_layers), "spread")
    yield (
        {**stage, "output_dir": _runs(plan, "student")},
        {
            (): f"the student learns the teacher's {learned}",
            ("student", "num_hidden_layers"): f"half of the teacher's {counted(plan.base.layers, 'layer')}",
            **own,
        },
    )
    yield _labels(plan, _runs(plan, "student"), "student-labels", "the student predicts the same rows")
    shape = _cut(_runs(plan, "student"), plan.student2_layers)
    if plan.matches_layers:
        yield _layers(plan, shape)
        stage, own = _distilled(plan, "student-labels", _runs(plan, "student2-layers"))
    else:
        stage, own = _distilled(plan, "student-labels", shape, "last")
    yield (
        {**stage, "output_dir": _runs(plan, "student2")},
        {(): f"student2, the model to ship, learns the student's {learned}", **own},
    )
    models = {"teacher": teacher, "student": _runs(plan, "student"), "student2": _runs(plan, "student2")}
    if plan.student2_layers < plan.student_layers:  # else it is the student
        stage, own = _distilled(plan, "teacher-labels", _cut(teacher, plan.student2_layers), "spread")
        yield (
            {**stage, "output_dir": _runs(plan, "student2-direct")},
            {(): "for comparison: the shape of student2, straight from the teacher", **own},
        )
        models["student2-direct"] = _runs(plan, "student2-direct")
    if plan.plain_model is not None:
        training, own = _training(plan.rows["train"])
        yield (
            {
                "stage": "finetune",
                "model": _cut(plan.plain_model, plan.student2_layers),
                "layer_mapping": "spread",
                "training": training,
                "output_dir": _runs(plan, "student2-plain"),
            },
            {(): "for comparison: the shape of student2 without distillation", **own},
        )
        models["student2-plain"] = _runs(plan, "student2-plain")
    yield _evaluation(plan, models)
    yield _export(plan, "onnx")


def _layers(plan: Plan, shape: Mapping[str, Any]) -> tuple[dict[str, Any], Comments]:
    """The first step of a student2 that tags words, compares two texts or finds answers."""
    training, own = _training(plan.labelled)
    training.pop("eval_steps", None)
    stage = {
        "stage": "distill",
        "label_dataset": _runs(plan, "student-labels"),
        "teacher": _runs(plan, "student"),
        "student": shape,
        "layer_mapping": "last",
        "losses": {"hidden_states": 1.0, "attentions": 1.0, "embeddings": 1.0},
        "training": {**training, "eval_strategy": "no", "keep": "last"},
        "output_dir": _runs(plan, "student2-layers"),
    }
    own["training", "num_train_epochs"] = f"by the {counted(plan.labelled, 'row')}"
    return stage, {(): "student2 learns the student's layers first: the labels of few rows teach it less", **own}


def _cut(model: str, layers: int) -> dict[str, Any]:
    """So many of the layers of a model."""
    return {"from": model, "num_hidden_layers": layers}


def _distilled(
    plan: Plan, labels: str, student: str | Mapping[str, Any], mapping: str | None = None
) -> tuple[dict[str, Any], Comments]:
    """A student that learns the soft labels of the teacher or, as student2, of the student (docs/recipes.md)."""
    training, own = _training(plan.labelled)
    temperature = 2.0 if plan.has_classes and plan.task != "question-answering" else 1.0
    stage = {
        "stage": "distill",
        "label_dataset": _runs(plan, labels),
        "student": student,
        **({} if mapping is None else {"layer_mapping": mapping}),
        "losses": {"soft_labels": {"weight": 1.0, "temperature": temperature} if plan.has_classes else 1.0},
        "training": training,
    }
    return stage, own


def _labels(plan: Plan, teacher: str, name: str, why: str) -> tuple[dict[str, Any], Comments]:
    stage: dict[str, Any] = {"stage": "gen-soft-labels", "teacher": teacher}
    comments: Comments = {(): why}
    if "unlabeled" in plan.rows:
        stage["splits"] = ["train", "unlabeled"]
    if plan.copies:
        stage["augment"] = {"copies": plan.copies}
        comments["augment", "copies"] = "examples with replaced words per row, as there are few rows"
    return {**stage, "output_dir": _runs(plan, name)}, comments


def _training(rows: int) -> tuple[dict[str, Any], Comments]:
    """The training settings for so many rows; the learning rate is `auto` unless a recipe sets it."""
    size = batch_size(rows)
    training: dict[str, Any] = {"num_train_epochs": "auto", "per_device_train_batch_size": size}
    if rows < SHORT_ROWS:
        training["save_steps"] = MANY_STEPS
    elif rows > MANY_STEPS * size:
        training["eval_steps"] = MANY_STEPS // 2
    return training, {
        ("training", "num_train_epochs"): f"by the {counted(rows, 'row')}; ends when validation stops improving",
        ("training", "save_steps"): "minutes only: no checkpoints on the way",
    }


def _evaluation(plan: Plan, models: Mapping[str, str]) -> tuple[dict[str, Any], Comments]:
    stage = {
        "stage": "eval",
        "models": dict(models),
        "reference": "teacher",
        "split": "test",
        "latency": {"batch_sizes": [1, 32], "lengths": ["data"]},
        "output_dir": _runs(plan, "eval"),
    }
    if plan.task == "translation":
        stage["search"] = {"beams": 4}
    return stage, {(): f"all models side by side, on {counted(plan.rows['test'], 'row')} that no other stage uses"}


def _export(plan: Plan, form: str) -> tuple[dict[str, Any], Comments]:
    rows = min(plan.rows["test"], 1_000)
    verify: dict[str, Any] = {"split": "test", "max_samples": rows}
    comments: Comments = {(): "student2 in 8-bit integers, compared with the original before it is accepted"}
    if rows < 500 and plan.task != "translation":
        verify |= {"min_agreement": 0.95, "max_metric_drop": max(0.01, round(1.02 / rows, 3))}
        comments["verify", "min_agreement"] = "0.99 with more test rows"
        comments["verify", "max_metric_drop"] = "one row"
    stage = {"stage": "export", "model": _runs(plan, "student2"), "format": form, "quantize": "int8", "verify": verify}
    return {**stage, "output_dir": _runs(plan, "export")}, comments


# -- translation -----------------------------------------------------------------------------------------------


def _translation_stages(plan: Plan) -> Iterator[tuple[dict[str, Any], Comments]]:
    """As configs/multi30k: the teacher is a new model, the students have one layer in the decoder."""
    passes = min(60, max(5, round(900_000 / plan.rows["train"])))
    new = {
        "family": "marian", "num_hidden_layers": 4, "num_decoder_layers": 4, "hidden_size": 128,
        "intermediate_size": 256, "num_attention_heads": 4, "vocabulary_size": 4000,
    }  # fmt: skip
    noise = {"label_smoothing": 0.1, "dropout": 0.2}
    why = counted(plan.rows["train"], "row")
    teacher = plan.teacher or _runs(plan, "teacher")
    if plan.teacher is None:
        stage = {"stage": "finetune", "model": new, "regularization": noise, "training": _steps(passes, 3e-3)}
        comments: Comments = {(): "the teacher: a new, small model", ("training", "num_train_epochs"): why}
        yield {**stage, "output_dir": teacher}, comments
    labels = {"stage": "gen-soft-labels", "teacher": teacher, "search": {"beams": 4}, "top_k": 8}
    yield {**labels, "output_dir": _runs(plan, "teacher-labels")}, {(): "the teacher translates the text"}
    yield (
        {
            "stage": "distill",
            "label_dataset": _runs(plan, "teacher-labels"),
            "student": {"from": teacher, "num_decoder_layers": 1},
            "layer_mapping": {"decoder": "last"},
            "losses": {"hard_labels": 1.0, "soft_labels": 1.0},
            "training": _steps(max(3, passes // 5), 1e-3),
            "output_dir": _runs(plan, "student"),
        },
        {(): "the student: one layer in the decoder, where most of the time goes"},
    )
    labels = {"stage": "gen-soft-labels", "teacher": _runs(plan, "student"), "search": {"beams": 4}}
    yield {**labels, "output_dir": _runs(plan, "student-labels")}, {(): "the student translates the same text"}
    yield (
        {
            "stage": "finetune",
            "label_dataset": _runs(plan, "student-labels"),
            "model": {"from": _runs(plan, "student"), "num_hidden_layers": 2},
            "layer_mapping": {"encoder": "spread"},
            "regularization": {"label_smoothing": 0.1},
            "training": _steps(max(3, passes * 2 // 5), 1e-3),
            "output_dir": _runs(plan, "student2"),
        },
        {(): "student2, the model to ship: two layers in the encoder"},
    )
    models = {"teacher": teacher, "student": _runs(plan, "student"), "student2": _runs(plan, "student2")}
    if plan.plain_model is not None:
        small = {**new, "num_hidden_layers": 2, "num_decoder_layers": 1}
        stage = {"stage": "finetune", "model": small, "regularization": noise, "training": _steps(passes, 3e-3)}
        comments = {(): "for comparison: the shape of student2 without distillation"}
        yield {**stage, "output_dir": _runs(plan, "student2-plain")}, comments
        models["student2-plain"] = _runs(plan, "student2-plain")
    yield _evaluation(plan, models)
    yield _export(plan, "ctranslate2")


def _steps(passes: int, rate: float) -> dict[str, Any]:
    return {
        "num_train_epochs": passes,
        "per_device_train_batch_tokens": 2048,
        "learning_rate": rate,
        "lr_scheduler_type": "cosine",
    }


# -- YAML with comments ----------------------------------------------------------------------------------------


def _lines(settings: Mapping[str, Any], comments: Comments, path: Path = (), indent: str = "") -> Iterator[str]:
    """The settings as lines of YAML; a comment is after its value if there is room, else above it."""
    for key, value in settings.items():
        comment = comments.get((*path, key))
        if isinstance(value, Mapping):
            lines = [f"{indent}{key}:", *_lines(value, comments, (*path, key), indent + "  ")]
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            lines = [f"{indent}{key}:", *_stage_lines(value, comments, (*path, key), indent)]
        else:
            lines = [indent + line for line in yaml_writer.write({key: value}).splitlines()]
        if comment is not None and len(lines) == 1 and len(lines[0]) + len(comment) + 4 <= WIDTH:
            lines[0] += f"  # {comment}"
        elif comment is not None:
            yield f"{indent}# {comment}"
        yield from lines


def _stage_lines(listed: list[Mapping[str, Any]], comments: Comments, path: Path, indent: str) -> Iterator[str]:
    """The stages, each with its comment above it."""
    for number, stage in enumerate(listed):
        yield ""
        if (why := comments.get((*path, number))) is not None:
            yield f"{indent}  # {why}"
        first, *rest = _lines(stage, comments, (*path, number), "")
        yield f"{indent}  - {first}"
        yield from (f"{indent}    {line}" for line in rest)
