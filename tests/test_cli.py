"""The command line: help, errors, exit codes, streams."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tinybert_cli import cli

ROOT = Path(__file__).parents[1]
HEAVY = (
    "torch",
    "transformers",
    "datasets",
    "accelerate",
    "scipy",
    "sklearn",
    "pandas",
    "pyarrow",
    "onnx",
    "matplotlib",
)


def tinybert(*words: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tinybert_cli", *words],
        capture_output=True, text=True, cwd=cwd, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120", **environment},
    )  # fmt: skip


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a few rows and a config that is complete except for its model."""
    folder = tmp_path_factory.mktemp("cli")
    rows = [{"text": f"a {word} day number {i}", "label": label} for i in range(6)
            for word, label in (("good", "positive"), ("bad", "negative"))]  # fmt: skip
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "finetune.yaml").write_text(
        "task: text-classification\ndata:\n  train_file: train.jsonl\n  label_names: [negative, positive]\n"
        "model: no/such-folder/at-all\noutput_dir: out\n"
    )
    return folder


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("tinybert distill configs/demo/3", ["configs/demo/3-student.yaml"]),
        ("tinybert distill configs/demo/3-student.yaml training.learning", ["training.learning_rate="]),
        ("tinybert export configs/demo/8-export.yaml verify.min", ["verify.min_agreement="]),
        ("tinybert run configs/demo verify.min", ["verify.min_agreement="]),
        ("tinybert run configs/de", ["configs/demo/"]),
    ],
)
def test_completion_offers_config_files_then_settings(words: str, offered: list[str]) -> None:
    done = tinybert(_TINYBERT_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(len(words.split()) - 1))
    assert done.stdout.split() == offered


def test_help_lists_every_command() -> None:
    done = tinybert("-h")
    assert done.returncode == 0
    assert all(name in done.stdout for name in ("finetune", "gen-soft-labels", "distill", "eval", "export", "schema"))


def test_an_unknown_command_exits_with_2() -> None:
    assert tinybert("distil", "x.yaml").returncode == 2


def test_a_command_without_a_config_shows_the_usage() -> None:
    done = tinybert("finetune")
    assert done.returncode == 2
    assert "tinybert finetune FILE.yaml" in done.stderr


def test_a_missing_config_exits_with_3_and_a_hint() -> None:
    done = tinybert("finetune", "configs/demo/1-teecher.yaml")
    assert done.returncode == 3
    assert "configs/demo/1-teacher.yaml" in done.stderr


def test_all_config_errors_are_reported_at_once_with_locations(reviews: Path) -> None:
    bad = reviews / "bad.yaml"
    bad.write_text(
        "task: text-clasification\ndata:\n  train_file: train.jsonl\nmodel: x\n"
        "training:\n  learnin_rate: 5e-5\n  keep: worst\noutput_dir: out\n"
    )
    done = tinybert("finetune", "bad.yaml", cwd=reviews)
    assert done.returncode == 2
    assert "--> bad.yaml:6:3" in done.stderr and "did you mean 'learning_rate'?" in done.stderr
    assert "bad.yaml:7:9" in done.stderr
    assert "did you mean 'text-classification'?" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_loss_option_is_reported_before_models_are_loaded(reviews: Path) -> None:
    (reviews / "distill.yaml").write_text(
        "task: text-classification\ndata: {}\nlabel_dataset: nowhere\nstudent: nowhere\n"
        "losses:\n  soft_labels: {temprature: 4}\noutput_dir: out\n"
    )
    done = tinybert("distill", "distill.yaml", cwd=reviews)
    assert done.returncode == 2
    assert "distill.yaml:6:17" in done.stderr and "did you mean 'temperature'?" in done.stderr


ERRORS = {
    "finetune": "task: regresion\ndata: {}\nmodel: {from: x, preset: tinybert-4l}\nlabel_dataset: x\n",
    "gen-soft-labels": "task: regression\ndata: {}\nteacher: x\nstates: [hidden_state, atentions]\nteacher_weights: [1, 2]\n",
    "distill": "task: question-answering\ndata: {}\nlabel_dataset: x\nstudent: x\nlosses:\n"
    "  soft_lables: 1\n  hard_labels: {label_smoothing: 2, class_weight: none}\n",
    "eval": "task: regression\ndata: {}\nmodels: {a: x}\nmetrics: [persn]\nreference: b\nrequire: {b: {f: 1}}\n",
    "export": "task: regression\ndata: {}\nmodel: x\nformat: safetensors\nopset: 17\nverify: {atol: 1.0}\n",
}
EXPECTED = {
    "finetune": ["a.yaml:1:7", "a.yaml:3:26"],
    "gen-soft-labels": ["a.yaml:4:10", "a.yaml:4:24", "a.yaml:5:18"],
    "distill": ["a.yaml:6:3", "a.yaml:7:34", "a.yaml:7:37"],
    "eval": ["a.yaml:4:11", "a.yaml:5:12", "a.yaml:6:11", "a.yaml:6:15"],
    "export": ["a.yaml:5:8", "a.yaml:6:16"],
}


