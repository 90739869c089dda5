"""The page of an evaluation shows what was found, in a browser too."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tinybert_cli.reports.evaluation_html import Evaluation, as_html

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def numbers(accuracy: float, **more: float) -> dict[str, float]:
    spread = {"accuracy_low": accuracy - 0.02, "accuracy_high": accuracy + 0.02}
    slices = {"accuracy[label=bad]": accuracy - 0.1, "accuracy[label=good]": accuracy + 0.1}
    sure = {"ece": 0.05, "ece_scaled": 0.02, "brier": 0.2, "brier_scaled": 0.18, "temperature": 1.4}
    return {
        "accuracy": accuracy,
        "bytes": 9e7 * accuracy,
        "latency_ms_b1": 20 * accuracy,
        **spread,
        **slices,
        **sure,
        **more,
    }


DIFFERENCE = {
    "accuracy_difference": -0.1, "accuracy_difference_low": -0.15, "accuracy_difference_high": -0.05, "rows_lost": 2,
    "rows_won": 1, "mcnemar_p": 0.03, "retention": 0.89, "agreement": 0.9,
}  # fmt: skip
FOUND = Evaluation(
    title="eval", lead="4 rows of test.", metric="accuracy", sliced="accuracy", more_is_better=True, reference="teacher",
    models={"teacher": numbers(0.9), "<student>": numbers(0.8, **DIFFERENCE)},
    answers={"teacher": ([0.9, 0.8, 0.7, 0.6], [True] * 4), "<student>": ([0.9, 0.6, 0.7, 0.8], [True, False] * 2)},
    classes=["bad", "good"],
    confusions={"teacher": [[2, 0], [0, 2]], "<student>": [[1, 1], [1, 1]]},
    slices={"label=bad": 2, "label=good": 2},
    mistakes={
        "model": ["<student>"] * 2, "row": [3, 1], "text": ["No <b>fun</b>.", "Fine."], "label": ["bad", "good"],
        "prediction": ["good", "bad"], "confidence": [0.8, 0.6],
    },
    curves={"<student>": [{"event": "train", "step": 1, "loss": 0.7}, {"event": "train", "step": 2, "loss": 0.5}]},
)  # fmt: skip


def test_every_part_is_there_and_names_are_text() -> None:
    pytest.importorskip("matplotlib")
    text = as_html(FOUND)
    for title in ("Models", "Quality against cost", "Where it hurts", "confidence", "Gold labels", "Lost", "Training"):
        assert title in text
    assert "&lt;student&gt;" in text and "<student>" not in text
    assert "No &lt;b&gt;fun&lt;/b&gt;." in text
    assert "the difference is no accident" in text


def test_a_difference_whose_interval_holds_zero_is_none_that_can_be_told() -> None:
    pytest.importorskip("matplotlib")
    unsure = numbers(0.89, **{**DIFFERENCE, "accuracy_difference_high": 0.01})
    assert "no difference can be told" in as_html(replace(FOUND, models={"teacher": numbers(0.9), "b": unsure}))


def test_a_single_model_needs_no_other() -> None:
    pytest.importorskip("matplotlib")
    alone: dict[str, Any] = {"models": {"teacher": numbers(0.9)}, "confusions": {}, "curves": {}}
    assert "There is no other model." in as_html(replace(FOUND, **alone))


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 400])
def test_a_browser_draws_the_page(width: int, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip("no headless browser here")
    from PIL import Image

    (tmp_path / "report.html").write_text(as_html(FOUND), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
               "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'user'}"]  # fmt: skip
    shot = tmp_path / "page.png"
    done = subprocess.run(
        [browser, *options, f"--window-size={width},2400", f"--screenshot={shot}", (tmp_path / "report.html").as_uri()],
        capture_output=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0 and shot.is_file()
    with Image.open(shot) as picture:
        colours = picture.convert("RGB").resize((200, 480)).getcolors(200 * 480) or []
    paper = max(count for count, _ in colours)
    assert paper < 0.97 * 200 * 480 and len(colours) > 50  # text and pictures, not a blank or a bare error page
