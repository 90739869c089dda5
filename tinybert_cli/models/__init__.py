"""Locating, loading, building and saving models: the only part of tinybert that reads weights and tokenizers."""

from tinybert_cli.models.bf16 import to_bf16
from tinybert_cli.models.families import FAMILIES
from tinybert_cli.models.float32_head import compute_head_in_float32, has_separate_head, to_bf16_with_float32_head
from tinybert_cli.models.joint_vocabulary import train_joint_tokenizer
from tinybert_cli.models.layer_outputs import Student, Teacher
from tinybert_cli.models.loading import has_dropout, load, size
from tinybert_cli.models.locate import PACKAGES, Source, commit, fetch, locate, published_id
from tinybert_cli.models.masked_lm import MaskedLM
from tinybert_cli.models.model_configs import (
    HEADS,
    check_outputs,
    float32_family,
    float32_family_of,
    has_head,
    label_names,
    number_of_layers,
    read_config,
    read_label_names,
)
from tinybert_cli.models.output_scale import OutputScale, output_scale
from tinybert_cli.models.saving import names_in_config, rewrite_config, save, save_tokenizer, weights_bytes
from tinybert_cli.models.shapes import copied_layers, layer_map, shape
from tinybert_cli.models.shrinking import build_student
from tinybert_cli.models.stack_outputs import (
    LiveStackTeacher,
    ModelWithStackStates,
    StackStudent,
    StackTeacher,
    StoredStackTeacher,
    depths,
)
from tinybert_cli.models.stored_teacher import ModelWithStates, StoredTeacher, state_shapes
from tinybert_cli.models.tokenizers import (
    check_inputs,
    check_length,
    check_token_types,
    check_vocabulary,
    load_tokenizer,
    read_tokenizer_config,
    record_length,
    tokenizer_difference,
)
from tinybert_cli.models.torch_translator import TorchTranslator, set_generation, torch_translator
from tinybert_cli.models.translation_models import (
    NEW_VOCABULARY,
    check_family,
    check_positions,
    load_translation_model,
    new_translation_model,
    save_translation_model,
    shape_of,
    shorten_positions,
    stack_layers,
    translation_student,
    zero_padding_row,
)
from tinybert_cli.models.translation_tokenizers import (
    WITH_LANGUAGES,
    check_languages,
    has_languages,
    load_translation_tokenizer,
    translation_tokenizer_difference,
)
from tinybert_cli.models.vocabulary_trimming import TrimmedVocabulary, trim_vocabulary, whole_words

__all__ = [
    "FAMILIES",
    "HEADS",
    "NEW_VOCABULARY",
    "PACKAGES",
    "WITH_LANGUAGES",
    "LiveStackTeacher",
    "MaskedLM",
    "ModelWithStackStates",
    "ModelWithStates",
    "OutputScale",
    "Source",
    "StackStudent",
    "StackTeacher",
    "StoredStackTeacher",
    "StoredTeacher",
    "Student",
    "Teacher",
    "TorchTranslator",
    "TrimmedVocabulary",
    "build_student",
    "check_family",
    "check_inputs",
    "check_languages",
    "check_length",
    "check_outputs",
    "check_positions",
    "check_token_types",
    "check_vocabulary",
    "commit",
    "compute_head_in_float32",
    "copied_layers",
    "depths",
    "fetch",
    "float32_family",
    "float32_family_of",
    "has_dropout",
    "has_head",
    "has_languages",
    "has_separate_head",
    "label_names",
    "layer_map",
    "load",
    "load_tokenizer",
    "load_translation_model",
    "load_translation_tokenizer",
    "locate",
    "names_in_config",
    "new_translation_model",
    "number_of_layers",
    "output_scale",
    "published_id",
    "read_config",
    "read_label_names",
    "read_tokenizer_config",
    "record_length",
    "rewrite_config",
    "save",
    "save_tokenizer",
    "save_translation_model",
    "set_generation",
    "shape",
    "shape_of",
    "shorten_positions",
    "size",
    "stack_layers",
    "state_shapes",
    "to_bf16",
    "to_bf16_with_float32_head",
    "tokenizer_difference",
    "torch_translator",
    "train_joint_tokenizer",
    "translation_student",
    "translation_tokenizer_difference",
    "trim_vocabulary",
    "weights_bytes",
    "whole_words",
    "zero_padding_row",
]
