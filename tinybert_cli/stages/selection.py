"""Optimistic scores: those on rows that selected the checkpoint or the thresholds of the model, or of a model that it
was made from, and those on its training rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinybert_cli import artifacts, models
from tinybert_cli.config import Export, Stage
from tinybert_cli.errors import InputError
from tinybert_cli.reports.training_choices import CHECKPOINT, THRESHOLDS, choice_in

LEARNED_FROM = ("model", "student", "teacher", "label_dataset")  # inputs of a training and of gen-soft-labels


@dataclass(frozen=True)
class Selected:
    """The models whose scores are optimistic on the rows of an `eval`."""

    own: dict[str, str]  # their checkpoint, or their thresholds, are the best of several on these rows
    inherited: dict[str, list[str]]  # other models → the folders of the selected models that they were made from
    trained: list[str]  # these rows are training rows of them, or of models that they were made from

    def notes(self) -> Iterator[str]:
        """What this means for the scores, in sentences without an end mark."""
        if self.trained:
            one = len(self.trained) == 1
            made_from = f"a model that {'it was' if one else 'they were'} made from"
            yield (
                f"these are training rows of {', '.join(self.trained)}, or of {made_from}, so the "
                f"{'score says' if one else 'scores say'} little about new text: score others (split: test)"
            )
        for chosen in dict.fromkeys(self.own.values()):
            names = [name for name, own in self.own.items() if own == chosen]
            one = len(names) == 1
            what = chosen if one or chosen == THRESHOLDS else f"{chosen}s"
            yield (
                f"the {what} of {', '.join(names)} {'was' if what == CHECKPOINT else 'were'} selected on these rows, "
                f"so the {'score is' if one else 'scores are'} optimistic: score others too (split: test)"
            )
        for name, folders in self.inherited.items():
            yield (
                f"these rows selected {', '.join(folders)}, which {name} was made from, so its score may be "
                "optimistic: score others too (split: test)"
            )


@dataclass(frozen=True)
class ValidationRows:
    """What the validation rows of a training were used for besides."""

    selected: list[str]  # the folders that the training reads, directly or not, whose model these rows have selected
    trained: bool  # whether they are training rows of it, or of a model or label dataset that it reads

    def warning(self) -> str | None:
        """What makes the score of the training useless, in a sentence without an end mark."""
        if not self.trained:
            return None
        return (
            "the validation rows are training rows of this model, or of one that it is made from, so its score will "
            "say little about new text: set data.validation_file to others"
        )


def selected_on(
    sources: Mapping[str, models.Source], settings: Mapping[str, Any], inputs: Mapping[str, Any], split: str
) -> Selected:
    """The models that these rows have selected or trained.

    Rows are the same if they are from a file with the same content, wherever it is and whatever the split is called;
    of a dataset on the Hub, if they are from the same split. A folder that a model was made from is looked up where
    its manifest names it, and beside the folder of the model; one that is missing or has changed is left out.

    Args:
        settings, inputs: of the eval, as in its manifest.
    """
    rows = identity(settings, inputs, split)
    own, inherited, trained = {}, {}, []
    for name, source in sources.items():
        folder = source.folder
        if folder is None or not artifacts.has_manifest(folder):
            continue
        folder, manifest = _exported_model(folder, artifacts.read_manifest(folder))
        ancestors = list(_ancestors(folder, manifest))
        if any(rows & _training_rows(one) for one in (manifest, *(earlier for _, earlier in ancestors))):
            trained.append(name)
        chosen = choice_in(manifest)
        if chosen is not None and rows & _rows_of_selection(manifest):
            own[name] = chosen
        elif folders := _selected_folders(ancestors, rows):
            inherited[name] = folders
    return Selected(own, inherited, trained)


def validation_rows(config: Stage, inputs: Mapping[str, Any]) -> ValidationRows:
    """What the validation rows of a training have selected or trained before; `inputs`: as in its manifest."""
    settings = artifacts.settings_of(config)
    rows = identity(settings, inputs, "validation")
    ancestors = list(_ancestors(Path(config.output_dir), {"inputs": inputs}))
    learned = [identity(settings, inputs, "train"), *(_training_rows(manifest) for _, manifest in ancestors)]
    return ValidationRows(_selected_folders(ancestors, rows), any(rows & own for own in learned))


def of_export(config: Export, source: models.Source, output: artifacts.Output) -> list[str]:
    """Notes on the scores of an export, if the rows of its verification have selected the model."""
    settings = artifacts.settings_of(config)
    return list(selected_on({source.name: source}, settings, output.inputs, config.verify.split).notes())


def _selected_folders(folders: Iterable[tuple[Path, Mapping[str, Any]]], rows: set[str]) -> list[str]:
    return list(dict.fromkeys(str(path) for path, manifest in folders if rows & _rows_of_selection(manifest)))


def _exported_model(folder: Path, manifest: Mapping[str, Any]) -> tuple[Path, Mapping[str, Any]]:
    """The model that an export was made from, if it can be read; any other folder as it is."""
    if manifest["command"] != "export":
        return folder, manifest
    return _read_input(folder, manifest["inputs"].get("model")) or (folder, manifest)


def _ancestors(folder: Path, manifest: Mapping[str, Any]) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """The finished folders that a model was made from, directly or not, nearest first."""
    waiting, checksums = [(folder, manifest)], set()
    while waiting:
        folder, manifest = waiting.pop(0)
        for name in LEARNED_FROM:
            described = manifest["inputs"].get(name)
            for one in described if isinstance(described, list) else [described]:
                earlier = _read_input(folder, one)
                if earlier is not None and earlier[1]["checksum"] not in checksums:
                    checksums.add(earlier[1]["checksum"])
                    waiting.append(earlier)
                    yield earlier


def _read_input(folder: Path, described: Any) -> tuple[Path, Mapping[str, Any]] | None:
    """The folder of an input with its manifest; None if it is not a finished folder, or not the same any more."""
    if not isinstance(described, Mapping) or not {"path", "manifest"} <= described.keys():
        return None
    path = Path(described["path"])
    for candidate in (path, folder.parent / path.name):
        try:
            manifest = artifacts.read_manifest(candidate)
        except InputError:
            continue
        if manifest["checksum"] == described["manifest"]:
            return candidate, manifest
    return None


def _rows_of_selection(manifest: Mapping[str, Any]) -> set[str]:
    if choice_in(manifest) is None:
        return set()
    return identity(manifest["settings"], manifest["inputs"], "validation")


def _training_rows(manifest: Mapping[str, Any]) -> set[str]:
    """Those that a training has read, or that are in a label dataset for trainings."""
    settings, inputs = manifest["settings"], manifest["inputs"]
    if manifest["command"] not in ("finetune", "distill", "gen-soft-labels"):
        return set()
    splits = {"train", "unlabeled"} & set(settings.get("splits", ["train"]))
    return {rows for split in splits for rows in identity(settings, inputs, split)}


def identity(settings: Mapping[str, Any], inputs: Mapping[str, Any], split: str) -> set[str]:
    """What identifies the rows of a split: the content of each file, or the dataset on the Hub with its split."""
    if files := inputs.get(f"data.{split}_file"):
        return {json.dumps({key: file[key] for key in file if key != "path"}, sort_keys=True) for file in files}
    dataset = inputs.get("data.dataset_name")
    if not dataset or split not in ("train", "validation", "test"):
        return set()
    name = settings["data"].get(f"{split}_split_name", split)
    return {json.dumps({**dataset, "split": name}, sort_keys=True)}
