"""What each command can be told: one frozen class per command; the text under a field is its documentation."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from tinybert_cli.presets import PRESETS

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Weight = Annotated[float, Field(ge=0.0)]


class Section(BaseModel):
    """A mapping in the file: unknown keys are errors, nothing is converted behind the user's back."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True, populate_by_name=True,
        protected_namespaces=(), allow_inf_nan=False,
    )  # fmt: skip


def _all_different(names: list[str]) -> list[str]:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"`data.label_names` has {', '.join(twice)} twice")
    return names


ClassNames = Annotated[list[str], Field(min_length=2), AfterValidator(_all_different)]


class Data(Section):
    """Which rows, from where, and which columns of them."""

    dataset_name: str | None = None
    """A dataset on the Hub (`nyu-mll/glue`), or a local folder with files like train.jsonl, validation.csv.gz."""
    dataset_config_name: str | None = None
    """The configuration of that dataset, for example `sst2`."""
    dataset_revision: str | None = None
    """The commit, tag or branch of that dataset; null = the newest."""
    train_file: str | list[str] | None = None
    """Files instead of a dataset: csv, tsv, json, jsonl, parquet, txt or conll, .gz too; a list is concatenated."""
    validation_file: str | list[str] | None = None
    """The same for validation; best checkpoints are chosen on it."""
    test_file: str | list[str] | None = None
    """The same for the final test."""
    unlabeled_file: str | list[str] | None = None
    """Extra text without labels, for gen-soft-labels (split name: `unlabeled`)."""
    text_column_names: str | Annotated[list[str], Field(min_length=1, max_length=2)] = "text"
    """The column with the text, or the two columns of a sentence pair."""
    label_column_name: str = "label"
    """The column with the gold label: a name, or an integer position in `label_names`."""
    label_names: ClassNames | Annotated[dict[str, str], Field(min_length=2)] | None = None
    """The order of the integer labels, when the data does not say; or a mapping of the labels in the data to names.

    In `{0: negative, 1: positive}`, or `{neg: negative, pos: positive}`, the names are the labels from there on, in
    this order; labels of the same name become one.
    """
    conll_column_names: Annotated[list[str], Field(min_length=2)] | None = None
    """What the columns of conll files hold, like [tokens, pos_tags, chunk_tags, ner_tags]; of a file with more of them
    the last name is the last column's. null = the words first and the label last.
    """
    train_split_name: str = "train"
    """What the dataset calls its training split."""
    validation_split_name: str = "validation"
    """What the dataset calls its validation split (`validation_matched` in MNLI)."""
    test_split_name: str = "test"
    """What the dataset calls its test split."""
    max_seq_length: Annotated[int, Field(ge=4)] = 128
    """Tokens of one input, special tokens included; longer text is cut, counted and reported.

    In language-modeling nothing is cut off: the texts, one after the other, are parted into blocks of this length.
    """
    doc_stride: Annotated[int, Field(ge=0)] = 128
    """Tokens that two windows have in common where a long text is read in several (question-answering)."""
    max_train_samples: Positive | None = None
    """Use only the first so many rows of train and unlabeled; changed copies of them (`augment`) do not count."""
    max_eval_samples: Positive | None = None
    """Use only the first so many rows of validation and test."""

    @property
    def class_names(self) -> list[str] | None:
        """The names in `label_names`, in their order."""
        names = self.label_names
        return list(dict.fromkeys(names.values())) if isinstance(names, dict) else names


def _known_preset(name: str) -> str:
    if name not in PRESETS:
        raise PydanticCustomError("unknown_preset", "expected one of: {names}", {"names": ", ".join(PRESETS)})
    return name


Preset = Annotated[str, Field(json_schema_extra={"enum": list(PRESETS)}), AfterValidator(_known_preset)]


