"""Loading models with complete weights or not at all."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tinybert_cli.errors import InputError, is_out_of_memory
from tinybert_cli.models.attention_type import keep_attention_type
from tinybert_cli.models.cls_last_layer import compute_cls_only
from tinybert_cli.models.families import FAMILIES
from tinybert_cli.models.locate import Source, fetch
from tinybert_cli.models.model_configs import HEADS, check_labels, check_problem, read_pretrained_config
from tinybert_cli.models.weight_files import first_few, read_weights

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


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
        new_head: initialize the head randomly if the model has none by its config (seed torch before).
        dropout: replaces all dropout probabilities of the config.
        attention: attention implementation of transformers, if the family supports it.
        cls_only: the last layer of a sequence classifier computes the [CLS] token only (cls_last_layer.py).

    Raises:
        InputError: weights are missing or do not fit the config, or head, labels or family are not as expected.
    """
    from transformers.models.auto import modeling_auto

    folder = fetch(source)
    config = read_pretrained_config(folder)
    auto_mapping, suffixes, _ = HEADS[head]
    has_head = not suffixes or any(name.endswith(suffixes) for name in config.architectures or [])
    if not has_head and not new_head:
        raise _no_head(source, config, head)
    if has_head:
        check_problem(source, config, problem)
        check_labels(source, config, label_names)
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
    _check_report(report, folder, prefix if suffixes else "", complete=bool(suffixes) and has_head)
    if config.model_type not in FAMILIES and not generates:
        _check_runs_on_text(model, folder)
    keep_attention_type(model)
    return compute_cls_only(model) if cls_only else model


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


def has_dropout(model: PreTrainedModel) -> bool:
    """Whether two passes of the model in training differ."""
    values = model.config.to_dict()
    return any(values[field] for field in DROPOUT_SETTINGS & values.keys())


def _check_report(report: dict[str, Any], folder: Path, prefix: str, *, complete: bool) -> None:
    """InputError if weights are missing (and would be random), have other shapes, or contain layers that are unused.

    Args:
        complete: the weights include the head; else only the base model below `prefix` is checked, without its pooler.
    """
    base = {key for key in report["missing_keys"] if key.startswith(prefix) and f"{prefix}pooler." not in key}
    missing = sorted(report["missing_keys"] if complete else base)
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


OTHER_MODEL = "one of the two files is from another model"

SMALL = 1_000_000  # numbers; nobody notices so many

DROPOUT_SETTINGS = {
    "hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout",  # BERT-like families
    "dropout", "attention_dropout", "seq_classif_dropout", "qa_dropout",  # DistilBERT; the first two also of Marian
    "dropout_rate",  # T5
    "classifier_dropout_prob",  # ALBERT
    "hidden_dropout",  # Funnel
    "summary_first_dropout",  # XLM, FlauBERT
    "pooler_dropout", "cls_dropout",  # DeBERTa
    "embedding_dropout", "mlp_dropout",  # ModernBERT
}  # fmt: skip
