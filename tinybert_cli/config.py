"""Settings of every command: one frozen class per command. The text under a field is its documentation."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from tinybert_cli.presets import PRESETS, TRANSLATION_PRESETS
from tinybert_cli.user_paths import with_home

Positive = Annotated[int, Field(ge=1)]
BatchSize = Annotated[int, Field(ge=1, le=2**16)]
LEAST_TOKENS = 16  # of a batch that is limited by its tokens
Tokens = Annotated[int, Field(ge=1, le=2**20)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Weight = Annotated[float, Field(ge=0.0)]
PathText = Annotated[str, AfterValidator(with_home)]  # a file or folder, or a Hub id


class Section(BaseModel):
    """Base class of all config sections: strict types, frozen, unknown keys are errors."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True, populate_by_name=True,
        protected_namespaces=(), allow_inf_nan=False,
    )  # fmt: skip


def _all_different(names: list[str]) -> list[str]:
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if repeated:
        raise ValueError(f"`data.label_names` contains {', '.join(repeated)} more than once")
    return names


ClassNames = Annotated[list[str], Field(min_length=2), AfterValidator(_all_different)]


def _delimiter(text: str) -> str:
    text = {"tab": "\t", r"\t": "\t"}.get(text, text)
    if text != "auto" and (len(text) != 1 or text in '"\r\n\0 '):
        raise ValueError("`data.delimiter` must be one character, such as ; or |, or `tab`, or `auto`")
    return text


Delimiter = Annotated[str, AfterValidator(_delimiter)]


