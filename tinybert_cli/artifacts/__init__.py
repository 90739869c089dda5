"""Output folders, through which stages exchange data: lock, atomic files, checkpoints, manifest, log."""

from tinybert_cli.artifacts.atomic_files import check_free_space, replacing, write_text
from tinybert_cli.artifacts.hashes import digest
from tinybert_cli.artifacts.input_paths import check_config_files
from tinybert_cli.artifacts.manifests import (
    Description,
    check_origin,
    describe,
    describe_all,
    describe_model,
    has_manifest,
    is_unchanged,
    machine,
    name_all,
    read_manifest,
    settings_of,
    verify_folder,
    versions,
)
from tinybert_cli.artifacts.output import Output, open_output
from tinybert_cli.artifacts.records import markdown_table, read_metrics, read_rows
from tinybert_cli.artifacts.replacement import has_finished
from tinybert_cli.artifacts.status import Status, status

__all__ = [
    "Description",
    "Output",
    "Status",
    "check_config_files",
    "check_free_space",
    "check_origin",
    "describe",
    "describe_all",
    "describe_model",
    "digest",
    "has_finished",
    "has_manifest",
    "is_unchanged",
    "machine",
    "markdown_table",
    "name_all",
    "open_output",
    "read_manifest",
    "read_metrics",
    "read_rows",
    "replacing",
    "settings_of",
    "status",
    "verify_folder",
    "versions",
    "write_text",
]
