"""One tokenization path: what a model folder records about its inputs, and that everything that loads it obeys."""

from __future__ import annotations

import codecs
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import BAD, GOOD, make_config, run, sentences, write_base_model, write_rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from tinybert_cli import cli, data, loops, tasks
from tinybert_cli.config import Data
from tinybert_cli.errors import InputError
from tinybert_cli.helpers import predict
from tinybert_cli.input_limits import AFTER_PADDING, max_positions
from tinybert_cli.predictor import load_predictor

LONG = [f"{'the film was ' * 12}{word}" for word in (*GOOD, *BAD)]  # the last word is beyond 16 tokens
ONE_STEP = {"training__max_steps": 1, "training__eval_strategy": "no"}


def edit_json(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def command(*words: str, given: bytes | None = None) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command line, in this process."""
    result = CliRunner().invoke(cli.app, list(words), input=given)
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model that cuts at 16 tokens on the left, its export, and the data."""
    folder = tmp_path_factory.mktemp("left")
    for split in ("train", "validation"):
        write_rows(folder / "data" / f"{split}.jsonl", sentences(split))
    edit_json(write_base_model(folder / "base") / "tokenizer_config.json", truncation_side="left")
    files = {"data__test_file": None, "data__unlabeled_file": None}
    quick = {**files, "training__num_train_epochs": 1.0}
    run("finetune", make_config("finetune", folder / "data", folder / "model", model=folder / "base", **quick))
    loose = {"min_agreement": 0.0, "max_metric_drop": 1.0}
    export = make_config("export", folder / "data", folder / "export", model=folder / "model", verify=loose, **files)
    run("export", export)
    return folder


def logits_of(folder: Path, texts: list[str]) -> Any:
    """The logits as `eval` computes them, with the settings of training."""
    config = Data(max_seq_length=16)
    predictor = load_predictor(str(folder), task=tasks.find_prediction_task("text-classification"))
    rows = tasks.base.Rows({"text": texts}, (("texts", len(texts)),))
    examples = data.Examples.of(predictor.task.encode(rows, config, predictor.tokenizer))
    return loops.predict_all(predictor.module, examples, data.sorted_batches(examples.lengths, 5))


def probabilities(outputs: Any) -> Any:
    return np.array([[output["probabilities"][name] for name in ("bad", "good")] for output in outputs])


def test_every_path_cuts_at_the_recorded_length_and_side(left: Path, tmp_path: Path) -> None:
    from transformers import pipeline

    logits = logits_of(left / "model", LONG)
    expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    assert np.ptp(expected[:, 0]) > 1e-3  # the last words are read
    (tmp_path / "texts.txt").write_text("\n".join(LONG))
    for model in ("model", "export"):
        folder = str(left / model)
        assert probabilities(load_predictor(folder).predict(LONG)) == pytest.approx(expected, abs=1e-4)
        for words, typed in ((LONG, None), (["--file", str(tmp_path / "texts.txt")], None), ([], "\n".join(LONG))):
            _, out, _ = command("predict", folder, "--json", *words, given=typed and typed.encode())
            assert probabilities(json.loads(out)["answers"]) == pytest.approx(expected, abs=1e-4)
    outputs = pipeline("text-classification", str(left / "model"), truncation=True, top_k=None)(LONG)
    scores = [{score["label"]: score["score"] for score in output} for output in outputs]
    assert [[score["bad"], score["good"]] for score in scores] == [pytest.approx(row, abs=1e-4) for row in expected]


def test_the_tokenizer_alone_cuts_as_the_model_was_trained(left: Path) -> None:
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    for name in ("model", "export"):
        ids = AutoTokenizer.from_pretrained(left / name)(LONG[0], truncation=True)["input_ids"]
        assert len(ids) == 16 and Tokenizer.from_file(str(left / name / "tokenizer.json")).encode(LONG[0]).ids == ids


# -- the reader ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"a\nb\n", ["a", "b"]),
        (b"a\r\nb", ["a", "b"]),
        (b"\xef\xbb\xbfa\n", ["a"]),
        ("a\u2028b\fc\x85d\x0be\rf\n".encode(), ["a\u2028b\fc\x85d\x0be\rf"]),
        (b"a\n\nb\n\n", ["a", "", "b", ""]),
        (b"\n", [""]),
        (b"", []),
        (b"a\0b\tc", ["a\0b\tc"]),
        (b"a\rb\r", ["a", "b"]),
        ("Zoë\nb\n".encode("utf-16"), ["Zoë", "b"]),
        (codecs.BOM_UTF16_BE + "a\r\nb".encode("utf-16-be"), ["a", "b"]),
    ],
)
def test_lines_end_with_line_feeds(content: bytes, lines: list[str]) -> None:
    assert predict.read_lines(io.BytesIO(content), "stdin") == lines


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text().filter(lambda text: "\n" not in text and not text.endswith("\r")), min_size=1))
def test_any_texts_come_back_from_a_file(texts: list[str]) -> None:
    written = "".join(f"{text}\n" for text in texts).encode()
    assert predict.read_lines(io.BytesIO(b"\xef\xbb\xbf" + written), "stdin") == texts