class Data(Section):
    """The rows and their columns: files, or a dataset."""

    dataset_name: PathText | None = None
    """A dataset on the Hub (`nyu-mll/glue`), or a local folder: with files such as train.jsonl, validation.csv.gz or
    data/train-00000-of-00002.parquet, or written by `datasets` with save_to_disk."""
    dataset_config_name: str | None = None
    """The configuration of the dataset, for example `sst2`; of a local folder, its subfolder, if it has one."""
    dataset_revision: str | None = None
    """Commit, tag or branch of the dataset; null = the newest."""
    train_file: PathText | list[PathText] | None = None
    """Training files, instead of a dataset: csv, tsv, json, jsonl, parquet, txt or conll, also .gz. A list is
    concatenated. `train.{en,de}` names two text files, train.en and train.de, whose lines are the columns en and de."""
    validation_file: PathText | list[PathText] | None = None
    """Validation files; the best checkpoint is selected on them."""
    test_file: PathText | list[PathText] | None = None
    """Test files."""
    unlabeled_file: PathText | list[PathText] | None = None
    """Files with text without labels, for gen-soft-labels (split name: `unlabeled`)."""
    streaming: bool = False
    """Read the rows as a stream, from local files or the Hub: nothing is downloaded, stored or counted before the first
    step. For gen-soft-labels, and for distill with `task: language-modeling`."""
    text_column_names: str | Annotated[list[str], Field(min_length=1, max_length=2)] = "text"
    """The column with the text, or the two columns of a sentence pair."""
    delimiter: Delimiter = "auto"
    """The character between the cells of csv and tsv files; auto: the one that divides the header and all rows."""
    quoting: Literal["auto", "double", "none"] = "auto"
    """Whether cells of csv and tsv files may be enclosed in double quotes; auto: in csv files yes, in tsv files no."""
    label_column_name: str | Annotated[list[str], Field(min_length=2)] = "label"
    """The column with the gold label: a class name, or an integer index into `label_names`. In
    multi-label-classification also a list of columns, one per class, with 0 or 1 in each row."""
    label_separator: Annotated[str, Field(min_length=1)] | None = None
    """The separator of several labels in one cell, in multi-label-classification: `,` `;` `|` ...; null = `|`, and
    cells with another separator are rejected."""
    label_names: ClassNames | Annotated[dict[str, str], Field(min_length=2)] | None = None
    """Class names in the order of the integer labels, if the data does not contain them; or a mapping from labels to
    class names.

    With `{0: negative, 1: positive}` or `{neg: negative, pos: positive}` the class names replace the labels, in this
    order; labels with the same class name are merged.
    """
    conll_column_names: Annotated[list[str], Field(min_length=2)] | None = None
    """Names of the columns in conll files, for example [tokens, pos_tags, chunk_tags, ner_tags]. If a file has more
    columns, the last name is that of its last column. null = words in the first column, labels in the last.
    """
    train_split_name: str = "train"
    """Name of the training split in the dataset."""
    validation_split_name: str = "validation"
    """Name of the validation split in the dataset (`validation_matched` in MNLI). In a local folder `validation` also
    stands for dev, val and valid."""
    test_split_name: str = "test"
    """Name of the test split in the dataset."""
    max_seq_length: Annotated[int, Field(ge=4, le=2**20)] = 128
    """Maximum number of tokens per input, special tokens included. Longer texts are truncated, counted and reported.

    In language-modeling nothing is truncated: the texts are concatenated and split into blocks of this length.
    """
    max_target_length: Annotated[int, Field(ge=4, le=2**20)] = 128
    """Maximum number of target tokens in translation, the end token included. Training rows with a longer target are
    left out, counted and reported; a longer translation is cut, counted and reported."""
    source_language: str | None = None
    """The language of the source text, for translation models that need it (NLLB, M2M100, mBART): the code of their
    tokenizer, such as eng_Latn."""
    target_language: str | None = None
    """The language of the translations, for models that need it."""
    doc_stride: Annotated[int, Field(ge=0, le=2**20)] = 128
    """Tokens that two consecutive windows of a long text share (question-answering, token-classification)."""
    max_train_samples: Positive | None = None
    """Use only this many rows of train and as many of unlabeled, from the start; augmented examples are not counted,
    and left out if a label dataset has more rows of train."""
    max_eval_samples: Positive | None = None
    """Use only this many rows of validation and of test, from the start."""

    @property
    def text_columns(self) -> list[str]:
        """The names of the text columns, one or two."""
        names = self.text_column_names
        return [names] if isinstance(names, str) else list(names)

    @property
    def label_columns(self) -> list[str]:
        """The column with the gold label, or one column per class."""
        names = self.label_column_name
        return [names] if isinstance(names, str) else list(names)

    @property
    def label_column(self) -> str:
        """The column with the gold label; of one column per class their names, separated by commas."""
        return ", ".join(self.label_columns)

    @property
    def class_names(self) -> list[str] | None:
        """The names in `label_names`, in their order."""
        names = self.label_names
        return list(dict.fromkeys(names.values())) if isinstance(names, dict) else names


def _known_preset(name: str) -> str:
    if name not in _PRESET_NAMES:
        raise PydanticCustomError("unknown_preset", "expected one of: {names}", {"names": ", ".join(_PRESET_NAMES)})
    return name


_PRESET_NAMES = [*PRESETS, *TRANSLATION_PRESETS]
Preset = Annotated[str, Field(json_schema_extra={"enum": _PRESET_NAMES}), AfterValidator(_known_preset)]


