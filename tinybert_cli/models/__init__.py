"""Finding, loading and saving models: the one place where weights and tokenizers are read."""

from tinybert_cli.models.loading import HEADS, label_names, load, read_label_names, save, size, weights_bytes
from tinybert_cli.models.sources import PACKAGES, Source, fetch, locate
from tinybert_cli.models.tokenizers import check_vocabulary, load_tokenizer, tokenizer_difference

__all__ = [
    "HEADS",
    "PACKAGES",
    "Source",
    "check_vocabulary",
    "fetch",
    "label_names",
    "load",
    "load_tokenizer",
    "locate",
    "read_label_names",
    "save",
    "size",
    "tokenizer_difference",
    "weights_bytes",
]
