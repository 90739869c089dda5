"""Shared by finetune and distill: train to the end, and finish the model folder."""

from __future__ import annotations

import math
import shutil
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tinybert_cli import artifacts, data, events, loops, models, tasks
from tinybert_cli.config import Distill, Finetune, ResolvedTraining
from tinybert_cli.errors import UserError
from tinybert_cli.events import Event
from tinybert_cli.reports import model_card, training_card
from tinybert_cli.reports.training_choices import choice_of
from tinybert_cli.stages import auto_settings, selection, stored_examples, training_baselines
from tinybert_cli.stages.preparation import NewModel, TrainingData, TrainingRun, Validation
from tinybert_cli.stages.streamed_blocks import StreamedBlocks
from tinybert_cli.stages.training_baselines import BaselineScores
from tinybert_cli.stages.validation_scores import Evaluation, ValidationScores
from tinybert_cli.translation_tokenizer import TranslationTokenizer
from tinybert_cli.types import Batch, Examples
from tinybert_cli.wording import counted, verb


def train(
    run: TrainingRun,
    new: NewModel,
    training_data: TrainingData,
    module: torch.nn.Module,
    loss: loops.StepLoss,
    *,
    made: Mapping[str, object],
    facts: Mapping[str, Any] | None = None,
    evaluation: Evaluation | None = None,
    scores_matter: bool = True,
) -> Iterator[Event]:
    """Trains to the end, from the last checkpoint if any, and finishes the folder; a dry run stops at the plan.

    Args:
        module: what is optimized: the model, or the model with its projections.
        made: statements of the model card about starting point, labels and loss.
        facts: for the plan and the manifest.
        evaluation: None = by the predictions for the validation rows, or by the loss if the task makes none.
        scores_matter: whether the validation scores show how good the model is; False if its head is not trained.
    """
    output, learnt, validation = run.output, training_data.facts, training_data.validation
    stream = training_data.stream
    examples = training_data.examples if stream is None else stream
    batches = _batches(run.config, training_data.examples) if stream is None else stream
    yield from _oversized_warning(run.config.training.per_device_train_batch_tokens, training_data.examples)
    if evaluation is None and validation is not None:
        evaluation = ValidationScores(run, validation, loss, learnt.scale)
    evaluated = evaluation is not None and run.config.training.eval_strategy != "no"
    selects_best = run.config.training.keep == "best" and evaluated
    training, resolved = _resolved(run, new, batches, selects_best=selects_best and scores_matter)
    output.config = run.config.model_copy(update={"training": training})
    trainer = loops.Trainer(
        module, examples, batches, training, accelerator=run.accelerator, seed=run.config.seed,
        unused=_unused_parameters(run, module, loss, examples), stateful=[] if stream is None else [stream],
    )  # fmt: skip
    if output.dry_run:  # else the first step does
        _try_losses(run, module, loss, examples)
    names = training_baselines.chosen(run, validation, scores_matter=scores_matter)
    described = dict(facts or {}) | _facts(new, training_data)
    beside = {"baselines": names} if names else {}
    yield _plan(run, new, training_data, trainer, described | beside, resolved=resolved, evaluated=evaluated)
    yield from _size_warning(new, learnt.teacher_parameters)
    scored_rows = selection.validation_rows(run.config, output.inputs)
    if evaluation is not None and (warning := scored_rows.warning()) is not None:
        yield events.warning(warning)
    if output.dry_run:
        return
    baselines = yield from training_baselines.score(run, training_data, names)
    stored_examples.store(output, new, training_data)
    yield from _steps(
        run, new, trainer, loss, evaluation if evaluated else None, scale=learnt.scale, selects_best=selects_best
    )
    if evaluated and scores_matter:
        yield from _how_it_ended(trainer.progress, trainer.max_steps, training)
    final = _final_model(run, new, trainer, scale=learnt.scale, selects_best=selects_best)
    numbers = _numbers(trainer, training_data.examples) | baselines.flat
    result: model_card.Result | None = None
    tuned: dict[str, Any] = {}
    if evaluation is not None:
        best_loss = trainer.progress.best if selects_best else None
        result, tuned = evaluation.result(final, trainer.plain_model, best_loss)
        numbers |= _scores(result)
    if stream is not None:
        described |= stream.facts()
        output.inputs |= _describe_read(run.config, stream)
    if scores_matter:
        yield from map(events.warning, training_baselines.comparison(run, result, baselines))
    finished = _Finished(
        run, new, training_data, trainer, training, numbers, result, tuned, made, baselines, scored_rows
    )
    output.files.put(lambda folder: finished.write(final, folder))
    output.finish(
        numbers, **_label_names(training_data), layer_mapping=new.copied_layers, **described, device=trainer.device,
        precision=trainer.precision, **models.size(new.model), **new.vocabulary_sizes, **baselines.facts,
        scored_rows=None if result is None else result.rows, tuned_settings=tuned,
        models_selected_on_validation_rows=scored_rows.selected, trained_on_validation_rows=scored_rows.trained,
        micro_batches=trainer.progress.micro_batches,
    )  # fmt: skip
    yield events.done(run.config.output_dir, numbers)