class Model(Section):
    """A model, and its new shape if it is to be smaller than its source."""

    from_: PathText | None = Field(default=None, alias="from")
    """Weights and tokenizer: a folder, a Hub id (`org/name`, `org/name@revision`) or `package://import_name/path`.
    Required, unless `family` builds a new model."""
    family: Literal["marian"] | None = None
    """A new model without `from`, in translation: random weights and a joint vocabulary of the training text."""
    vocabulary_size: Annotated[int, Field(ge=32, le=2**20)] | None = None
    """Number of tokens of a new model; null = 4000."""
    preset: Preset | None = None
    """The shape of a published student, for example `tinybert-4l-312`; the numbers below override it."""
    num_hidden_layers: Annotated[int, Field(ge=1, le=1_000)] | None = None
    """Number of layers, in translation of the encoder; null = as in `from`."""
    num_decoder_layers: Annotated[int, Field(ge=1, le=1_000)] | None = None
    """Number of layers of the decoder, in translation; null = as in `from`."""
    hidden_size: Annotated[int, Field(ge=1, le=2**16)] | None = None
    """Hidden size; null = as in `from`."""
    num_attention_heads: Annotated[int, Field(ge=1, le=2**16)] | None = None
    """Number of attention heads; null = as in `from`, or such that the size of a head does not change."""
    intermediate_size: Annotated[int, Field(ge=1, le=2**20)] | None = None
    """Number of FFN units; null = as in `from`, scaled with the hidden size."""
    initialize: Literal["teacher", "random"] = "teacher"
    """teacher: copy the mapped layers of `from`, shrunk to the new shape; random: new weights."""
    trim_vocabulary: bool = False
    """Remove all tokens except those that the training text needs, special tokens and single characters.

    Augmented examples (`augment`) are not considered; their words are split into the remaining tokens.
    """

    @property
    def source(self) -> str:
        """`from`, of a model that is not new."""
        assert self.from_ is not None  # see checks.py
        return self.from_


def _model_mapping(value: Any) -> Any:
    return {"from": value} if isinstance(value, str) else value


ModelSetting = Annotated[Model, BeforeValidator(_model_mapping, json_schema_input_type=str | Model)]
LayerRule = Literal["uniform", "spread", "first", "last"] | list[Positive]


class StackMapping(Section):
    """One layer mapping for the encoder and one for the decoder of a translation model."""

    encoder: LayerRule = "uniform"
    """The layers of the encoder."""
    decoder: LayerRule = "uniform"
    """The layers of the decoder."""


LayerMapping = LayerRule | StackMapping
BaselineNames = Literal["auto"] | list[str]


def encoder_rule(mapping: LayerMapping) -> LayerRule:
    """The mapping of the encoder's layers, the only ones of most models."""
    return mapping.encoder if isinstance(mapping, StackMapping) else mapping


def decoder_rule(mapping: LayerMapping) -> LayerRule:
    """The mapping of the decoder's layers."""
    return mapping.decoder if isinstance(mapping, StackMapping) else mapping