def test_each_line_of_a_file_gets_one_line_of_output(left: Path, tmp_path: Path) -> None:
    texts = ["fine\u2028dull", "a\fb", "dull\x85", "x\0y", "a\tb\tc", "- no", "\ufefffine"]
    (tmp_path / "texts.txt").write_bytes("\r\n".join(texts).encode())
    code, out, err = command("predict", str(left / "model"), "--file", str(tmp_path / "texts.txt"))
    assert code == 0 and len(out.splitlines()) == len(texts)
    assert err == "note: text 5 has a tab; the model takes one text, text, so the tab is a part of it\n"
    _, answers, _ = command("predict", str(left / "model"), "--json", given="\n".join(texts).encode())
    assert [answer["text"] for answer in json.loads(answers)["answers"]] == texts


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"fine\n" * 40 + b"caf\xe9\n", "text 41 is not UTF-8"), (b"fine\n" * 40 + b" \nfine\n", "text 41 is empty")],
)
def test_an_unfit_line_is_an_error_before_any_answer(left: Path, tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "texts.txt").write_bytes(content)
    for words, typed in ((["--file", str(tmp_path / "texts.txt")], None), ([], content)):
        code, out, err = command("predict", str(left / "model"), *words, given=typed)
        assert (code, out) == (3, "") and message in err


