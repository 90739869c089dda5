"""What the model card of an export says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tinybert_cli import artifacts, data, tasks
from tinybert_cli.config import Export
from tinybert_cli.reports import model_card


def card(
    config: Export,
    precision: str,
    output: artifacts.Output,
    result: model_card.Result | None,
    names: Sequence[str],
    facts: Mapping[str, float],
) -> model_card.Card:
    """`precision` is what the weights are kept in, `facts` what verifying found and the size of the model."""
    task, folder = tasks.find_prediction_task(config.task), str(output.folder)
    pair = len(data.text_columns(config.data)) == 2
    limits = [
        f"Its answers are those of {config.model} on {facts['agreement']:.2%} of the rows that it was verified on, "
        f"where a logit differs by {facts['max_abs_logit_difference']:.2g} at most. That model's limits are its own.",
        f"Longer input than {config.data.max_seq_length} tokens was cut when it was verified.",
        task.limit(names),
    ]
    if config.format == "safetensors":
        limits.append(
            f"Its weights are in {precision}, but it was verified and timed computing in float32. Arithmetic in "
            f"{precision}, as on a GPU, moves the logits further."
        )
    speed = f"{facts['latency_ms_b1']:.2f} ms for one text (median), {facts['latency_ratio_b1']:.1f}x as fast"
    lost = f"{facts['metric_difference']:+.4f}" if "metric_difference" in facts else None
    return model_card.Card(
        name=output.folder.name,
        task=config.task,
        pipeline=task.pipeline,
        summary=f"{config.model} for {_LOADED_BY[config.format]}, in {precision}.",
        inputs=output.inputs,
        made={
            "command": "`tinybert export`",
            "model": config.model,
            "format": config.format,
            "weights": precision,
            "verified on": model_card.data_names(output.inputs),
            "agreement with the model": f"{facts['agreement']:.4f}",
            f"{task.main_metric} against the model's": lost,
            "labels": model_card.listed(names),
        },
        result=result,
        costs={
            "parameters": f"{facts['parameters']:,}",
            "weights": f"{facts['bytes'] / 1e6:.1f} MB, {facts['bytes_ratio']:.1f}x smaller than the model's",
            "latency": f"{speed} as the model in torch",
            "measured on": artifacts.machine(),
        },
        usage=_with_transformers(task, folder, precision, pair=pair)
        if config.format == "safetensors"
        else _with_onnx(config, task, folder, pair=pair),
        limits=[*limits, *model_card.UNTESTED],
        library="transformers" if config.format == "safetensors" else None,
        tags=[config.format, *([] if precision == "float32" else [precision])],
    )


def _with_onnx(config: Export, task: tasks.PredictionTask, folder: str, *, pair: bool) -> dict[str, str]:
    return {
        "ONNX Runtime": f"```python\n{_SNIPPET.format(folder=folder)}\n```",
        "tinybert": f"```sh\ntinybert predict {folder} {task.example(pair=pair)}\n```\n\nIt needs no torch.",
        "transformers": f"It loads {config.model}, the original; an export is for ONNX Runtime.",
    }


def _with_transformers(task: tasks.PredictionTask, folder: str, precision: str, *, pair: bool) -> dict[str, str]:
    slow = ", where float16 is unusably slow" if precision == "float16" else ""
    return {
        "transformers": f"```python\n{task.usage(folder, pair=pair)}\n```\n\nThis computes in {precision}. "
        f'On a CPU{slow}, give `pipeline` the argument `dtype="float32"`: that is how it was verified.',
        "tinybert": f"```sh\ntinybert predict {folder} {task.example(pair=pair)}\n```\n\nIt computes in float32.",
    }


_LOADED_BY = {"onnx": "ONNX Runtime", "safetensors": "transformers"}

_SNIPPET = """import numpy as np, onnxruntime, tokenizers

tokenizer = tokenizers.Tokenizer.from_file("{folder}/tokenizer.json")
session = onnxruntime.InferenceSession("{folder}/model.onnx")
text = tokenizer.encode("Better than it looks.")
values = {{"input_ids": text.ids, "attention_mask": text.attention_mask, "token_type_ids": text.type_ids}}
logits = session.run(None, {{node.name: np.array([values[node.name]]) for node in session.get_inputs()}})"""
