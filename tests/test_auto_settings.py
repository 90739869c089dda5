"""Training settings that are `auto`: their values, where they are recorded and compared, and hints about a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Configs, run

from tinybert_cli import configuration
from tinybert_cli.artifacts import manifests
from tinybert_cli.config import Model, Training
from tinybert_cli.errors import OutputError, UserError
from tinybert_cli.stages import auto_settings, validation_scores
from tinybert_cli.stages.auto_settings import Start, auto_values, start_of

DEFAULTS: dict[str, Any] = {"training": {"per_device_train_batch_size": 8, "mixed_precision": "no"}}


def values(
    start: Start = "whole",
    *,
    steps_per_epoch: int = 10,
    hidden_size: int = 768,
    selects_best: bool = True,
    **given: Any,
) -> dict[str, Any]:
    training = Training(**given)
    resolved = auto_values(
        training, start, steps_per_epoch=steps_per_epoch, hidden_size=hidden_size, selects_best=selects_best
    )
    return {key.removeprefix("training."): value for key, value in resolved.items()}


@pytest.mark.parametrize(("rows", "epochs"), [(20, 100.0), (300, 60.0), (3_000, 7.0), (30_000, 3.0), (300_000, 3.0)])
def test_small_sets_get_600_steps_and_large_ones_three_epochs(rows: int, epochs: float) -> None:
    assert values(steps_per_epoch=-(-rows // 32))["num_train_epochs"] == epochs


def test_a_model_farther_from_its_goal_gets_more_steps_and_a_higher_rate() -> None:
    starts: tuple[Start, ...] = ("whole", "cut", "random")
    resolved = [values(start) for start in starts]
    assert [one["num_train_epochs"] for one in resolved] == [60, 80, 100]
    assert [one["learning_rate"] for one in resolved] == [4e-5, 8e-5, 2e-4]


@pytest.mark.parametrize(("hidden_size", "rate"), [(1024, 3e-5), (768, 4e-5), (384, 8e-5), (128, 2.4e-4)])
def test_a_smaller_model_gets_a_higher_rate(hidden_size: int, rate: float) -> None:
    assert values(hidden_size=hidden_size)["learning_rate"] == rate


@pytest.mark.parametrize(
    ("steps_per_epoch", "strategy"),
    [(100, {"eval_strategy": "epoch"}), (10, {"eval_strategy": "steps", "eval_steps": 30})],
)
def test_many_epochs_are_evaluated_about_20_times(steps_per_epoch: int, strategy: dict[str, Any]) -> None:
    resolved = values(steps_per_epoch=steps_per_epoch)
    assert {key: value for key, value in resolved.items() if key.startswith("eval")} == strategy


def test_eval_steps_alone_is_enough_to_evaluate_by_steps() -> None:
    assert values(eval_steps=7)["eval_strategy"] == "steps"


def test_patience_needs_a_best_checkpoint() -> None:
    assert values()["early_stopping_patience"] == 6
    assert values(selects_best=False)["early_stopping_patience"] is None


def test_given_settings_are_not_resolved() -> None:
    given = {"num_train_epochs": 2.0, "learning_rate": 1e-3, "eval_strategy": "epoch", "early_stopping_patience": None}
    assert values(**given) == {}


def test_max_steps_decides_the_number_of_evaluations() -> None:
    assert values(max_steps=5) | {"learning_rate": 0} == {
        "num_train_epochs": 0.5, "learning_rate": 0, "eval_strategy": "epoch", "early_stopping_patience": 6,
    }  # fmt: skip
    assert values(max_steps=1_000)["eval_steps"] == 50


@pytest.mark.parametrize(
    ("setting", "start"),
    [
        ({"from": "x"}, "whole"),
        ({"from": "x", "trim_vocabulary": True}, "whole"),
        ({"from": "x", "num_hidden_layers": 2}, "cut"),
        ({"from": "x", "preset": "bert-tiny"}, "cut"),
        ({"from": "x", "num_decoder_layers": 1}, "cut"),
        ({"from": "x", "num_hidden_layers": 2, "initialize": "random"}, "random"),
        ({"family": "marian"}, "random"),
    ],
)
def test_start_follows_from_the_shape(setting: dict[str, Any], start: str) -> None:
    assert start_of(Model.model_validate(setting)) == start


# -- in a run --------------------------------------------------------------------------------------------------


def with_training(config: Any, **settings: Any) -> Any:
    return config.model_copy(
        update={"training": Training(per_device_train_batch_size=8, mixed_precision="no", **settings)}
    )


@pytest.fixture
def auto_run(configs: Configs, teacher: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A config without epochs and learning rate, for 10 epochs of 12 steps."""
    monkeypatch.setitem(auto_settings.LEAST_STEPS, "whole", 120)
    return with_training(configs("finetune", "out", model=teacher))


def scored(patch: pytest.MonkeyPatch, *scores: tuple[float, float]) -> None:
    """Replaces the scores of the evaluations by these (accuracy, loss) and then the last of them."""
    first = iter(scores[:-1])

    def score(*_: Any) -> dict[str, float]:
        accuracy, loss = next(first, scores[-1])
        return {"accuracy": accuracy, "loss": loss}

    patch.setattr(validation_scores.ValidationScores, "scores", score)


def resolved_in_plan(rows: list[dict[str, Any]]) -> dict[str, Any]:
    plan: dict[str, Any] = next(row for row in rows if row["event"] == "plan")
    return dict(plan["resolved"])


