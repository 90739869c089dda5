"""Students of the families that differ from BERT: what is copied, what can become narrower, and what cannot."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from family_models import OTHERS, make_teacher
from test_students import make_student
from transformers import (
    AlbertConfig,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from tinybert_cli.errors import ConfigError, InputError
from tinybert_cli.models.families import FAMILIES, Family
from tinybert_cli.models.layer_shrinking import join_fused, shrink_attention, split_fused
from tinybert_cli.presets import Shape

ROOT = Path(__file__).parents[1]
HEADS = [AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoModelForQuestionAnswering]
WITH_OWN_LAYERS = [name for name in OTHERS if name not in ("albert", "albert-groups")]
IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15], [11, 12, 13, 14, 5, 6, 1, 1, 1, 1, 1]])
MASK = (IDS != 1).long()


def outputs(model: Any) -> torch.Tensor:
    with torch.no_grad():
        result = model(input_ids=IDS, attention_mask=MASK)
    return torch.cat([result[name].flatten() for name in result if name.endswith("logits")])


def family_of(model: Any) -> Family:
    return FAMILIES[model.config.model_type]


def edit_layers(model: Any, change: Any) -> None:
    """Calls `change` with the index of each layer and its weights, fused ones in parts, which it may replace."""
    family = family_of(model)
    layers = model.base_model.get_submodule(family.layers)
    for index, layer in enumerate(layers):
        weights = split_fused(dict(layer.state_dict()), family)
        change(index, weights)
        layer.load_state_dict(join_fused(weights, family))


def zero(weights: dict[str, torch.Tensor], module: str) -> None:
    for kind in ("weight", "bias"):
        if f"{module}.{kind}" in weights:
            weights[f"{module}.{kind}"] = torch.zeros_like(weights[f"{module}.{kind}"])


def flatten_norms(model: Any) -> None:
    """Every layer norm of the encoder only normalizes, so that normalizing twice changes nothing."""
    for name, weight in model.base_model.named_parameters():
        if "norm" in name.lower():
            weight.data.fill_(1.0 if name.endswith("weight") else 0.0)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", OTHERS)
def test_unchanged_copy_has_identical_logits(name: str, head: Any) -> None:
    teacher = make_teacher(name, head, num_labels=2)
    student = make_student(teacher)
    assert torch.equal(outputs(student), outputs(teacher))
    assert student.num_parameters() == teacher.num_parameters()


@pytest.mark.parametrize("name", OTHERS)
def test_copy_of_every_layer_in_the_given_shape_has_the_same_logits(name: str) -> None:
    teacher = make_teacher(name)
    assert torch.allclose(outputs(make_student(teacher, num_hidden_layers=4)), outputs(teacher), atol=1e-6)


@pytest.mark.parametrize(("layers", "no_op"), [([1, 3, 4], [1]), ([1, 4], [1, 2]), ([3, 4], [0, 1]), ([2], [0, 2, 3])])
@pytest.mark.parametrize("name", WITH_OWN_LAYERS)
def test_layers_that_change_nothing_can_be_removed(name: str, layers: list[int], no_op: list[int]) -> None:
    """Also the types of ModernBERT's layers, and the norm that its first layer lacks, follow the copied layers."""
    if "albert" in name and layers[0] != 1:
        pytest.skip("the input of its first layer is not normalized, so that no layer can leave it as it is")
    teacher = make_teacher(name)
    flatten_norms(teacher)
    family = family_of(teacher)

    def change(index: int, weights: dict[str, torch.Tensor]) -> None:
        for module in (family.output, family.down):
            if index in no_op:
                zero(weights, module)

    edit_layers(teacher, change)
    if "deberta-v2" in name and layers[0] != 1:
        teacher.base_model.encoder.conv = None  # it follows the first layer, whichever this is
        teacher.config.conv_kernel_size = 0
    student = make_student(teacher, layers, num_hidden_layers=len(layers))
    assert torch.allclose(outputs(student), outputs(teacher), atol=2e-4)


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("initialize", ["teacher", "random"])
def test_student_folder_loads_completely(name: str, initialize: str, tmp_path: Path) -> None:
    student = make_student(
        make_teacher(name), initialize=initialize, num_hidden_layers=2, hidden_size=12, intermediate_size=20
    )
    student.save_pretrained(tmp_path)
    loaded, report = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    assert torch.allclose(outputs(loaded), outputs(student), atol=1e-6) and outputs(student).isfinite().all()
    assert student.config.hidden_size == 12


@pytest.mark.parametrize("name", WITH_OWN_LAYERS)
def test_dead_ffn_units_are_removed_with_their_gates(name: str) -> None:
    teacher = make_teacher(name)
    family = family_of(teacher)

    def change(index: int, weights: dict[str, torch.Tensor]) -> None:
        weights[f"{family.down}.weight"] *= (torch.randperm(40) < 20).float()

    edit_layers(teacher, change)
    student = make_student(teacher, intermediate_size=20)
    assert torch.allclose(outputs(student), outputs(teacher), atol=1e-5)


