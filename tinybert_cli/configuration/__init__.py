"""From YAML files and `KEY=VALUE` arguments to typed settings, or to all errors at once with file, line and column."""

from tinybert_cli.configuration.load import complain, load
from tinybert_cli.configuration.yaml_writer import dump

__all__ = ["complain", "dump", "load"]
