"""The model card of an export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tinybert_cli import artifacts, formats, tasks
from tinybert_cli.config import Export
from tinybert_cli.escaping import in_python, markdown, shell_word
from tinybert_cli.reports import finished_evals, model_card
from tinybert_cli.reports.model_card import Card, Result
from tinybert_cli.wording import counted


def card(
    config: Export,
    precision: str,
    output: artifacts.Output,
    result: Result | None,
    names: Sequence[str],
    facts: Mapping[str, float],
    weights: str,
    example: str = "",
    notes: Sequence[str] = (),
) -> Card:
    """The card of an export.

    Args:
        example: the content of its example.py.
        precision: of the weights.
        facts: the metrics of verification, and the size of the model.
        weights: how they are stored, in words.
        notes: sentences on the scores, without an end mark.
    """
    task, form, folder = tasks.find_prediction_task(config.task), formats.find(config.format), str(output.folder)
    model, pair = markdown(config.model), len(config.data.text_columns) == 2
    command = f"tinybert predict {shell_word(folder)} {task.example_input(pair=pair)}"
    export = formats.Export(
        in_python(folder), model, precision, task.usage(in_python(folder), config.data), command, example
    )
    limitations = [
        f"{_likeness(facts, task, model)} {counted(facts['rows'], 'row')} used for verification; the largest "
        f"difference of a logit is {facts['max_abs_logit_difference']:.2g}. The limitations of that model apply.",
        f"{task.long_input(config.data.max_seq_length)} in verification.",
        task.limitations(names),
        *form.limitations(export),
        *_other_file(config, form),
    ]
    speed = f"{facts['latency_ms_b1']:.2f} ms for one text (median), {facts['latency_ratio_b1']:.1f}x as fast"
    difference = f"{facts['metric_difference']:+.4f}" if "metric_difference" in facts else None
    changed = facts.get("max_probability_difference")
    probability = None if changed is None else f"{changed:.4f}"
    return Card(
        name=output.folder.name,
        task=config.task,
        pipeline=task.pipeline,
        summary=f"{model} for {form.runtime}, in {precision}.",
        inputs=output.inputs,
        made={
            "command": "`tinybert export`",
            "model": model,
            "format": config.format,
            "weights": markdown(weights),
            "verified on": markdown(model_card.data_names(output.inputs)),
            "agreement with the model": _agreement(facts),
            "concordance with the model": f"{facts['concordance']:.4f}" if "concordance" in facts else None,
            "largest difference of a probability": probability,
            f"{task.main_metric} minus the model's": difference,
            "labels": markdown(model_card.listed(names)),
        },
        result=result,
        comparison=finished_evals.beside(
            output.folder,
            output.inputs.get("model"),
            task=config.task,
            metric=task.main_metric,
            more_is_better=task.metrics[task.main_metric],
        ),
        costs={
            "parameters": f"{facts['parameters']:,}",
            "weights": _weights(facts),
            "latency": f"{speed} as the model in torch",
            "measured on": artifacts.machine(),
        },
        usage=form.usage(export),
        limits=[*limitations, *_sentences(notes), *model_card.UNTESTED],
        library=form.library,
        tags=[config.format, *([] if precision == "float32" else [precision])],
    )


def _other_file(config: Export, form: formats.Format) -> list[str]:
    """A sentence if the numbers are not those of the file that the usage opens."""
    if config.quantize != "fp16" or form.half is None:
        return []
    return [
        f"The numbers of this card are those of `{form.half.file}`, which is for GPUs, measured on a CPU. The code "
        f"above and `tinybert predict` open `{form.weights}`, in float32."
    ]


def _weights(facts: Mapping[str, float]) -> str:
    exported = facts["bytes"] / 1e6
    return f"{exported:.1f} MB; those of the model {exported * facts['bytes_ratio']:.1f} MB"


def _likeness(facts: Mapping[str, float], task: tasks.PredictionTask, model: str) -> str:
    """What the agreement says, up to the rows that it is of."""
    if "concordance" in facts:
        return f"The correlation of its numbers with those of {model} is {facts['agreement']:.4f} on the"
    of = "" if task.agreement_counts_rows else "the words of "  # of tagging
    return f"Its predictions equal those of {model} on {facts['agreement']:.2%} of {of}the"


def _agreement(facts: Mapping[str, float]) -> str:
    """The worst of all batches, and that of each kind."""
    kinds = {"b1": "one row at a time", "b32": "32 rows of similar length", "padded": "32 rows padded"}
    each = [
        f"{words} {facts[f'agreement_{kind}']:.4f}" for kind, words in kinds.items() if f"agreement_{kind}" in facts
    ]
    kinds_in_words = f" ({', '.join(each)})" if each else ""
    return f"{facts['agreement']:.4f}{kinds_in_words}"


def translation_card(
    config: Export,
    form: formats.TranslationFormat,
    precision: str,
    output: artifacts.Output,
    result: Result | None,
    facts: Mapping[str, float],
    notes: Sequence[str] = (),
) -> Card:
    """The card of an export of a translation model; arguments as in `card`."""
    task, folder, model = tasks.find(config.task), str(output.folder), markdown(config.model)
    command = f'tinybert predict {shell_word(folder)} "A man rides a bicycle."'
    export = formats.Export(in_python(folder), model, precision, task.usage(in_python(folder), config.data), command)
    difference = f"{facts['metric_difference']:+.2f}" if "metric_difference" in facts else None
    return Card(
        name=output.folder.name,
        task=config.task,
        pipeline=task.pipeline,
        summary=f"{model} for {form.runtime}, in {precision}.",
        inputs=output.inputs,
        made={
            "command": "`tinybert export`",
            "model": model,
            "format": config.format,
            "weights": precision,
            "verified on": markdown(model_card.data_names(output.inputs)),
            "translations equal to the model's": f"{facts['same']:.2%}",
            "agreement with the model (chrF / 100)": f"{facts['agreement']:.4f}",
            "BLEU minus the model's": difference,
        },
        result=result,
        costs={
            "parameters": f"{facts['parameters']:,}",
            "weights": _weights(facts),
            "speed": f"{facts['speedup_b1']:.1f}x (one sentence) and {facts['speedup_b32']:.1f}x (batches of 32) as "
            "fast as the model in transformers, greedy",
            "measured on": artifacts.machine(),
        },
        usage=form.usage(export),
        limits=[
            f"Its translations equal those of {model} on {facts['same']:.2%} of the rows used for verification. The "
            "limitations of that model apply.",
            f"Source texts longer than {config.data.max_seq_length} tokens were cut in verification, translations at "
            f"{config.data.max_target_length}.",
            *([] if form.beams else ["It has no beam search: it translates greedily."]),
            *form.limitations(export),
            *_sentences(notes),
            *model_card.UNTESTED,
        ],
        library=form.library,
        tags=[config.format, *([] if precision == "float32" else [precision])],
    )


def _sentences(notes: Sequence[str]) -> list[str]:
    return [markdown(f"{note[:1].upper()}{note[1:]}.") for note in notes]