@pytest.mark.parametrize("name", [name for name in WITH_OWN_LAYERS if "modernbert" not in name])
def test_dead_heads_are_removed_and_the_others_become_larger(name: str) -> None:
    teacher = make_teacher(name)
    family = family_of(teacher)
    live = torch.tensor([0.0, 1.0, 0.0, 1.0])

    def change(index: int, weights: dict[str, torch.Tensor]) -> None:
        heads = live if family.scores == "biased" else live.roll(index % 2)
        weights[f"{family.output}.weight"] *= heads.repeat_interleave(6)

    edit_layers(teacher, change)
    student = make_student(teacher, num_attention_heads=2)
    assert torch.allclose(outputs(student), outputs(teacher), atol=1e-5)


def with_unused_hidden_units(name: str) -> Any:
    """A teacher whose hidden units 12 to 23 repeat the first 12 and are not read; two of its four heads have no output.

    Duplicates do not change the mean and variance of a layer norm.
    """
    teacher = make_teacher(name)
    flatten_norms(teacher)
    family = family_of(teacher)
    embeddings = {"embeddings.word_embeddings", "embeddings.position_embeddings", "embeddings.token_type_embeddings"}

    def repeat(tensor: torch.Tensor, dim: int) -> torch.Tensor:
        return torch.cat([tensor.narrow(dim, 0, 12)] * 2, dim)

    def unread(tensor: torch.Tensor, dim: int) -> torch.Tensor:
        half = tensor.narrow(dim, 0, 12)
        return torch.cat([half, torch.zeros_like(half)], dim)

    def change(index: int, weights: dict[str, torch.Tensor]) -> None:
        for key, tensor in weights.items():
            first, *second = family.axes(key)
            if second == ["hidden"] and tensor.dim() == 2:
                weights[key] = unread(tensor, 1)
            elif first == "hidden":
                weights[key] = repeat(tensor, 0)
        weights[f"{family.output}.weight"][:, 12:] = 0.0

    edit_layers(teacher, change)
    prefix = f"{teacher.base_model_prefix}."
    projected = family.embedding_projection and f"{prefix}{family.embedding_projection}.weight" in teacher.state_dict()
    for key, weight in teacher.named_parameters():
        name_of_module = key.removeprefix(prefix).rpartition(".")[0]
        axes = family.outside_layers.get(name_of_module, ())
        if name_of_module in embeddings | {"embeddings.tok_embeddings"}:
            weight.data = weight.data if projected else repeat(weight.data, 1)
        elif name_of_module == family.embedding_projection or axes == ("distance", "hidden"):
            weight.data = repeat(weight.data, axes.index("hidden")) if weight.dim() > axes.index("hidden") else weight
        elif axes == ("hidden", "hidden", "kernel"):
            weight.data = repeat(unread(weight.data, 1) if weight.dim() == 3 else weight.data, 0)
        elif axes and "head" not in axes:
            weight.data = unread(weight.data, 1) if weight.dim() == 2 else weight.data
            weight.data = repeat(weight.data, 0) if axes[0] == "pooled" else weight.data
    return teacher


@pytest.mark.parametrize("name", WITH_OWN_LAYERS)
def test_unused_hidden_units_and_heads_are_removed_together(name: str) -> None:
    teacher = with_unused_hidden_units(name)
    student = make_student(teacher, hidden_size=12, num_attention_heads=2, intermediate_size=40)
    assert torch.allclose(outputs(student), outputs(teacher), atol=2e-5)


def test_relative_positions_are_reduced_with_the_content() -> None:
    """Scores of content and positions that need 3 of the 6 dimensions of a head are the same with 3 dimensions."""
    teacher = make_teacher("deberta-unshared")
    family = family_of(teacher)

    def change(index: int, weights: dict[str, torch.Tensor]) -> None:
        rotation = torch.linalg.qr(torch.randn(4, 6, 6)).Q
        for module in (family.query, family.key, family.position_query, family.position_key):
            for kind in ("weight", "bias"):
                by_head = weights[f"{module}.{kind}"].view(4, 6, -1).clone()
                by_head[:, 3:] = 0.0
                weights[f"{module}.{kind}"] = (rotation @ by_head).reshape(weights[f"{module}.{kind}"].shape)

    edit_layers(teacher, change)
    layer = dict(teacher.base_model.encoder.layer[0].state_dict())
    base, small = Shape(4, 24, 4, 40), Shape(4, 12, 4, 40)
    shrunk = shrink_attention(layer, family, base, small, torch.ones(24), torch.arange(4), torch.Generator())

    def products(weights: dict[str, torch.Tensor], left: str | None, right: str | None) -> torch.Tensor:
        """(A, H + 1, H + 1) the scores of all pairs of inputs; a bias belongs to an input that is always 1."""
        query, key = (
            torch.cat([weights[f"{name}.weight"], weights[f"{name}.bias"][:, None]], 1).unflatten(0, (4, -1))
            for name in (left, right)
        )
        return query.mT @ key / query.shape[1] ** 0.5

    for pair in (
        (family.query, family.key), (family.query, family.position_key), (family.position_query, family.key)
    ):  # fmt: skip
        assert torch.allclose(products(shrunk, *pair), products(layer, *pair), atol=1e-4)


