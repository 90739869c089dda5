"""From files and datasets to batches: readers, splits, label datasets, layer states and length-grouped batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tinybert_cli.data.column_types import column_types, converted_columns, widened_types
from tinybert_cli.data.layer_states import LayerStates, StatesWriter, read_states, states_bytes, states_files
from tinybert_cli.data.readers import concatenate, existing_file, read_file
from tinybert_cli.data.shard_types import columns_that_became_text, has_types, types_of_shards, write_with_types
from tinybert_cli.data.soft_labels import (
    LOGITS,
    PREDICTION,
    TOKEN_SPANS,
    SoftLabels,
    check_names,
    existing_folder,
    read_soft_labels,
    write_soft_labels,
    write_table,
)
from tinybert_cli.data.splits import (
    FIRST_ROWS,
    Split,
    has,
    most_rows,
    no_rows,
    read,
    row_warnings,
    rows_warnings,
    sources,
)
from tinybert_cli.data.stack_states import StackStates, StackStatesWriter, read_stack_states, stack_states_files
from tinybert_cli.data.streams import FileStream, Stream, first_rows, open_stream, rows_digest, stream_shards
from tinybert_cli.data.top_k import TopK, TopKWriter, read_top_k, top_k_files
from tinybert_cli.data.translations import (
    TRANSLATION_COLUMNS,
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
    "FIRST_ROWS",
    "LOGITS",
    "POOL",
    "PREDICTION",
    "TOKEN_SPANS",
    "TRANSLATION_COLUMNS",
    "BucketBatches",
    "Examples",
    "FileStream",
    "LayerStates",
    "SoftLabels",
    "Split",
    "StackStates",
    "StackStatesWriter",
    "StatesWriter",
    "Stream",
    "TokenBatches",
    "TopK",
    "TopKWriter",
    "Translations",
    "check_names",
    "check_translation_names",
    "column_types",
    "columns_that_became_text",
    "concatenate",
    "converted_columns",
    "existing_file",
    "existing_folder",
    "first_rows",
    "has",
    "has_types",
    "most_rows",
    "no_rows",
    "open_stream",
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
    "rows_digest",
    "rows_warnings",
    "sorted_batches",
    "sources",
    "stack_states_files",
    "states_bytes",
    "states_files",
    "stream_shards",
    "top_k_files",
    "types_of_shards",
    "widened_types",
    "write_soft_labels",
    "write_table",
    "write_translations",
    "write_with_types",
]


def __getattr__(name: str) -> Any:
    """The names of `batching`, the one module here that needs torch, which reading files does not."""
    if name in ("POOL", "BucketBatches", "Examples", "TokenBatches", "sorted_batches"):
        import tinybert_cli.data.batching as batching

        return getattr(batching, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