def test_texts_and_a_file_cannot_be_combined(left: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("fine\n")
    code, out, err = command("predict", str(left / "model"), "fine", "--file", str(tmp_path / "texts.txt"))
    assert (code, out) == (2, "") and "cannot be combined" in err


# -- one text or two -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model that takes pairs, its base, and the data."""
    folder = tmp_path_factory.mktemp("pairs")
    for split in ("train", "validation"):
        rows = sentences(split)[:16]
        write_rows(folder / "data" / f"{split}.jsonl", [{"premise": "the film", **row} for row in rows])
    write_base_model(folder / "base")
    run("finetune", pair_config(folder, "finetune", "model", model=folder / "base", **ONE_STEP))
    return folder


def pair_config(folder: Path, command: str, output: str, **options: Any) -> Any:
    columns = {"data__text_column_names": ["premise", "text"], "data__test_file": None, "data__unlabeled_file": None}
    return make_config(command, folder / "data", folder / output, **{**columns, **options})


def test_a_tab_is_part_of_a_single_text(left: Path) -> None:
    predictor = load_predictor(str(left / "model"))
    for texts in (["fine film\tdull"], ["\tfine"]):
        tab, space = predictor.predict(texts), predictor.predict([texts[0].replace("\t", " ")])
        assert probabilities(tab) == pytest.approx(probabilities(space), abs=1e-6)


def test_the_two_texts_of_a_pair_are_separated_by_a_tab_or_given_as_two(pairs: Path) -> None:
    predictor = load_predictor(str(pairs / "model"))
    typed, given = predictor.predict(["the film\tfine ."]), predictor.predict([("the film", "fine .")])
    assert probabilities(typed) == pytest.approx(probabilities(given))


@pytest.mark.parametrize(
    ("model", "text", "message"),
    [
        ("pairs", "fine", "text 1 is one text, but the model takes two texts, premise and text"),
        ("pairs", "a\tb\tc", "text 1 is 3 texts, but the model takes two texts, premise and text"),
        ("pairs", "a\t", "a text of pair 1 is empty"),
        ("left", ("a", "b"), "text 1 is two texts, but the model takes one text, text"),
    ],
)
def test_another_number_of_texts_is_refused(
    request: pytest.FixtureRequest, model: str, text: Any, message: str
) -> None:
    predictor = load_predictor(str(request.getfixturevalue(model) / "model"))
    with pytest.raises(InputError, match=message):
        list(predictor.predict([text]))


def test_stages_refuse_a_model_that_takes_another_number_of_texts(pairs: Path) -> None:
    for stage, options in {
        "eval": {"models": {"m": str(pairs / "model")}, "latency": None},
        "gen-soft-labels": {"teacher": pairs / "model"},
        "export": {"model": pairs / "model"},
    }.items():
        with pytest.raises(InputError, match="two texts, premise and text, but the data has one text, text"):
            run(stage, pair_config(pairs, stage, "out", data__text_column_names="text", **options))


def test_pairs_need_two_token_types(pairs: Path, tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    shutil.copytree(pairs / "base", tmp_path / "base")
    config = BertConfig.from_pretrained(pairs / "base", type_vocab_size=1)
    BertModel(config).save_pretrained(tmp_path / "base")
    config = pair_config(pairs, "finetune", "out", model=tmp_path / "base")
    with pytest.raises(InputError, match="cannot take pairs of texts: its tokenizer gives the second text"):
        run("finetune", config, dry_run=True)


# -- models without a record, and other settings -------------------------------------------------------------


@pytest.fixture
def foreign(pairs: Path, tmp_path: Path) -> Path:
    """The model as another tool would have saved it."""
    folder = Path(shutil.copytree(pairs / "model", tmp_path / "foreign"))
    config = json.loads((folder / "config.json").read_text())
    config = {name: value for name, value in config.items() if not name.startswith("tinybert_")}
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("manifest.json", "run.yaml"):
        (folder / name).unlink()
    return folder


def test_what_is_assumed_without_a_record_is_stated(foreign: Path) -> None:
    code, out, err = command("predict", str(foreign), "the film\tfine .", "a film\tdull .")
    assert code == 0 and len(out.splitlines()) == 2
    assert err == (
        f"note: '{foreign}' does not record how it was trained: texts are cut at 16 tokens, and a tab separates the "
        "two texts of a pair\n"
    )


def test_texts_and_pairs_in_one_input_are_refused_without_a_record(foreign: Path) -> None:
    with pytest.raises(InputError, match="text 1 is two texts and text 2 is one text") as caught:
        list(predict.run(str(foreign), ["the film\tfine", "dull"]))
    assert caught.value.hint is not None and '"tinybert_text_columns": ["text"]' in caught.value.hint
    edit_json(foreign / "config.json", tinybert_text_columns=["text"])
    assert len(list(predict.run(str(foreign), ["the film\tfine", "dull"]))) == 2


def test_stages_warn_about_another_length_than_in_training(left: Path) -> None:
    model, files = left / "model", {"data__test_file": None, "data__unlabeled_file": None}
    for stage, options in {
        "eval": {"models": {"m": str(model)}, "latency": None},
        "gen-soft-labels": {"teacher": model},
        "export": {"model": model},
    }.items():
        for length, count in ((16, 0), (24, 1)):
            config = make_config(stage, left / "data", left / "out", data__max_seq_length=length, **files, **options)
            events = run(stage, config, dry_run=True)
            warned = [row["message"] for row in events if row["event"] == "warning"]
            expected = f"'{model}' was trained with max_seq_length 16; this run uses 24, from data.max_seq_length"
            assert warned == [expected] * count
            assert events[-1]["event"] == "plan"


def test_a_finetuned_model_records_its_own_settings_and_not_its_bases(left: Path, tmp_path: Path) -> None:
    files = {"data__test_file": None, "data__unlabeled_file": None}
    options = {"model": left / "model", "data__max_seq_length": 24, **files, **ONE_STEP}
    run("finetune", make_config("finetune", left / "data", tmp_path / "out", **options))
    assert load_predictor(str(tmp_path / "out")).inputs == tasks.ModelInputs(24, "left", ("text",), None)
    assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())["model_max_length"] == 24


# -- the tokenizer of an export ------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.text(max_size=60), st.text(max_size=60)), min_size=1, max_size=4),
    st.booleans(),
    st.integers(6, 20),
)
def test_the_tokenizer_of_an_export_equals_that_of_transformers(
    left: Path, texts: list[tuple[str, str]], pair: bool, length: int
) -> None:
    rows = tasks.base.Rows({"a": [a for a, _ in texts], "b": [b for _, b in texts]}, (("texts", len(texts)),))
    config = Data(text_column_names=["a", "b"] if pair else "a", max_seq_length=length)
    task = tasks.find_prediction_task("text-classification")
    tokenizers = (load_predictor(str(left / "export"), task=one).tokenizer for one in (None, task))
    first, second = (task.encode(rows, config, tokenizer) for tokenizer in tokenizers)
    assert first.offsets.tolist() == second.offsets.tolist() and first.truncated == second.truncated
    for name, (values, padding) in second.tokens.items():
        assert first.tokens[name][0].tolist() == values.tolist() and first.tokens[name][1] == padding