def _describe_read(config: Distill | Finetune, stream: StreamedBlocks) -> dict[str, Any]:
    """The training data for the manifest, after it was read.

    Raises:
        InputError: a file was changed since.
    """
    described = artifacts.describe_all(data.sources(config.data, ["train"]))
    if isinstance(stream.stream, data.FileStream):
        stream.stream.check_unchanged()  # and so was hashed as it was read
    return described


def _unused_parameters(
    run: TrainingRun, module: torch.nn.Module, loss: loops.StepLoss, examples: Examples
) -> list[torch.nn.Parameter]:
    """Parameters without a gradient, if there are several processes: they wait for those of all others."""
    if run.accelerator.num_processes == 1:
        return []
    device = run.accelerator.device
    return loops.unused_parameters(module.to(device), loss, _first_example(examples, device))


def _try_losses(run: TrainingRun, module: torch.nn.Module, loss: loops.StepLoss, examples: Examples) -> None:
    """Computes the losses of one example.

    Raises:
        ConfigError: a loss cannot compare student and teacher.
    """
    device = run.accelerator.device
    with torch.no_grad():
        loss.means(module.to(device).train(), _first_example(examples, device))


def _first_example(examples: Examples, device: torch.device) -> Batch:
    return {name: values.to(device) for name, values in examples.__getitems__([0]).items()}


def _facts(new: NewModel, training_data: TrainingData) -> dict[str, Any]:
    """What the plan and the manifest state about the model and its targets."""
    facts: dict[str, Any] = {}
    if new.decoder_layers is not None:
        facts["decoder_layers_copied_from"] = new.decoder_layers
    scale = training_data.facts.scale
    if scale is not None:
        facts |= {"target_mean": scale.mean, "target_deviation": scale.deviation}
    return facts


def _label_names(training_data: TrainingData) -> dict[str, list[str]]:
    names = training_data.facts.label_names
    return {} if names is None else {"label_names": names}


def _plan(
    run: TrainingRun,
    new: NewModel,
    training_data: TrainingData,
    trainer: loops.Trainer,
    facts: Mapping[str, Any],
    *,
    resolved: Mapping[str, Any],
    evaluated: bool,
) -> Event:
    return events.plan(
        len(training_data.examples) if training_data.stream is None else None,
        steps=trainer.max_steps,
        **models.size(new.model),
        **new.vocabulary_sizes,
        layers_copied_from=new.copied_layers,
        **facts,
        **_label_names(training_data),
        **events.assumptions(training_data.facts.statements),
        resolved=resolved,
        evaluated=evaluated,
        validation=_in_words(training_data.validation, evaluated=evaluated),
        device=trainer.device,
        precision=trainer.precision,
    )


def _steps(
    run: TrainingRun,
    new: NewModel,
    trainer: loops.Trainer,
    loss: loops.StepLoss,
    evaluation: Evaluation | None,
    *,
    scale: models.OutputScale | None,
    selects_best: bool,
) -> Iterator[Event]:
    """All steps, from the newest checkpoint that is intact, with an evaluation and a checkpoint where they are due."""
    output, (metric, better) = run.output, run.objective

    def evaluate() -> dict[str, float]:
        assert evaluation is not None
        scores = evaluation.scores(trainer.plain_model)
        return {**scores, "objective": scores[metric]}

    state = yield from _newest_state(output, with_best_model=selects_best)
    if state is not None:
        trainer.load(state)
        output.checkpoints.drop_newer(state)
        yield events.resume(trainer.progress.step, trainer.max_steps)
    yield from output.save_checkpoints(
        trainer.train(loss, None if evaluation is None else evaluate, better=better, stop=output.signals.pending),
        save_state=trainer.save,
        save_model=(lambda folder: _save_model(run, new, scale, folder)) if selects_best else None,
    )