class Model(Section):
    """A model, and its new shape if it is to be smaller than the one it comes from."""

    from_: str = Field(alias="from")
    """Weights and tokenizer: a folder, a Hub id (`org/name`, `org/name@revision`) or `package://import_name/path`."""
    preset: Preset | None = None
    """The shape of a published student by its name, for example `tinybert-4l-312`; the numbers below override it."""
    num_hidden_layers: Positive | None = None
    """Layers; null = as in `from`."""
    hidden_size: Positive | None = None
    """Width; null = as in `from`."""
    num_attention_heads: Positive | None = None
    """Attention heads; null = as in `from`, or as many as keep the size of one head."""
    intermediate_size: Positive | None = None
    """Neurons of the feed-forward layers; null = as in `from`, scaled with the width."""
    initialize: Literal["teacher", "random"] = "teacher"
    """teacher: copy the mapped layers of `from`, narrowed where the shape asks for it; random: fresh weights."""
    trim_vocabulary: bool = False
    """Keep only the pieces that the training text needs, the special ones and single characters.

    Changed copies of the text (`augment`) do not count: they are spelled out in what is kept.
    """


def _model_mapping(value: Any) -> Any:
    return {"from": value} if isinstance(value, str) else value


ModelSetting = Annotated[Model, BeforeValidator(_model_mapping, json_schema_input_type=str | Model)]
LayerMapping = Literal["uniform", "spread", "first", "last"] | list[Positive]


class Regularization(Section):
    """What keeps a model that learns from labels from believing them too much."""

    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of the target spread evenly over all classes (Szegedy et al. 2016)."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    """Dropout of hidden states, attention and classifier; null = as in the model."""
    r_drop: Weight = 0.0
    """Weight of the symmetric KL between two passes with different dropout (Wu et al. 2021); doubles the time."""


def _some_steps(steps: int) -> int:
    if steps == 0:
        raise ValueError("`training.max_steps`: 0 steps train nothing; -1 = as many as num_train_epochs makes")
    return steps


class Training(Section):
    """How a model is trained, in the words of Hugging Face's TrainingArguments."""

    num_train_epochs: Annotated[float, Field(gt=0)] = 3.0
    """Passes over the training rows; may be a fraction."""
    max_steps: Annotated[int, Field(ge=-1), AfterValidator(_some_steps)] = -1
    """Optimizer steps; -1 = from num_train_epochs."""
    per_device_train_batch_size: Positive = 32
    """Rows of one batch on one device."""
    per_device_eval_batch_size: Positive = 128
    """Rows of one evaluation batch on one device."""
    gradient_accumulation_steps: Positive = 1
    """Batches added up for one optimizer step."""
    learning_rate: Annotated[float, Field(gt=0)] = 5e-5
    """Peak learning rate of AdamW."""
    warmup_ratio: Share = 0.1
    """Share of the steps in which the learning rate rises from 0."""
    weight_decay: Weight = 0.01
    """AdamW's decay; not applied to biases and layer norms."""
    max_grad_norm: Weight = 1.0
    """Gradients are clipped to this norm; 0 = never."""
    lr_scheduler_type: Literal[
        "linear", "cosine", "constant", "constant_with_warmup", "cosine_with_restarts", "polynomial", "inverse_sqrt"
    ] = "linear"
    """How the learning rate goes on after the warm-up."""
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """auto: bf16 where the device computes it faster than float32, and the log says which was taken."""
    group_by_length: bool = True
    """Batches of like lengths, so that next to nothing is padding."""
    eval_strategy: Literal["no", "epoch", "steps"] = "epoch"
    """When the validation split is scored."""
    eval_steps: Positive | None = None
    """Steps between evaluations, with `eval_strategy: steps`; null = logging_steps."""
    logging_steps: Positive = 50
    """Steps between two lines of the log."""
    save_steps: Positive | None = None
    """Steps between checkpoints to resume from; null = at every evaluation."""
    metric_for_best_model: str = "auto"
    """auto: the task's main metric; or the name of another one of its metrics, or `loss`."""
    early_stopping_patience: Positive | None = None
    """Stop after so many evaluations without a better score; null = never."""
    keep: Literal["best", "last"] = "best"
    """Which weights the finished folder holds."""
    dataloader_num_workers: Annotated[int, Field(ge=0)] = 0
    """Processes that prepare batches; 0 = the training process itself."""
    report_to: list[Literal["tensorboard", "wandb", "mlflow", "trackio"]] = []
    """Experiment trackers; nothing is reported unless asked. Those that write files do so in `trackers/`."""