@pytest.mark.parametrize("command", ERRORS)
def test_all_config_errors_are_reported_without_importing_torch(command: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"{ERRORS[command]}output_dir: o\n")
    code = (
        "import sys; from tinybert_cli.cli import app; import atexit\n"
        f"atexit.register(lambda: print([name for name in {HEAVY!r} if name in sys.modules]))\n"
        f"app([{command!r}, 'a.yaml'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 2 and done.stdout == "[]\n", done.stderr
    assert [line.split("--> ")[1] for line in done.stderr.splitlines() if "--> " in line] == EXPECTED[command]


def test_a_config_of_another_stage_is_recognised() -> None:
    done = tinybert("finetune", "configs/demo/8-export.yaml")
    assert done.returncode == 2
    assert "error: this is an export config\n" in done.stderr
    assert "run: tinybert export configs/demo/8-export.yaml" in done.stderr


def test_a_missing_model_exits_with_3_and_writes_nothing(reviews: Path) -> None:
    done = tinybert("finetune", "--config", "finetune.yaml", cwd=reviews)
    assert done.returncode == 3
    assert "no/such-folder/at-all" in done.stderr
    assert not (reviews / "out").exists()


def test_a_hub_id_without_network_shows_how_to_download(reviews: Path) -> None:
    done = tinybert("finetune", "finetune.yaml", "model=example-org/no-such-model", cwd=reviews, HF_HUB_OFFLINE="1",
                    HF_HOME=str(reviews / "empty-cache"))  # fmt: skip
    assert done.returncode == 3
    assert "hf download example-org/no-such-model" in done.stderr


def test_json_prints_one_object_even_for_an_error(reviews: Path) -> None:
    done = tinybert("finetune", "finetune.yaml", "--json", cwd=reviews)
    result = json.loads(done.stdout)
    assert result["status"] == "error" and result["exit_code"] == done.returncode == 3


def test_output_in_a_pipe_has_no_escape_codes(reviews: Path) -> None:
    done = tinybert("finetune", "finetune.yaml", cwd=reviews)
    assert "\x1b" not in done.stdout + done.stderr and "\r" not in done.stderr


def test_schema_prints_one_setting() -> None:
    done = tinybert("schema", "distill", "losses.soft_labels.temperature")
    assert done.returncode == 0 and "default 2.0" in done.stdout


def test_the_reference_is_a_page_of_all_stages() -> None:
    assert tinybert("schema", "--markdown").stdout == (ROOT / "docs" / "reference.md").read_text()
    assert tinybert("schema", "distill", "--markdown").returncode == 2


# -- shells and pipes ------------------------------------------------------------------------------------------


def test_an_option_of_another_tool_hints_at_the_setting(reviews: Path) -> None:
    done = tinybert("finetune", "finetune.yaml", "--learning-rate", "3e-5", cwd=reviews)
    assert done.returncode == 2
    assert "did you mean 'training.learning_rate=3e-5'?" in done.stderr


def test_an_option_before_the_config_exits_with_2() -> None:
    done = tinybert("finetune", "--learning-rate", "3e-5", "configs/demo/1-teacher.yaml")
    assert done.returncode == 2 and "config first" in done.stderr


def shell(words: str) -> subprocess.CompletedProcess[str]:
    line = f"set -o pipefail; {sys.executable} -m tinybert_cli {words}"
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=ROOT, timeout=60)


def test_a_closed_pipe_ends_the_output_without_an_error() -> None:
    done = shell("schema finetune | head -1")
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.count("\n") == 1


def test_closed_standard_streams_are_accepted() -> None:
    assert shell("schema finetune >&- 2>&-").returncode == 0


def test_a_file_without_read_permission_exits_with_3(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "/data/train.jsonl")

    options = dict.fromkeys(("dry_run", "force", "as_json", "quiet", "verbose"), False)
    monkeypatch.setattr("tinybert_cli.configuration.load", forbidden)
    assert cli.execute("eval", Path("eval.yaml"), [], **options) == 3
    assert capsys.readouterr().err == "error: cannot open '/data/train.jsonl': permission denied\n"
