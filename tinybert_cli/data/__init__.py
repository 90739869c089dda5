"""From files and datasets to batches: readers, splits, label datasets, layer states and length-grouped batches."""

from tinybert_cli.data.batching import POOL, BucketBatches, Examples, TokenBatches, sorted_batches
from tinybert_cli.data.column_types import column_types, converted_columns
from tinybert_cli.data.layer_states import LayerStates, StatesWriter, read_states, states_bytes, states_files
from tinybert_cli.data.soft_labels import (
    PREDICTION,
    SoftLabels,
    check_names,
    existing_folder,
    read_soft_labels,
    write_soft_labels,
    write_table,
)
from tinybert_cli.data.splits import Split, has, overlap, read, row_warnings, sources

__all__ = [
    "POOL",
    "PREDICTION",
    "BucketBatches",
    "Examples",
    "LayerStates",
    "SoftLabels",
    "Split",
    "StatesWriter",
    "TokenBatches",
    "check_names",
    "column_types",
    "converted_columns",
    "existing_folder",
    "has",
    "overlap",
    "read",
    "read_soft_labels",
    "read_states",
    "row_warnings",
    "sorted_batches",
    "sources",
    "states_bytes",
    "states_files",
    "write_soft_labels",
    "write_table",
]