class Latency(Section):
    """How the time of one forward pass is taken."""

    batch_sizes: Annotated[list[Positive], Field(min_length=1)] = [1, 32]
    """Rows of one pass."""
    lengths: Annotated[list[Literal["data"] | Positive], Field(min_length=1)] = ["data", 128]
    """`data` = the rows' own lengths; a number = all rows of so many tokens."""
    startup: bool = False
    """Also the time from the start of a new process to its first answer, and the memory that it takes."""


class Verify(Section):
    """What an exported model has to keep, on real rows."""

    split: Literal["train", "validation", "test"] = "validation"
    """The rows that are compared."""
    max_samples: Positive = 256
    """How many of them."""
    atol: Annotated[float, Field(gt=0)] = 1e-3
    """Largest logit difference of an export in float32; fewer bits are judged by the two below."""
    min_agreement: Share = 0.99
    """Least share of rows with the same answer."""
    max_metric_drop: Weight = 0.01
    """Most that the task's main metric may lose."""


class Augment(Section):
    """Copies of the training texts in which some words give way to others (Jiao et al. 2020)."""

    copies: Positive = 20
    """Changed copies of each row, at most: none is there twice."""
    probability: Share = 0.4
    """Share of the words that give way."""
    candidates: Positive = 15
    """Words among which the other one is drawn: those that `masked_lm` finds likeliest, or the nearest neighbours."""
    masked_lm: str | None = None
    """A model that fills in words, asked what else could stand in each place of a sentence; null = neighbours alone.

    It is asked about the words that its vocabulary has whole; all others give way to their nearest neighbours.
    """
    embeddings: str | None = None
    """The model whose word embeddings say what is near; null = `masked_lm` or, without one, the first teacher."""


class Stage(Section):
    """Settings of every stage."""

    stage: str | None = None
    """The command that this file is for; another command rejects it."""
    task: str
    """What the model answers: text-classification, multi-label-classification, regression, token-classification or
    question-answering; or language-modeling, with which distill makes a general student."""
    data: Data
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    """Makes the run repeatable: shuffling, dropout, new weights."""
    output_dir: Annotated[str, Field(min_length=1)]
    """The folder that this stage writes."""


class Finetune(Stage):
    """Train a model on gold labels (the teacher), or on the answers of another model (student2)."""

    stage: Literal["finetune"] = "finetune"
    """The command that this file is for; another command rejects it."""
    model: ModelSetting
    """The model to start from, and its new shape if it is to be smaller."""
    layer_mapping: LayerMapping = "uniform"
    """Which layers of `from` a shallower model is copied from: uniform, spread, first, last, or a list; see distill."""
    label_dataset: str | None = None
    """The folder that gen-soft-labels wrote: the predictions in it become the labels. null = gold labels."""
    min_confidence: Share = 0.0
    """Use only rows whose prediction has at least this confidence; needs `label_dataset`."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: rare classes count as much as frequent ones, each label by rows / (classes * rows of its class)."""
    regularization: Regularization = Regularization()
    """Label smoothing, dropout, R-Drop."""
    training: Training = Training()
    """Epochs, batches, learning rate."""


class GenSoftLabels(Stage):
    """Run a model once over the data and store its answers."""

    stage: Literal["gen-soft-labels"] = "gen-soft-labels"
    """The command that this file is for; another command rejects it."""
    teacher: str | Annotated[list[str], Field(min_length=1)]
    """A model folder, a Hub id or an export folder; of a list (an ensemble) the mean of the probabilities is stored."""
    teacher_weights: list[Annotated[float, Field(gt=0)]] | None = None
    """Weights of that mean, one per teacher; null = all alike."""
    splits: Annotated[list[Literal["train", "validation", "test", "unlabeled"]], Field(min_length=1)] = ["train"]
    """Which splits to label."""
    per_device_eval_batch_size: Positive = 128
    """Rows of one batch on one device."""
    logits_dtype: Literal["float32", "float16"] = "float32"
    """float16 halves the file."""
    mixed_precision: Literal["auto", "no", "bf16"] = "auto"
    """auto: the teacher's weights in bf16 where the device computes it faster than float32."""
    states: list[str] = []
    """Losses of layers (hidden_states, attentions, ...): what they compare is stored as well, so that no teacher runs
    when a student learns by them."""
    layer_mapping: LayerMapping = "uniform"
    """Of which layers: those that a student of `student_layers` layers is compared with (see distill), or a list."""
    student_layers: Positive | None = None
    """Layers of the student that the states are for; null = as many as the list in `layer_mapping` names."""
    augment: Augment | None = None
    """Also label changed copies of the training rows; null = none."""
    check_teacher: bool = True
    """Stop before anything is written if the teacher is no better than always giving the most frequent answer."""


