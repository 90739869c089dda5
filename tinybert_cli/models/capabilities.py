"""What each model family can do, as a table for error messages and the documentation. No import of torch here."""

from __future__ import annotations

from collections.abc import Sequence

from tinybert_cli.models.families import FAMILIES, Family

HEADER = (
    "family",
    "`model_type`",
    "teacher",
    "fewer layers",
    "narrower",
    "`attentions`",
    "`relations`",
    "replace words",
)
OTHER = "other encoders"
STATES = (
    "The losses hidden_states, embeddings, pooled and cosine, and trim_vocabulary, work for all of them; only the "
    "layers of Funnel join tokens, and have no such states."
)


def capability_markdown() -> str:
    """The table of the documentation: one row per family, and one for all encoders that are not in FAMILIES."""
    rows = [(family.title, f"`{model_type}`", *_abilities(family)) for model_type, family in FAMILIES.items()]
    lines = [HEADER, ["---"] * len(HEADER), *rows, (OTHER, "", *_abilities(None))]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def capability_table(model_type: str, family: Family | None) -> str:
    """What models of one family can do, for an error message; None: a family that is not supported."""
    names = [name.replace("`", "") for name in HEADER[2:]]
    width = max(map(len, names))
    lines = [f"  {name:<{width}}  {value}" for name, value in zip(names, _abilities(family), strict=True)]
    return "\n".join([f"what {model_type} models can do:", *lines, STATES])


def _abilities(family: Family | None) -> Sequence[str]:
    if family is None:
        return "yes", "random weights only", "random weights only", "no", "no", "no"
    layers = "yes, with weights of their own" if family.shares_layers else "yes"
    width = "yes, by whole heads" if family.fixed_head_size else "yes"
    return "yes", layers, width, "yes", "yes", "yes"
