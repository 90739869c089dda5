"""Writes settings as YAML that loads as equal settings again, whatever their strings contain."""

from __future__ import annotations

from typing import Any

import yaml

from tinybert_cli.config import Stage, Training
from tinybert_cli.configuration.yaml_reader import FLOAT, INTEGER


def dump(settings: Stage | dict[str, Any]) -> str:
    """The settings as YAML; `load` reads equal settings from it.

    Raises:
        yaml.YAMLError: a value is no dict, list, string, number or boolean.
    """
    return write(escaped(_values(settings) if isinstance(settings, Stage) else settings))


def _values(settings: Stage) -> dict[str, Any]:
    """All settings, except the default of one that another replaces: the checks reject both together."""
    values = settings.model_dump(by_alias=True)
    training, name = values.get("training", {}), "per_device_train_batch_size"
    replaced = training.get("per_device_train_batch_tokens") is not None
    if replaced and training[name] == Training.model_fields[name].get_default():
        del training[name]
    return values


def write(value: Any) -> str:
    """`value` (dicts, lists, scalars) as YAML that readers of YAML 1.1 and of YAML 1.2 read back unchanged."""
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120))


class _Dumper(yaml.SafeDumper):
    """Quotes every string that YAML 1.1 or 1.2 would read as another type; writes a list of scalars on one line."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def escaped(value: Any) -> Any:
    """With `$$` for every `$`, so that no string contains a variable."""
    if isinstance(value, dict):
        return {key: escaped(one) for key, one in value.items()}
    if isinstance(value, list):
        return [escaped(one) for one in value]
    return value.replace("$", "$$") if isinstance(value, str) else value


def _represent_float(dumper: yaml.SafeDumper, number: float) -> yaml.Node:
    text = repr(number) if abs(number) < float("inf") else {"inf": ".inf", "-inf": "-.inf"}.get(repr(number), ".nan")
    if "e" in text and "." not in text:
        text = text.replace("e", ".0e")  # YAML 1.1 reads 5e-05 as a string
    return dumper.represent_scalar("tag:yaml.org,2002:float", text)


def _represent_string(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    # Only double quotes preserve every line break and space.
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


def _represent_list(dumper: yaml.SafeDumper, values: list[Any]) -> yaml.Node:
    flow = not any(isinstance(value, dict | list) for value in values)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=flow)


_Dumper.add_representer(float, _represent_float)
_Dumper.add_representer(str, _represent_string)
_Dumper.add_representer(list, _represent_list)
_Dumper.add_implicit_resolver("tag:yaml.org,2002:int", INTEGER, list("-+0123456789"))
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+.0123456789"))
