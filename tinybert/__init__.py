"""tinybert in Python: recipes, stages and predictions, with the behaviour of the command line.

    import tinybert

    runs = tinybert.run("mine/recipe.yaml")
    classify = tinybert.load("runs/mine/export")
    classify("The parcel never arrived.")["prediction"]

Each stage runs in a process of its own, as the command does: its lines go to stderr, its memory is free afterwards, and
it resumes and is skipped like the command. An error of a stage is raised as the exception of its exit code.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tinybert_cli import __version__
from tinybert_cli.errors import ConfigErrors, GateError, InputError, Interrupted, OutputError, UserError

__all__ = [
    "ConfigErrors",
    "GateError",
    "InputError",
    "Interrupted",
    "Model",
    "OutputError",
    "Run",
    "UserError",
    "__version__",
    "distill",
    "evaluate",
    "export",
    "finetune",
    "gen_soft_labels",
    "load",
    "run",
]

Config = str | Path | Mapping[str, Any]
"""A YAML file, or the settings as a mapping."""
Prediction = dict[str, Any]
"""`text`, `prediction` and, by task, `confidence`, `probabilities` and others, as `tinybert predict --json` prints."""


@dataclass(frozen=True)
class Run:
    """A finished stage."""

    folder: Path
    """Its output_dir."""
    status: str
    """done, or up to date if it was finished before."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Its metrics.json."""


def run(recipe: str | Path, *overrides: str, only: str | Sequence[str] = (), force: bool = False) -> dict[str, Run]:
    """Runs all stages of a recipe, a folder or a file, as `tinybert run` does.

    Args:
        overrides: `"training.max_steps=3"`, `"finetune:seed=1"` or `"student:seed=1"`.
        only: the stage to run, or a list of them; empty = all.
        force: replace runs that have other settings or inputs.

    Returns:
        The stages that ran, by name.

    Raises:
        ConfigErrors: the recipe is invalid; nothing ran.
        InputError, OutputError, GateError, UserError: of the stage that failed; those before it are finished.
    """
    from tinybert_cli import recipe_runner, stage_processes

    options = recipe_runner.Options(only=[only] if isinstance(only, str) else only, force=force)
    finished: dict[str, Run] = {}
    with stage_processes.StageServer(sys.stderr) as server:
        for stage in recipe_runner.select(recipe_runner.load_stages(Path(recipe), overrides), options):
            code, result = recipe_runner.run_stage(stage, options, sys.stderr, server=server)
            finished[stage.name] = _finished(code, result)
    return finished


def finetune(config: Config, *overrides: str, force: bool = False) -> Run:
    """Trains a model on gold labels, or on a label dataset: `tinybert finetune`."""
    return _stage("finetune", config, overrides, force)


def gen_soft_labels(config: Config, *overrides: str, force: bool = False) -> Run:
    """Stores the predictions of a model for the data: `tinybert gen-soft-labels`."""
    return _stage("gen-soft-labels", config, overrides, force)


def distill(config: Config, *overrides: str, force: bool = False) -> Run:
    """Trains a student to match its teacher: `tinybert distill`."""
    return _stage("distill", config, overrides, force)


def evaluate(config: Config, *overrides: str, force: bool = False) -> Run:
    """Scores models side by side: `tinybert eval`."""
    return _stage("eval", config, overrides, force)


def export(config: Config, *overrides: str, force: bool = False) -> Run:
    """Writes a model in another format and verifies it: `tinybert export`."""
    return _stage("export", config, overrides, force)


class Model:
    """A model that is loaded for prediction; an export needs no torch."""

    def __init__(self, model: str | Path) -> None:
        """See `load`."""
        from tinybert_cli import console
        from tinybert_cli.helpers import predict
        from tinybert_cli.user_paths import argument_path

        with console.silenced():
            self._predictor = predict.load(argument_path(str(model)))
        self.folder: Path = self._predictor.folder
        """Where its files are."""
        self.label_names: list[str] = list(getattr(self._predictor, "label_names", []))
        """Its classes, in the order of its outputs; empty for a task without classes."""

    def __call__(self, texts: str | Iterable[str | Sequence[str]]) -> Any:
        """The Prediction for a text, or a list of them for several texts, in their order.

        Args:
            texts: a text; or an iterable of texts, or of pairs: `[("premise", "hypothesis")]`.

        Raises:
            InputError: before the first prediction, if a text is empty or does not fit the model.
        """
        if isinstance(texts, str):
            return next(iter(self._predictor.predict([texts])))
        # a mapping would be read as its keys, and a table of pandas as the names of its columns
        if isinstance(texts, Mapping | bytes) or not isinstance(texts, Iterable) or getattr(texts, "ndim", 1) != 1:
            kind = type(texts).__name__
            raise InputError(
                f"expected a text or a list of texts, found {kind}", hint='pairs: [("premise", "hypothesis")]'
            )
        return list(self._predictor.predict(texts))


def load(model: str | Path) -> Model:
    """Opens a model folder, an export or a Hub id for prediction.

    Raises:
        InputError: the model is missing, damaged, or has no head that tinybert can use.
    """
    return Model(model)


def _stage(command: str, config: Config, overrides: Sequence[str], force: bool) -> Run:
    from tinybert_cli import stage_processes

    with tempfile.TemporaryDirectory(prefix="tinybert-") as folder:
        file = str(config)
        if isinstance(config, Mapping):
            file = str(_written(config, Path(folder) / "settings.yaml"))
        words = [file, *overrides, *(["--force"] if force else [])]
        code, result = stage_processes.run_command(command, words, sys.stderr)
    if isinstance(config, Mapping) and "error" in result:
        result = {**result, "error": str(result["error"]).replace(file, "the mapping, as YAML")}
    return _finished(code, result)


def _written(settings: Mapping[str, Any], file: Path) -> Path:
    """The settings as a config file. `$` in them is no variable."""
    import yaml

    from tinybert_cli import configuration

    if "extends" in settings:
        raise ConfigErrors("`extends` is relative to a file, and a mapping has none", hint="merge the mappings instead")
    try:
        text = configuration.dump(_plain(settings))
    except yaml.YAMLError as error:
        hint = "use strings, numbers, booleans, lists and mappings"
        raise ConfigErrors(f"a setting is no YAML value: {error}", hint=hint) from None
    file.write_text(text, encoding="utf-8")
    return file


def _plain(value: Any) -> Any:
    """Mappings, sequences and paths as YAML writes them."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _finished(code: int, result: Mapping[str, Any]) -> Run:
    if code:
        what = str(result.get("error", f"{result['command']} ended with exit code {code}"))
        if code > 128:
            raise Interrupted(code - 128, what)
        raise {2: ConfigErrors, 3: InputError, 4: OutputError, 5: GateError}.get(code, UserError)(what)
    from tinybert_cli import artifacts

    folder = Path(result["output_dir"])
    return Run(folder, str(result["status"]), dict(artifacts.read_metrics(folder)))