# -- families ------------------------------------------------------------------------------------------------

SMALL = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 32}
GROUPS = ("q_groups", "k_groups", "v_groups", "post_attention_groups", "intermediate_groups", "output_groups")
FAMILIES: dict[str, tuple[int | None, dict[str, Any]]] = {  # family → tokens that fit into 20 positions, its sizes
    "albert": (20, {**SMALL, "embedding_size": 8}),
    "camembert": (19, SMALL),
    "convbert": (20, {**SMALL, "embedding_size": 16, "head_ratio": 1, "conv_kernel_size": 3}),
    "deberta": (20, SMALL),
    "deberta-v2": (None, {**SMALL, "position_biased_input": False, "relative_attention": True}),
    "distilbert": (20, {"dim": 16, "n_heads": 2, "n_layers": 2, "hidden_dim": 32}),
    "electra": (20, {**SMALL, "embedding_size": 8}),
    "funnel": (None, {"block_sizes": [1, 1], "d_model": 16, "n_head": 2, "d_head": 8, "d_inner": 32}),
    "longformer": (19, {**SMALL, "attention_window": 4}),
    "mobilebert": (20, {**SMALL, "embedding_size": 8, "intra_bottleneck_size": 16, "true_hidden_size": 16}),
    "modernbert": (20, SMALL),
    "mpnet": (18, SMALL),
    "nystromformer": (20, {**SMALL, "segment_means_seq_len": 20, "num_landmarks": 20}),
    "roberta": (19, SMALL),
    "roformer": (20, SMALL),
    "squeezebert": (20, {**SMALL, "embedding_size": 16, **dict.fromkeys(GROUPS, 1)}),
    "xlm": (20, {"emb_dim": 16, "n_layers": 2, "n_heads": 2}),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_positions_of_each_family_are_known(family: str) -> None:
    from transformers import CONFIG_MAPPING, AutoModelForSequenceClassification

    limit, sizes = FAMILIES[family]
    positions = {} if family == "funnel" else {"max_position_embeddings": 20}
    config = CONFIG_MAPPING[family](vocab_size=40, pad_token_id=0, **sizes, **positions)
    assert max_positions(config.to_dict()) == limit
    config.architectures = ["FunnelForSequenceClassification"]  # the only family with two classes
    model = AutoModelForSequenceClassification.from_config(config).eval()
    length = limit or 50
    with torch.no_grad():
        model(input_ids=torch.full((1, length), 7), attention_mask=torch.ones(1, length, dtype=torch.long))
        if limit is not None and family != "modernbert":  # its rotary positions have no table
            with pytest.raises((IndexError, RuntimeError)):
                model(
                    input_ids=torch.full((1, limit + 1), 7), attention_mask=torch.ones(1, limit + 1, dtype=torch.long)
                )


def test_every_family_that_counts_positions_from_the_padding_id_is_known() -> None:
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

    sources = Path(transformers.__file__).parent.glob("models/*/modeling_*.py")
    counting = {path.parent.name for path in sources if "def create_position_ids_from_input_ids" in path.read_text()}
    known = {family.replace("-", "_") for family in AFTER_PADDING} | {"data2vec"}
    classifiers = {name.replace("-", "_") for name in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES}
    assert (counting & classifiers) - {"layoutlmv3", "markuplm"} <= known  # these two need more than text


@pytest.mark.parametrize("family", ["mpnet", "squeezebert"])
def test_a_family_without_token_types_can_be_trained_and_used(pairs: Path, tmp_path: Path, family: str) -> None:
    from transformers import CONFIG_MAPPING, AutoModel

    shutil.copytree(pairs / "base", tmp_path / "base")
    limit, sizes = FAMILIES[family]
    config = CONFIG_MAPPING[family](vocab_size=40, pad_token_id=0, max_position_embeddings=20, **sizes)
    AutoModel.from_config(config).save_pretrained(tmp_path / "base")
    options = {"model": tmp_path / "base", "output_dir": str(tmp_path / "out"), **ONE_STEP}
    with pytest.raises(InputError, match=f"has positions for {limit} tokens, not for {limit + 1}"):
        run("finetune", pair_config(pairs, "finetune", "out", **options, data__max_seq_length=limit + 1))
    run("finetune", pair_config(pairs, "finetune", "out", **options, data__max_seq_length=limit))
    texts = [f"{'the film was ' * 20}\t{'very dull ' * 20}", "fine\tdull"]
    together, alone = (
        list(predict.run(str(tmp_path / "out"), texts)),
        list(predict.run(str(tmp_path / "out"), texts[1:])),
    )
    assert together[1]["confidence"] == pytest.approx(alone[0]["confidence"], abs=1e-5)


# -- the code on the model cards -----------------------------------------------------------------------------


def code_of(folder: Path) -> Any:
    """The first Python code of a card, compiled; if its last line is an expression, it is assigned to `result`."""
    match = re.search(r"```python\n(.*?)\n```", (folder / "README.md").read_text(), re.DOTALL)
    assert match
    lines = match[1].split("\n")
    assignment = "" if "=" in lines[-1].partition("(")[0] or lines[-1].startswith(" ") else "result = "
    return compile("\n".join([*lines[:-1], f"{assignment}{lines[-1]}"]), str(folder), "exec")


def test_the_code_on_the_card_of_a_pair_model_predicts_as_predict(pairs: Path, tmp_path: Path) -> None:
    loose = {"min_agreement": 0.0, "max_metric_drop": 1.0}
    run("export", pair_config(pairs, "export", "export", model=pairs / "model", verify=loose))
    (expected,) = predict.run(str(pairs / "model"), ["Better than it looks.\tIt looks bad."])
    values: dict[str, Any] = {}
    exec(code_of(pairs / "model"), values)
    assert values["result"]["score"] == pytest.approx(expected["confidence"], abs=1e-5)
    exec(code_of(pairs / "export"), values)
    probabilities = dict(zip(values["labels"], values["probabilities"][0].tolist(), strict=True))
    assert probabilities == pytest.approx(expected["probabilities"], abs=1e-4)


def test_long_text_of_taggers_is_read_to_its_end_everywhere(left: Path, tmp_path: Path) -> None:
    rows = [{"tokens": row["text"].split()} for row in sentences("train")]
    tagged = [{**row, "tags": ["B-GOOD" if word in GOOD else "O" for word in row["tokens"]]} for row in rows]
    for split in ("train", "validation"):
        write_rows(tmp_path / "data" / f"{split}.jsonl", tagged)
    columns = {"data__text_column_names": "tokens", "data__label_column_name": "tags", "data__doc_stride": 3}
    files = {"data__test_file": None, "data__unlabeled_file": None}
    config = make_config(
        "finetune", tmp_path / "data", tmp_path / "out", task="token-classification", model=left / "base", **files,
        **columns, training__num_train_epochs=8.0,
    )  # fmt: skip
    run("finetune", config)
    predictor = load_predictor(str(tmp_path / "out"))
    assert predictor.inputs == tasks.ModelInputs(16, "left", ("tokens",), 3)
    words = [*["the", "film"] * 12, *GOOD]
    (output,) = predictor.predict([" ".join(words)])
    assert output["prediction"][-1]["text"] == GOOD[-1]
    encoded = predictor.task.encode(tasks.base.Rows({"tokens": [words]}, (("a", 1),)), config.data, predictor.tokenizer)
    examples = data.Examples.of(encoded)
    logits = loops.predict_all(predictor.module, examples, data.sorted_batches(examples.lengths, 1))
    scores = np.exp(logits).max(-1) / np.exp(logits).sum(-1)
    assert output["confidence"] == pytest.approx(scores.mean(), abs=1e-5)
    values: dict[str, Any] = {}
    exec(code_of(tmp_path / "out"), values)
    assert values["tagger"](" ".join(words))[-1]["word"] == GOOD[-1]


@pytest.mark.parametrize(
    ("file", "name", "value"),
    [
        ("config.json", "tinybert_text_columns", "text"),
        ("config.json", "tinybert_text_columns", ["a", "b", "c"]),
        ("tokenizer_config.json", "model_max_length", 2),
        ("tokenizer_config.json", "model_max_length", "long"),
        ("tokenizer_config.json", "truncation_side", "middle"),
    ],
)
def test_an_unusable_record_is_an_error_that_names_it(
    left: Path, tmp_path: Path, file: str, name: str, value: Any
) -> None:
    folder = Path(shutil.copytree(left / "export", tmp_path / "export"))
    (folder / "manifest.json").unlink()  # which would reject the edit
    edit_json(folder / file, **{name: value})
    with pytest.raises(InputError, match=f"`{name}` of the model has an unusable value"):
        load_predictor(str(folder))


def test_a_pair_in_the_other_order_than_in_training_is_a_warning() -> None:
    inputs = tasks.ModelInputs(128, "right", ("premise", "hypothesis"), None)
    (warning,) = inputs.check(Data(text_column_names=["hypothesis", "premise"]), "model")
    assert warning.endswith("this run reads them in the other order: check data.text_column_names")
    assert inputs.check(Data(text_column_names=["premise", "hypothesis"]), "model") == []
    assert inputs.check(Data(text_column_names=["sentence1", "sentence2"]), "model") == []  # of other data


@pytest.mark.parametrize(
    ("family", "length", "warns"),
    [
        ("convbert", 128, True), ("funnel", 128, True), ("nystromformer", 128, True), ("bert", 128, False),
        ("big_bird", 705, True), ("big_bird", 704, False),
    ],
)  # fmt: skip
def test_a_family_that_reads_padding_is_a_warning(family: str, length: int, warns: bool) -> None:
    inputs = tasks.read_model_inputs({"model_type": family}, {"model_max_length": length})
    warnings = inputs.check(Data(text_column_names="text"), "model")
    assert [("reads padding" in warning and "per_device_eval_batch_size: 1" in warning) for warning in warnings] == (
        [True] if warns else []
    )
