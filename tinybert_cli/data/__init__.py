"""Rows in, batches out: reading files and datasets, and grouping rows of like length."""

from tinybert_cli.data.batches import POOL, Array, BucketBatches, Encoded, Examples, sorted_batches
from tinybert_cli.data.files import Rows
from tinybert_cli.data.labels import Labels, existing_folder, read_labels, write_labels, write_table
from tinybert_cli.data.splits import Split, has, overlap, read, remarks, sources, text_columns

__all__ = [
    "POOL",
    "Array",
    "BucketBatches",
    "Encoded",
    "Examples",
    "Labels",
    "Rows",
    "Split",
    "existing_folder",
    "has",
    "overlap",
    "read",
    "read_labels",
    "remarks",
    "sorted_batches",
    "sources",
    "text_columns",
    "write_labels",
    "write_table",
]