def _save_model(run: TrainingRun, new: NewModel, scale: models.OutputScale | None, folder: Path) -> None:
    """Model and tokenizer, by the first process."""
    if not run.accelerator.is_main_process:
        return
    if isinstance(new.tokenizer, TranslationTokenizer):
        models.save_translation_model(new.model, new.tokenizer, folder)
        return
    model = new.model if scale is None else scale.restored(new.model)
    models.save(model, new.tokenizer, folder, truncate=tasks.cuts_long_texts(run.task))


def _final_model(
    run: TrainingRun, new: NewModel, trainer: loops.Trainer, *, scale: models.OutputScale | None, selects_best: bool
) -> Path:
    """The folder of the best model, or of the last one.

    Raises:
        UserError: the best model is damaged.
    """
    output, best = run.output, trainer.progress.best_step
    run.accelerator.wait_for_everyone()  # the others must not look for files that the first has not written yet
    if selects_best:
        final = output.checkpoints.best_model(best)
    else:
        final = output.checkpoints.seal("final", lambda folder: _save_model(run, new, scale, folder))
    if final is None:
        raise UserError(
            f"the best checkpoint, of step {best}, is damaged",
            where=run.config.output_dir,
            hint="run the same command again: it resumes from the checkpoint before it",
        )
    run.accelerator.wait_for_everyone()
    return final


def _numbers(trainer: loops.Trainer, examples: data.Examples) -> dict[str, float]:
    """Steps, times and speeds; of a translation model also target tokens per second."""
    numbers: dict[str, float] = trainer.summary()
    if examples.decoder is not None:
        tokens = numbers["train_samples_per_second"] * numbers["train_runtime"] * examples.target_lengths.mean()
        numbers["train_target_tokens_per_second"] = tokens / max(1e-9, numbers["train_runtime"])
        numbers["train_target_tokens_per_cpu_second"] = tokens / max(1e-9, numbers["train_cpu_seconds"])
    return numbers


def _scores(result: model_card.Result) -> dict[str, float]:
    """The scores on the validation rows and the ends of their 95 % intervals."""
    numbers: dict[str, float] = {}
    for name, value in result.scores.items():
        numbers[f"eval_{name}"] = value
        if name in result.intervals:
            numbers[f"eval_{name}_low"], numbers[f"eval_{name}_high"] = result.intervals[name]
    return numbers


@dataclass(frozen=True)
class _Finished:
    """A trained model, and what its folder states about it."""

    run: TrainingRun
    new: NewModel
    training_data: TrainingData
    trainer: loops.Trainer
    settings: ResolvedTraining
    numbers: Mapping[str, float]
    result: model_card.Result | None  # None if no validation rows were scored
    tuned: Mapping[str, Any]  # settings for config.json, such as thresholds
    made: Mapping[str, object]
    baselines: BaselineScores
    scored_rows: selection.ValidationRows

    def write(self, final: Path, folder: Path) -> None:
        """Copies the model from `final`, adds the task's settings to its config.json, and writes its card."""
        output, task, new, learnt = self.run.output, self.run.task, self.new, self.training_data.facts
        config = self.run.config.model_copy(update={"training": self.settings})
        shutil.copytree(final, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("seal.json"))
        inputs = tasks.recorded_settings(config.data, task)
        settings = {tasks.CONFIG_KEY: task.name, **inputs, **dict.fromkeys(task.tuned_settings), **self.tuned}
        models.rewrite_config(folder, settings)  # those of the source model are replaced
        facts = {
            **models.size(new.model),
            **new.vocabulary_sizes,
            **self.numbers,
            "device": self.trainer.device,
            "precision": self.trainer.precision,
            "layers": new.model.config.num_hidden_layers,
            **({} if new.decoder_layers is None else {"decoder_layers": models.depths(new.model.config)["decoder"]}),
            "bytes": models.weights_bytes(folder),
        }
        statements = training_card.Training(
            self.made, learnt.label_names, new.copied_layers, self._rows(), facts, self.result, self.settings,
            selected=choice_of(self.settings.model_dump(), self.tuned),
            made_from=self.scored_rows.selected,
            trained=self.scored_rows.trained,
            origin=learnt.origin,
            copied_decoder_layers=new.decoder_layers or [],
            baselines=self.baselines.numbers,
            no_baselines=self.baselines.reason,
        )  # fmt: skip
        card = training_card.card(config, statements, output)
        (folder / "README.md").write_text(model_card.as_markdown(card), encoding="utf-8")

    def _rows(self) -> int:
        stream = self.training_data.stream
        return self.training_data.facts.rows if stream is None else stream.read.rows


