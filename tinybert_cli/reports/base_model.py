"""What the card of a model takes over from the card of the model it was made of: license, language, base model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinybert_cli.errors import InputError

TAKEN_OVER = ("license", "license_name", "license_link", "language")


def base_facts(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Entries for the front matter: `license`, `language`, `base_model`, each only if it is known.

    Args:
        inputs: as in the manifest; the source is `model` or `student`.
    """
    described: Mapping[str, Any] = next((inputs[name] for name in ("model", "student") if name in inputs), {})
    if "hub_id" in described:
        front = _front_matter(_cached_card(described["hub_id"], described.get("revision")))
        return _taken_over(front) | {"base_model": [described["hub_id"]]}
    if "path" not in described:
        return {}
    from tinybert_cli import models  # imports torch, which `report` does without

    try:
        source = models.locate(described["path"])
    except InputError:  # a card never stops a run
        return {}
    front = {} if source.folder is None else _front_matter(source.folder / "README.md")
    published = models.published_id(described["path"])
    base = [published] if published else front.get("base_model")
    return _taken_over(front) | ({"base_model": [base] if isinstance(base, str) else base} if base else {})


def _taken_over(front: Mapping[str, Any]) -> dict[str, Any]:
    return {name: front[name] for name in TAKEN_OVER if front.get(name)}


def _cached_card(hub_id: str, revision: str | None) -> Path | None:
    """The card of a Hub model in the cache, without network access."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(hub_id, "README.md", revision=revision)
    return Path(path) if isinstance(path, str) else None


def _front_matter(file: Path | None) -> dict[str, Any]:
    """The front matter of a card; empty if there is none, or none that can be read."""
    import yaml
    from huggingface_hub import metadata_load

    try:
        return (metadata_load(file) or {}) if file is not None and file.is_file() else {}
    except (OSError, ValueError, yaml.YAMLError):
        return {}
