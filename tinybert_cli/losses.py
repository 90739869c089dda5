"""What a student is told about its mistakes: pure functions that compare it with the teacher.

Shapes: B batch, C classes, T tokens, H width, A heads, D dimensions of one head, L compared layers. Every loss is a
mean over rows, or over the tokens that are no padding, so that padding and batch size change no scale.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, get_type_hints

import torch
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from torch import Tensor
from torch.nn import functional as F

from tinybert_cli.errors import ConfigError, did_you_mean, look_up

Answers = Mapping[str, Any]
"""What a model says: "logits" (B, C); "embeddings" (B, T, H), what enters the first layer; and one tensor per compared
layer: "hidden_states" L times (B, T, H), what leaves it; "queries", "keys", "values" L times (B, A, T, D)."""
Batch = Mapping[str, Tensor]
"""What it was shown: "labels" (B,), -100 where a row has none; "attention_mask" (B, T), 0 where there is padding."""
Loss = Callable[..., Tensor]
Layers = Sequence[Tensor]

NO_LABEL = -100


def soft_labels(
    student: Answers, teacher: Answers, batch: Batch, *, temperature: Annotated[float, Field(gt=0)] = 2.0
) -> Tensor:
    """Cross-entropy between the teacher's and the student's distributions, both softened by `temperature`.

    Times T², so that the gradient keeps its size whatever the temperature (Hinton et al. 2015, section 2).
    Unlike `torch.nn.KLDivLoss` it does not divide by the number of classes.
    """
    target = F.softmax(teacher["logits"].float() / temperature, dim=-1)  # (B, C)
    log_student = F.log_softmax(student["logits"].float() / temperature, dim=-1)  # (B, C)
    return -(target * log_student).sum(-1).mean() * temperature**2


def hard_labels(
    student: Answers, teacher: Answers, batch: Batch, *, label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
) -> Tensor:
    """Cross-entropy with the labels in the data; rows without a label (-100) count for nothing.

    `label_smoothing` spreads that share of the target over all classes (Szegedy et al. 2016, section 7).
    """
    labels = batch["labels"]  # (B,)
    summed = F.cross_entropy(
        student["logits"].float(), labels, ignore_index=NO_LABEL, label_smoothing=label_smoothing, reduction="sum"
    )
    return summed / (labels != NO_LABEL).sum().clamp(min=1)


def hidden_states(student: Answers, teacher: Answers, batch: Batch) -> Tensor:
    """Mean squared error of what leaves each compared layer, the layers summed (Jiao et al. 2020, equation 8)."""
    pairs = zip(student["hidden_states"], teacher["hidden_states"], strict=True)
    return torch.stack([_token_mean(_squared_error(ours, theirs), batch) for ours, theirs in pairs]).sum()


def embeddings(student: Answers, teacher: Answers, batch: Batch) -> Tensor:
    """Mean squared error of what enters the first layer (Jiao et al. 2020, equation 9)."""
    return _token_mean(_squared_error(student["embeddings"], teacher["embeddings"]), batch)


def attentions(student: Answers, teacher: Answers, batch: Batch) -> Tensor:
    """Mean squared error of the raw attention scores QK^T / sqrt(D), before softmax (Jiao et al. 2020, equation 7).

    Over the pairs of tokens of which neither is padding and over the heads, of which both models must have as many;
    the layers summed.
    """
    mask = batch["attention_mask"].bool()
    pair = (mask[:, None, :, None] & mask[:, None, None, :]).float()  # (B, 1, T, T)
    total = pair.new_zeros(())
    heads, teacher_heads = (said["queries"][0].shape[1] for said in (student, teacher))
    if heads != teacher_heads:
        raise ConfigError(
            f"the student has {heads} attention heads, its teacher {teacher_heads}: they cannot be compared one by one",
            key=("losses", "attentions"),
            hint="take the loss `relations` instead, or as many heads",
        )
    layers = zip(student["queries"], student["keys"], teacher["queries"], teacher["keys"], strict=True)
    for query, key, teacher_query, teacher_key in layers:
        difference = _scores(query, key) - _scores(teacher_query, teacher_key)  # (B, A, T, T)
        total = total + (difference.square() * pair).sum() / (pair.sum() * query.shape[1])
    return total


def relations(
    student: Answers, teacher: Answers, batch: Batch, *, relation_heads: Annotated[int, Field(ge=1)] = 12
) -> Tensor:
    """KL of the relations QQ^T, KK^T and VV^T of the last compared layer (Wang et al. 2021, arXiv 2012.15828, eq. 3-5).

    The heads of each model are joined and split again into `relation_heads`, so both may have any number of heads and
    any width that it divides. Mean over the tokens that look, sum over those looked at, the three relations summed.
    """
    mask = batch["attention_mask"]
    total = torch.zeros((), device=mask.device)
    for name in ("queries", "keys", "values"):
        ours = _log_relations(student[name][-1], mask, relation_heads)  # (B, R, T, T)
        theirs = _log_relations(teacher[name][-1], mask, relation_heads)
        divergence = (theirs.exp() * (theirs - ours)).sum(-1).mean(1)  # (B, T)
        total = total + _token_mean(divergence, batch)
    return total


def cosine(student: Answers, teacher: Answers, batch: Batch) -> Tensor:
    """1 - cos of what leaves the last compared layer (Sanh et al. 2019, arXiv 1910.01108, section 3)."""
    ours, theirs = student["hidden_states"][-1].float(), teacher["hidden_states"][-1].float()
    return _token_mean(1 - F.cosine_similarity(ours, theirs, dim=-1), batch)


def pooled(student: Answers, teacher: Answers, batch: Batch) -> Tensor:
    """Squared distance of the normalised [CLS] states, layers summed (Sun et al. 2019, arXiv 1908.09355, eq. 7)."""
    pairs = zip(student["hidden_states"], teacher["hidden_states"], strict=True)
    distances = [F.normalize(s[:, 0].float(), dim=-1) - F.normalize(t[:, 0].float(), dim=-1) for s, t in pairs]
    return torch.stack([distance.square().sum(-1).mean() for distance in distances]).sum()


def _squared_error(ours: Tensor, theirs: Tensor) -> Tensor:
    """(B, T): of each token, the mean over the width."""
    return (ours.float() - theirs.float()).square().mean(-1)


def _token_mean(values: Tensor, batch: Batch) -> Tensor:
    """The mean of (B, T) over the tokens that are no padding."""
    mask = batch["attention_mask"].to(values.dtype)
    return (values * mask).sum() / mask.sum()


def _scores(query: Tensor, key: Tensor) -> Tensor:
    scores: Tensor = query.float() @ key.float().mT / query.shape[-1] ** 0.5
    return scores


def _log_relations(projected: Tensor, mask: Tensor, heads: int) -> Tensor:
    """(B, R, T, T): of each token the log-distribution over the tokens that are no padding."""
    batch, has, tokens, size = projected.shape
    if has * size % heads:
        raise ConfigError(
            f"a width of {has * size} cannot be shared by {heads} relation heads",
            key=("losses", "relations", "relation_heads"),
            hint="it must divide the width of both models",
        )
    split = projected.transpose(1, 2).reshape(batch, tokens, heads, -1).transpose(1, 2)
    scores = _scores(split, split)
    return F.log_softmax(scores.masked_fill(mask[:, None, None, :] == 0, -1e4), dim=-1)


def r_drop(first: Tensor, second: Tensor) -> Tensor:
    """Symmetric KL between the logits (B, C) of two passes with different dropout (Wu et al. 2021, equation 2)."""
    log_p, log_q = F.log_softmax(first.float(), -1), F.log_softmax(second.float(), -1)
    return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(-1).mean() / 2


@dataclass(frozen=True)
class Combined:
    """The weighted sum of losses, as `loss`, and each part unweighted under its own name."""

    parts: Mapping[str, tuple[float, Callable[[Answers, Answers, Batch], Tensor]]]

    def __call__(self, student: Answers, teacher: Answers, batch: Batch) -> dict[str, Tensor]:
        values = {name: loss(student, teacher, batch) for name, (_, loss) in self.parts.items()}
        total = torch.stack([self.parts[name][0] * value for name, value in values.items()]).sum()
        return {"loss": total, **values}

    @property
    def reads(self) -> frozenset[str]:
        """What the losses compare besides logits and labels: it needs the teacher itself."""
        return frozenset(answer for name in self.parts for answer in READS.get(name, ()))

    @property
    def of_texts(self) -> list[str]:
        """The losses that compare what is said of a whole text: blocks of running text have nothing of the kind."""
        return [name for name in self.parts if name in OF_TEXTS]

    @property
    def trains_head(self) -> bool:
        """Whether any of them looks at the logits."""
        return not self.parts.keys() <= READS.keys()


def combine(losses: Mapping[str, float | Mapping[str, Any]]) -> Combined:
    """The named losses with their weights and options; those of weight 0 are left out.

    Raises:
        ConfigError: an unknown loss or option, a value of the wrong type or out of bounds, or all weights 0.
    """
    parts: dict[str, tuple[float, Callable[[Answers, Answers, Batch], Tensor]]] = {}
    for name, setting in losses.items():
        loss = look_up(LOSSES, name, "loss", key=(name,))
        options = dict(setting) if isinstance(setting, Mapping) else {"weight": setting}
        weight = _checked(name, "weight", options.pop("weight", 1.0), Annotated[float, Field(ge=0)])
        known = options_of(loss)
        for option, value in options.items():
            if option not in known:
                hint = did_you_mean(option, ["weight", *known])
                raise ConfigError(f"unknown option '{option}' of the loss `{name}`", key=(name, option), hint=hint)
            _checked(name, option, value, known[option])
        if weight > 0:
            parts[name] = weight, _with_options(loss, options)
    if not parts:
        raise ConfigError("every loss has the weight 0: there is nothing to learn", hint="soft_labels: 1.0")
    return Combined(parts)


def options_of(loss: Loss) -> dict[str, Any]:
    """The options of a loss, its keyword-only parameters, with their types and bounds."""
    hints = get_type_hints(loss, include_extras=True)
    parameters = inspect.signature(loss).parameters.values()
    return {p.name: hints[p.name] for p in parameters if p.kind is p.KEYWORD_ONLY}


def _with_options(loss: Loss, options: Mapping[str, Any]) -> Callable[[Answers, Answers, Batch], Tensor]:
    return lambda student, teacher, batch: loss(student, teacher, batch, **options)


def _checked(loss: str, option: str, value: object, kind: Any) -> Any:
    try:
        return TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False)).validate_python(value, strict=True)
    except ValidationError as error:
        expected = error.errors()[0]["msg"].removeprefix("Input ").replace("valid ", "")
        raise ConfigError(f"`{option}` of the loss `{loss}` {expected}, found {value!r}", key=(loss, option)) from error


LOSSES: dict[str, Loss] = {
    "soft_labels": soft_labels,
    "hard_labels": hard_labels,
    "hidden_states": hidden_states,
    "attentions": attentions,
    "embeddings": embeddings,
    "relations": relations,
    "cosine": cosine,
    "pooled": pooled,
}
READS: dict[str, tuple[str, ...]] = {
    "hidden_states": ("hidden_states",),
    "attentions": ("queries", "keys"),
    "embeddings": ("embeddings",),
    "relations": ("queries", "keys", "values"),
    "cosine": ("hidden_states",),
    "pooled": ("hidden_states",),
}
OF_TEXTS = ("soft_labels", "hard_labels", "pooled")
