"""init: writes a recipe for the data of the user, with the splits that it reads."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tinybert_cli import configuration, tasks
from tinybert_cli.artifacts import atomic_files
from tinybert_cli.config import Data
from tinybert_cli.data import splits
from tinybert_cli.errors import ConfigError, InputError, OutputError
from tinybert_cli.escaping import shell_word
from tinybert_cli.helpers import data_settings, new_recipe, new_splits, teacher_labels, text_lengths
from tinybert_cli.inspection import columns, data_checks, summary
from tinybert_cli.inspection.columns import Choose, Guess
from tinybert_cli.label_values import example_mapping
from tinybert_cli.tasks.label_names import of_positions
from tinybert_cli.types import Rows
from tinybert_cli.wording import counted

CLASSES = ("class", "classes")  # output types of tasks whose labels are classes
MOST_NAMED = 20  # classes that the recipe lists
SHARE = 0.99  # of the texts that `max_seq_length` does not cut
LONGEST = 512
SHORT = 64  # up to it, `max_seq_length` has room for texts that are longer than all in the data
ROOM = 125  # percent
STEP = 8  # `max_seq_length` is a multiple
MOST_LINES = 12  # names in a line
SPLITS = ("train", *new_splits.SCORED, "unlabeled")


@dataclass(frozen=True)
class Request:
    """What the user asks for on the command line."""

    folder: Path
    data: str
    validation: str | None = None
    test: str | None = None
    unlabeled: str | None = None
    task: str | None = None
    text: Sequence[str] = ()
    label: Sequence[str] = ()
    teacher: str | None = None
    model: str | None = None
    settings: Sequence[str] = ()  # KEY=VALUE of `data`
    seed: int = 42
    choose: Choose | None = field(default=None, compare=False)


def run(request: Request) -> Iterator[str]:
    """Writes the recipe and its splits; yields what was chosen and why, one line each.

    Raises:
        ConfigError, ConfigErrors: a setting is wrong.
        InputError: the data cannot be read, split or interpreted, or does not fit the teacher; nothing is written.
        OutputError: the folder is not empty; nothing is written.
    """
    _check_folder(request.folder)
    settings = _settings(request)
    with new_splits.collected_warnings() as warnings:
        read = new_splits.read_source(
            request.data,
            {"validation": request.validation, "test": request.test, "unlabeled": request.unlabeled},
            settings,
        )
        guess = columns.guess(
            read.rows["train"],
            task=request.task,
            text=_columns_in(settings, "text_column_names"),
            label=_columns_in(settings, "label_column_name"),
            separator=settings.get("label_separator"),
            choose=request.choose,
        )
        completed = new_splits.completed(read, guess, seed=request.seed)
        data, notes = _checked(request, guess, completed)
        base, base_notes = _base_model(request, _all_texts(completed, guess), guess)
    plan = _plan(request, guess, completed, data, base)
    yield from _choices(request, guess, read, plan)
    yield from [*completed.notes, *notes, *base_notes, *(f"warning: {text}" for text in warnings)]
    files = {
        f"{name}.jsonl": "".join(f"{line}\n" for line in new_splits.as_jsonl(completed.rows[name]))
        for name in completed.new
    }
    files |= {"recipe.yaml": new_recipe.as_yaml(plan)}
    _write(request.folder, files)
    yield f"written: {', '.join(str(request.folder / name) for name in sorted(files))}"
    yield f"next: tinybert run {shell_word(str(request.folder / 'recipe.yaml'))}"


# -- what the user gives ---------------------------------------------------------------------------------------


def _check_folder(folder: Path) -> None:
    try:
        if folder.is_file():
            raise OutputError(f"'{folder}' is a file", hint="name a new folder")
        if folder.is_dir() and any(folder.iterdir()):
            raise OutputError(f"the folder '{folder}' is not empty", hint="name a new folder; init overwrites nothing")
        above = next(parent for parent in folder.resolve().parents if parent.exists())
    except OSError as error:
        raise _unwritable(folder, error) from error
    if not above.is_dir():
        raise OutputError(f"'{folder}' is in '{above}', which is a file", hint="name a new folder")
    if not os.access(above, os.W_OK):
        raise OutputError(f"cannot write '{folder}': '{above}' is read-only", hint="name another folder")


def _unwritable(folder: Path, error: OSError) -> OutputError:
    return OutputError(f"cannot write '{folder}': {error.strerror}", hint="name another folder")


def _settings(request: Request) -> dict[str, Any]:
    """The settings of `data` on the command line, checked like those of every command."""
    for setting in request.settings:
        if not setting.startswith("data."):
            raise ConfigError(
                f"init takes settings of `data`, not '{setting}'",
                hint="change the others in recipe.yaml, or give them to tinybert run",
            )
    own = {"text_column_names": request.text, "label_column_name": request.label}
    columns_given = {key: names[0] if len(names) == 1 else list(names) for key, names in own.items() if names}
    if not request.settings:
        return columns_given
    return {**data_settings.load(request.settings).data.model_dump(exclude_unset=True), **columns_given}


def _columns_in(settings: Mapping[str, Any], key: str) -> list[str]:
    """The columns that a setting names; none if it is not given."""
    names = settings.get(key, [])
    return [names] if isinstance(names, str) else list(names)


# -- checks ----------------------------------------------------------------------------------------------------


def _checked(request: Request, guess: Guess, read: new_splits.Splits) -> tuple[Data, list[str]]:
    """The settings of `data` without files, after the checks that finetune makes; and what was noticed."""
    for error in configuration.errors_of(data_checks.check, [guess.task, read.settings]):
        raise error
    plain = {key: value for key, value in read.settings.items() if not _is_source(key)}
    plain |= {
        "text_column_names": guess.text[0] if len(guess.text) == 1 else guess.text,
        "label_column_name": guess.label,
    }
    if guess.separator is not None:
        plain["label_separator"] = guess.separator
    data, rows = Data.model_validate(plain), read.rows["train"]
    task = tasks.find_scored_task(guess.task)
    if isinstance(task, tasks.GenerationTask):
        _check_translators(request, data)
        return data, [f"warning: {text}" for text in tasks.Translation().check_pairs(rows, data)]
    notes: list[str] = []
    if request.teacher is not None:
        names_setting, note = teacher_labels.labels_of(request.teacher, task, rows, data)
        if names_setting is not None:
            data = data.model_copy(update={"label_names": names_setting})
        notes += [note] if note else []
    named = {name: splits.with_label_names(part, data) for name, part in read.rows.items() if name != "unlabeled"}
    names = task.label_names(named["train"], data, model_names=None)
    warnings = task.label_warnings(named["train"], data, names)
    for name, part in named.items():
        if data.label_names is None and of_positions(task.label_statements(part, data, names)):
            raise _numbered_labels(name, part, names)
        labels = task.labels(part, data, names)
        assert labels is not None  # a split without labels is not used
        if part is named["train"]:
            task.check_trainable(labels, names, part)
            warnings += summary.class_warnings(labels, names, task) if task.output_type in CLASSES else []
    notes += [f"warning: {text}" for text in warnings]
    listed = task.output_type in CLASSES and 2 <= len(names) <= MOST_NAMED
    if listed and data.label_names is None and isinstance(guess.label, str):
        data = data.model_copy(update={"label_names": names})
    return data, notes


def _numbered_labels(split: str, rows: Rows, names: Sequence[str]) -> InputError:
    """The error for numbers as labels where train has names: in which order they were numbered is not known."""
    numbered = {name: name for name in names} | {str(index): name for index, name in enumerate(names)}
    return InputError(
        f"labels of {split} are numbers, those of train are names",
        where=rows.origins[0][0],
        hint=f"say which name each number means, such as {example_mapping(numbered)}",
    )


def _check_translators(request: Request, data: Data) -> None:
    """An error if the teacher is no translation model or needs languages, or a model is named that nothing uses."""
    if request.model is not None:
        raise ConfigError(
            "--model has no effect in translation, where the recipe trains a new model",
            hint="leave it out; --teacher names a model that translates",
        )
    if request.teacher is not None:
        from tinybert_cli import models

        source = models.locate(request.teacher)
        models.check_family(source)
        family = models.read_config(source)["model_type"]
        models.check_languages(source.name, family, data.source_language, data.target_language)


def _is_source(key: str) -> bool:
    return key.startswith("dataset_") or key.endswith(("_file", "_split_name"))


# -- sizes -----------------------------------------------------------------------------------------------------


def _base_model(request: Request, rows: Rows, guess: Guess) -> tuple[text_lengths.BaseModel, list[str]]:
    """The model that lengths are measured with, and what is to be known about it."""
    if guess.task == "translation":
        words = text_lengths.words_only(rows, [guess.text[0], str(guess.label)])
        lengths = [round(text_lengths.TOKENS_PER_WORD * count) + 1 for count in words]
        return text_lengths.BaseModel("marian", 4, 128, None, lengths, None, "the number of words"), []
    name = request.teacher or request.model or text_lengths.default_model()
    base = text_lengths.measure(name, rows, guess, seed=request.seed)
    other = text_lengths.readable_model(base, rows, guess)
    if other is None:
        return base, []
    note = f"{base.unknown:.0%} of the tokens are unknown to {base.name}"
    if request.model or request.teacher:
        return base, [f"warning: {note}; try --model {other}"]
    return text_lengths.measure(other, rows, guess, seed=request.seed), [f"{note}, so the model is {other} (--model)"]


def _all_texts(read: new_splits.Splits, guess: Guess) -> Rows:
    """The texts of all splits with labels, and the translations, if that is the task."""
    names = [*guess.text, *([guess.label] if guess.task == "translation" else [])]
    parts = [read.rows[name] for name in ("train", *new_splits.SCORED)]
    columns = {str(name): [value for part in parts for value in part.column(str(name))] for name in names}
    return Rows(columns, tuple(origin for part in parts for origin in part.origins))


def _length(guess: Guess, data: Data, base: text_lengths.BaseModel) -> tuple[int, str]:
    """`max_seq_length` and its reason."""
    if "max_seq_length" in data.model_fields_set:
        return data.max_seq_length, "as given"
    task = tasks.find(guess.task)
    splits_texts = isinstance(task, tasks.PredictionTask) and task.splits_long_texts
    most = min(384 if splits_texts else LONGEST, base.positions or LONGEST)
    longest, usual = base.lengths[-1], base.at(SHARE)
    wanted = longest * ROOM // 100 if longest <= SHORT else longest if longest <= usual * ROOM // 100 else usual
    length = min(most, max(16, -(-wanted // STEP) * STEP))
    if longest <= length:
        room = ", with room for longer ones" if length > longest + STEP else ""
        return length, f"the longest text has {longest:,} tokens{room}"
    cut = sum(count > length for count in base.lengths) / len(base.lengths)
    verb = "split" if splits_texts else "cut"
    return length, f"{cut:.1%} of the texts are {verb}; the longest has {longest:,} tokens"


def _plan(
    request: Request, guess: Guess, read: new_splits.Splits, data: Data, base: text_lengths.BaseModel
) -> new_recipe.Plan:
    length, reason = _length(guess, data, base)
    settings = {key: value for key, value in read.settings.items() if _is_source(key)}
    folder = request.folder
    settings |= {f"{name}_file": str(folder / f"{name}.jsonl") for name in read.new}
    files = {key.removesuffix("_file") for key in settings if key.endswith("_file")}
    if {"train", *new_splits.SCORED} <= files:
        settings.pop("dataset_name", None)
    chosen = data.model_dump(exclude_unset=True) | {"max_seq_length": length}
    if data.label_names is not None:
        chosen["label_names"] = data.label_names
    if guess.task == "translation":
        chosen["max_target_length"] = chosen.get("max_target_length", length)
    if guess.task == "question-answering" and "doc_stride" not in chosen:
        chosen["doc_stride"] = min(128, length // 3)
    written = {**settings, **chosen}
    of_source = {error.key[-1] for error in data_checks.of_other_sources(written)}  # of files that init has rewritten
    return new_recipe.Plan(
        task=guess.task,
        folder=str(folder),
        name=folder.resolve().name,
        source=request.data,
        data={name: value for name, value in written.items() if name not in of_source},
        rows={name: len(read.rows[name]) for name in SPLITS if name in read.rows},
        base=base,
        teacher=request.teacher,
        plain_model=base.name if request.teacher is None or guess.task == "translation" else request.model,
        max_seq_length=length,
        length_reason=reason,
        seed=request.seed,
    )


# -- output ----------------------------------------------------------------------------------------------------


def _choices(request: Request, guess: Guess, read: new_splits.Splits, plan: new_recipe.Plan) -> Iterator[str]:
    """One line per choice, with the reason and the option that changes it."""
    data = Data.model_validate({key: value for key, value in read.settings.items() if not _is_source(key)})
    rows = sum(len(part) for name, part in read.rows.items() if name != "unlabeled")
    kind = new_splits.describe_source(request.data, data)
    yield f"{request.data}: {kind}; {counted(rows, 'row')}; columns {', '.join(read.rows['train'].columns)}"
    label = guess.label if isinstance(guess.label, str) else ", ".join(guess.label)
    yield f"task: {guess.task}: {guess.reasons['task']} (--task)"
    yield f"text: {' + '.join(guess.text)}: {guess.reasons['text']} (--text)"
    yield f"label: {label}: {guess.reasons['label']} (--label)"
    if guess.unused:
        names = [name or "''" for name in guess.unused[:MOST_LINES]]
        yield f"not used: {', '.join(names)}{', ...' * (len(guess.unused) > MOST_LINES)}"
    yield f"splits: {', '.join(f'{name} {count:,}' for name, count in plan.rows.items())} rows (--validation, --test)"
    yield f"max_seq_length: {plan.max_seq_length}: {plan.length_reason} (data.max_seq_length)"
    if plan.base.counted_by != plan.base.name:
        yield f"tokens were counted with {plan.base.counted_by}"
    if request.teacher is not None:
        what = f"teacher: {request.teacher}, so no finetune stage; students of "
    elif guess.task == "translation":
        what = "model: a new one, 4 + 4 layers; students of "
    else:
        what = f"model: {plan.base.name}, {plan.base.layers} layers (--model); students of "
    shapes = f"{plan.student_layers} and {plan.student2_layers}"
    if guess.task == "translation":
        shapes = f"{'4' if request.teacher is None else 'all its encoder layers'} + 1 and 2 + 1"
    yield f"{what}{shapes} layers"
    if plan.plain_model is None:
        yield "no student2-plain, as the teacher's base model is not known (--model names it)"
    if guess.task != "translation":
        size = new_recipe.batch_size(plan.rows["train"])
        yield f"training: batches of {size}, epochs by the number of rows (num_train_epochs in the recipe)"
    yield f"stages: {', '.join(new_recipe.stages(plan))}"


def _write(folder: Path, files: Mapping[str, str]) -> None:
    """The folder with all files, or nothing: it is written beside its final name and then renamed."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.resolve().name}.", dir=folder.resolve().parent))
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        for name, text in files.items():
            atomic_files.write_text(partial / name, text)
        partial.chmod(0o777 & ~_umask())
        if folder.is_dir():
            folder.rmdir()
        partial.rename(folder)
    except OSError as error:
        raise _unwritable(folder, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