class Distill(Stage):
    """Train a student to say what the teacher says."""

    stage: Literal["distill"] = "distill"
    """The command that this file is for; another command rejects it."""
    label_dataset: str | None = None
    """The folder that gen-soft-labels wrote. Required by every task except language-modeling, which has no labels."""
    student: ModelSetting
    """The student to start from: usually the teacher, with fewer layers."""
    teacher: str | None = None
    """Whose layers the layer losses compare. The labels must be its own; null = whoever wrote them.

    It runs beside the student, but where the label dataset holds the `states` of its layers.
    """
    losses: dict[str, float | dict[str, Any]] = {"soft_labels": 1.0}
    """name: weight, or name: {weight: 1.0, option: value}; they are added up."""
    layer_mapping: LayerMapping = "uniform"
    """Which layer of the teacher each student layer is copied from and compared with: a rule, or a list like [1, 3, 6].

    Layers count from 1. uniform: the last of each equal group (3 of 6: 2, 4, 6); spread: the first, the last and those
    between (1, 3, 6); first: 1, 2, 3; last: 4, 5, 6.
    """
    projections: Literal["per_layer", "shared"] = "per_layer"
    """If the student is narrower: learned matrices that widen what it compares, one per layer or one for all."""
    training: Training = Training()
    """Epochs, batches, learning rate."""


class Eval(Stage):
    """Score models side by side: quality, fidelity, size, latency."""

    stage: Literal["eval"] = "eval"
    """The command that this file is for; another command rejects it."""
    models: Annotated[dict[str, str], Field(min_length=1)]
    """name: folder, Hub id or export folder."""
    reference: str | None = None
    """Retention, fidelity and speed-up are against this one; null = the first."""
    split: Literal["train", "validation", "test"] = "validation"
    """The rows that are scored."""
    metrics: Literal["auto"] | list[str] = "auto"
    """auto: all that the task has; or a list of names."""
    per_device_eval_batch_size: Positive = 128
    """Rows of one batch."""
    latency: Latency | None = Latency()
    """null = not measured."""
    slices: list[str] = []
    """Columns whose values are scored one by one, besides length, label and the reference's confidence."""
    bootstrap: Annotated[int, Field(ge=0)] = 1000
    """Resamples for the 95 % interval; 0 = none."""
    require: dict[str, dict[str, float]] = {}
    """model: {metric: least value}; if one is not met, the exit code is 5."""


class Export(Stage):
    """Write a model in another form, and verify it against the original."""

    stage: Literal["export"] = "export"
    """The command that this file is for; another command rejects it."""
    model: str
    """The model folder or Hub id to export."""
    format: str = "onnx"
    """onnx: for ONNX Runtime, without torch; safetensors: a model folder for transformers, in half the bytes."""
    dtype: Literal["bfloat16", "float16"] | None = None
    """Of the weights, with `format: safetensors`; null = bfloat16, which a CPU computes with as well."""
    quantize: Literal["none", "int8"] = "none"
    """int8: dynamic quantization of the weights, one scale per channel; with `format: onnx`."""
    quantize_exclude: list[str] = []
    """Parts of the model that stay float32, by the names of its modules: encoder.layer.0, classifier, ..."""
    embedding_bits: Literal[8, 6] = 8
    """Of the embedding tables, with `quantize: int8`; 6 saves a quarter of their bytes and some of their digits."""
    opset: Annotated[int, Field(ge=11)] | None = None
    """Operator set, with `format: onnx`; null = the newest that the exporter writes."""
    verify: Verify = Verify()
    """What the export has to keep."""


COMMANDS: dict[str, type[Stage]] = {
    "finetune": Finetune,
    "gen-soft-labels": GenSoftLabels,
    "distill": Distill,
    "eval": Eval,
    "export": Export,
}
