"""Loading models with complete weights or not at all, and saving them in the format of transformers."""

from __future__ import annotations

import copy
import inspect
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tinybert_cli.config import Model
from tinybert_cli.errors import InputError, UserError, is_out_of_memory
from tinybert_cli.files import read_object
from tinybert_cli.input_limits import NO_LENGTH
from tinybert_cli.models.cls_last_layer import compute_cls_only
from tinybert_cli.models.families import FAMILIES, FLOAT32_ONLY
from tinybert_cli.models.locate import Source, fetch
from tinybert_cli.models.shapes import shape
from tinybert_cli.models.weight_files import family_of, first_few, is_finite, read_weights

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast


def load(
    source: Source,
    head: str,
    *,
    label_names: list[str] | None = None,
    problem: str | None = None,
    new_head: bool = False,
    dropout: float | None = None,
    attention: str = "sdpa",
    cls_only: bool = False,
) -> PreTrainedModel:
    """The model in float32 and eval mode, with every weight from the file.

    Args:
        source: a folder or a Hub id.
        head: a key of HEADS. `base` is the model without a head; its pooler, if any, may be missing from the file and
            is then initialized randomly.
        label_names: labels in the order of the outputs. An existing head must have these labels in this order. None:
            the model's own labels.
        problem: type of the outputs of a sequence-classification head, as in `problem_type` of config.json.
        new_head: initialize the head randomly if the file has none (seed torch before).
        dropout: replaces all dropout probabilities of the config.
        attention: attention implementation of transformers, if the family supports it.
        cls_only: the last layer of a sequence classifier computes the [CLS] token only (cls_last_layer.py).

    Raises:
        InputError: weights are missing or do not fit the config, or head, labels or family are not as expected.
    """
    from transformers.models.auto import modeling_auto

    folder = fetch(source)
    config = _read_config(folder)
    auto_mapping, suffixes, _ = HEADS[head]
    has_head = not suffixes or any(name.endswith(suffixes) for name in config.architectures or [])
    if not has_head and not new_head:
        raise _no_head(source, config, head)
    if has_head:
        _check_problem(source, config, problem)
        _check_labels(source, config, label_names)
    _set_labels(config, label_names)
    config.problem_type = problem or config.problem_type
    _set_dropout(config, dropout)
    generates = head == "seq2seq-lm"
    if suffixes and not generates and (config.is_encoder_decoder or _is_decoder_only(config)):
        raise InputError(
            f"{config.model_type} models generate text; this task needs an encoder",
            where=str(folder),
            hint="start from an encoder: bert, roberta, modernbert, deberta-v2, ...; or set task: translation",
        )
    families = getattr(modeling_auto, auto_mapping)
    if type(config) not in families or (not suffixes and config.is_encoder_decoder):
        missing = f"{head} head" if suffixes else "encoder-only model"
        raise InputError(f"the family of '{source.name}', {config.model_type}, has no {missing}", where=str(folder))
    classes = families[type(config)]
    model_class = classes[0] if isinstance(classes, tuple) else classes  # Funnel has two, the complete model first

    weights = read_weights(folder)
    _check_size(model_class, config, weights, folder, complete=has_head)
    prefix = f"{model_class.base_model_prefix}."
    if not (suffixes and has_head) and any(key.startswith(prefix) for key in weights):
        # A head for another task may have the same names and shapes, and would be used as this one.
        weights = {key: tensor for key, tensor in weights.items() if key.startswith(prefix)}
    if not suffixes:
        weights = {key.removeprefix(prefix): tensor for key, tensor in weights.items()}
    model, report = model_class.from_pretrained(
        None,
        config=config,
        state_dict=weights,
        dtype=torch.float32,
        # Explicit, because config.json may name a kernel to download; for 32 x 16 tokens sdpa is as fast as eager.
        attn_implementation=attention if model_class._supports_sdpa else "eager",
        ignore_mismatched_sizes=True,  # _check_report rejects them, all in one error
        output_loading_info=True,
        trust_remote_code=False,
    )
    _check_report(report, folder, prefix if suffixes else "", new_head=new_head or not suffixes)
    if config.model_type not in FAMILIES and not generates:
        _check_runs_on_text(model, folder)
    return compute_cls_only(model) if cls_only else model


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path, *, truncate: bool = False) -> None:
    """Write a folder in the format of transformers, as float32 safetensors, and vocab.txt for older runtimes.

    Args:
        truncate: see `save_tokenizer`.

    Raises:
        UserError: a weight is NaN or infinite (nothing is saved), or the weights cannot be written.
    """
    save_weights(model, folder)
    save_tokenizer(tokenizer, folder, truncate=truncate)


