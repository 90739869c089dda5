"""From files and datasets to batches: readers, splits, label datasets, layer states and length-grouped batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tinybert_cli.data.column_types import column_types, converted_columns
from tinybert_cli.data.layer_states import LayerStates, StatesWriter, read_states, states_bytes, states_files
from tinybert_cli.data.readers import concatenate, existing_file, read_file
from tinybert_cli.data.soft_labels import (
    PREDICTION,
    SoftLabels,
    check_names,
    existing_folder,
    read_soft_labels,
    write_soft_labels,
    write_table,
)
from tinybert_cli.data.splits import Split, has, read, row_warnings, sources
from tinybert_cli.data.stack_states import StackStates, StackStatesWriter, read_stack_states, stack_states_files
from tinybert_cli.data.top_k import TopK, TopKWriter, read_top_k, top_k_files
from tinybert_cli.data.translations import (
    Translations,
    check_translation_names,
    read_counts,
    read_engine,
    read_translations,
    write_translations,
)

if TYPE_CHECKING:
    from tinybert_cli.data.batching import POOL, BucketBatches, Examples, TokenBatches, sorted_batches

__all__ = [
    "POOL",
    "PREDICTION",
    "BucketBatches",
    "Examples",
    "LayerStates",
    "SoftLabels",
    "Split",
    "StackStates",
    "StackStatesWriter",
    "StatesWriter",
    "TokenBatches",
    "TopK",
    "TopKWriter",
    "Translations",
    "check_names",
    "check_translation_names",
    "column_types",
    "concatenate",
    "converted_columns",
    "existing_file",
    "existing_folder",
    "has",
    "read",
    "read_counts",
    "read_engine",
    "read_file",
    "read_soft_labels",
    "read_stack_states",
    "read_states",
    "read_top_k",
    "read_translations",
    "row_warnings",
    "sorted_batches",
    "sources",
    "stack_states_files",
    "states_bytes",
    "states_files",
    "top_k_files",
    "write_soft_labels",
    "write_table",
    "write_translations",
]


def __getattr__(name: str) -> Any:
    """The names of `batching`, the one module here that needs torch, which reading files does not."""
    if name in ("POOL", "BucketBatches", "Examples", "TokenBatches", "sorted_batches"):
        import tinybert_cli.data.batching as batching

        return getattr(batching, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
