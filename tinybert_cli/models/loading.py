"""Models loaded whole or not at all, and saved so that any tool reads them."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tinybert_cli.config import Model
from tinybert_cli.errors import InputError, UserError
from tinybert_cli.models.cls_last_layer import compute_cls_only
from tinybert_cli.models.locate import Source, fetch
from tinybert_cli.models.shapes import shape
from tinybert_cli.models.weight_files import family_of, is_finite, read_json, read_weights, some_of

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
    """The model in float32 and eval mode, every weight of it from the file; an InputError says which is not there.

    `new_head=True` (finetune) allows a missing head, and makes a fresh one: seed torch before. Whatever head there is
    must answer `label_names` in that order; without them, the model's own labels stand.
    `problem` is what the outputs of a sequence-classification head are, as config.json says it in `problem_type`.
    `base` is the model below any head; the pooler that some families have on top may be missing, and is fresh then.
    `cls_only=True` makes the last layer of a sequence classifier compute the [CLS] token only (cls_last_layer.py).
    """
    from transformers.models.auto import modeling_auto

    folder = fetch(source)
    config = _read_config(folder)
    mapping, suffixes, _ = HEADS[head]
    has_head = not suffixes or any(name.endswith(suffixes) for name in config.architectures or [])
    if not has_head and not new_head:
        raise _no_head(source, config, head)
    if has_head:
        _check_problem(source, config, problem)
        _check_labels(source, config, label_names)
    _set_labels(config, label_names)
    config.problem_type = problem or config.problem_type
    _set_dropout(config, dropout)
    if suffixes and (config.is_encoder_decoder or _only_writes(config)):
        raise InputError(
            f"{config.model_type} models write text; what is distilled here are encoders, which read it",
            where=str(folder),
            hint="start from an encoder: bert, roberta, distilbert, electra, ...",
        )
    families = getattr(modeling_auto, mapping)
    if type(config) not in families or (not suffixes and config.is_encoder_decoder):
        what = f"{head} head" if suffixes else "encoder of its own"
        raise InputError(f"the family of '{source.name}', {config.model_type}, has no {what}", where=str(folder))
    found = families[type(config)]
    family = found[0] if isinstance(found, tuple) else found  # Funnel has two, the whole one first

    weights = read_weights(folder)
    prefix = f"{family.base_model_prefix}."
    if not (suffixes and has_head) and any(key.startswith(prefix) for key in weights):
        # A head for another task may have the same names and shapes: it would pass for this one.
        weights = {key: tensor for key, tensor in weights.items() if key.startswith(prefix)}
    if not suffixes:
        weights = {key.removeprefix(prefix): tensor for key, tensor in weights.items()}
    model, report = family.from_pretrained(
        None,
        config=config,
        state_dict=weights,
        dtype=torch.float32,
        # Explicit, because config.json may name a kernel to download; for 32 x 16 tokens sdpa is as fast as eager.
        attn_implementation=attention if family._supports_sdpa else "eager",
        ignore_mismatched_sizes=True,  # they are refused below, all at once
        output_loading_info=True,
        trust_remote_code=False,
    )
    _check_report(report, folder, prefix if suffixes else "", new_head=new_head or not suffixes)
    return compute_cls_only(model) if cls_only else model


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a folder that `AutoModelFor....from_pretrained` and older runtimes read; float32 safetensors only."""
    from safetensors import SafetensorError

    for name, tensor in model.state_dict().items():
        if not is_finite(tensor):
            raise UserError(
                f"the model is broken: '{name}' holds NaN or infinity; nothing was saved",
                hint="lower the learning rate, or train without mixed precision",
            )
    if model.dtype != torch.float32:
        model = copy.deepcopy(model).float()
    try:
        model.save_pretrained(folder)
    except SafetensorError as error:  # a full disk, without an errno
        raise UserError(f"the weights could not be written: {error}", where=str(folder)) from error
    save_tokenizer(tokenizer, folder)


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """The tokenizer's files, and of a WordPiece one vocab.txt, which older runtimes read."""
    tokenizer.save_pretrained(folder)
    _write_wordpiece_vocabulary(tokenizer, folder)


def label_names(model: PreTrainedModel) -> list[str] | None:
    """The model's labels in the order of its outputs; None if nobody named them (LABEL_0, LABEL_1, ...)."""
    return _label_names(model.config)


def read_label_names(source: Source) -> list[str] | None:
    """The labels that config.json names, in the order of the outputs; None if nobody named them. Loads no weights."""
    return _label_names(_read_config(fetch(source, weights=False)))


def check_outputs(source: Source, names: list[str] | None, problem: str | None) -> list[str]:
    """The classes in the order of the outputs, by config.json alone; InputError if they are not `names`."""
    config = _read_config(fetch(source, weights=False))
    _check_problem(source, config, problem)
    _check_labels(source, config, names)
    return names or _label_names(config) or [str(index) for index in range(config.num_labels)]


def read_config(source: Source) -> dict[str, Any]:
    """config.json, with what transformers assumes where it says nothing. Loads no weights."""
    values: dict[str, Any] = _read_config(fetch(source, weights=False)).to_dict()
    return values


def number_of_layers(setting: Model, source: Source) -> int:
    """How many layers the model will have that `setting` asks for. Loads no weights."""
    return int(shape(setting, _read_config(fetch(source, weights=False))).num_hidden_layers)