def save_weights(model: PreTrainedModel, folder: Path) -> None:
    """Write weights, as float32 safetensors, and config.json.

    Raises:
        UserError: a weight is NaN or infinite (nothing is saved), or the weights cannot be written.
    """
    from safetensors import SafetensorError

    for name, tensor in model.state_dict().items():
        if not is_finite(tensor):
            raise UserError(
                f"the model is broken: '{name}' contains NaN or infinity, so it was not saved",
                hint="lower the learning rate, or train without mixed precision",
            )
    if model.dtype != torch.float32:
        model = copy.deepcopy(model).float()
    try:
        model.save_pretrained(folder)
    except SafetensorError as error:  # a full disk, without an errno
        raise UserError(f"the weights could not be written: {error}", where=str(folder)) from error


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path, *, truncate: bool = False) -> None:
    """Write the tokenizer's files and, for WordPiece, vocab.txt, which older runtimes need.

    Args:
        truncate: tokenizer.json cuts texts at `model_max_length`, for programs that read no other file.
    """
    backend = tokenizer.backend_tokenizer  # its state is that of the last call
    backend.no_padding()
    backend.no_truncation()
    if truncate and tokenizer.model_max_length < NO_LENGTH:
        backend.enable_truncation(tokenizer.model_max_length, direction=tokenizer.truncation_side)
    tokenizer.save_pretrained(folder)
    _use_names_of_version_4(folder / "tokenizer_config.json")
    _write_wordpiece_vocabulary(tokenizer, folder)


