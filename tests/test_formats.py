"""Export formats: logits equal those of the original, and what cannot be written or read raises a clear error."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification, DistilBertConfig, MPNetConfig
from transformers import DistilBertForSequenceClassification as DistilBert
from transformers import MPNetForSequenceClassification as MPNet

from tinybert_cli import formats, loops
from tinybert_cli.errors import ConfigError, InputError
from tinybert_cli.formats import int8_matrices, int8_tables
from tinybert_cli.formats.int8 import parts_of_onnx, prepare_int8, quantize_onnx
from tinybert_cli.formats.onnx import (
    FILE,
    INT8_FILE,
    NEWEST_OPSET,
    OLDER_FILE,
    OnnxSession,
    load_onnx,
    write_fp16,
    write_onnx,
)

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

WORDS = 200


@pytest.fixture(scope="module")
def bert() -> BertForSequenceClassification:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=WORDS, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=40, num_labels=3, initializer_range=0.3,
    )  # fmt: skip
    return BertForSequenceClassification(config).train()  # with dropout: export must turn it off


def padded(lengths: list[int], *, seed: int = 0, token_types: bool = True) -> dict[str, Tensor]:
    """A batch of random rows, padded to the longest."""
    random = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, WORDS, (len(lengths), max(lengths)), generator=random)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    types = {"token_type_ids": mask * (torch.arange(max(lengths)) > 2)} if token_types else {}
    return {"attention_mask": mask, "input_ids": ids * mask, **types}


def rows() -> list[dict[str, np.ndarray[Any, Any]]]:
    """Batches of one row, on which int8 measures activations."""
    lengths = [3, 8, 12, 20, 30, 5, 9, 16]
    return [{name: values.numpy() for name, values in padded([n], seed=n).items()} for n in lengths]


def logits(model: torch.nn.Module, batch: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return model(**batch)["logits"]


def session_logits(folder: Path, batch: dict[str, Tensor]) -> Tensor:
    """The logits of an ONNX export."""
    return logits(loops.SessionModule(load_onnx(folder)), batch)


@pytest.fixture(scope="module")
def exported(bert: BertForSequenceClassification, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx")
    write_onnx(bert, padded([9, 5]), folder, opset=None)
    return folder


@pytest.fixture(scope="module")
def quantized(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("int8")
    quantize_onnx(exported / FILE, folder / FILE, prepare_int8(exported / FILE, rows()))
    return folder


def original(model: torch.nn.Module, batch: dict[str, Tensor]) -> Tensor:
    was_training = model.training
    try:
        return logits(model.eval(), batch)
    finally:
        model.train(was_training)


@pytest.mark.parametrize("lengths", [[1], [7], [9, 5], [3, 40, 12], [2] * 17, [30, 4, 30, 8, 1]])
def test_export_gives_the_same_logits_for_all_batch_shapes(
    lengths: list[int], exported: Path, bert: BertForSequenceClassification
) -> None:
    batch = padded(lengths, seed=len(lengths))
    result = session_logits(exported, batch)
    assert result.shape == (len(lengths), 3)
    assert (result - original(bert, batch)).abs().max() < 1e-4


def test_padding_changes_no_logits_of_an_export(exported: Path) -> None:
    row = padded([6])
    longer = {name: torch.nn.functional.pad(values, (0, 20)) for name, values in row.items()}
    torch.testing.assert_close(session_logits(exported, longer), session_logits(exported, row), rtol=0, atol=1e-4)


def test_export_folder_has_one_file(exported: Path, quantized: Path) -> None:
    assert [[path.name for path in folder.iterdir()] for folder in (exported, quantized)] == [["onnx"]] * 2
    assert [path.name for path in (exported / "onnx").iterdir()] == ["model.onnx"]


def test_attention_of_a_known_family_is_fused(exported: Path) -> None:
    import onnx

    operators = [node.op_type for node in onnx.load(str(exported / FILE)).graph.node]
    assert operators.count("Attention") == 2


def test_export_accepts_padding_on_the_left(exported: Path, bert: BertForSequenceClassification) -> None:
    batch = {name: values.flip(1) for name, values in padded([9, 4, 7], seed=2).items()}
    assert (session_logits(exported, batch) - original(bert, batch)).abs().max() < 1e-4


def test_onnx_runtime_does_not_fuse_slow_skip_layer_norms(exported: Path, quantized: Path, tmp_path: Path) -> None:
    import onnx

    for folder in (exported, quantized):
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        onnxruntime.InferenceSession(str(folder / FILE), options, providers=["CPUExecutionProvider"])
        operators = [node.op_type for node in onnx.load(str(tmp_path / "optimized.onnx")).graph.node]
        assert operators.count("LayerNormalization") == 5 and "SkipLayerNormalization" not in operators


def test_inputs_have_their_names_and_dynamic_shapes(exported: Path) -> None:
    import onnx

    inputs = onnx.load(str(exported / FILE)).graph.input
    dims = {node.name: [dim.dim_param for dim in node.type.tensor_type.shape.dim] for node in inputs}
    assert dims == {name: ["batch", "length"] for name in ("attention_mask", "input_ids", "token_type_ids")}


def test_export_does_not_change_the_model(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    before = {name: values.clone() for name, values in bert.state_dict().items()}
    write_onnx(bert, padded([4]), tmp_path, opset=17)
    assert bert.training
    assert bert.config._attn_implementation == "sdpa"
    assert all(torch.equal(values, before[name]) for name, values in bert.state_dict().items())


def test_int8_is_smaller(exported: Path, quantized: Path) -> None:
    assert (quantized / FILE).stat().st_size < 0.9 * (exported / FILE).stat().st_size


@pytest.mark.parametrize("large", [60_000, 70_000])  # the table has 64,000 numbers
@pytest.mark.parametrize(("bits", "opset"), [(8, 17), (6, 17), (6, 20)])
def test_an_embedding_table_has_one_scale_per_row(
    bits: int, opset: int, large: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    table = random.normal(size=(1000, 64)).astype(np.float32) * np.logspace(-3, 1, 1000, dtype=np.float32)[:, None]
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "ids"], ["logits"])], "g",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 64])],
        [numpy_helper.from_array(table, "table")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    monkeypatch.setattr(int8_tables, "LARGE_TABLE", large)
    int8_tables.quantize_tables(model, (), bits)
    packed = bits == 6 and large < table.size
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (rows,) = session.run(None, {"ids": np.arange(1000)})
    assert len(model.SerializeToString()) < (0.23 if packed else 0.3) * table.nbytes
    steps = 31 if packed else 127
    assert (np.abs(rows - table).max(1) <= np.abs(table).max(1) / steps * 0.51).all()
    assert len(np.unique(np.rint(rows / np.abs(table).max(1, keepdims=True) * steps))) == 2 * steps + 1


@pytest.mark.parametrize(("large", "share"), [(60_000, 0.145), (70_000, 0.27)])  # the table has 64,000 numbers
def test_a_large_table_in_4_bits_takes_an_eighth(large: int, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    table = np.random.default_rng(0).normal(size=(1000, 64)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "ids"], ["logits"])], "g",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", 2])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 2, 64])],
        [numpy_helper.from_array(table, "table")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    monkeypatch.setattr(int8_tables, "LARGE_TABLE", large)
    monkeypatch.setattr(int8_tables, "BLOCK", 300)
    int8_tables.quantize_tables(model, (), 4)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"ids": np.arange(1000).reshape(500, 2)})
    assert len(model.SerializeToString()) < share * table.nbytes
    step = np.abs(table).max(1, keepdims=True) / 7
    assert ((found.reshape(1000, 64) - table) ** 2).sum() < ((np.rint(table / step) * step - table) ** 2).sum()


def test_int8_logits_are_close_to_the_original(quantized: Path, bert: BertForSequenceClassification) -> None:
    batch = padded([12, 7, 30, 5], seed=3)
    expected = original(bert, batch)
    difference = (session_logits(quantized, batch) - expected).abs().max()
    assert 0 < difference < 0.25 * expected.abs().max()


def test_a_row_has_the_same_int8_logits_alone_in_a_batch_and_padded(quantized: Path) -> None:
    lengths = [12, 7, 30, 5, 9, 3, 22, 16]
    batch = padded(lengths, seed=3)
    together = session_logits(quantized, batch)
    for index, length in enumerate(lengths):
        alone = {name: values[index : index + 1, :length] for name, values in batch.items()}
        longer = {name: torch.nn.functional.pad(values, (0, 9)) for name, values in alone.items()}
        for one in (alone, longer):
            torch.testing.assert_close(session_logits(quantized, one)[0], together[index], rtol=0, atol=1e-4)


def test_no_pair_of_int8_products_saturates_without_vnni(exported: Path) -> None:
    """vpmaddubsw multiplies unsigned by signed bytes and adds two neighbours in 16 bits."""
    for product in prepare_int8(exported / FILE, rows())[8].values():
        weights = product.weights.astype(int)
        pairs = weights[: len(weights) // 2 * 2].reshape(-1, 2, weights.shape[1])
        assert np.abs(255 * pairs.sum(1)).max() <= 32767 and np.abs(weights).max() <= 127


def test_an_outlier_channel_costs_the_others_no_precision() -> None:
    """With one range for all channels, all others would have 1 step in 1,000 of the largest."""
    random = np.random.default_rng(0)
    values, matrix = random.normal(size=(256, 32)).astype(np.float32), random.normal(size=(32, 16)).astype(np.float32)
    values[:, 3] *= 500
    matrix[3] /= 500
    activation = int8_matrices.Activation(values.min(0), values.max(0), [values])
    product = int8_matrices.best_product(activation, matrix)
    exact = values @ matrix
    assert product.factors is not None
    assert np.abs(int8_matrices.computed(product, values, symmetric=False) - exact).max() < 0.05 * np.abs(exact).max()


def test_an_activation_of_one_sign_uses_all_256_steps() -> None:
    values = np.linspace(0, 5, 400, dtype=np.float32).reshape(100, 4)
    activation = int8_matrices.Activation(np.zeros(4, np.float32), values.max(0), [values])
    product = int8_matrices.best_product(activation, np.eye(4, dtype=np.float32))
    assert product.zero == 0 and product.scale == pytest.approx(5 / 255, rel=0.01)


def test_factors_of_inputs_that_are_never_negative_have_the_smallest_error() -> None:
    random = np.random.default_rng(5)
    values = np.maximum(random.normal(size=(300, 16)) * np.logspace(-1, 1.5, 16), 0).astype(np.float32)
    matrix = random.normal(size=(16, 8)).astype(np.float32)
    activation = int8_matrices.Activation(np.zeros(16, np.float32), values.max(0), [values])
    product = int8_matrices.best_product(activation, matrix)
    assert product.zero == 0

    def error(factors: np.ndarray[Any, Any] | None) -> float:
        divisor = np.ones(16, np.float32) if factors is None else factors
        weights, columns = int8_matrices.quantized_columns(matrix * divisor[:, None])
        scale = (values / divisor).max() / 255  # unsigned bytes
        steps = np.rint(values / divisor / scale)
        return float(((steps @ weights * (scale * columns) - values @ matrix) ** 2).mean())

    others = [
        int8_matrices._product(activation, matrix, shift, symmetric=False, bits=8) for shift in int8_matrices.SHIFTS
    ]
    assert error(product.factors) == pytest.approx(min(error(other.factors) for other in others))


def test_options_without_effect_are_named_and_change_nothing(exported: Path, tmp_path: Path) -> None:
    products = prepare_int8(exported / FILE, rows(), matrix_bits=4)
    without = quantize_onnx(exported / FILE, tmp_path / "a.onnx", products, matrix_bits=4, embedding_bits=4)
    assert (
        "no quantized matrix has 10,000 weights" in without["matrix_bits"] and "1,000,000" in without["embedding_bits"]
    )
    assert quantize_onnx(exported / FILE, tmp_path / "b.onnx", products) == {}
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_values_are_divided_instead_of_the_output_of_an_attention(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same logits, but for rounding, and one Mul less in each of the two layers."""
    import onnx

    monkeypatch.setattr(int8_matrices, "SHIFTS", (0.5,))  # every product has factors
    products = prepare_int8(exported / FILE, rows())
    quantize_onnx(exported / FILE, tmp_path / "divided" / FILE, products)
    monkeypatch.setattr(int8_matrices, "_with_divided_values", lambda graph, products, readers: products)
    quantize_onnx(exported / FILE, tmp_path / "multiplied" / FILE, products)
    divided, multiplied = (
        [node.op_type for node in onnx.load(tmp_path / name / FILE).graph.node] for name in ("divided", "multiplied")
    )
    assert multiplied.count("Mul") - divided.count("Mul") == 2
    batch = padded([12, 7, 30, 5], seed=3)
    expected = session_logits(tmp_path / "multiplied", batch)
    assert (session_logits(tmp_path / "divided", batch) - expected).abs().max() < 0.01 * expected.abs().max()