class Regularization(Section):
    """Regularization for training on hard labels."""

    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of the target distribution that is spread evenly over all classes (Szegedy et al. 2016)."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    """Dropout of hidden states, attention and classifier; null = as in the model."""
    r_drop: Weight = 0.0
    """Weight of R-Drop, the symmetric KL between two passes with different dropout (Wu et al. 2021); doubles the
    training time."""


def _some_steps(steps: int) -> int:
    if steps == 0:
        raise ValueError("`training.max_steps` must not be 0; -1 = derived from num_train_epochs")
    return steps


class Training(Section):
    """How a model is trained, with the names of Hugging Face's TrainingArguments."""

    num_train_epochs: Literal["auto"] | Annotated[float, Field(gt=0, le=100_000)] = "auto"
    """Passes over the training rows; may be a fraction. auto: 3, or as many as make 600 optimizer steps (800 for a
    model that is cut out of another, 2,000 with random weights), at most 100."""
    max_steps: Annotated[int, Field(ge=-1, le=10**9), AfterValidator(_some_steps)] = -1
    """Optimizer steps, whatever num_train_epochs is; -1 = derived from num_train_epochs."""
    per_device_train_batch_size: BatchSize = 32
    """Rows of a training batch on one device."""
    per_device_train_batch_tokens: Annotated[int, Field(ge=LEAST_TOKENS, le=2**24)] | None = None
    """Tokens of a training batch on one device, instead of a number of rows: its rows times the longest of them, in
    translation the longer of source and target. A row with more tokens is a batch of its own. null =
    per_device_train_batch_size rows."""
    per_device_eval_batch_size: BatchSize = 128
    """Rows of an evaluation batch on one device."""
    gradient_accumulation_steps: BatchSize = 1
    """Batches whose gradients are accumulated for one optimizer step."""
    learning_rate: Literal["auto"] | Annotated[float, Field(gt=0)] = "auto"
    """Peak learning rate of AdamW. auto: 4e-5 at a hidden size of 768, and in inverse proportion for other sizes; twice
    that for a model that is cut out of another, five times with random weights."""
    warmup_ratio: Share = 0.1
    """Share of the steps in which the learning rate rises from 0 to its peak."""
    weight_decay: Weight = 0.01
    """Weight decay of AdamW; not applied to biases and layer norms."""
    max_grad_norm: Weight = 1.0
    """Gradients are clipped to this norm; 0 = no clipping."""
    lr_scheduler_type: Literal[
        "linear", "cosine", "constant", "constant_with_warmup", "cosine_with_restarts", "polynomial", "inverse_sqrt"
    ] = "linear"
    """Schedule of the learning rate after the warm-up; `constant` has none. `polynomial` has power 1, so that it equals
    `linear`, and `cosine_with_restarts` one cycle, so that it equals `cosine`."""
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """auto: bf16 if the device computes it faster than float32; the log contains the choice. The pooler and the head of
    the model always compute in float32."""
    group_by_length: bool = True
    """Batch rows of similar length together, to minimise padding."""
    eval_strategy: Literal["auto", "no", "epoch", "steps"] = "auto"
    """When the model is evaluated on the validation split. auto: after every epoch, or about 20 times in more than 20
    epochs; with `eval_steps`: after that many steps."""
    eval_steps: Positive | None = None
    """Steps between evaluations, with `eval_strategy: steps`; null = logging_steps."""
    logging_steps: Positive = 50
    """Steps between two lines of the log."""
    save_steps: Positive | None = None
    """Steps between checkpoints to resume from; null = wherever `eval_strategy` asks for an evaluation."""
    metric_for_best_model: str = "auto"
    """auto: the main metric of the task, in translation the loss, or bleu for a model that learns only translations of
    another one; or the name of another metric of the task, or `loss`."""
    early_stopping_patience: Literal["auto"] | Positive | None = "auto"
    """Stop after this many evaluations in a row with neither a better score nor a lower loss than all before; null =
    never. auto: 6 if the best checkpoint is stored, else null."""
    keep: Literal["best", "last"] = "best"
    """The checkpoint whose weights the finished folder contains: the best by `metric_for_best_model`, of equally good
    ones that with the lowest loss on the validation rows, or the last."""
    dataloader_num_workers: Annotated[int, Field(ge=0, le=1_000)] = 0
    """Processes that prepare batches; 0 = the training process itself."""
    report_to: list[Literal["tensorboard", "wandb", "mlflow", "trackio"]] = []
    """Experiment trackers to use; none by default. Trackers that write files write them to `trackers/`."""


class ResolvedTraining(Training):
    """Training settings without `auto`."""

    num_train_epochs: float = 3.0
    """Passes over the training rows."""
    learning_rate: float = 5e-5
    """Peak learning rate."""
    eval_strategy: Literal["no", "epoch", "steps"] = "epoch"
    """When the model is evaluated."""
    early_stopping_patience: int | None = None
    """Evaluations without a better score or a lower loss before training stops; null = never."""


class Latency(Section):
    """How the latency of a forward pass is measured."""

    batch_sizes: Annotated[list[BatchSize], Field(min_length=1)] = [1, 32]
    """Numbers of rows per pass."""
    lengths: Annotated[list[Literal["data"] | Tokens], Field(min_length=1)] = ["data", 128]
    """`data` = each row has its own length; a number = every row has this many tokens."""
    startup: bool = False
    """Also measure the time from the start of a new process to its first prediction, and its peak memory."""


