"""Errors: message, location, hint and exit code."""

from __future__ import annotations

import signal

import pytest

from tinybert_cli import errors
from tinybert_cli.errors import ConfigError, UserError

TABLE = {"soft_labels": 1, "hard_labels": 2}


def test_message_has_location_and_hint_on_separate_lines() -> None:
    error = UserError("no such row", where="train.csv:7", hint="delete it")
    assert str(error) == "no such row\n  --> train.csv:7\n   = delete it"


def test_message_without_location_and_hint_is_one_line() -> None:
    assert str(UserError("no such row")) == "no such row"


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("UserError", 1),
        ("ConfigError", 2),
        ("ConfigErrors", 2),
        ("InputError", 3),
        ("OutputError", 4),
        ("GateError", 5),
    ],
)
def test_each_kind_has_its_exit_code(kind: str, code: int) -> None:
    error = getattr(errors, kind)("what")
    assert isinstance(error, UserError)
    assert error.exit_code == code


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interruption_has_the_exit_code_of_the_signal(signum: int, code: int) -> None:
    assert errors.Interrupted(signum, "stopped").exit_code == code


def test_known_name_is_looked_up() -> None:
    assert errors.look_up(TABLE, "hard_labels", "loss") == 2


def test_misspelt_name_hints_at_the_most_similar_one() -> None:
    with pytest.raises(ConfigError) as caught:
        errors.look_up(TABLE, "soft_lables", "loss", key=("losses", "soft_lables"))
    assert caught.value.what == "unknown loss 'soft_lables'"
    assert caught.value.hint == "did you mean 'soft_labels'?"
    assert caught.value.key == ("losses", "soft_lables")


def test_dissimilar_name_hints_at_the_list_of_names() -> None:
    with pytest.raises(ConfigError) as caught:
        errors.look_up(TABLE, "mse", "loss")
    assert caught.value.hint == "one of: soft_labels, hard_labels"
