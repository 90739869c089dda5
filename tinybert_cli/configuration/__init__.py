"""Reads YAML files and `KEY=VALUE` arguments: typed settings, or all errors at once with file, line and column."""

from tinybert_cli.configuration.load import Check, errors_of, load, raise_all, sources, stage_of, with_location
from tinybert_cli.configuration.recipe_file import split_address
from tinybert_cli.configuration.recipes import Checks, RecipeStage, following_stage, load_recipe
from tinybert_cli.configuration.yaml_writer import dump

__all__ = [
    "Check",
    "Checks",
    "RecipeStage",
    "dump",
    "errors_of",
    "following_stage",
    "load",
    "load_recipe",
    "raise_all",
    "sources",
    "split_address",
    "stage_of",
    "with_location",
]