def rewrite_config(folder: Path, settings: Mapping[str, Any]) -> None:
    """Puts settings into the config.json of a saved model; those that are None go out of it."""
    file = folder / "config.json"
    values = {key: value for key, value in {**read_json(file), **settings}.items() if value is not None}
    file.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def size(model: PreTrainedModel) -> dict[str, int]:
    """`parameters`, and how many of them are `embedding_parameters`, which cost memory but next to no time."""
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
    """Bytes on disk of a model's weights, whatever format they are in."""
    files = [path for path in folder.iterdir() if path.suffix in (".safetensors", ".onnx")]
    return sum(path.stat().st_size for path in files or folder.glob("pytorch_model*.bin"))


def _read_config(folder: Path) -> PreTrainedConfig:
    """config.json as the library's own class; nothing in it can name code, a kernel or another file to load."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING

    file = folder / "config.json"
    values = read_json(file)
    model_type = family_of(values)
    if model_type not in CONFIG_MAPPING:
        reason = "its code comes with it, and code from a model is never run" if "auto_map" in values else "unknown"
        raise InputError(
            f"model type '{model_type}': {reason}",
            where=str(file),
            hint="use a model whose family transformers has built in: bert, roberta, distilbert, electra, ...",
        )
    if "quantization_config" in values:
        raise InputError("this model is quantized; a full-precision one is needed", where=str(file))
    try:
        return CONFIG_MAPPING[model_type].from_dict({k: v for k, v in values.items() if k not in IGNORED_SETTINGS})
    except (StrictDataclassError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"the config cannot be read: {error}", where=str(file)) from error


def _only_writes(config: PreTrainedConfig) -> bool:
    """Whether each token sees only those before it: such a family says the next word, and never fills one in."""
    from transformers.models.auto import modeling_auto

    writers, readers = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING, modeling_auto.MODEL_FOR_MASKED_LM_MAPPING
    return type(config) in writers and type(config) not in readers


def _no_head(source: Source, config: PreTrainedConfig, head: str) -> InputError:
    made_as = ", ".join(config.architectures or []) or config.model_type
    return InputError(
        f"'{source.name}' is a {made_as} model: it has no {head} head",
        hint=HEADS[head][2],
    )


def _label_names(config: PreTrainedConfig) -> list[str] | None:
    names = [str(config.id2label[index]) for index in sorted(config.id2label)]
    return None if names == [f"LABEL_{index}" for index in range(len(names))] else names


def _check_labels(source: Source, config: PreTrainedConfig, names: list[str] | None) -> None:
    if names is None:
        return
    own = _label_names(config)
    if own is not None and own != names:
        what = "in another order" if sorted(own) == sorted(names) else "that are not those of the data"
        raise InputError(
            f"'{source.name}' answers with labels {what}:\n  model: {', '.join(own)}\n  data:  {', '.join(names)}",
            hint="set data.label_names to the model's order, or start from the model without its head",
        )
    if len(names) != config.num_labels:
        raise InputError(
            f"'{source.name}' has {config.num_labels} labels, the data has {len(names)}",
            hint="start from the model without its head, or check data.label_column_name",
        )


def _check_problem(source: Source, config: PreTrainedConfig, problem: str | None) -> None:
    """A head of the same shape may have learnt something else; one that does not say what is taken at our word."""
    own = config.problem_type
    if problem is not None and own is not None and own != problem:
        raise InputError(
            f"'{source.name}' was made for another task: its outputs are {own.replace('_', ' ')}, "
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
    """Refuse weights that would be random (missing), or that nothing would use (whole layers too many)."""
    body = {key for key in report["missing_keys"] if key.startswith(prefix) and f"{prefix}pooler." not in key}
    missing = sorted(body if new_head else report["missing_keys"])
    mismatched = sorted(key for key, *_ in report["mismatched_keys"])
    left_over = sorted(key for key in report["unexpected_keys"] if re.search(r"\blayers?\.\d+\.", key))
    complaints = {"missing": missing, "of another shape": mismatched, "too many": left_over}
    found = [f"{what}: {some_of(keys)}" for what, keys in complaints.items() if keys]
    if found:
        raise InputError(
            "the weights do not fit config.json; " + "; ".join(found),
            where=str(folder),
            hint="one of the two files is from another model",
        )


def _write_wordpiece_vocabulary(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """vocab.txt, which transformers 5 no longer writes and older runtimes read: the line number is the id."""
    from tokenizers.models import WordPiece

    if not isinstance(tokenizer.backend_tokenizer.model, WordPiece):
        return
    ids = tokenizer.backend_tokenizer.get_vocab(with_added_tokens=True)
    pieces = sorted(ids, key=ids.__getitem__)
    if [ids[piece] for piece in pieces] == list(range(len(pieces))):
        (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in pieces), encoding="utf-8")


# Settings of config.json that would make the library fetch or run something.
IGNORED_SETTINGS = {
    "attn_implementation", "_attn_implementation", "_attn_implementation_internal", "experts_implementation",
    "auto_map", "fusion_config", "transformers_weights", "distributed_config",
}  # fmt: skip

DROPOUT_SETTINGS = {
    "hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout",  # BERT and its kin
    "dropout", "attention_dropout", "seq_classif_dropout",  # DistilBERT
}  # fmt: skip

# head -> where transformers lists the classes that have it, how the names of models with it end (nothing if it is no
# head at all), and where to get one.
HEADS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "base": ("MODEL_MAPPING", (), "any encoder has one"),
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
        "give a model as it was pre-trained, with the head that fills in words, such as google-bert/bert-base-uncased",
    ),
}