class Verify(Section):
    """What an exported model must fulfil, measured on real rows."""

    split: Literal["train", "validation", "test"] = "validation"
    """The split on which the export is compared with the original."""
    max_samples: Positive = 256
    """Maximum number of rows to compare."""
    atol: Annotated[float, Field(gt=0)] = 1e-3
    """Maximum absolute logit difference for float32 exports. Quantized and half-precision exports are checked with
    min_agreement and max_metric_drop only."""
    min_agreement: Share | None = None
    """Minimum share of rows with the same prediction; in translation, minimum mean sentence chrF / 100 with the
    original's translations, in other precisions than float32, of which 99 % must be equal or as good. null =
    0.99, in translation 0.9."""
    max_metric_drop: Weight | None = None
    """Maximum decrease of the task's main metric; null = 0.01, in translation 0.5 BLEU."""


class Augment(Section):
    """Word-replacement data augmentation (Jiao et al. 2020)."""

    copies: Annotated[int, Field(ge=1, le=1_000)] = 20
    """Maximum number of augmented examples per row; duplicates are removed."""
    probability: Share = 0.4
    """Probability of replacing each word."""
    candidates: Annotated[int, Field(ge=1, le=1_000)] = 15
    """Number of replacement candidates per word: the masked LM's top predictions, or the nearest neighbours."""
    masked_lm: PathText | None = None
    """A masked language model that proposes replacements in context; null = only nearest neighbours.

    It proposes replacements for words that are a single token of its vocabulary. Other words are replaced by their
    nearest neighbours.
    """
    embeddings: PathText | None = None
    """The model whose word embeddings define the nearest neighbours; null = `masked_lm` or, without one, the first
    teacher."""


class Search(Section):
    """How translations are generated."""

    beams: Annotated[int, Field(ge=1, le=64)] = 4
    """Beams of the beam search; 1 = greedy."""
    length_penalty: Annotated[float, Field(ge=-10, le=10)] = 1.0
    """The score of a translation is its log-probability divided by its length to this power."""
    max_length_factor: Annotated[float, Field(gt=0, le=100)] = 2.0
    """A translation has at most this factor * source tokens + 10 tokens, and at most `data.max_target_length`."""


class LabelSearch(Search):
    """How the translations of a label dataset are generated and selected."""

    keep: Annotated[int, Field(ge=1, le=64)] = 1
    """Translations that are stored of each row, with their scores, best first; at most `beams`. Of those that were cut
    at the limit of their length only the label itself is stored."""
    select: Literal["score", "chrf", "bleu"] = "score"
    """The translation of the `beams` best that becomes the label: that with the best score, or the one nearest to the
    reference by chrF or by BLEU; single rows without a reference, and those of unlabeled: by score."""


class Stage(Section):
    """Settings of every stage."""

    stage: str | None = None
    """The command that this file is for; another command rejects it."""
    task: str
    """The task of the model: text-classification, multi-label-classification, regression, token-classification,
    question-answering or translation; or language-modeling, with which distill trains a task-agnostic student."""
    data: Data
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    """Random seed of shuffling, dropout and new weights; makes the run repeatable."""
    output_dir: Annotated[PathText, Field(min_length=1)]
    """The folder that this stage writes."""


class Finetune(Stage):
    """Train a model on gold labels (the teacher), or on the predictions of another model (student2)."""

    stage: Literal["finetune"] = "finetune"
    """The command that this file is for; another command rejects it."""
    model: ModelSetting
    """The model to start from, and its new shape if it is to be smaller."""
    layer_mapping: LayerMapping = "uniform"
    """The layers of `from` that a shallower model starts from: uniform, spread, first, last, or a list; see distill."""
    label_dataset: PathText | None = None
    """The folder that gen-soft-labels wrote; the predictions in it become the labels. null = gold labels."""
    min_confidence: Share = 0.0
    """Use only rows whose prediction has at least this confidence; needs `label_dataset`."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: all classes have the same total weight, each label weighs rows / (classes * rows of its class)."""
    regularization: Regularization = Regularization()
    """Label smoothing, dropout, R-Drop."""
    baselines: BaselineNames = "auto"
    """Baselines without a neural network, fitted on the gold labels of the training rows and scored on the validation
    rows, before the training. auto: those of the task, if there are such labels and rows; [] = none."""
    training: Training = Training()
    """Epochs, batches, learning rate."""


