"""From YAML files and `KEY=VALUE` arguments to typed settings, or to all errors at once with file, line and column."""

from tinybert_cli.configuration.load import Check, complain, errors_of, load, stage_of
from tinybert_cli.configuration.yaml_writer import dump

__all__ = ["Check", "complain", "dump", "errors_of", "load", "stage_of"]
