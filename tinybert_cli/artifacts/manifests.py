"""What a folder says of itself: the files it holds, what they were made from, and whether that still holds."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from tinybert_cli.artifacts.atomic_files import REMAKE, digest, file_hash, read_json
from tinybert_cli.config import Stage
from tinybert_cli.errors import InputError

Description = dict[str, Any]  # what identifies one input: path and hash, or Hub id and revision

MANIFEST = "manifest.json"


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished folder.

    Raises:
        InputError: there is none, it is not readable, or it was changed by hand.
    """
    path = folder / MANIFEST
    manifest: dict[str, Any] = read_json(path)
    checksum = manifest.get("checksum")
    if checksum != digest({key: value for key, value in manifest.items() if key != "checksum"}):
        raise InputError(
            f"'{path}' was changed after the run that wrote it",
            hint="restore it, or run the stage that wrote the folder again with --force",
        )
    return manifest


def verify_folder(folder: Path) -> dict[str, Any]:
    """The manifest of a finished folder, after comparing every file it names with its size and sha256."""
    manifest = read_manifest(folder)
    for entry in manifest["outputs"]:
        path = folder / entry["path"]
        if not path.exists():
            raise InputError(f"'{path}' is missing, but '{folder / MANIFEST}' names it", hint=REMAKE)
        if path.stat().st_size != entry["bytes"] or file_hash(path) != entry["sha256"]:
            raise InputError(f"'{path}' is not what '{folder / MANIFEST}' says it was", hint=REMAKE)
    return manifest


def describe(path: Path, name: str | None = None) -> Description:
    """What identifies a local input: a finished folder by its manifest, any other folder or file by its content.

    `name` is how the user called it, if not by its path.
    """
    called = {"path": name or str(path)}
    if path.is_file():
        return {**called, "sha256": file_hash(path)}
    if (path / MANIFEST).exists():
        return {**called, "manifest": verify_folder(path)["checksum"]}
    files = sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
    return {**called, "sha256": digest({str(file.relative_to(path)): file_hash(file) for file in files})}


def describe_model(folder: Path | None, name: str, revision: str | None) -> Description:
    """What identifies a model: its folder's content, or its Hub id and revision."""
    if folder is None:
        return {"hub_id": name.partition("@")[0], "revision": revision}
    return describe(folder, name)


def describe_all(named: Mapping[str, list[Path] | Mapping[str, Any]]) -> dict[str, Any]:
    """`describe` for the files of each split; what is on the Hub is named as it is."""
    return {
        name: [describe(path) for path in found] if isinstance(found, list) else dict(found)
        for name, found in named.items()
    }


def check_origin(labels: Path, manifest: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuses a label dataset that was made from other data, or by another teacher, than the config says.

    Args:
        wanted: what the config names, as `describe` says it; names that the labels do not know are passed over.
    """
    if manifest["command"] != "gen-soft-labels":
        raise InputError(f"'{labels}' was written by {manifest['command']}; it is no label dataset")
    for name, now in wanted.items():
        then = manifest["inputs"].get(name)
        if then is not None and _content(then) != _content(now):
            raise InputError(
                f"the labels in '{labels}' were made from another {name}\n"
                f"     there: {_called(then)}\n     now:   {_called(now)}",
                hint="run gen-soft-labels again for it, or mend the config",
            )


def settings_of(config: Stage) -> dict[str, Any]:
    """The settings that make a run another run: all but the folder, and the command, which has its own entry."""
    return config.model_dump(mode="json", by_alias=True, exclude={"output_dir", "stage"})


def differences(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    before, after = _flat(_comparable(earlier)), _flat(_comparable(now))
    return [
        f"{key}: {_short(before.get(key, 'absent'))} there, {_short(after.get(key, 'absent'))} now"
        for key in [*before, *(key for key in after if key not in before)]
        if before.get(key) != after.get(key)
    ]


def versions() -> dict[str, str]:
    names = ("tinybert", "torch", "transformers", "tokenizers", "datasets", "accelerate", "onnxruntime")
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {"python": platform.python_version(), **found}


def machine() -> str:
    """The processor and its cores: what a latency has to be read with."""
    name = platform.processor() or platform.machine()
    try:
        said = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:  # not Linux
        said = None
    return f"{said[1].strip() if said else name}, {os.cpu_count()} cores"


def git_commit() -> str | None:
    """The commit of the repository that the command runs in, if it runs in one."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _content(described: Any) -> Any:
    """What a description says of the content, wherever it lies."""
    if isinstance(described, list):
        return [_content(item) for item in described]
    return {key: value for key, value in described.items() if key != "path"}


def _called(described: Any) -> str:
    if isinstance(described, list):
        return ", ".join(map(_called, described))
    return " ".join(str(value)[:80] for value in described.values() if value is not None)


def _short(value: Any) -> str:
    """A hash by its first digits; anything else as it is."""
    text = str(value)
    return f"{text[:12]}..." if re.fullmatch("[0-9a-f]{64}", text) else text


def _comparable(run: Mapping[str, Any]) -> dict[str, Any]:
    return {key: run[key] for key in ("command", "settings", "inputs") if key in run}


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        items = {str(index): item for index, item in enumerate(value)}.items()
    else:
        return {prefix.removeprefix("settings."): value}
    flat: dict[str, Any] = {}
    for key, item in items:
        flat |= _flat(item, f"{prefix}.{key}" if prefix else str(key))
    return flat