class Answers(Section):
    """A teacher that is no model: a file with the answers of an LLM, a service, annotators or a legacy system."""

    answers_file: PathText | Annotated[list[PathText], Field(min_length=1)]
    """The answers: csv, tsv, json, jsonl or parquet, also .gz; also what Label Studio, doccano and Prodigy export. A
    list is concatenated."""
    id_column_name: str | None = None
    """The column of the data with which answers are joined to rows; null = by the text columns, of which case matters
    and white space does not."""
    answers_id_column_name: str | None = None
    """The same column in the answers, if it has another name there, such as `custom_id`."""
    text_column_names: str | Annotated[list[str], Field(min_length=1, max_length=2)] | None = None
    """The text columns in the answers, if they have other names than in the data."""
    answer_column_name: str | Annotated[list[str], Field(min_length=2)] | None = None
    """The column with the answers; or one column per label with its probability; of an export of Label Studio, the
    control or controls. null = `answer`, or the only column that is neither text nor id, or what an annotation tool
    writes."""
    confidence_column_name: str | None = None
    """A column with the probability, from 0 to 1, that the answer is right; the other labels share the rest."""
    label_names: Annotated[dict[str, str], Field(min_length=1)] | None = None
    """What the answers call the labels: a mapping to the names of the labels, such as {gut: positive}. Answers that are
    labels of the data, and keys of `data.label_names`, are understood without it."""
    votes: bool = False
    """Several answers to one row are votes: the share of each is its probability. Without it, two different answers to
    one row are an error."""
    temperature: Literal["auto"] | Annotated[float, Field(gt=0, le=1000)] = 1.0
    """Divides the logits: above 1 the answers become less confident. auto: fitted on the rows with a gold label and an
    answer, and reported on rows that it was not fitted on; for one label of several, and for tags."""
    unmapped: Literal["leave", "refuse"] = "leave"
    """Answers that name no label, or several, or that are not in their text. leave: their rows stay unlabelled, and
    they are counted; refuse: the first one is an error. In multi-label-classification refuse also rejects probabilities
    for some of the labels only, which otherwise are 0 for the rest."""
    no_answer: str | None = None
    """In question-answering, the answer that says that the context has none, such as `unanswerable`."""

    @property
    def files(self) -> list[str]:
        """The files, one or several."""
        return [self.answers_file] if isinstance(self.answers_file, str) else list(self.answers_file)

    @property
    def name(self) -> str:
        """For messages."""
        return ", ".join(self.files)