@pytest.mark.parametrize("runtime", ["onnxruntime", "any"])
def test_matrices_in_4_bits_take_half_the_bytes_of_int8(
    runtime: str, bert: BertForSequenceClassification, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx

    from tinybert_cli.formats import four_bits

    monkeypatch.setattr(four_bits, "SMALL", 0)
    batch = padded([12, 7, 30, 5], seed=3)
    write_onnx(bert, batch, tmp_path, runtime=runtime)
    source, bytes_of, differences = tmp_path / FILE, [], []
    products = prepare_int8(source, rows(), matrix_bits=4, runtime=runtime)
    for bits in (8, 4):
        quantize_onnx(source, tmp_path / INT8_FILE, products, matrix_bits=bits, runtime=runtime)
        model = onnx.load(tmp_path / INT8_FILE)
        onnx.checker.check_model(model)
        matrices = ("_weights", "_int4")
        bytes_of.append(sum(len(t.raw_data) for t in model.graph.initializer if t.name.endswith(matrices)))
        differences.append((session_logits(tmp_path, batch) - original(bert, batch)).abs().mean())
    assert bytes_of[1] < 0.52 * bytes_of[0]
    assert max(differences) < 0.25 * original(bert, batch).abs().max()


def test_a_part_in_8_bits_has_the_weights_of_int8(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx
    from onnx import numpy_helper

    from tinybert_cli.formats import int8

    monkeypatch.setattr(int8, "packable", lambda integers: True)  # these are too small
    products = prepare_int8(exported / FILE, rows(), matrix_bits=4)
    quantize_onnx(exported / FILE, tmp_path / "part.onnx", products, matrix_bits=4, eight_bits=["encoder.layer.0"])
    matrices = {
        tensor.name: np.abs(numpy_helper.to_array(tensor).astype(int)).max()
        for tensor in onnx.load(tmp_path / "part.onnx").graph.initializer if "intermediate" in tensor.name
        and tensor.name.endswith("_weights")
    }  # fmt: skip
    assert {("layer.0" in name, largest > 7) for name, largest in matrices.items()} == {(True, True), (False, False)}


@pytest.mark.parametrize("quantize", [False, True])
def test_runtime_any_has_standard_operators_only(
    quantize: bool, bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    import onnx

    write_onnx(bert, padded([9, 5]), tmp_path, runtime="any")
    if quantize:
        products = prepare_int8(tmp_path / FILE, rows(), runtime="any")
        quantize_onnx(tmp_path / FILE, tmp_path / INT8_FILE, products, runtime="any")
    model = onnx.load(str(tmp_path / (INT8_FILE if quantize else FILE)))
    assert {node.domain for node in model.graph.node} == {""}
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    onnx.checker.check_model(model)
    batch = padded([12, 7, 30, 5], seed=3)
    expected = original(bert, batch)
    limit = 0.25 * expected.abs().max() if quantize else 1e-4
    assert (session_logits(tmp_path, batch) - expected).abs().max() < limit


def test_a_float16_file_has_half_the_size_and_nearly_the_same_logits(
    exported: Path, bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    write_fp16(exported / FILE, tmp_path / "half.onnx")
    assert (tmp_path / "half.onnx").stat().st_size < 0.6 * (exported / FILE).stat().st_size
    batch = padded([12, 7, 30, 5], seed=3)
    half = logits(loops.SessionModule(OnnxSession(tmp_path / "half.onnx")), batch)
    assert 0 < (half - original(bert, batch)).abs().max() < 0.05


def in_int8(file: Path) -> set[str]:
    """The nodes that have integer weights."""
    import onnx

    graph = onnx.load(file).graph
    integers = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.INT8}
    return {node.name for node in graph.node if integers & set(node.input)}


def test_parts_are_the_embeddings_each_layer_and_the_head(exported: Path) -> None:
    assert parts_of_onnx(exported / FILE) == [
        "embeddings", "encoder.layer.0", "encoder.layer.1", "pooler", "classifier",
    ]  # fmt: skip
    assert parts_of_onnx(exported / FILE, ["encoder.layer.0", "layer.1.output", "classifier"]) == [
        "embeddings", "encoder.layer.1", "pooler",
    ]  # fmt: skip


def test_an_excluded_part_has_float32_weights(exported: Path, tmp_path: Path) -> None:
    products = prepare_int8(exported / FILE, rows())
    quantize_onnx(exported / FILE, tmp_path / "all.onnx", products)
    quantize_onnx(exported / FILE, tmp_path / "part.onnx", products, ["encoder.layer.0", "classifier"])
    all_nodes, rest = in_int8(tmp_path / "all.onnx"), in_int8(tmp_path / "part.onnx")
    excluded = all_nodes - rest
    assert rest < all_nodes and len(excluded) == 5  # attention, its output, two of feed-forward; the classifier
    assert all("layer.0" in name or "Attention_0" in name or "classifier" in name for name in excluded)


def test_int8_with_all_parts_excluded_is_float32(exported: Path, tmp_path: Path) -> None:
    parts = parts_of_onnx(exported / FILE)
    quantize_onnx(exported / FILE, tmp_path / FILE, prepare_int8(exported / FILE, rows()), parts)
    batch = padded([12, 7], seed=3)
    assert torch.allclose(session_logits(tmp_path, batch), session_logits(exported, batch), atol=1e-6)


@pytest.mark.parametrize("runtime", ["onnxruntime", "any"])
def test_parts_in_twelve_bits_have_nearly_the_logits_of_float32(
    runtime: str, bert: BertForSequenceClassification, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tinybert_cli.formats import twelve_bits

    monkeypatch.setattr(twelve_bits, "SMALL", 0)
    batch = padded([12, 7], seed=3)
    write_onnx(bert, batch, tmp_path, runtime=runtime)
    source, differences = tmp_path / FILE, []
    products = prepare_int8(source, rows(), runtime=runtime)
    for parts in ([], parts_of_onnx(source)):
        quantize_onnx(source, tmp_path / "int8" / FILE, products, twelve_bits=parts, runtime=runtime)
        logits = session_logits(tmp_path / "int8", batch)
        differences.append((logits - session_logits(tmp_path, batch)).abs().max())
    assert 0 < differences[1] < differences[0] / 5


@pytest.mark.parametrize("kind", ["Gather", "MatMul", "Gemm"])
def test_twelve_bits_need_three_eighths_and_round_by_half_a_step(kind: str, tmp_path: Path) -> None:
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    from tinybert_cli.formats import twelve_bits

    random = np.random.default_rng(0)
    values = (random.normal(size=(200, 64)) * np.logspace(-3, 1, 64)).astype(np.float32)
    axis = 0 if kind == "MatMul" else 1  # over which a scale is shared
    if axis:
        values = np.ascontiguousarray(values.reshape(64, 200).T.reshape(200, 64))
    given, options = ("values", "ids") if kind == "Gather" else ("rows", "values"), {}
    if kind == "Gemm":
        options = {"transB": 1}
    width = 200 if kind == "Gemm" else 64
    inputs = [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])]
    if kind != "Gather":
        inputs = [helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["n", 64 if kind == "Gemm" else 200])]
    node = helper.make_node(kind, list(given), ["out"], name="node", **options)
    output = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", width])
    graph = helper.make_graph([node], "g", inputs, [output], [numpy_helper.from_array(values, "values")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    twelve_bits.pack(model, {"node"})
    session = onnxruntime.InferenceSession(model.SerializeToString())
    if kind == "Gather":
        (found,) = session.run(None, {"ids": np.arange(200)})
    else:
        (found,) = session.run(None, {"rows": np.eye(64 if kind == "Gemm" else 200, dtype=np.float32)})
        found = found.T if kind == "Gemm" else found
    step = np.abs(values).max(axis, keepdims=True) / 2047
    assert (np.abs(found - values) <= step * 0.501).all()
    assert sum(len(tensor.raw_data) for tensor in model.graph.initializer) <= values.nbytes * 3 / 8 + 4 * 201
    onnx.checker.check_model(model)


def test_an_unknown_part_is_rejected(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no part 'encoder\.layer\.7'") as error:
        quantize_onnx(exported / FILE, tmp_path / FILE, {}, ["classifier", "encoder.layer.7"])
    assert error.value.key == ("quantize_exclude", 1) and "encoder.layer" in str(error.value.hint)


def test_the_hint_for_an_unknown_part_lists_all_parts(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        quantize_onnx(exported / FILE, tmp_path / FILE, {}, ["zzz"])
    hint = str(error.value.hint)
    assert hint.startswith("its parts: embeddings, encoder.layer.0, ") and hint.endswith("pooler, classifier")


def test_exporting_twice_gives_the_same_bytes(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    files = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        write_onnx(bert, padded([9, 5]), tmp_path / name)
        source = tmp_path / name / FILE
        quantize_onnx(source, tmp_path / name / "int8.onnx", prepare_int8(source, rows()))
        files.append([(tmp_path / name / file).read_bytes() for file in (FILE, "int8.onnx")])
    assert files[0] == files[1]


@pytest.mark.parametrize("family", ["distilbert", "mpnet"])
def test_other_families_are_exported(family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    if family == "distilbert":
        model = DistilBert(DistilBertConfig(vocab_size=WORDS, dim=32, n_heads=4, n_layers=2, hidden_dim=64))
    else:
        model = MPNet(MPNetConfig(
            vocab_size=WORDS, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        ))  # fmt: skip
    write_onnx(model, padded([6, 4], token_types=False), tmp_path)
    batch = padded([11, 3, 8], seed=1, token_types=False)
    assert (session_logits(tmp_path, batch) - original(model, batch)).abs().max() < 1e-4
    assert [path.name for path in (tmp_path / "onnx").iterdir()] == ["model.onnx"]


def test_export_ignores_inputs_it_was_not_traced_with(exported: Path) -> None:
    batch = padded([5])
    more = {**batch, "labels": torch.tensor([0])}
    assert torch.equal(session_logits(exported, more), session_logits(exported, batch))


def test_detect_recognises_an_export_by_its_weights_file(exported: Path, tmp_path: Path) -> None:
    assert formats.detect(exported) is formats.FORMATS["onnx"]
    assert isinstance(load_onnx(exported), OnnxSession)
    assert formats.detect(tmp_path) is None


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_onnx_files_beside_the_weights_of_a_model_are_not_taken_for_the_model(
    weights: str, exported: Path, tmp_path: Path
) -> None:
    """As in folders of the Hub: they may be of other precision, and no stage has verified them."""
    shutil.copytree(exported, tmp_path, dirs_exist_ok=True)
    (tmp_path / weights).touch()
    assert formats.detect(tmp_path) is None
    (tmp_path / "config.json").write_text('{"tinybert_layout": 2}')  # an export to which somebody added the weights
    assert formats.detect(tmp_path) is formats.FORMATS["onnx"]


def test_the_int8_file_is_loaded_where_there_are_both(exported: Path, quantized: Path, tmp_path: Path) -> None:
    shutil.copytree(exported, tmp_path, dirs_exist_ok=True)
    batch = padded([9, 5])
    assert torch.equal(session_logits(tmp_path, batch), session_logits(exported, batch))
    shutil.copy(quantized / FILE, tmp_path / INT8_FILE)
    assert torch.equal(session_logits(tmp_path, batch), session_logits(quantized, batch))


def test_the_file_of_an_older_version_is_loaded(exported: Path, tmp_path: Path) -> None:
    shutil.copy(exported / FILE, tmp_path / OLDER_FILE)
    assert formats.detect(tmp_path) is formats.FORMATS["onnx"]
    assert torch.equal(session_logits(tmp_path, padded([9, 5])), session_logits(exported, padded([9, 5])))


@pytest.mark.parametrize("content", [b"", b"this is no model", None])
def test_unreadable_file_is_named(content: bytes | None, exported: Path, tmp_path: Path) -> None:
    whole = (exported / FILE).read_bytes()
    (tmp_path / FILE).parent.mkdir()
    (tmp_path / FILE).write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(InputError) as caught:
        load_onnx(tmp_path)
    assert caught.value.what.startswith(f"ONNX Runtime cannot read '{tmp_path / FILE}': ")
    assert "\n" not in caught.value.what


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_write_without_a_package_names_what_to_install(
    package: str, bert: BertForSequenceClassification, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError) as caught:
        write_onnx(bert, padded([4]), tmp_path)
    assert caught.value.what == f"the package '{package}' is not installed"
    assert caught.value.hint == "pip install 'tinybert[onnx]'"


def test_load_without_onnxruntime_is_an_input_error(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match="the package 'onnxruntime' is not installed"):
        load_onnx(exported)


def test_an_opset_that_is_too_new_is_rejected(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        write_onnx(bert, padded([4]), tmp_path, opset=99)
    assert (caught.value.key, caught.value.hint) == (("opset",), "at most 20")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("opset", [17, None])
def test_opset_is_the_given_one_or_the_newest(
    opset: int | None, bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    import onnx

    write_onnx(bert, padded([4]), tmp_path, opset=opset)
    versions = {entry.domain: entry.version for entry in onnx.load(str(tmp_path / FILE)).opset_import}
    assert versions[""] == (opset or NEWEST_OPSET)


def test_an_unknown_format_is_rejected_with_the_list() -> None:
    with pytest.raises(ConfigError, match="unknown format 'gguf'\n   = one of: onnx, safetensors"):
        formats.find("gguf")
