"""config.json of a model: read and checked without its weights."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinybert_cli.config import Model
from tinybert_cli.errors import InputError
from tinybert_cli.files import read_object
from tinybert_cli.label_values import without_default_names
from tinybert_cli.models.families import FLOAT32_ONLY
from tinybert_cli.models.locate import Source, fetch
from tinybert_cli.models.shapes import shape
from tinybert_cli.models.weight_files import family_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

MOST_LABELS = 1_000_000
MOST_LAYERS = 10_000
MOST_NUMBER = 10**12  # of anything else
_COUNT = re.compile(r"layer|block|group|repeat")

# Settings of config.json that would make transformers download or run something, return tuples without names, or
# refuse inputs whose length is no multiple of a number.
IGNORED_SETTINGS = {
    "attn_implementation", "_attn_implementation", "_attn_implementation_internal", "experts_implementation",
    "auto_map", "fusion_config", "transformers_weights", "distributed_config", "return_dict", "chunk_size_feed_forward",
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


def label_names(model: PreTrainedModel) -> list[str] | None:
    """The model's labels in the order of its outputs; None if they are the defaults LABEL_0, LABEL_1, ..."""
    return _label_names(model.config)


def read_label_names(source: Source) -> list[str] | None:
    """The labels in config.json in the order of the outputs; None if they are the defaults. Loads no weights."""
    return _label_names(read_pretrained_config(fetch(source, weights=False)), source.name)


def check_outputs(source: Source, names: list[str] | None, problem: str | None) -> list[str]:
    """The classes in the order of the outputs, from config.json only; InputError if they differ from `names`."""
    config = read_pretrained_config(fetch(source, weights=False))
    check_problem(source, config, problem)
    check_labels(source, config, names)
    return names or _label_names(config, source.name) or [str(index) for index in range(config.num_labels)]


def has_head(source: Source, head: str) -> bool:
    """Whether a model comes with a trained head of this kind, from config.json only."""
    architectures = read_pretrained_config(fetch(source, weights=False)).architectures or []
    return any(name.endswith(HEADS[head][1]) for name in architectures)


def read_config(source: Source) -> dict[str, Any]:
    """config.json, completed with the defaults of transformers. Loads no weights."""
    values: dict[str, Any] = read_pretrained_config(fetch(source, weights=False)).to_dict()
    return values


def takes_token_types(source: Source) -> bool:
    """Whether models of this family have an input `token_type_ids`. Loads no weights."""
    from transformers import MODEL_MAPPING

    config = read_pretrained_config(fetch(source, weights=False))
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
    return int(shape(setting, read_pretrained_config(fetch(source, weights=False))).num_hidden_layers)


def read_pretrained_config(folder: Path) -> PreTrainedConfig:
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


def _label_names(config: PreTrainedConfig, model: str | None = None) -> list[str] | None:
    if sorted(config.id2label) != list(range(len(config.id2label))):
        positions = ", ".join(map(str, sorted(config.id2label)))
        raise InputError(
            f"`id2label` of config.json has the positions {positions}: which output is which class is unknown",
            where=model,
            hint="number the classes from 0, in the order of the outputs",
        )
    return without_default_names([str(config.id2label[index]) for index in sorted(config.id2label)])


def check_labels(source: Source, config: PreTrainedConfig, names: list[str] | None) -> None:
    if names is None:
        return
    model_names = _label_names(config, source.name)
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


def check_problem(source: Source, config: PreTrainedConfig, problem: str | None) -> None:
    """InputError if the head was trained for another problem type, or for several numbers.

    A config without a type is accepted; with one output it is for a number, as transformers reads it.
    """
    model_problem = config.problem_type
    if model_problem is None and problem == "single_label_classification" and config.num_labels == 1:
        model_problem = "regression"
    if problem is not None and model_problem is not None and model_problem != problem:
        raise InputError(
            f"'{source.name}' was trained for another task: its outputs are {str(model_problem).replace('_', ' ')}, "
            f"not {problem.replace('_', ' ')}",
            hint="change `task`, or start from the model without its head",
        )
    if problem == "regression" and config.num_labels != 1:
        raise InputError(
            f"'{source.name}' has {config.num_labels} outputs, and a model for regression has one",
            hint="change `task`, or start from the model without its head",
        )
