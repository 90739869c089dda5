"""Distillation losses: pure functions of student outputs, teacher outputs and batch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from tinybert_cli.errors import ConfigError, did_you_mean, look_up
from tinybert_cli.losses import class_weights, denominators, layers, logits, tokens
from tinybert_cli.types import Array, Batch, ModelOutputs

if TYPE_CHECKING:
    from torch import Tensor

Weight = Annotated[float, Field(ge=0)]
Loss = Callable[..., "Tensor"]  # (student, teacher, batch, *, options) -> scalar, a mean
Denominator = Callable[..., "Tensor"]  # (batch, *, options) -> scalar, what the mean is over


@dataclass(frozen=True)
class LossSet:
    """The losses on logits for one output type (a class, several classes, a span, a value, the tokens of a text)."""

    soft_labels: Loss
    hard_labels: Loss
    r_drop: Loss
    name: str  # the standard name of `hard_labels` for this output type
    balanced: Callable[[Array], Array] | None = None  # the weight of each label, for `class_weights: balanced`
    stacks: Mapping[str, Mapping[str, Loss]] = field(default_factory=dict)  # layer loss → stack → its loss


@dataclass(frozen=True)
class LossPart:
    """One loss with its options."""

    weight: float
    mean: Callable[[ModelOutputs, ModelOutputs, Batch], Tensor]
    denominator: Callable[[Batch], Tensor]


@dataclass(frozen=True)
class WeightedLoss:
    """A weighted sum of losses; returns each of them unweighted."""

    parts: Mapping[str, LossPart]

    def __call__(self, student: ModelOutputs, teacher: ModelOutputs, batch: Batch) -> dict[str, Tensor]:
        return {name: part.mean(student, teacher, batch) for name, part in self.parts.items()}

    @property
    def weights(self) -> dict[str, float]:
        return {name: part.weight for name, part in self.parts.items()}

    def denominators(self, batch: Batch) -> dict[str, Tensor]:
        """What the mean of each loss is over in this batch."""
        return {name: part.denominator(batch) for name, part in self.parts.items()}

    @property
    def layer_outputs(self) -> frozenset[str]:
        """The layer outputs that the losses need from student and teacher; empty if logits and labels are enough."""
        return layer_outputs_of(self.layer_losses)

    @property
    def layer_losses(self) -> list[str]:
        """Names of the losses that compare layers."""
        return [name for name in self.parts if name in LAYER_OUTPUTS or name in STACK_OUTPUTS]

    @property
    def text_level(self) -> list[str]:
        """Names of the losses that need one text per row; in language modeling a row is a block of running text."""
        return [name for name in self.parts if name in TEXT_LEVEL_LOSSES]

    @property
    def trains_head(self) -> bool:
        """Whether any loss depends on the logits."""
        return len(self.layer_losses) < len(self.parts)


def combine(losses: Mapping[str, float | Mapping[str, Any]], outputs: str = "class") -> WeightedLoss:
    """The named losses with their weights and options; losses of weight 0 are left out.

    Args:
        outputs: the output type of the task, a key of LOSS_SETS.

    Raises:
        ConfigError: an unknown loss or option, a value of the wrong type or out of bounds, or all weights 0.
    """
    for error in problems(losses, outputs):
        raise error
    parts: dict[str, LossPart] = {}
    for name, setting in losses.items():
        options = _options(setting)
        weight = float(options.pop("weight", 1.0))
        stacks = LOSS_SETS[outputs].stacks.get(name)
        if stacks is not None:
            stack_weights = {stack: weight * float(options.get(stack, 1.0)) for stack in stacks}
            parts |= {f"{stack}_{name}": part(stacks[stack], of, {}) for stack, of in stack_weights.items() if of > 0}
        elif weight > 0:
            parts[name] = part(_loss(name, outputs), weight, options)
    return WeightedLoss(parts)


def part(loss: Loss, weight: float, options: Mapping[str, Any]) -> LossPart:
    """A loss with its weight and options; one that is not in DENOMINATORS is a mean over windows."""
    denominator = DENOMINATORS.get(loss, denominators.windows)
    return LossPart(weight, partial(loss, **options), partial(denominator, **options))


def problems(losses: Mapping[str, float | Mapping[str, Any]], outputs: str = "class") -> Iterator[ConfigError]:
    """Every reason for which `combine` rejects these losses, without importing torch."""
    trained = False
    stacks = LOSS_SETS[outputs].stacks
    for name, setting in losses.items():
        if name not in LOSSES:
            trained = True  # by the loss that was meant
            yield ConfigError(f"unknown loss '{name}'", key=(name,), hint=did_you_mean(name, LOSSES))
            continue
        options = _options(setting)
        if stacks and name in LAYER_OUTPUTS and name not in stacks:
            trained = True
            if options.get("weight") != 0:
                yield ConfigError(
                    f"the loss `{name}` compares the layers of an encoder; a translation model has a decoder, too",
                    key=(name,),
                    hint=f"use {', '.join(stacks)}: {{weight: 1.0, encoder: 1.0, decoder: 1.0}}",
                )
            continue
        known = {"weight": Weight, **options_of(_loss(name, outputs)), **dict.fromkeys(stacks.get(name, ()), Weight)}
        for option, value in options.items():
            if option in known:
                yield from _value_problems(name, option, value, known[option])
            else:
                hint = did_you_mean(option, known)
                yield ConfigError(f"unknown option '{option}' of the loss `{name}`", key=(name, option), hint=hint)
        trained = trained or (
            options.get("weight", 1.0) != 0 and any(options.get(stack, 1.0) != 0 for stack in stacks.get(name, [""]))
        )
    if not trained:
        yield ConfigError("all loss weights are 0", hint="give one of them a weight above 0, for example 1.0")


def layer_outputs_of(names: Iterable[str]) -> frozenset[str]:
    """The layer outputs that these losses need: names of `ModelOutputs`, such as `hidden_states`.

    Raises:
        ConfigError: a name is not a layer loss.
    """
    table = LAYER_OUTPUTS | STACK_OUTPUTS
    return frozenset(output for name in names for output in look_up(table, name, "layer loss", key=(name,)))


def options_of(loss: Loss) -> dict[str, Any]:
    """The options of a loss: its keyword-only parameters, with their types and bounds."""
    hints = get_type_hints(loss, localns={"Tensor": Any}, include_extras=True)  # the name is for type checkers only
    parameters = inspect.signature(loss).parameters.values()
    return {p.name: hints[p.name] for p in parameters if p.kind is p.KEYWORD_ONLY}


def _loss(name: str, outputs: str) -> Loss:
    """The loss of that name for these outputs."""
    loss: Loss = getattr(LOSS_SETS[outputs], name, LOSSES[name])
    return loss


def weight_of(setting: float | Mapping[str, Any]) -> float:
    """The weight of one loss of a config."""
    weight: float = _options(setting).get("weight", 1.0)
    return weight


def _options(setting: float | Mapping[str, Any]) -> dict[str, Any]:
    return dict(setting) if isinstance(setting, Mapping) else {"weight": setting}


def _value_problems(loss: str, option: str, value: object, kind: Any) -> Iterator[ConfigError]:
    try:
        TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False)).validate_python(value, strict=True)
    except ValidationError as error:
        expected = error.errors()[0]["msg"].removeprefix("Input ").replace("valid ", "")
        yield ConfigError(f"`{option}` of the loss `{loss}` {expected}, found {value!r}", key=(loss, option))


LOSS_SETS: dict[str, LossSet] = {
    "class": LossSet(
        logits.soft_labels, logits.hard_labels, logits.r_drop, "cross-entropy", class_weights.of_class
    ),
    "classes": LossSet(
        logits.soft_labels_of_classes, logits.hard_labels_of_classes, logits.r_drop_of_classes,
        "binary cross-entropy", class_weights.of_classes,
    ),
    "span": LossSet(
        logits.soft_labels_of_span, logits.hard_labels_of_span, logits.r_drop_of_span, "cross-entropy"
    ),
    "value": LossSet(
        logits.soft_labels_of_value, logits.hard_labels_of_value, logits.r_drop_of_value, "squared error"
    ),
    "tokens": LossSet(
        tokens.soft_labels_of_tokens, tokens.hard_labels_of_tokens, logits.r_drop, "cross-entropy",
        stacks={"hidden_states": {"encoder": layers.encoder_hidden_states, "decoder": layers.decoder_hidden_states}},
    ),
}  # fmt: skip
LOSSES: dict[str, Loss] = {
    "soft_labels": logits.soft_labels,
    "hard_labels": logits.hard_labels,
    "hidden_states": layers.hidden_states,
    "attentions": layers.attentions,
    "embeddings": layers.embeddings,
    "relations": layers.relations,
    "cosine": layers.cosine,
    "pooled": layers.pooled,
}
DENOMINATORS: dict[Loss, Denominator] = {
    logits.soft_labels: denominators.predictions,
    logits.hard_labels: denominators.labels,
    logits.r_drop: denominators.predictions,
    logits.soft_labels_of_classes: denominators.predictions,
    logits.hard_labels_of_classes: denominators.labels,
    logits.r_drop_of_classes: denominators.predictions,
    logits.soft_labels_of_span: denominators.windows,
    logits.hard_labels_of_span: denominators.span_labels,
    logits.r_drop_of_span: denominators.windows,
    logits.soft_labels_of_value: denominators.predictions,
    tokens.soft_labels_of_tokens: denominators.known_target_tokens,
    tokens.hard_labels_of_tokens: denominators.labels,
    logits.hard_labels_of_value: denominators.labels,
    logits.r_drop_of_value: denominators.predictions,
    layers.hidden_states: denominators.tokens,
    layers.encoder_hidden_states: denominators.tokens,
    layers.decoder_hidden_states: denominators.target_tokens,
    layers.attentions: denominators.token_pairs,
    layers.embeddings: denominators.tokens,
    layers.relations: denominators.tokens,
    layers.cosine: denominators.tokens,
    layers.pooled: denominators.windows,
}
LAYER_OUTPUTS: dict[str, tuple[str, ...]] = {
    "hidden_states": ("hidden_states",),
    "attentions": ("scores",),
    "embeddings": ("embeddings",),
    "relations": ("queries", "keys", "values"),
    "cosine": ("hidden_states",),
    "pooled": ("hidden_states",),
}
STACK_OUTPUTS = {name: (name,) for name in ("encoder_hidden_states", "decoder_hidden_states")}  # of translation models
TEXT_LEVEL_LOSSES = ("soft_labels", "hard_labels", "pooled")

__all__ = [
    "DENOMINATORS",
    "LAYER_OUTPUTS",
    "LOSSES",
    "LOSS_SETS",
    "STACK_OUTPUTS",
    "TEXT_LEVEL_LOSSES",
    "Denominator",
    "Loss",
    "LossPart",
    "LossSet",
    "WeightedLoss",
    "combine",
    "layer_outputs_of",
    "options_of",
    "part",
    "problems",
    "weight_of",
]