class GenSoftLabels(Stage):
    """Run a model once over the data and store its predictions in a label dataset."""

    stage: Literal["gen-soft-labels"] = "gen-soft-labels"
    """The command that this file is for; another command rejects it."""
    teacher: PathText | Answers | Annotated[list[PathText | Answers], Field(min_length=1)]
    """A model folder, Hub id or export folder, or a file with answers. A list is an ensemble: the mean of its
    probabilities is stored."""
    teacher_weights: list[Annotated[float, Field(gt=0)]] | None = None
    """Weights of the ensemble, one per teacher; null = equal weights. A row that a file has no answer to is labelled by
    the other teachers."""
    splits: Annotated[list[Literal["train", "validation", "test", "unlabeled"]], Field(min_length=1)] = ["train"]
    """The splits to label."""
    per_device_eval_batch_size: BatchSize = 128
    """Rows of a batch on one device."""
    logits_dtype: Literal["float32", "float16"] = "float32"
    """Data type of the stored logits; float16 halves the size of the file."""
    mixed_precision: Literal["auto", "no", "bf16"] = "auto"
    """auto: the encoder of the teacher runs in bf16 if the device computes it faster than float32. The head, and a
    teacher of regression, always run in float32. In translation auto is float32 on CPUs."""
    states: list[str] = []
    """Also store the teacher's layer outputs needed by these losses (hidden_states, attentions, ...), so that distill
    does not have to run the teacher."""
    layer_mapping: LayerMapping = "uniform"
    """The teacher layers to store: those that a student of `student_layers` layers is compared with (see distill), or a
    list."""
    student_layers: Annotated[int, Field(ge=1, le=1_000)] | None = None
    """Number of layers of the student that will use the stored states; null = length of the `layer_mapping` list."""
    engine: Literal["auto", "transformers", "ctranslate2"] = "auto"
    """What generates translations. auto: CTranslate2 if it is installed and its conversion of the teacher
    translates a sample of the rows as well, else transformers."""
    search: LabelSearch = LabelSearch()
    """How translations are generated."""
    top_k: Annotated[int, Field(ge=0, le=1024)] = 0
    """Also store the teacher's K most probable tokens at each position of its translation, for the loss `soft_labels`
    in translation; 0 = none."""
    drop: list[Literal["empty", "cut", "looping", "copied", "length_ratio"]] = []
    """Kinds of unusual translations that are left out of the label dataset; all kinds are counted in any case."""
    augment: Augment | None = None
    """Also label augmented examples of the training rows; null = none."""
    check_teacher: bool = True
    """Stop before anything is written if the teacher does not beat the majority-class baseline."""

    @property
    def teachers(self) -> list[str | Answers]:
        """Models by their names, and files with answers."""
        return list(self.teacher) if isinstance(self.teacher, list) else [self.teacher]

    @property
    def model_names(self) -> list[str]:
        """The teachers that are models."""
        return [teacher for teacher in self.teachers if isinstance(teacher, str)]

    @property
    def answers(self) -> list[Answers]:
        """The teachers that are files with answers."""
        return [teacher for teacher in self.teachers if isinstance(teacher, Answers)]

    @property
    def teacher_names(self) -> str:
        """All teachers, for messages."""
        return ", ".join(teacher if isinstance(teacher, str) else teacher.name for teacher in self.teachers)


class Distill(Stage):
    """Train a student to match a teacher's outputs and, optionally, its layers."""

    stage: Literal["distill"] = "distill"
    """The command that this file is for; another command rejects it."""
    label_dataset: PathText | None = None
    """The folder that gen-soft-labels wrote. Required by every task except language-modeling, which has no labels."""
    student: ModelSetting
    """The model that the student starts from: usually the teacher, with fewer layers."""
    teacher: PathText | None = None
    """The teacher whose layers the layer losses use. It must be the model that produced `label_dataset`; null = use the
    layer outputs (`states`) in the label dataset.

    It runs beside the student, unless the label dataset contains all layer outputs that the losses need.
    """
    losses: dict[str, float | dict[str, Any]] = {"soft_labels": 1.0}
    """name: weight, or name: {weight: 1.0, option: value}. The training loss is their weighted sum.

    A mapping replaces the default; `losses.NAME=0.5` on the command line is added to it.
    """
    targets: Literal["teacher", "gold", "both", "n_best"] = "teacher"
    """The target texts in translation: teacher = the translations in `label_dataset`; gold = the references, all of
    them if a row has several; both = teacher and gold; n_best = all stored translations of each row. Translations that
    were cut at the limit of their length are left out."""
    layer_mapping: LayerMapping = "uniform"
    """The teacher layer that each student layer starts from and is compared with: a rule, or a list such as [1, 3, 6].

    Layers count from 1. For 3 of 6 layers: uniform = the last layer of each equal group (2, 4, 6); spread = evenly
    spaced, including the first and the last (1, 3, 6); first = 1, 2, 3; last = 4, 5, 6.
    """
    projections: Literal["per_layer", "shared"] = "per_layer"
    """Linear projections from the student's to the teacher's hidden size: one per layer, or one shared by all."""
    baselines: BaselineNames = "auto"
    """Baselines without a neural network, fitted on the gold labels of the training rows and scored on the validation
    rows, before the training. auto: those of the task, if there are such labels and rows; [] = none."""
    training: Training = Training()
    """Epochs, batches, learning rate."""


