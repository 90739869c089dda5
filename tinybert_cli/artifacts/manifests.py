"""Manifests: the files of a finished folder, the inputs that they were made from, and whether both are unchanged."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from collections.abc import Collection, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tinybert_cli.artifacts.atomic_files import read_json
from tinybert_cli.artifacts.hashes import digest, remembered_hash
from tinybert_cli.config import COMMANDS, Stage
from tinybert_cli.errors import InputError

Description = dict[str, Any]  # identifies one input: path and hash, or Hub id and revision

MANIFEST = "manifest.json"
EARLIER_DEFAULTS = {  # of settings that are `auto` now
    "training.num_train_epochs": 3.0,
    "training.learning_rate": 5e-5,
    "training.eval_strategy": "epoch",
    "training.early_stopping_patience": None,
}
RERUN = "run the stage that wrote the folder again with --force"


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished folder.

    Raises:
        InputError: it is missing, not readable, or was changed by hand.
    """
    path = folder / MANIFEST
    try:
        manifest: dict[str, Any] = read_json(path)
        unchanged = manifest["checksum"] == digest({key: manifest[key] for key in manifest if key != "checksum"})
    except (InputError, KeyError, TypeError) as error:
        what = error.what if isinstance(error, InputError) else f"'{path}' is not a manifest of tinybert"
        hint = "restore it, or move the folder away and run the stage that wrote it again"
        raise InputError(what, hint=hint) from error
    if not unchanged:
        raise InputError(f"'{path}' was changed after the run that wrote it", hint=f"restore it, or {RERUN}")
    return manifest


def has_manifest(folder: Path) -> bool:
    """Whether a folder has a manifest of tinybert, damaged or not; other tools write other files of this name."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        return True
    return isinstance(manifest, dict) and bool({"checksum", "command", "config_hash"} & manifest.keys())


def verify_folder(folder: Path, *, also: Collection[str] = ()) -> dict[str, Any]:
    """The manifest of a finished folder whose files all have the size and the sha256 in it.

    Documents may be edited or missing: no stage reads them.

    Args:
        also: documents that must be unchanged.

    Raises:
        InputError: the manifest or a file is missing or was changed.
    """
    manifest = read_manifest(folder)
    for entry in manifest["outputs"]:
        path = folder / entry["path"]
        if _is_document(entry["path"]) and entry["path"] not in also:
            continue
        if not path.is_file():
            raise InputError(
                f"'{path}' is missing, but it is listed in '{folder / MANIFEST}'",
                hint=f"copy the whole folder, or {RERUN}",
            )
        if path.stat().st_size != entry["bytes"] or remembered_hash(path) != entry["sha256"]:
            raise InputError(
                f"'{path}' is damaged or was changed: it does not match its sha256 in '{folder / MANIFEST}'",
                hint=f"restore it, or {RERUN}",
            )
    return manifest


def is_unchanged(folder: Path, manifest: Mapping[str, Any], name: str) -> bool:
    """Whether a file of a finished folder has the sha256 in the manifest of the folder."""
    expected = [entry["sha256"] for entry in manifest["outputs"] if entry["path"] == name]
    path = folder / name
    return path.is_file() and expected == [remembered_hash(path)]


def describe(path: Path, name: str | None = None) -> Description:
    """Identifies a local input: a finished folder by its manifest, any other folder or file by its content.

    Args:
        name: the name in the config, if that is not the path.
    """
    location = {"path": name or str(path)}
    if path.is_file():
        return {**location, "sha256": remembered_hash(path)}
    if has_manifest(path):
        return {**location, "manifest": verify_folder(path)["checksum"]}
    hashes = {name: remembered_hash(path / name) for name in _content_files(path)}
    return {**location, "sha256": digest(hashes)}


def describe_model(folder: Path | None, name: str, revision: str | None) -> Description:
    """Identifies a model by the content of its folder, or by its Hub id and revision."""
    if folder is None:
        return {"hub_id": name.partition("@")[0], "revision": revision}
    return describe(folder, name)


def describe_all(sources: Mapping[str, list[Path] | Mapping[str, Any]]) -> dict[str, Any]:
    """Identifies the data of each split: files by `describe`, a dataset on the Hub by its given description."""
    return {
        name: [describe(path) for path in source] if isinstance(source, list) else dict(source)
        for name, source in sources.items()
    }


def name_all(sources: Mapping[str, list[Path] | Mapping[str, Any]]) -> dict[str, Any]:
    """The data of each split that is not read yet: files by their paths, a dataset by its given description."""
    return {
        name: [{"path": str(path)} for path in source] if isinstance(source, list) else dict(source)
        for name, source in sources.items()
    }


def check_origin(folder: Path, manifest: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Checks that a label dataset was made from the data and by the teacher in the config.

    Args:
        expected: descriptions of the inputs in the config; names that the manifest does not have are ignored.

    Raises:
        InputError: another stage wrote the folder, or an input differs.
    """
    if manifest["command"] != "gen-soft-labels":
        raise InputError(f"'{folder}' is not a label dataset: it was written by {manifest['command']}")
    for name, in_config in expected.items():
        in_dataset = manifest["inputs"].get(name)
        if in_dataset is not None and _content(in_dataset) != _content(in_config):
            raise InputError(
                f"the labels in '{folder}' were made from another {name}\n"
                f"     label dataset: {_in_words(in_dataset)}\n     config:        {_in_words(in_config)}",
                hint="run gen-soft-labels again with this input, or fix the config",
            )


