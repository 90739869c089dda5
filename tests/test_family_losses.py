"""The layer losses of every family have the values that NumPy computes from the weights and inputs alone."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from family_models import CONFIGS, make_teacher
from test_students import make_student

from tinybert_cli import losses, models
from tinybert_cli.models.families import FAMILIES, Family, stored_layers
from tinybert_cli.models.layer_shrinking import split_fused
from tinybert_cli.types import NOT_ATTENDED, Array

LENGTHS = (11, 6)
IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15], [11, 12, 13, 14, 5, 6, 1, 1, 1, 1, 1]])
BATCH = {"input_ids": IDS, "attention_mask": (IDS != 1).long()}
LAYERS = [1, 3]  # of the teacher, counted from 0
HEADS, HALF_WINDOW, NAMES = 4, 2, set(BATCH)


class NumpyModel:
    """What a model computes for each text alone: states of all layers, and queries, keys, values and scores."""

    def __init__(self, model: Any) -> None:
        self.config, self.family = model.config, FAMILIES[model.config.model_type]
        with torch.no_grad():
            outputs = model.base_model(**BATCH, output_hidden_states=True)
        self.states = [state.double().numpy() for state in outputs.hidden_states]  # L + 1 times (B, T, H)
        self.weights = {key: value.double().numpy() for key, value in model.base_model.state_dict().items()}
        layers = model.base_model.get_submodule(self.family.layers)
        self.layers = [split_fused(dict(layer.state_dict()), self.family) for layer in layers]

    def projected(self, layer: int, module: str, rows: Array) -> Array:
        """(T, H) → (A, T, D)"""
        weights = self.layers[stored_layers(self.config)[layer]]
        result = rows @ weights[f"{module}.weight"].double().numpy().T
        if f"{module}.bias" in weights:
            result = result + weights[f"{module}.bias"].double().numpy()
        return result.reshape(len(rows), HEADS, -1).swapaxes(0, 1)

    def attention(self, layer: int, text: int) -> dict[str, Array]:
        family, length = self.family, LENGTHS[text]
        rows = self.states[layer][text, :length]
        first = self.layers[stored_layers(self.config)[layer]]
        if family.first_norm and f"{family.first_norm}.weight" in first:
            bias = first.get(f"{family.first_norm}.bias")
            rows = normalized(rows, self.config.norm_eps) * first[f"{family.first_norm}.weight"].double().numpy()
            rows = rows if bias is None else rows + bias.double().numpy()
        query, key, value = (self.projected(layer, name, rows) for name in (family.query, family.key, family.value))
        if family.scores == "rotary":
            query, key = (rotated(vectors, self.theta(layer)) for vectors in (query, key))
        scores = query @ key.swapaxes(1, 2) / query.shape[-1] ** 0.5
        if family.scores == "biased":
            scores = scores + self.mpnet_bias(length)
        if family.scores == "disentangled":
            scores = (scores + self.positions(layer, query, key)) / 3**0.5
        if family.scores == "rotary" and self.config.layer_types[layer] == "sliding_attention":
            scores = np.where(np.abs(distances(length)) > HALF_WINDOW, NOT_ATTENDED, scores)
        return {"queries": query, "keys": key, "values": value, "scores": scores}

    def theta(self, layer: int) -> float:
        return float(self.config.rope_parameters[self.config.layer_types[layer]]["rope_theta"])

    def mpnet_bias(self, length: int) -> Array:
        """Exact distances up to 7; all of these texts are shorter than the first logarithmic bucket that is wider."""
        distance = -distances(length)  # of the key from the query, in a table of 32: the second half is for later keys
        near = np.abs(distance)
        far = 8 + (np.log(np.maximum(near, 1) / 8) / np.log(16) * 8).astype(int)
        bucket = np.where(near < 8, near, far) + 16 * (distance > 0)
        return self.weights["encoder.relative_attention_bias.weight"][bucket].transpose(2, 0, 1)

    def positions(self, layer: int, query: Array, key: Array) -> Array:
        """Content to position and position to content of DeBERTa, times sqrt(D) / sqrt(D)."""
        length, span = query.shape[1], len(self.weights["encoder.rel_embeddings.weight"]) // 2
        table = self.weights["encoder.rel_embeddings.weight"]
        table = normalized(table, self.config.layer_norm_eps) * self.weights["encoder.LayerNorm.weight"]
        table = table + self.weights["encoder.LayerNorm.bias"]
        shared = self.config.share_att_key
        key_name, query_name = (
            (self.family.key, self.family.query) if shared else (self.family.position_key, self.family.position_query)
        )
        position_key, position_query = (self.projected(layer, str(name), table) for name in (key_name, query_name))
        buckets = np.vectorize(lambda d: log_bucket(d, self.config.position_buckets, 24))(distances(length))
        result = np.zeros((HEADS, length, length))
        for i in range(length):
            for j in range(length):
                own, other = (min(max(b + span, 0), 2 * span - 1) for b in (buckets[i, j], -buckets[j, i]))
                result[:, i, j] = (query[:, i] * position_key[:, own]).sum(-1)
                result[:, i, j] += (key[:, j] * position_query[:, other]).sum(-1)
        return result / query.shape[-1] ** 0.5


def log_bucket(distance: int, buckets: int, longest: int) -> int:
    """He et al. 2021, appendix A.5 of arXiv 2111.09543: exact up to half of the buckets, then logarithmic."""
    middle = buckets // 2
    if buckets <= 0 or abs(distance) <= middle:
        return distance
    steps = np.log(abs(distance) / middle) / np.log((longest - 1) / middle) * (middle - 1)
    return int(np.sign(distance) * (np.ceil(np.float32(steps)) + middle))


def distances(length: int) -> Array:
    """(T, T) position of the query minus that of the key."""
    return np.arange(length)[:, None] - np.arange(length)[None, :]


def normalized(rows: Array, epsilon: float) -> Array:
    return (rows - rows.mean(-1, keepdims=True)) / np.sqrt(rows.var(-1, keepdims=True) + epsilon)


def rotated(vectors: Array, theta: float) -> Array:
    """As complex numbers: the pair (i, i + D / 2) turns by position · theta^(-2 i / D)."""
    half = vectors.shape[-1] // 2
    angles = np.arange(vectors.shape[1])[:, None] * theta ** (-np.arange(half) / half)
    turned = (vectors[..., :half] + 1j * vectors[..., half:]) * np.exp(1j * angles)
    return np.concatenate([turned.real, turned.imag], -1)


def log_softmax(values: Array) -> Array:
    return (
        values
        - np.log(np.exp(values - values.max(-1, keepdims=True)).sum(-1, keepdims=True))
        - values.max(-1, keepdims=True)
    )


def expected_losses(student: NumpyModel, teacher: NumpyModel, relation_heads: int) -> dict[str, float]:
    """All layer losses, text by text."""
    tokens = [(text, slice(0, length)) for text, length in enumerate(LENGTHS)]

    def of_states(distance: Any, pairs: list[tuple[int, int]]) -> float:
        """The mean over all tokens, summed over layers."""
        return sum(
            np.concatenate([distance(student.states[s][i, t], teacher.states[k][i, t]) for i, t in tokens]).mean()
            for s, k in pairs
        )

    def squared(a: Array, b: Array) -> Array:
        return ((a - b) ** 2).mean(-1)

    def unit(a: Array) -> Array:
        return a / np.linalg.norm(a, axis=-1, keepdims=True)

    pairs = [(1 + index, 1 + layer) for index, layer in enumerate(LAYERS)]
    attentions = 0.0
    for index, layer in enumerate(LAYERS):
        errors = 0.0
        for text in range(len(LENGTHS)):
            own, other = student.attention(index, text)["scores"], teacher.attention(layer, text)["scores"]
            seen = (own > NOT_ATTENDED) & (other > NOT_ATTENDED)
            errors += ((own - other)[seen] ** 2).sum()
        attentions += errors / (HEADS * sum(length**2 for length in LENGTHS))
    relations = 0.0
    for name in ("queries", "keys", "values"):
        divergences = []
        for text, length in enumerate(LENGTHS):
            logs = []
            for model, layer in ((student, len(LAYERS) - 1), (teacher, LAYERS[-1])):
                vectors = model.attention(layer, text)[name].swapaxes(0, 1).reshape(length, relation_heads, -1)
                vectors = vectors.swapaxes(0, 1)
                logs.append(log_softmax(vectors @ vectors.swapaxes(1, 2) / vectors.shape[-1] ** 0.5))
            divergences.append((np.exp(logs[1]) * (logs[1] - logs[0])).sum(-1).mean(0))
        relations += np.concatenate(divergences).mean()
    pooled = sum(
        np.mean([((unit(student.states[s][i, 0]) - unit(teacher.states[k][i, 0])) ** 2).sum() for i, _ in tokens])
        for s, k in pairs
    )
    return {
        "hidden_states": of_states(squared, pairs),
        "embeddings": of_states(squared, [(0, 0)]),
        "cosine": of_states(lambda a, b: 1 - (unit(a) * unit(b)).sum(-1), pairs[-1:]),
        "pooled": pooled,
        "attentions": attentions,
        "relations": relations,
    }


def make_pair(name: str) -> tuple[Any, Any]:
    """A teacher and a student that has its own weights, so that no loss is 0."""
    teacher = make_teacher(name)
    student = make_student(teacher, [layer + 1 for layer in LAYERS], num_hidden_layers=len(LAYERS))
    torch.manual_seed(3)
    for weight in student.parameters():
        weight.data += 0.1 * torch.randn_like(weight)
    for model in (teacher, student):
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    return teacher, student


@pytest.mark.parametrize("name", CONFIGS)
def test_losses_have_the_values_that_numpy_computes(name: str) -> None:
    teacher, student = make_pair(name)
    expected = expected_losses(NumpyModel(student), NumpyModel(teacher), 6)
    weights: dict[str, Any] = dict.fromkeys(expected, 1.0) | {"relations": {"relation_heads": 6}}
    combined = losses.combine(weights)
    source = models.Teacher(teacher, LAYERS, combined.layer_outputs)
    trained = models.Student(student, source, shared=False).train()
    for module in trained.modules():
        module.training = False  # no dropout by function either; only the wrapper returns layers
    trained.training = True
    actual = combined(trained(**BATCH), source(BATCH, NAMES), BATCH)
    assert {loss: value.item() for loss, value in actual.items()} == pytest.approx(expected, rel=2e-4)


@pytest.mark.parametrize("name", [name for name in CONFIGS if FAMILIES[CONFIGS[name].model_type].scores != "plain"])
def test_softmax_of_the_scores_is_the_attention_of_transformers(name: str) -> None:
    teacher = make_teacher(name, attention="eager") if "modern" in name else make_teacher(name)
    with torch.no_grad():
        attentions = teacher(**BATCH, output_attentions=True).attentions
    model = NumpyModel(teacher)
    for layer in range(4):
        for text, length in enumerate(LENGTHS):
            expected = attentions[layer][text, :, :length, :length].numpy()
            assert np.allclose(np.exp(log_softmax(model.attention(layer, text)["scores"])), expected, atol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_teacher_without_its_last_layers_has_the_states_of_the_whole_model(name: str) -> None:
    outputs = frozenset({"hidden_states", "scores", "values", "embeddings"})
    whole = models.Teacher(make_teacher(name), [1, 3], outputs)(BATCH, NAMES)
    cut = models.Teacher(make_teacher(name), [0, 1], outputs)
    layers = cut.base_model.get_submodule(FAMILIES[CONFIGS[name].model_type].layers)
    states = cut(BATCH, NAMES)
    real = BATCH["attention_mask"].bool()
    assert torch.allclose(states["hidden_states"][1][real], whole["hidden_states"][0][real], atol=1e-6)
    assert torch.allclose(states["values"][1], whole["values"][0], atol=1e-5)
    assert len(layers) <= 2


@pytest.mark.parametrize("name", ["mpnet", "albert", "deberta-v3", "modernbert"])
def test_stored_states_give_the_losses_of_the_running_teacher(name: str) -> None:
    teacher, student = make_pair(name)
    combined = losses.combine(dict.fromkeys(losses.LAYER_OUTPUTS, 1.0) | {"relations": {"relation_heads": 4}})
    running = models.Teacher(copy.deepcopy(teacher), LAYERS, combined.layer_outputs)
    with torch.no_grad():
        states = models.ModelWithStates(teacher, LAYERS, combined.layer_outputs)(**BATCH)
        assert all(value.isfinite().all() for value in states.values())
        stored = models.StoredTeacher(combined.layer_outputs, 24, LAYERS)
        batch = BATCH | {f"teacher_{name}": value for name, value in states.items()}
        trained = models.Student(student, running, shared=False).train()
        outputs = trained(**BATCH)
        expected = combined(outputs, running(BATCH, NAMES), BATCH)
        actual = combined(outputs, stored(batch, NAMES), BATCH)
    assert {loss: value.item() for loss, value in actual.items()} == pytest.approx(
        {loss: value.item() for loss, value in expected.items()}, rel=0.01
    )


@pytest.mark.parametrize("name", ["mpnet", "albert", "deberta-v3", "modernbert"])
def test_every_layer_loss_of_a_student_reaches_its_weights(name: str) -> None:
    teacher, student = make_pair(name)
    combined = losses.combine(dict.fromkeys(losses.LAYER_OUTPUTS, 1.0) | {"relations": {"relation_heads": 4}})
    source = models.Teacher(teacher, LAYERS, combined.layer_outputs)
    trained = models.Student(student, source, shared=False).train()
    sum(combined(trained(**BATCH), source(BATCH, NAMES), BATCH).values()).backward()
    family: Family = FAMILIES[student.config.model_type]
    modules = {name.rpartition(".")[0]: weight for name, weight in student.named_parameters() if "layer" in name}
    suffix = (family.query if not family.fused else "attn.Wqkv").rpartition("layers.0.")[2]
    gradients = [weight.grad for module, weight in modules.items() if module.endswith(suffix)]
    assert len(gradients) == 2 and all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)