def _use_names_of_version_4(file: Path) -> None:
    """Two names in tokenizer_config.json that transformers 4 does not know, which flair needs; version 5 reads both."""
    values = read_object(file)
    if values.get("tokenizer_class") == "TokenizersBackend":
        values["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(values.get("extra_special_tokens"), list):
        values["additional_special_tokens"] = values.pop("extra_special_tokens")
    file.write_text(json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def label_names(model: PreTrainedModel) -> list[str] | None:
    """The model's labels in the order of its outputs; None if they are the defaults LABEL_0, LABEL_1, ..."""
    return _label_names(model.config)


def read_label_names(source: Source) -> list[str] | None:
    """The labels in config.json in the order of the outputs; None if they are the defaults. Loads no weights."""
    return _label_names(_read_config(fetch(source, weights=False)))


def check_outputs(source: Source, names: list[str] | None, problem: str | None) -> list[str]:
    """The classes in the order of the outputs, from config.json only; InputError if they differ from `names`."""
    config = _read_config(fetch(source, weights=False))
    _check_problem(source, config, problem)
    _check_labels(source, config, names)
    return names or _label_names(config) or [str(index) for index in range(config.num_labels)]


def has_head(source: Source, head: str) -> bool:
    """Whether a model comes with a trained head of this kind, from config.json only."""
    architectures = _read_config(fetch(source, weights=False)).architectures or []
    return any(name.endswith(HEADS[head][1]) for name in architectures)


def read_config(source: Source) -> dict[str, Any]:
    """config.json, completed with the defaults of transformers. Loads no weights."""
    values: dict[str, Any] = _read_config(fetch(source, weights=False)).to_dict()
    return values


def takes_token_types(source: Source) -> bool:
    """Whether models of this family have an input `token_type_ids`. Loads no weights."""
    from transformers import MODEL_MAPPING

    config = _read_config(fetch(source, weights=False))
    if type(config) not in MODEL_MAPPING:
        return True
    classes = MODEL_MAPPING[type(config)]
    model_class = classes[0] if isinstance(classes, tuple) else classes
    return "token_type_ids" in inspect.signature(model_class.forward).parameters


def float32_family(source: Source) -> str | None:
    """The family of a model that cannot compute in fewer bits than float32; None if it can, or is an export."""
    family = family_of(read_object(fetch(source, weights=False) / "config.json"))
    return family if family in FLOAT32_ONLY else None


def float32_family_of(model: PreTrainedModel) -> str | None:
    """The same for a model that is loaded."""
    return model.config.model_type if model.config.model_type in FLOAT32_ONLY else None


def number_of_layers(setting: Model, source: Source) -> int:
    """Number of layers of the model that `setting` describes. Loads no weights."""
    return int(shape(setting, _read_config(fetch(source, weights=False))).num_hidden_layers)


def rewrite_config(folder: Path, settings: Mapping[str, Any]) -> None:
    """Update the config.json of a saved model; settings that are None are removed."""
    file = folder / "config.json"
    values = {key: value for key, value in {**read_object(file), **settings}.items() if value is not None}
    file.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def size(model: PreTrainedModel) -> dict[str, int]:
    """`parameters`, and `embedding_parameters` among them, which cost memory but hardly any time."""
    embeddings = {
        id(weight)
        for module in model.modules()
        if isinstance(module, torch.nn.Embedding)
        for weight in module.parameters()
    }
    weights = list(model.parameters())  # a tied weight is listed once
    return {
        "parameters": sum(weight.numel() for weight in weights),
        "embedding_parameters": sum(weight.numel() for weight in weights if id(weight) in embeddings),
    }


def weights_bytes(folder: Path) -> int:
    """Bytes on disk of the weights of a model folder: safetensors, or PyTorch's format."""
    files = list(folder.glob("*.safetensors"))
    return sum(path.stat().st_size for path in files or folder.glob("pytorch_model*.bin"))


def _read_config(folder: Path) -> PreTrainedConfig:
    """config.json as a config of transformers, without the settings that name code, kernels or other files to load."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING

    file = folder / "config.json"
    values = read_object(file)
    _check_numbers(values, file)
    model_type = family_of(values)
    if model_type not in CONFIG_MAPPING:
        reason = "it needs its own code, and code from a model is never run" if "auto_map" in values else "unknown"
        raise InputError(
            f"model type '{model_type}': {reason}",
            where=str(file),
            hint="use a model whose family transformers has built in: bert, roberta, modernbert, deberta-v2, ...",
        )
    if "quantization_config" in values:
        raise InputError("this model is quantized; a full-precision one is needed", where=str(file))
    try:
        return CONFIG_MAPPING[model_type].from_dict({k: v for k, v in values.items() if k not in IGNORED_SETTINGS})
    except (StrictDataclassError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"the config cannot be read: {error}", where=str(file)) from error


def _check_numbers(values: Mapping[str, Any], file: Path) -> None:
    """InputError for numbers of layers or labels that would fill the memory before any weight is read."""
    for name, value in values.items():
        numbers = value if isinstance(value, list) else [len(value) if isinstance(value, dict) else value]
        most = MOST_LABELS if "label" in name else MOST_LAYERS if _COUNT.search(name) else MOST_NUMBER
        for number in numbers:
            if isinstance(number, int) and abs(number) > most:
                what = f"{name} is {str(number)[:40]}, and no model has more than {most:,}"
                raise InputError(what, where=str(file), hint="restore the original config.json")


def _check_size(
    model_class: type[PreTrainedModel],
    config: PreTrainedConfig,
    weights: Mapping[str, torch.Tensor],
    folder: Path,
    *,
    complete: bool,
) -> None:
    """InputError if config.json describes a much larger model than the weights, before memory is allocated for it.

    Args:
        complete: the weights include the head.
    """
    layers = config.to_dict().get(config.attribute_map.get("num_hidden_layers", "num_hidden_layers"), 0)
    if isinstance(layers, int) and layers > len(weights):
        raise InputError(
            f"the weights do not fit config.json: it has {layers:,} layers, the weights are {len(weights):,} tensors",
            where=str(folder),
            hint=OTHER_MODEL,
        )
    try:
        with torch.device("meta"):
            model = model_class(copy.deepcopy(config))
    except Exception as error:
        raise InputError(f"no model can be built from config.json: {error}", where=str(folder)) from error
    described = model if complete else model.base_model
    size = sum(tensor.numel() for tensor in (*described.parameters(), *described.buffers()))
    stored = sum(tensor.numel() for tensor in weights.values())
    if size > 2 * stored + SMALL:
        raise InputError(
            f"the weights do not fit config.json: it describes {size:,} parameters, the weights are {stored:,}",
            where=str(folder),
            hint=OTHER_MODEL,
        )


def _check_runs_on_text(model: PreTrainedModel, folder: Path) -> None:
    """InputError if the model needs more than token ids: boxes, images, table cells, a language."""
    ids = torch.ones((1, 4), dtype=torch.int64)
    inputs = {"input_ids": ids, "attention_mask": ids, "token_type_ids": torch.zeros_like(ids)}
    try:
        parameters = inspect.signature(model.forward).parameters
        with torch.no_grad():
            model.eval()(**{name: values for name, values in inputs.items() if name in parameters})
        model.config.num_hidden_layers  # noqa: B018  models of text and images have two numbers of layers
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise InputError(
            f"{model.config.model_type} models cannot be run on text alone: {error}",
            where=str(folder),
            hint="use a model for text: bert, roberta, modernbert, deberta-v2, ...",
        ) from error


def _is_decoder_only(config: PreTrainedConfig) -> bool:
    """Whether the family has a causal language model but no masked one."""
    from transformers.models.auto import modeling_auto

    causal, masked = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING, modeling_auto.MODEL_FOR_MASKED_LM_MAPPING
    return type(config) in causal and type(config) not in masked


def _no_head(source: Source, config: PreTrainedConfig, head: str) -> InputError:
    architecture = ", ".join(config.architectures or []) or config.model_type
    return InputError(
        f"'{source.name}' is a {architecture} model: it has no {head} head",
        hint=HEADS[head][2],
    )


def _label_names(config: PreTrainedConfig) -> list[str] | None:
    names = [str(config.id2label[index]) for index in sorted(config.id2label)]
    return None if names == [f"LABEL_{index}" for index in range(len(names))] else names


def _check_labels(source: Source, config: PreTrainedConfig, names: list[str] | None) -> None:
    if names is None:
        return
    model_names = _label_names(config)
    if model_names is not None and model_names != names:
        same = sorted(model_names) == sorted(names)
        difference = "the labels of the data in another order" if same else "other labels than the data"
        raise InputError(
            f"'{source.name}' has {difference}:\n  model: {', '.join(model_names)}\n  data:  {', '.join(names)}",
            hint="set data.label_names to the model's order, or start from the model without its head",
        )
    if len(names) != config.num_labels:
        raise InputError(
            f"'{source.name}' has {config.num_labels} labels, the data has {len(names)}",
            hint="start from the model without its head, or check data.label_column_name",
        )


def _check_problem(source: Source, config: PreTrainedConfig, problem: str | None) -> None:
    """InputError if the head was trained for another problem type; a config without a type is accepted."""
    model_problem = config.problem_type
    if problem is not None and model_problem is not None and model_problem != problem:
        raise InputError(
            f"'{source.name}' was trained for another task: its outputs are {model_problem.replace('_', ' ')}, "
            f"not {problem.replace('_', ' ')}",
            hint="change `task`, or start from the model without its head",
        )


def _set_labels(config: PreTrainedConfig, names: list[str] | None) -> None:
    if names is None:
        return
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}


def _set_dropout(config: PreTrainedConfig, dropout: float | None) -> None:
    if dropout is None:
        return
    for field in DROPOUT_SETTINGS & config.to_dict().keys():
        setattr(config, field, dropout)


def _check_report(report: dict[str, Any], folder: Path, prefix: str, *, new_head: bool) -> None:
    """InputError if weights are missing (and would be random), have other shapes, or contain layers that are unused."""
    base = {key for key in report["missing_keys"] if key.startswith(prefix) and f"{prefix}pooler." not in key}
    missing = sorted(base if new_head else report["missing_keys"])
    mismatched = sorted(key for key, *_ in report["mismatched_keys"])
    unused = sorted(key for key in report["unexpected_keys"] if re.search(r"\blayers?\.\d+\.", key))
    problems = {"missing": missing, "of another shape": mismatched, "too many": unused}
    complaints = [f"{problem}: {first_few(keys)}" for problem, keys in problems.items() if keys]
    if complaints:
        raise InputError(
            "the weights do not fit config.json; " + "; ".join(complaints),
            where=str(folder),
            hint=OTHER_MODEL,
        )


def _write_wordpiece_vocabulary(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write vocab.txt, which transformers 5 no longer writes and older runtimes need: the line number is the id."""
    from tokenizers.models import WordPiece

    if not isinstance(tokenizer.backend_tokenizer.model, WordPiece):
        return
    ids = tokenizer.backend_tokenizer.get_vocab(with_added_tokens=True)
    tokens = sorted(ids, key=ids.__getitem__)
    if [ids[token] for token in tokens] == list(range(len(tokens))):
        (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")


OTHER_MODEL = "one of the two files is from another model"

MOST_LABELS = 1_000_000
MOST_LAYERS = 10_000
MOST_NUMBER = 10**12  # of anything else
SMALL = 1_000_000  # numbers; nobody notices so many
_COUNT = re.compile(r"layer|block|group|repeat")

# Settings of config.json that would make transformers download or run something.
IGNORED_SETTINGS = {
    "attn_implementation", "_attn_implementation", "_attn_implementation_internal", "experts_implementation",
    "auto_map", "fusion_config", "transformers_weights", "distributed_config",
}  # fmt: skip

DROPOUT_SETTINGS = {
    "hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout",  # BERT-like families
    "dropout", "attention_dropout", "seq_classif_dropout",  # DistilBERT; the first two also of BART and Marian
    "dropout_rate",  # T5
    "classifier_dropout_prob",  # ALBERT
    "pooler_dropout", "cls_dropout",  # DeBERTa
    "embedding_dropout", "mlp_dropout",  # ModernBERT
}  # fmt: skip

# head -> the mapping of transformers with its model classes, suffixes of their names (none for models without a head),
# and a hint for models that lack the head.
HEADS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "base": ("MODEL_MAPPING", (), "use any encoder"),
    "sequence-classification": (
        "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING",
        ("ForSequenceClassification",),
        "fine-tune it first: tinybert finetune",
    ),
    "token-classification": (
        "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING",
        ("ForTokenClassification",),
        "fine-tune it first: tinybert finetune",
    ),
    "question-answering": (
        "MODEL_FOR_QUESTION_ANSWERING_MAPPING",
        ("ForQuestionAnswering",),
        "fine-tune it first: tinybert finetune",
    ),
    "masked-lm": (
        "MODEL_FOR_MASKED_LM_MAPPING",
        ("ForMaskedLM", "BertForPreTraining"),
        "use a pre-trained model with its masked-LM head, such as google-bert/bert-base-uncased",
    ),
    "seq2seq-lm": (
        "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING",
        ("ForConditionalGeneration", "MTModel"),
        "use a translation model, such as Helsinki-NLP/opus-mt-en-de",
    ),
}
