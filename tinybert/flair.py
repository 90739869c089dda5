"""flair: `Model` adds the predictions of an export to a `Sentence`."""

from tinybert_cli.integrations.flair import Model

__all__ = ["Model"]