def settings_of(config: Stage) -> dict[str, Any]:
    """The settings that identify a run: all but the output folder, which may be moved, and the command."""
    return config.model_dump(mode="json", by_alias=True, exclude={"output_dir", "stage"})


def differences(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """One line per setting or input that differs between two runs, as `key: old before, new now`.

    A value that the earlier run has resolved for a setting that is `auto` is the same as `auto`: its run.yaml has the
    value. In runs of versions that resolved nothing, the default of that time is.
    """
    before, after = flat(_identity(earlier)), flat(_identity(now))
    resolved = earlier.get("resolved")

    def is_same(key: str) -> bool:
        if before.get(key) == after.get(key):
            return True
        if resolved is None:
            return after.get(key) == "auto" and key in EARLIER_DEFAULTS and before.get(key) == EARLIER_DEFAULTS[key]
        return key in resolved and after.get(key) == resolved[key]

    return [
        f"{key}: {_short(before.get(key, 'absent'))} before, {_short(after.get(key, 'absent'))} now"
        for key in [*before, *(key for key in after if key not in before)]
        if not is_same(key)
    ]


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that numbers may depend on; packages not installed are left out."""
    names = (
        "tinybert",
        "torch",
        "transformers",
        "tokenizers",
        "datasets",
        "accelerate",
        "onnxruntime",
        "ctranslate2",
        "sacrebleu",
    )
    installed = {}
    for name in names:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {"python": platform.python_version(), **installed}


def machine() -> str:
    """The processor and its number of cores, which latencies depend on."""
    name = platform.processor() or platform.machine()
    try:
        match = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:  # not Linux
        match = None
    return f"{match[1].strip() if match else name}, {os.cpu_count()} cores"


def git_commit() -> str | None:
    """The commit of the git repository that the command runs in, or None."""
    try:
        completed = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return completed.stdout.strip()


def _content_files(folder: Path) -> list[str]:
    """The files that make a folder what it is: without documents, and without hidden files and folders."""
    names = (file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    return sorted(
        name for name in names if not _is_document(name) and not any(part.startswith(".") for part in name.split("/"))
    )


def _is_document(name: str) -> bool:
    """Whether a file is for people, so that no stage reads it and an edit changes no result."""
    return name in ("metrics.json", "run.yaml", "example.py") or name.endswith((".md", ".html"))


def _content(described: Any) -> Any:
    """A description without the path: equal content has an equal one."""
    if isinstance(described, list):
        return [_content(item) for item in described]
    return {key: value for key, value in described.items() if key != "path"}


def _in_words(described: Any) -> str:
    if isinstance(described, list):
        return ", ".join(map(_in_words, described))
    return " ".join(str(value)[:80] for value in described.values() if value is not None)


def _short(value: Any) -> str:
    """The first digits of a hash; anything else unchanged."""
    text = str(value)
    return f"{text[:12]}..." if re.fullmatch("[0-9a-f]{64}", text) else text


def _identity(run: Mapping[str, Any]) -> dict[str, Any]:
    """Command, settings, inputs and number of processes, under the names of this version."""
    identity = {key: run[key] for key in ("command", "settings", "inputs", "processes") if key in run}
    old_key = {"finetune": "labels", "distill": "soft_labels"}.get(str(run.get("command")))  # of tinybert 0.1
    for name in ("settings", "inputs"):
        if old_key in identity.get(name, {}):
            values = dict(identity[name])
            value = values.pop(old_key)
            identity[name] = {**values, "label_dataset": None if value == "gold" else value}
    if "settings" in identity:
        identity["settings"] = _completed(str(run.get("command")), identity["settings"])
    return identity


def _completed(command: str, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings, with the defaults of those that were added after the version that wrote them."""
    try:
        return settings_of(COMMANDS[command].model_validate({**settings, "output_dir": "."}))
    except (KeyError, TypeError, ValidationError):  # of no stage of this version: compared as they are
        return settings


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts and lists of dicts as one dict with dotted keys."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        items = {str(index): item for index, item in enumerate(value)}.items()
    else:
        return {prefix.removeprefix("settings."): value}
    result: dict[str, Any] = {}
    for key, item in items:
        result |= flat(item, f"{prefix}.{key}" if prefix else str(key))
    return result
