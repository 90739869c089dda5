"""The folders where stages meet: lock, atomic output, checkpoints, manifest, log."""

from tinybert_cli.artifacts.cards import (
    UNTESTED,
    Card,
    Result,
    data_inputs,
    data_names,
    listed,
    model_card,
    model_names,
)
from tinybert_cli.artifacts.manifests import (
    Description,
    check_origin,
    describe,
    describe_all,
    describe_model,
    machine,
    read_manifest,
    verify_folder,
    versions,
)
from tinybert_cli.artifacts.output import Output, Row, open_output
from tinybert_cli.artifacts.pages import markdown_table, read_metrics, read_rows

__all__ = [
    "UNTESTED",
    "Card",
    "Description",
    "Output",
    "Result",
    "Row",
    "check_origin",
    "data_inputs",
    "data_names",
    "describe",
    "describe_all",
    "describe_model",
    "listed",
    "machine",
    "markdown_table",
    "model_card",
    "model_names",
    "open_output",
    "read_manifest",
    "read_metrics",
    "read_rows",
    "verify_folder",
    "versions",
]