def _resolved(
    run: TrainingRun, new: NewModel, batches: loops.Batches, *, selects_best: bool
) -> tuple[ResolvedTraining, dict[str, Any]]:
    """The training settings without `auto`, and the values that replaced it, by the names of the settings."""
    config = run.config
    values = auto_settings.auto_values(
        config.training,
        auto_settings.start_of(config.model if isinstance(config, Finetune) else config.student),
        steps_per_epoch=loops.steps_of_epoch(batches, config.training, run.accelerator.num_processes),
        hidden_size=new.model.config.hidden_size,
        selects_best=selects_best,
    )
    if config.data.streaming and config.training.eval_strategy == "auto" and config.training.eval_steps is None:
        values["training.eval_steps"] = math.ceil(config.training.max_steps / auto_settings.EVALUATIONS)
        values["training.eval_strategy"] = "steps"  # its epochs are not known
    values = run.output.resolve(values)
    names = {key.removeprefix("training."): value for key, value in values.items()}
    return auto_settings.with_values(config.training, names), names


def _size_warning(new: NewModel, teacher_parameters: int | None) -> Iterator[Event]:
    """A warning if the model is no smaller than the one whose predictions it learns."""
    parameters = models.size(new.model)["parameters"]
    if teacher_parameters is not None and parameters >= teacher_parameters:
        fewer = max(1, new.model.config.num_hidden_layers // 2)
        yield events.warning(
            f"this model has {parameters / 1e6:.3g} M parameters and its teacher {teacher_parameters / 1e6:.3g} M: it "
            f"will be no smaller and no faster; for a smaller one set, for example, num_hidden_layers: {fewer} beside "
            "`from`"
        )


def _how_it_ended(progress: loops.Progress, max_steps: int, training: ResolvedTraining) -> Iterator[Event]:
    """That the run ended before its last step, or that more steps may help."""
    if progress.step < max_steps:
        yield {
            "event": "stopped",
            "step": progress.step,
            "max_steps": max_steps,
            "evaluations": training.early_stopping_patience,
        }
    elif progress.improving:
        longer = f"num_train_epochs={2 * training.num_train_epochs:g}"
        longer = f"max_steps={2 * training.max_steps}" if training.max_steps > 0 else longer
        yield {"event": "improving", "step": progress.step, "setting": f"training.{longer}"}


def _batches(config: Finetune | Distill, examples: data.Examples) -> data.BucketBatches | data.TokenBatches:
    training, lengths = config.training, examples.lengths
    if training.per_device_train_batch_tokens is not None:
        return data.TokenBatches(
            lengths, examples.target_lengths, training.per_device_train_batch_tokens,
            seed=config.seed, group_by_length=training.group_by_length,
        )  # fmt: skip
    return data.BucketBatches(
        lengths, training.per_device_train_batch_size, seed=config.seed, group_by_length=training.group_by_length
    )


def _oversized_warning(batch_tokens: int | None, examples: data.Examples) -> Iterator[Event]:
    """A warning if examples have more tokens than a batch may have: it counts them."""
    if batch_tokens is None:
        return
    longest = np.maximum(examples.lengths, examples.target_lengths)
    count = int((longest > batch_tokens).sum())
    if count:
        yield events.warning(
            f"{count:,} of {len(longest):,} training examples {verb(count, 'has', 'have')} more than {batch_tokens:,} "
            f"tokens (training.per_device_train_batch_tokens), the longest {longest.max():,}: "
            "each is a batch of its own"
        )


def _newest_state(output: artifacts.Output, *, with_best_model: bool) -> Generator[Event, None, Path | None]:
    """The newest training state that is intact and, if needed, whose best model is; None for a new run."""
    states = output.checkpoints.states()
    for state in states:
        progress = loops.read_progress(state)
        if (
            not with_best_model
            or progress.best is None
            or output.checkpoints.best_model(progress.best_step) is not None
        ):
            return state
    if output.resumed:
        yield events.warning("no checkpoint of the earlier run can be used: the training starts from step 0")
    return None


def _in_words(validation: Validation | None, *, evaluated: bool) -> str:
    """The validation rows and their files, and whether they select a checkpoint, for the plan."""
    if validation is None:
        return "none, so the last checkpoint is stored"
    names = [Path(origin).name for origin, _ in validation.rows.origins]
    rows = f"{counted(len(validation.rows), 'row')} of {names[0]}{', ...' if len(names) > 1 else ''}"
    return rows if evaluated else f"{rows}, scored at the end: the last checkpoint is stored"
