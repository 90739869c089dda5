"""Events of a stage as lines of text, and the columns of the table of models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tinybert_cli import processes
from tinybert_cli.escaping import printable
from tinybert_cli.wording import counted

Row = dict[str, Any]

MAX_NAMES = 20  # labels that are listed by name
MAX_CONFUSED = 6  # labels whose confusion is printed


def _setting(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _plan(row: Row) -> str:
    parts = ["a stream of rows" if row["rows"] is None else counted(row["rows"], "row")]
    parts += [counted(row["steps"], "step")] if "steps" in row else []
    parts += [f"{row['parameters'] / 1e6:.1f} M parameters"] if "parameters" in row else []
    if "vocabulary_size" in row:
        parts.append(f"vocabulary {row['vocabulary_size']:,} of {row['source_vocabulary_size']:,} tokens")
    copied = row.get("layers_copied_from", [])
    parts += [f"layers copied from source model: {', '.join(map(str, copied))}"] if copied else []
    copied = row.get("decoder_layers_copied_from", [])
    parts += [f"decoder layers copied: {', '.join(map(str, copied))}"] if copied else []
    compared = row.get("layers_compared_with", [])
    layers = ", ".join(map(str, compared))
    parts += [f"compared with teacher layers: {layers} ({row['teacher_states']})"] if compared else []
    compared = row.get("decoder_layers_compared_with", [])
    layers = ", ".join(map(str, compared))
    parts += [f"compared with decoder layers: {layers} ({row['teacher_states']})"] if compared else []
    parts += [f"{row['states_bytes'] / 1e9:.3g} GB of layer states"] if "states_bytes" in row else []
    parts += [f"labels {_listed(row['label_names'])}"] if "label_names" in row else []
    parts += [f"validation {row['validation']}"] if "validation" in row else []
    if "target_mean" in row:
        mean, deviation = (f"{row[name]:,.4g}" for name in ("target_mean", "target_deviation"))
        parts.append(f"targets in standard units: mean {mean}, standard deviation {deviation}")
    resolved = {name: value for name, value in row.get("resolved", {}).items() if value is not None}
    parts += ["auto: " + ", ".join(f"{name} {_setting(value)}" for name, value in resolved.items())] if resolved else []
    parts += [f"models {', '.join(row['models'])}; reference {row['reference']}"] if "models" in row else []
    parts += [row["device"]] if "device" in row else []
    parts += ["float32" if row["precision"] == "no" else row["precision"]] if "precision" in row else []
    parts += [f"{processes.count()} processes"] if processes.count() > 1 else []
    return "\n".join(["  ".join(parts), *(f"assumed: {statement}" for statement in row.get("assumptions", []))])


def _of_all(row: Row) -> str:
    """The steps that are done, and of how many if that is known."""
    return f"{row['step']:,}" + ("" if row["max_steps"] is None else f" of {row['max_steps']:,}")


def _listed(names: Sequence[str]) -> str:
    """The names; if there are many, the first ones and their number."""
    listed = ", ".join(map(printable, names[:MAX_NAMES]))
    return listed if len(names) <= MAX_NAMES else f"{listed}, ... ({len(names)})"


def _train(row: Row) -> str:
    return (
        f"step {row['step']:>6}  epoch {row['epoch']:<5}  loss {row.get('loss', float('nan')):.4f}"
        f"  {row['samples_per_second']:,.0f} rows/s"
    )


def _evaluate(row: Row) -> str:
    scores = "  ".join(f"{k} {v:.4f}" for k, v in row.items() if isinstance(v, float) and k not in ("epoch",))
    return f"step {row['step']:>6}  epoch {row['epoch']:<5}  {scores}{'  (best)' if row['is_best'] else ''}"


def _selected(row: Row) -> str | None:
    """Nothing if no row was filtered by its confidence, and each has one target."""
    if "targets" in row:
        return f"{row['selected']:,} target texts of {row['rows']:,} rows: {row['targets'].replace('_', ' ')}"
    unlabelled = row.get("unlabelled", 0)
    lines = [f"left out {counted(unlabelled, 'row')} that the teacher did not label"] if unlabelled else []
    if row["min_confidence"]:
        share = f"{row['selected']:,} of {counted(row['rows'], 'row')}"
        lines.append(f"kept {share} with confidence >= {row['min_confidence']:g}")
    return "\n".join(lines) or None


def _teacher_check(row: Row) -> str:
    """The scores, and for few labels what the teacher takes for what."""
    scores = "  ".join(f"{k} {v:.4f}" for k, v in row.items() if isinstance(v, float))
    confusion = row.get("confusion", {})
    names = list(dict.fromkeys([*confusion, *(name for predicted in confusion.values() for name in predicted)]))
    lines = [f"teacher check on {counted(row['checked_rows'], 'row')}: {scores}"]
    if len(names) <= MAX_CONFUSED:
        lines += [
            f"  gold {printable(gold)}: " + ", ".join(f"{count:,} {printable(name)}" for name, count in own.items())
            for gold, own in confusion.items()
        ]
    return "\n".join(lines)


def _baseline(row: Row) -> str:
    metric = row["metric"]
    score = f"{metric} {row[metric]:.4f}" if metric in row else f"{metric} is not defined for it"
    source = f", as scored for {row['scored_by']}" if "scored_by" in row else ""
    return f"baseline {row['model']}: {score} (fitted on {counted(row['training_rows'], 'row')}{source})"


def _done(row: Row) -> str:
    ends = ("_low", "_high")  # of intervals; they are in metrics.json
    numbers = {k: v for k, v in row.items() if isinstance(v, (int, float)) and "." not in k and not k.endswith(ends)}
    return "  ".join([f"done: {row['output_dir']}", *(f"{key} {value:,.4g}" for key, value in numbers.items())])


def _times(ratio: float, more: str, less: str) -> str:
    """A ratio as a number from 1: an export of a tiny model can be larger than the model, or slower."""
    return f"{ratio:.1f}x {more}" if round(ratio, 1) >= 1 else f"{1 / ratio:.1f}x {less}"


def exported(row: Row) -> str:
    speed = row["latency_ratio_b1"] if "latency_ratio_b1" in row else row["speedup_b1"]
    gains = f"{row['bytes'] / 1e6:.1f} MB, {_times(row['bytes_ratio'], 'smaller', 'larger')}"
    gains += f" and {_times(speed, 'faster', 'slower')} at batch 1"
    if "same" in row:
        lost = f"; BLEU {row['metric_difference']:+.2f}" if "metric_difference" in row else ""
        return f"{row['output_dir']}: {gains} than the original; {row['same']:.1%} equal translations{lost}"
    lost = f"; main metric {row['metric_difference']:+.4f}" if "metric_difference" in row else ""
    same = f"{row['agreement']:.1%} equal predictions"
    if "concordance" in row:  # of numbers, which are never equal
        same = f"correlation {row['agreement']:.4f}, concordance {row['concordance']:.4f}"
    return f"{row['output_dir']}: {gains} than the original; {same}{lost}"


LINES: dict[str, Callable[[Row], str | None]] = {
    "plan": _plan,
    "train": _train,
    "evaluate": _evaluate,
    "warning": lambda row: f"warning: {row['message']}",
    "labels": _selected,
    "engine": lambda row: " ".join(
        [
            f"engine: {row['engine']} {row['engine_version']}".strip(),
            *(
                [f"({row['engine_same']:.1%} equal translations, {row['engine_as_good']:.1%} as good)"]
                if "engine_same" in row
                else []
            ),
        ]
    ),
    "teacher check": _teacher_check,
    "calibration": lambda row: (
        f"temperature {row['temperature']:.3g} for {row['answers']}, fitted on "
        f"{counted(row['calibration_rows'], 'row')}: calibration error {row['ece']:.3f} before, "
        f"{row['ece_scaled']:.3f} after; Brier score {row['brier']:.3f} "
        f"before, {row['brier_scaled']:.3f} after (each half at the temperature of the other)"
    ),
    "drift": lambda row: (
        f"labels: encoder {row['weights']}, head {row['head']}, stored as {row['storage']}; against float32 on "
        f"{counted(row['rows'], 'row')} the logits differ by {row['max_abs_logit_difference']:.2g} at most "
        f"({row['mean_abs_logit_difference']:.2g} on average), agreement {row['agreement']:.4f}"
    ),
    "out of memory": lambda row: (
        f"out of memory at step {row['step']:,}: it is repeated, and training goes on, with each batch in "
        f"{row['micro_batches']} micro-batches, here of {row['rows']:,} instead of {row['rows_before']:,} rows, whose "
        f"gradients add up to the same (permanent: {row['settings']})"
    ),
    "improving": lambda row: f"{counted(row['step'], 'step')}, still improving: more may help ({row['setting']})",
    "stopped": lambda row: (
        f"stopped at step {row['step']:,} of {row['max_steps']:,}: {row['evaluations']} evaluations without a better "
        "score or a lower loss"
    ),
    "resume": lambda row: f"resuming from step {_of_all(row)}",
    "shard": lambda row: f"{_of_all(row)} rows  {row['shard']}",
    "candidates": lambda row: f"masked LM: replacements computed for {row['texts']:,} of {row['of']:,} texts",
    "augmented": lambda row: (
        f"augmentation: {'at most ' if row.get('at_most') else ''}{counted(row['copies'], 'variant')} of "
        f"{counted(row['rows'], 'row')}"
    ),
    "scored": lambda row: f"scored {row['model']}",
    "baseline": _baseline,
    "rejected": lambda row: f"int8 rejected: {row['message']}",
    "eight_bit_parts": lambda row: (
        f"fewer bits except {', '.join(row['parts'])}, in 8 bits, so that it passes: {row['cost']}"
    ),
    "float32_parts": lambda row: (
        f"int8 except {', '.join(row['parts'])}, in float32 from 12 bits, so that it passes: {row['cost']}"
    ),
    "written": lambda row: f"written: {row['bytes'] / 1e6:.1f} MB; comparing it with the original",
    "up to date": lambda row: f"up to date: {row['output_dir']}",
    "done": _done,
}  # fmt: skip


def _number(key: str, form: str) -> Any:
    return lambda row: form.format(row[key]) if key in row else None


def with_interval(key: str) -> Any:
    def cell(row: Row) -> str | None:
        if key not in row:
            return None
        low, high = row.get(f"{key}_low"), row.get(f"{key}_high")
        return f"{row[key]:.4f}" + (f" ({low:.3f}-{high:.3f})" if low is not None else "")

    return cell


def _millions(key: str, unit: str) -> Any:
    return lambda row: f"{row[key] / 1e6:.1f} {unit}" if key in row else None


def _latency(batch: str) -> Any:
    def cell(row: Row) -> str | None:
        if f"latency_ms_{batch}" not in row:
            return None
        faster = f" ({row[f'speedup_{batch}']:.1f}x)" if f"speedup_{batch}" in row else ""
        return f"{row[f'latency_ms_{batch}']:.2f}{faster}"

    return cell


COLUMNS = [
    ("retention", _number("retention", "{:.1%}")),
    ("agreement", _number("agreement", "{:.1%}")),
    ("parameters", _millions("parameters", "M")),
    ("size", _millions("bytes", "MB")),
    ("ms, batch 1", _latency("b1")),
    ("ms, batch 32", _latency("b32")),
]