class Eval(Stage):
    """Score models side by side: quality, fidelity, size, latency."""

    stage: Literal["eval"] = "eval"
    """The command that this file is for; another command rejects it."""
    models: Annotated[dict[str, PathText], Field(min_length=1)]
    """name: model folder, Hub id or export folder."""
    reference: str | None = None
    """The model with which the others are compared (retention, fidelity, speed-up); null = the first."""
    split: Literal["train", "validation", "test"] = "validation"
    """The split on which the models are scored."""
    metrics: Literal["auto"] | list[str] = "auto"
    """auto: all metrics of the task; or a list of names."""
    per_device_eval_batch_size: BatchSize = 128
    """Rows of a batch."""
    search: Search = Search()
    """How translations are generated."""
    latency: Latency | None = Latency()
    """How latency is measured; null = not measured."""
    slices: list[str] = []
    """Columns by whose values the rows are sliced, in addition to length, label and the reference's confidence."""
    bootstrap: Annotated[int, Field(ge=0, le=100_000)] = 1000
    """Resamples for the 95 % intervals; 0 = no intervals."""
    baselines: BaselineNames = "auto"
    """Baselines without a neural network, fitted on the training rows and scored beside the models. auto: those of the
    task (majority and tfidf; mean and tfidf; majority and dictionary; best-sentence), if there are labelled training
    rows; [] = none."""
    require: dict[str, dict[str, float]] = {}
    """model: {metric: bound}: a minimum, or a maximum if less of the metric is better, such as loss. If a requirement
    is not met, the exit code is 5."""


class Export(Stage):
    """Write a model in another format, and verify it against the original."""

    stage: Literal["export"] = "export"
    """The command that this file is for; another command rejects it."""
    model: PathText
    """The model folder or Hub id to export."""
    format: str = "onnx"
    """onnx: for ONNX Runtime, without torch; ctranslate2: for CTranslate2, without torch, translation models only;
    safetensors: a model folder for transformers, at half the size; spacy: a pipeline for `spacy.load`, without torch,
    of models that predict classes or entities of a text."""
    dtype: Literal["bfloat16", "float16"] | None = None
    """Data type of the weights, with `format: safetensors`; null = bfloat16, which CPUs can compute with."""
    quantize: Literal["none", "int8", "fp16"] = "none"
    """int8: also write an int8 model, with one scale per output channel and ranges of activations that are measured on
    real rows; parts that would fail verification compute in float32, from weights of 12 bits. fp16: also write a
    float16 model, for GPUs; with `format: onnx` only."""
    quantize_exclude: list[str] = []
    """Modules that stay float32 in int8, by name: encoder.layer.0, classifier, ..."""
    matrix_bits: Literal[8, 4] = 8
    """Bits per weight of the matrices, with `quantize: int8`; 4 halves their size at lower precision, and they are
    converted to int8 when the model is loaded. Parts that would fail verification get 8."""
    embedding_bits: Literal[8, 6, 4] = 8
    """Bits per number in the embedding tables, with `quantize: int8`; 6 saves a quarter of their size, 4 half of it, at
    lower precision."""
    opset: Annotated[int, Field(ge=11)] | None = None
    """ONNX operator set, with `format: onnx`; null = the newest that the exporter can write, 17 with `runtime: any`."""
    runtime: Literal["onnxruntime", "any"] = "onnxruntime"
    """any: with standard ONNX operators only, which OpenVINO, TensorRT and DirectML read too; ONNX Runtime is faster
    with operators of its own."""
    search: Search = Search()
    """How translations are generated in the verification, and by `tinybert predict` with the export, which records it.
    An export without beam search is greedy."""
    language: str | None = None
    """Language of the tokenizer of a spaCy pipeline, with `format: spacy`: en, de, zh, ...; null = xx, any language."""
    verify: Verify = Verify()
    """What the export must fulfil."""


COMMANDS: dict[str, type[Stage]] = {
    "finetune": Finetune,
    "gen-soft-labels": GenSoftLabels,
    "distill": Distill,
    "eval": Eval,
    "export": Export,
}