def test_auto_values_are_in_plan_manifest_and_run_yaml(auto_run: Any, tmp_path: Path) -> None:
    rows = run("finetune", auto_run)
    resolved = resolved_in_plan(rows)
    assert resolved == {
        "num_train_epochs": 10.0, "learning_rate": 1.9e-3, "eval_strategy": "epoch", "early_stopping_patience": 6,
    }  # fmt: skip
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["resolved"] == {f"training.{name}": value for name, value in resolved.items()}
    assert manifest["settings"]["training"]["num_train_epochs"] == "auto"
    written = yaml.safe_load((tmp_path / "out" / "run.yaml").read_text())["training"]
    assert {name: written[name] for name in resolved} == resolved
    again = configuration.load("finetune", tmp_path / "out" / "run.yaml")
    assert run("finetune", again)[-1]["event"] == "up to date"
    assert run("finetune", auto_run)[-1]["event"] == "up to date"
    other = with_training(auto_run, learning_rate=1e-3)
    with pytest.raises(OutputError, match="learning_rate: auto before"):
        run("finetune", other)


def test_default_run_stops_after_6_evaluations_without_progress(auto_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    scored(monkeypatch, (0.5, 0.8), (0.9, 0.5), (0.8, 0.6))
    rows = run("finetune", auto_run)
    (stopped,) = (row for row in rows if row["event"] == "stopped")
    assert stopped == {"event": "stopped", "step": 8 * 12, "max_steps": 120, "evaluations": 6}
    assert [row["step"] for row in rows if row["event"] == "evaluate" and row["is_best"]] == [12, 24]


def test_layer_losses_alone_do_not_stop_early(teacher: Path, teacher_labels: Path, configs: Configs) -> None:
    config = configs("distill", "out", label_dataset=teacher_labels, student={"from": str(teacher)}, teacher=teacher,
                     losses={"hidden_states": 1.0})  # fmt: skip
    rows = list(run("distill", with_training(config, max_steps=2), dry_run=True))
    assert resolved_in_plan(rows)["early_stopping_patience"] is None


def test_run_that_ends_while_improving_names_a_longer_one(
    configs: Configs, base_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored(monkeypatch, (0.5, 0.9), (0.7, 0.5))
    rows = run("finetune", with_training(configs("finetune", "out", model=base_model), num_train_epochs=2.0))
    (improving,) = [row for row in rows if row["event"] == "improving"]
    assert improving == {"event": "improving", "step": 24, "setting": "training.num_train_epochs=4"}


def stop_in_last_scoring(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise UserError("stopped")

    with monkeypatch.context() as patch, pytest.raises(UserError, match="stopped"):
        patch.setattr(validation_scores.ValidationScores, "result", stop)
        run("finetune", config)


def test_a_resumed_run_keeps_the_values_it_started_with(
    auto_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_in_last_scoring(auto_run, monkeypatch)
    monkeypatch.setattr("tinybert_cli.stages.auto_settings.RATE", 1.0)
    rows = run("finetune", auto_run)
    assert resolved_in_plan(rows)["learning_rate"] == 1.9e-3 and rows[-1]["event"] == "done"


@pytest.mark.parametrize(("layers", "warned"), [(None, True), (2, False)], ids=["same size", "half"])
def test_a_student_as_large_as_its_teacher_is_a_warning(
    layers: int | None, warned: bool, teacher: Path, teacher_labels: Path, configs: Configs
) -> None:
    student = {"from": str(teacher), "num_hidden_layers": layers}
    for command, settings in (("distill", {"student": student}), ("finetune", {"model": student})):
        config = configs(command, "out", label_dataset=teacher_labels, **settings)
        messages = [row["message"] for row in run(command, config, dry_run=True) if row["event"] == "warning"]
        assert any("no smaller and no faster" in message for message in messages) == warned
        assert not warned or "num_hidden_layers: 2" in messages[-1]  # the remedy, which is the other case


# -- runs of earlier versions ----------------------------------------------------------------------------------

EARLIER = {"num_train_epochs": 3.0, "learning_rate": 5e-5, "eval_strategy": "epoch", "early_stopping_patience": None}


def of_earlier_version(config: Any, **settings: Any) -> dict[str, Any]:
    earlier = manifests.settings_of(with_training(config, **{**EARLIER, **settings}))
    return {"command": "finetune", "settings": earlier, "inputs": {}}


@pytest.mark.parametrize(
    ("recorded", "different"),
    [({}, []), ({"learning_rate": 1e-4}, ["training.learning_rate"])],
    ids=["default", "other"],
)
def test_a_default_of_an_earlier_version_is_the_same_as_auto(
    recorded: dict[str, Any], different: list[str], configs: Configs
) -> None:
    config = configs("finetune", "out", model="x")
    now = {"command": "finetune", "settings": manifests.settings_of(with_training(config)), "inputs": {}}
    lines = manifests.differences(of_earlier_version(config, **recorded), now)
    assert [line.split(":")[0] for line in lines] == different


def test_an_unfinished_run_of_an_earlier_version_resumes_with_its_values(
    auto_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_in_last_scoring(with_training(auto_run, **EARLIER), monkeypatch)
    started = tmp_path / "out" / "checkpoints" / "started.json"
    content = json.loads(started.read_text())
    del content["resolved"]
    started.write_text(json.dumps(content))
    rows = run("finetune", auto_run)
    assert resolved_in_plan(rows)["num_train_epochs"] == 3.0
    assert [row["step"] for row in rows if row["event"] == "resume"] == [36]
