"""Students have the right shape, copy the right layers and keep the most important parts of them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from family_models import BERT_LIKE, LABELS, SIZES, make_teacher
from family_models import CONFIGS as ALL_CONFIGS
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BigBirdConfig,
    ConvBertConfig,
    NystromformerConfig,
    PreTrainedConfig,
    PreTrainedModel,
    SqueezeBertConfig,
    XLMConfig,
)

from tinybert_cli import models
from tinybert_cli.config import Model
from tinybert_cli.errors import ConfigError, InputError
from tinybert_cli.presets import PRESETS

CONFIGS = {name: ALL_CONFIGS[name] for name in BERT_LIKE}
every_family = pytest.mark.parametrize("name", CONFIGS)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_student(teacher: PreTrainedModel, rule: str | list[int] = "uniform", **sizes: Any) -> PreTrainedModel:
    setting = Model(**{"from": "teacher"}, **sizes)
    return models.build_student(setting, teacher, models.copied_layers(setting, rule, teacher.config), seed=1)


def logits(model: PreTrainedModel) -> torch.Tensor:
    ids = torch.tensor([[5, 6, 7, 8, 9, 10], [11, 12, 13, 14, 1, 1]])
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=torch.tensor([[1] * 6, [1] * 4 + [0] * 2])).logits


def layer(model: PreTrainedModel, index: int) -> torch.nn.Module:
    body = model.base_model
    return (body.transformer if model.config.model_type == "distilbert" else body.encoder).layer[index]


def linear_modules(model: PreTrainedModel, index: int) -> dict[str, torch.nn.Module]:
    """The linear modules of attention and feed-forward network of a layer."""
    family = models.FAMILIES[model.config.model_type]
    names = {"query": family.query, "key": family.key, "value": family.value, "output": family.output,
             "up": family.up, "down": family.down}  # fmt: skip
    return {name: layer(model, index).get_submodule(path) for name, path in names.items()}


def kill_units(model: PreTrainedModel, live: torch.Tensor) -> None:
    """Set all hidden units outside `live` to zero after every layer norm."""
    dead = torch.ones(24, dtype=torch.bool)
    dead[live] = False
    for key, weight in model.named_parameters():
        if "norm" in key.lower() and len(weight) == 24:
            weight.data[dead] = 0.0


# Shapes


def test_preset_gives_the_published_shape_and_settings_override_it() -> None:
    base = BertConfig()
    config = models.shape(Model(**{"from": "x"}, preset="tinybert-4l-312", num_hidden_layers=3), base)
    assert (config.num_hidden_layers, config.hidden_size) == (3, 312)
    assert (config.num_attention_heads, config.intermediate_size) == (12, 1200)
    assert base.num_hidden_layers == 12


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_fits_bert_base(preset: str) -> None:
    config = models.shape(Model(**{"from": "x"}, preset=preset), BertConfig())
    assert config.hidden_size % config.num_attention_heads == 0


@pytest.mark.parametrize(
    ("hidden_size", "heads", "intermediate_size"), [(768, 12, 3072), (384, 6, 1536), (300, 12, 1200)]
)
def test_default_sizes_follow_the_hidden_size(hidden_size: int, heads: int, intermediate_size: int) -> None:
    config = models.shape(Model(**{"from": "x"}, hidden_size=hidden_size), BertConfig())
    assert (config.num_attention_heads, config.intermediate_size) == (heads, intermediate_size)


@every_family
def test_every_family_supports_the_four_sizes(name: str) -> None:
    student = make_student(
        make_teacher(name), num_hidden_layers=2, hidden_size=12, num_attention_heads=2, intermediate_size=20
    )
    assert student.num_parameters() < make_teacher(name).num_parameters() / 2
    assert linear_modules(student, 1)["query"].weight.shape == (12, 12) and linear_modules(student, 1)[
        "up"
    ].weight.shape == (20, 12)


@pytest.mark.parametrize(
    ("sizes", "key"),
    [
        ({"hidden_size": 100}, "hidden_size"),
        ({"num_attention_heads": 7}, "num_attention_heads"),
        ({"hidden_size": 1024}, "hidden_size"),
        ({"num_hidden_layers": 13}, "num_hidden_layers"),
        ({"intermediate_size": 4000}, "intermediate_size"),
        ({"num_attention_heads": 24}, "num_attention_heads"),
    ],
)
def test_impossible_shape_is_an_error_for_its_setting(sizes: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        models.shape(Model(**{"from": "x"}, **sizes), BertConfig())
    assert caught.value.key == (key,)


def test_preset_larger_than_its_base_is_an_error_for_preset() -> None:
    with pytest.raises(ConfigError) as caught:
        models.shape(Model(**{"from": "x"}, preset="tinybert-6l-768"), CONFIGS["bert"])
    assert caught.value.key == ("preset",)


def test_random_student_may_be_larger_than_the_base() -> None:
    student = make_student(make_teacher("bert"), initialize="random", num_hidden_layers=5, hidden_size=32)
    assert logits(student).shape == (2, 3)


# Layer maps


@pytest.mark.parametrize(
    ("rule", "student_layers", "teacher_layers", "expected"),
    [
        ("uniform", 4, 12, [2, 5, 8, 11]),
        ("uniform", 6, 12, [1, 3, 5, 7, 9, 11]),
        ("uniform", 3, 12, [3, 7, 11]),
        ("uniform", 4, 6, [1, 2, 3, 5]),
        ("uniform", 6, 6, [0, 1, 2, 3, 4, 5]),
        ("spread", 3, 6, [0, 2, 5]),
        ("spread", 2, 3, [0, 2]),
        ("spread", 1, 6, [0]),
        ("first", 3, 12, [0, 1, 2]),
        ("last", 3, 12, [9, 10, 11]),
        ([3, 6, 12], 3, 12, [2, 5, 11]),
    ],
)
def test_layer_map_gives_the_expected_layers(
    rule: str | list[int], student_layers: int, teacher_layers: int, expected: list[int]
) -> None:
    assert models.layer_map(rule, student_layers, teacher_layers) == expected


@pytest.mark.parametrize("teacher_layers", range(1, 25))
def test_uniform_layer_map_is_increasing_and_includes_the_last_layer(teacher_layers: int) -> None:
    for student_layers in range(1, teacher_layers + 1):
        layers = models.layer_map("uniform", student_layers, teacher_layers)
        assert layers == sorted(set(layers)) and layers[0] >= 0 and layers[-1] == teacher_layers - 1


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ([1, 2], "2 entries"),
        ([1, 2, 13], "no layer 13"),
        ([0, 1, 2], "no layer 0"),
        ("unifrom", "unknown layer_mapping"),
    ],
)
def test_invalid_layer_map_is_rejected(rule: str | list[int], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        models.layer_map(rule, 3, 12)
    assert caught.value.key == ("layer_mapping",)


def test_layer_map_rejects_more_student_layers_than_teacher_layers() -> None:
    with pytest.raises(ConfigError, match="more layers"):
        models.layer_map("uniform", 4, 3)


# Building


@every_family
def test_student_with_the_teachers_shape_has_the_same_logits(name: str) -> None:
    teacher = make_teacher(name)
    assert torch.allclose(logits(make_student(teacher)), logits(teacher), atol=1e-6)


@every_family
@pytest.mark.parametrize(("rule", "expected"), [("uniform", [1, 3]), ("first", [0, 1]), ([4, 1], [3, 0])])
def test_student_with_fewer_layers_copies_the_mapped_layers(
    name: str, rule: str | list[int], expected: list[int]
) -> None:
    teacher = make_teacher(name)
    student = make_student(teacher, rule, num_hidden_layers=2)
    for index, teacher_index in enumerate(expected):
        copied, original = layer(student, index).state_dict(), layer(teacher, teacher_index).state_dict()
        assert copied.keys() == original.keys()
        assert all(torch.equal(copied[key], original[key]) for key in copied)
    rest = {key: weight for key, weight in student.state_dict().items() if ".layer." not in key}
    assert all(torch.equal(weight, teacher.state_dict()[key]) for key, weight in rest.items())


@every_family
@pytest.mark.parametrize("initialize", ["teacher", "random"])
def test_student_runs_and_its_folder_loads_completely(name: str, initialize: str, tmp_path: Path) -> None:
    student = make_student(
        make_teacher(name), initialize=initialize, num_hidden_layers=2, hidden_size=18, num_attention_heads=3
    )
    student.save_pretrained(tmp_path)
    loaded, report = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    assert torch.allclose(logits(loaded), logits(student), atol=1e-6) and logits(loaded).isfinite().all()
    assert loaded.config.id2label == LABELS["id2label"]
    assert not student.training and {weight.dtype for weight in student.parameters()} == {torch.float32}


@every_family
def test_shrinking_removes_dead_heads_and_ffn_units(name: str) -> None:
    teacher = make_teacher(name)
    for index in range(4):
        modules = linear_modules(teacher, index)
        head = torch.zeros(4, 6)
        head[torch.randperm(4)[:2]] = 1.0
        modules["output"].weight.data *= head.view(-1)  # two of four heads have no output
        modules["down"].weight.data *= (torch.randperm(40) < 20).float()
    # The hidden size is unchanged, so the remaining heads get larger, with dimensions that do not change the output.
    student = make_student(teacher, num_attention_heads=2, intermediate_size=20)
    assert torch.allclose(logits(student), logits(teacher), atol=1e-5)


@every_family
def test_constant_output_of_a_removed_head_is_added_to_the_bias(name: str) -> None:
    teacher = make_teacher(name)
    for index in range(4):
        linear_modules(teacher, index)["value"].weight.data[6:18] = 0.0  # the output of two heads is their bias
    assert torch.allclose(logits(make_student(teacher, num_attention_heads=2)), logits(teacher), atol=1e-5)


@every_family
def test_low_rank_heads_are_shrunk_without_loss(name: str) -> None:
    teacher = make_teacher(name)
    live = torch.randperm(24)[:12].sort().values
    kill_units(teacher, live)
    rotation = torch.linalg.qr(
        torch.randn(4, 6, 6)
    ).Q  # a rotation per head, so that selecting rows would not be enough
    for index in range(4):
        modules = linear_modules(teacher, index)
        for low_rank, other in (("query", "key"), ("value", "output")):
            rows = modules[low_rank].weight.data.view(4, 6, 24)
            rows[:, 3:] = 0.0
            modules[low_rank].bias.data.view(4, 6)[:, 3:] = 0.0
            rows.copy_(rotation @ rows)
            modules[low_rank].bias.data.copy_((rotation @ modules[low_rank].bias.data.view(4, 6, 1)).flatten())
            if other == "key":
                modules[other].weight.data.copy_((rotation @ modules[other].weight.data.view(4, 6, 24)).flatten(0, 1))
    student = make_student(teacher, hidden_size=12, num_attention_heads=4, intermediate_size=40)
    for index in range(4):
        old, new = linear_modules(teacher, index), linear_modules(student, index)
        for head in range(4):
            large, small = slice(6 * head, 6 * head + 6), slice(3 * head, 3 * head + 3)
            scores = old["query"].weight[large].T @ old["key"].weight[large] / 6**0.5
            assert torch.allclose(
                new["query"].weight[small].T @ new["key"].weight[small] / 3**0.5, scores[live][:, live], atol=1e-4
            )
            output = old["output"].weight[:, large] @ old["value"].weight[large]
            assert torch.allclose(
                new["output"].weight[:, small] @ new["value"].weight[small], output[live][:, live], atol=1e-4
            )


@every_family
def test_shrinking_removes_dead_hidden_units(name: str) -> None:
    teacher = make_teacher(name)
    live = torch.tensor([0, 3, 4, 5, 8, 10, 13, 14, 17, 20, 21, 23])
    kill_units(teacher, live)
    student = make_student(teacher, hidden_size=12, num_attention_heads=4, intermediate_size=40)
    for index in range(4):
        old, new = linear_modules(teacher, index), linear_modules(student, index)
        assert torch.equal(new["up"].weight, old["up"].weight[:, live])
        assert torch.equal(new["down"].weight, old["down"].weight[live])
    embeddings = student.get_input_embeddings().weight
    if name != "electra-projected":  # its embeddings have another size
        assert torch.equal(embeddings, teacher.get_input_embeddings().weight[:, live])


def test_shrinking_removes_duplicate_hidden_units_without_loss() -> None:
    """Duplicates do not change the mean and variance of a layer norm, so the logits stay the same."""
    teacher = make_teacher("bert")
    originals, duplicates = torch.arange(12), torch.arange(12, 24)
    for key, weight in teacher.named_parameters():
        if "LayerNorm" in key:
            weight.data.fill_(1.0 if key.endswith("weight") else 0.0)  # equal importance: the first units are selected
        elif "embeddings.weight" in key:
            weight.data[:, duplicates] = weight.data[:, originals]
        elif "output.dense" in key:
            weight.data[duplicates] = weight.data[originals]
        if weight.dim() == 2 and any(part in key for part in ("self", "intermediate", "pooler", "classifier")):
            weight.data[:, duplicates] = 0.0  # no weight uses the duplicates
    for index in range(4):  # the head dimension is unchanged, so two of the four heads are removed
        linear_modules(teacher, index)["output"].weight.data[:, 12:] = 0.0
    student = make_student(teacher, hidden_size=12, num_attention_heads=2, intermediate_size=40)
    assert torch.allclose(logits(student), logits(teacher), atol=1e-5)


def test_larger_heads_keep_the_logits_and_receive_gradients() -> None:
    teacher = make_teacher("bert")
    for index in range(4):
        linear_modules(teacher, index)["output"].weight.data[:, 12:] = 0.0
    student = make_student(teacher, num_attention_heads=2)
    assert torch.allclose(logits(student), logits(teacher), atol=1e-5)
    student(input_ids=torch.tensor([[5, 6, 7]])).logits[0, 0].backward()
    assert linear_modules(student, 0)["key"].weight.grad[6:12].abs().max() > 0.0


@every_family
def test_build_student_does_not_change_the_teacher(name: str) -> None:
    teacher = make_teacher(name)
    before, config = logits(teacher), teacher.config.to_dict()
    student = make_student(teacher, num_hidden_layers=2, hidden_size=12)
    with torch.no_grad():
        for weight in student.parameters():
            weight.zero_()
    student.config.id2label[0] = "changed"
    assert torch.equal(logits(teacher), before) and teacher.config.to_dict() == config


def test_random_weights_depend_on_the_seed_not_on_the_global_state() -> None:
    teacher = make_teacher("bert")
    setting = Model(**{"from": "x"}, initialize="random", num_hidden_layers=2)
    torch.manual_seed(5)
    first, random_number = models.build_student(setting, teacher, [], seed=3), torch.rand(1)
    torch.manual_seed(6)
    same, other = (models.build_student(setting, teacher, [], seed=seed) for seed in (3, 4))
    assert torch.equal(logits(first), logits(same)) and not torch.equal(logits(first), logits(other))
    torch.manual_seed(5)
    assert torch.equal(random_number, torch.rand(1))


# Unsupported families


GROUPS = ("q_groups", "k_groups", "v_groups", "post_attention_groups", "intermediate_groups", "output_groups")
UNSUPPORTED = {
    "convbert": ConvBertConfig(**SIZES, **LABELS, embedding_size=24, head_ratio=1, conv_kernel_size=3),
    "nystromformer": NystromformerConfig(**SIZES, **LABELS, segment_means_seq_len=24, num_landmarks=24),
    "squeezebert": SqueezeBertConfig(**SIZES, **LABELS, embedding_size=24, **dict.fromkeys(GROUPS, 1)),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported_family_cannot_be_shrunk_and_its_abilities_are_listed(name: str) -> None:
    teacher = AutoModelForSequenceClassification.from_config(copy.deepcopy(UNSUPPORTED[name])).eval()
    with pytest.raises(InputError, match=f"(?s){name} models cannot be shrunk.*fewer layers +random weights"):
        make_student(teacher, num_hidden_layers=2)


def test_big_bird_attends_to_the_same_tokens_before_and_after_a_short_batch() -> None:
    sizes = SIZES | {"max_position_embeddings": 64}
    config = BigBirdConfig(**sizes, **LABELS, block_size=4, num_random_blocks=1)
    model = make_student(AutoModelForSequenceClassification.from_config(config).eval())
    long, short = torch.full((1, 40), 7), torch.full((1, 4), 7)
    with torch.no_grad():
        before, _, after = (model(ids).logits for ids in (long, short, long))
    assert model.base_model.attention_type == "block_sparse" and torch.equal(before, after)


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported_family_can_be_copied_or_initialized_randomly(name: str) -> None:
    config: PreTrainedConfig = copy.deepcopy(UNSUPPORTED[name])
    teacher = AutoModelForSequenceClassification.from_config(config).eval()
    assert torch.allclose(logits(make_student(teacher)), logits(teacher), atol=1e-6)
    assert logits(make_student(teacher, initialize="random", num_hidden_layers=2)).shape == (2, 3)


def test_config_with_other_size_fields_can_only_be_copied() -> None:
    config = XLMConfig(vocab_size=30, emb_dim=24, n_heads=4, n_layers=2, pad_index=1, **LABELS)
    teacher = AutoModelForSequenceClassification.from_config(config).eval()
    assert torch.allclose(logits(make_student(teacher)), logits(teacher), atol=1e-6)
    with pytest.raises(InputError, match="other size fields"):
        make_student(teacher, initialize="random", hidden_size=12)


def test_electra_must_keep_its_embedding_projection() -> None:
    with pytest.raises(ConfigError, match="projection") as caught:
        make_student(make_teacher("electra-projected"), hidden_size=8)
    assert caught.value.key == ("hidden_size",)


def test_unknown_head_cannot_be_shrunk() -> None:
    teacher = make_teacher("bert")
    teacher.extra = torch.nn.Linear(24, 2)
    with pytest.raises(InputError, match=r"extra\.weight"):
        make_student(teacher, hidden_size=12)