@pytest.mark.parametrize("name", ["albert", "albert-groups"])
def test_student_of_shared_layers_has_layers_of_its_own(name: str) -> None:
    teacher = make_teacher(name)
    student = make_student(teacher, [1, 4], num_hidden_layers=2)
    assert student.config.num_hidden_groups == 2
    first, second = (group.albert_layers[0].ffn.weight for group in student.base_model.encoder.albert_layer_groups)
    assert first.data_ptr() != second.data_ptr()
    assert torch.equal(first, second) == (name == "albert")


def test_shared_layers_of_a_student_compute_what_the_teacher_would() -> None:
    teacher = make_teacher("albert")
    student = make_student(teacher, num_hidden_layers=3)
    teacher.config.num_hidden_layers = 3
    assert torch.allclose(outputs(student), outputs(teacher), atol=1e-6)


@pytest.mark.parametrize(("name", "groups"), [("albert", 1), ("albert-groups", 3), ("albert-unshared", 3)])
def test_random_student_shares_layers_only_if_its_base_shares_all(name: str, groups: int) -> None:
    student = make_student(make_teacher(name), initialize="random", num_hidden_layers=3)
    assert student.config.num_hidden_groups == len(student.base_model.encoder.albert_layer_groups) == groups


def test_layer_types_of_a_random_student_continue_the_pattern() -> None:
    student = make_student(make_teacher("modernbert"), initialize="random", num_hidden_layers=7)
    local, full = "sliding_attention", "full_attention"
    assert student.config.layer_types == [full, local, local, full, local, local, full]


@pytest.mark.parametrize(("layers", "interval"), [([1, 4], 1), ([1, 2, 4], 2), ([2, 3], 0), ([1, 2, 3], 3)])
def test_interval_of_global_layers_is_that_of_the_student_or_0(layers: list[int], interval: int) -> None:
    """transformers 4 reads it instead of `layer_types`, and stops at 0."""
    teacher = make_teacher("modernbert", global_attn_every_n_layers=3)
    student = make_student(teacher, layers, num_hidden_layers=len(layers))
    assert student.config.global_attn_every_n_layers == interval


@pytest.mark.parametrize("sizes", [{"hidden_size": 16, "num_attention_heads": 4}, {"num_attention_heads": 2}])
def test_heads_with_rotary_positions_keep_their_size(sizes: dict[str, int]) -> None:
    with pytest.raises(InputError, match=r"(?s)heads of ModernBERT keep their size, 6.*narrower +yes, by whole heads"):
        make_student(make_teacher("modernbert"), **sizes)


def test_albert_with_inner_groups_is_copied_but_not_shrunk() -> None:
    config = AlbertConfig(vocab_size=30, embedding_size=8, hidden_size=24, num_attention_heads=4, intermediate_size=40,
                          num_hidden_layers=2, inner_group_num=2, pad_token_id=1)  # fmt: skip
    teacher = AutoModelForSequenceClassification.from_config(config).eval()
    assert torch.equal(outputs(make_student(teacher)), outputs(teacher))
    with pytest.raises(InputError, match="albert models cannot be shrunk"):
        make_student(teacher, num_hidden_layers=1)


def test_embedding_size_of_deberta_follows_the_hidden_size() -> None:
    teacher = make_teacher("deberta-v3", embedding_size=24)
    student = make_student(teacher, hidden_size=12)
    assert student.config.embedding_size == 12 and student.base_model.embeddings.embed_proj is None
    with pytest.raises(ConfigError, match="projection"):
        make_student(make_teacher("deberta-unshared"), hidden_size=8)


def test_grouped_convolution_cannot_become_narrower() -> None:
    teacher = make_teacher("deberta-v2", conv_groups=2)
    with pytest.raises(InputError, match="conv_groups"):
        make_student(teacher, hidden_size=12)
    assert outputs(make_student(teacher, num_hidden_layers=2)).isfinite().all()


def test_the_table_of_families_in_the_documentation_is_the_generated_one() -> None:
    spec = importlib.util.spec_from_file_location("family_table", ROOT / "experiments" / "family_table.py")
    assert spec and spec.loader
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    page = (ROOT / "docs" / "students.md").read_text(encoding="utf-8")
    assert script.with_table(page) == page, "run make reference"
    assert all(f"| {family.title} | `{name}` |" in page for name, family in FAMILIES.items())
