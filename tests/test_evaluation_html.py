"""The evaluation page contains all sections and is rendered by a browser."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tinybert_cli.reports.evaluation_html import Evaluation, as_html, with_exports

SECTIONS = (
    "Models",
    "Quality vs. cost",
    "Accuracy by slice",
    "Calibration",
    "Confusion matrix (rows: gold, columns: predicted)",
    "Regressions: rows on which a model scores less than the reference",
    "Training",
)
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def metrics(accuracy: float, **more: float) -> dict[str, float]:
    interval = {"accuracy_low": accuracy - 0.02, "accuracy_high": accuracy + 0.02}
    slices = {"accuracy[label=bad]": accuracy - 0.1, "accuracy[label=good]": accuracy + 0.1}
    calibration = {"ece": 0.05, "ece_scaled": 0.02, "brier": 0.2, "brier_scaled": 0.18, "temperature": 1.4}
    return {
        "accuracy": accuracy,
        "bytes": 9e7 * accuracy,
        "latency_ms_b1": 20 * accuracy,
        **interval,
        **slices,
        **calibration,
        **more,
    }


DIFFERENCE = {
    "accuracy_difference": -0.1, "accuracy_difference_low": -0.15, "accuracy_difference_high": -0.05, "rows_lost": 2,
    "rows_won": 1, "mcnemar_p": 0.03, "retention": 0.89, "agreement": 0.9,
}  # fmt: skip
EVALUATION = Evaluation(
    title="eval", lead="4 rows of test.", metric="accuracy", slice_metric="accuracy", more_is_better=True, reference="teacher",
    models={"teacher": metrics(0.9), "<student>": metrics(0.8, **DIFFERENCE)},
    confidences={"teacher": ([0.9, 0.8, 0.7, 0.6], [True] * 4), "<student>": ([0.9, 0.6, 0.7, 0.8], [True, False] * 2)},
    classes=["bad", "good"],
    confusion_matrices={"teacher": [[2, 0], [0, 2]], "<student>": [[1, 1], [1, 1]]},
    slice_sizes={"label=bad": 2, "label=good": 2},
    regressions={
        "model": ["<student>"] * 2, "row": [3, 1], "text": ["No <b>fun</b>.", "Fine."], "label": ["bad", "good"],
        "prediction": ["good", "bad"], "confidence": [0.8, 0.6],
    },
    training_logs={"<student>": [{"event": "train", "step": 1, "loss": 0.7}, {"event": "train", "step": 2, "loss": 0.5}]},
)  # fmt: skip


def test_all_sections_are_present_and_names_are_escaped() -> None:
    pytest.importorskip("matplotlib")
    text = as_html(EVALUATION)
    for title in SECTIONS:
        assert f"<h2>{title}</h2>" in text
    assert "&lt;student&gt;" in text and "<student>" not in text
    assert "No &lt;b&gt;fun&lt;/b&gt;." in text
    assert ">significant (95 %)</td>" in text


def test_a_difference_whose_interval_contains_zero_is_not_significant() -> None:
    pytest.importorskip("matplotlib")
    similar = metrics(0.89, **{**DIFFERENCE, "accuracy_difference_high": 0.01})
    assert ">not significant (95 %)</td>" in as_html(
        replace(EVALUATION, models={"teacher": metrics(0.9), "b": similar})
    )


@pytest.mark.parametrize(
    ("key", "title"),
    [("mcnemar_p", "McNemar p"), ("wilcoxon_p", "Wilcoxon p"), ("accuracy_p", "bootstrap p"), ("", "")],
)
def test_the_differences_have_the_paired_test_of_the_task(key: str, title: str) -> None:
    pytest.importorskip("matplotlib")
    own = {name: value for name, value in DIFFERENCE.items() if name != "mcnemar_p"}
    text = as_html(replace(EVALUATION, models={"teacher": metrics(0.9), "b": metrics(0.8, **own, **{key: 0.0312})}))
    assert (f">{title}</th>" in text and ">0.0312</td>" in text) if key else (" p</th>" not in text)


def test_the_page_says_which_intervals_it_shows() -> None:
    pytest.importorskip("matplotlib")
    without = {name: value for name, value in metrics(0.9).items() if not name.endswith(("_low", "_high"))}
    assert "intervals (of shares of rows Wilson&#x27;s, else from resampled rows)" in as_html(EVALUATION)
    assert "intervals" not in as_html(replace(EVALUATION, models={"teacher": without, "b": without}))


def test_a_page_of_a_single_model() -> None:
    pytest.importorskip("matplotlib")
    changes: dict[str, Any] = {"models": {"teacher": metrics(0.9)}, "confusion_matrices": {}, "training_logs": {}}
    assert "No other model was evaluated." in as_html(replace(EVALUATION, **changes))


def test_validation_loss_is_beside_the_training_loss() -> None:
    pytest.importorskip("matplotlib")
    log = [*EVALUATION.training_logs["<student>"], {"event": "evaluate", "step": 2, "loss": 0.6, "accuracy": 0.8}]
    text = as_html(replace(EVALUATION, training_logs={"a": log}))
    assert "a: 0.7 to 0.5; a, validation: 0.6 to 0.6</desc>" in text


def test_a_finished_export_is_a_row_whose_score_is_estimated() -> None:
    pytest.importorskip("matplotlib")
    export = {"accuracy": 0.78, "bytes": 2e7, "latency_ms_b1": 1.0}
    text = as_html(replace(EVALUATION, exports={"export (of student)": export}))
    assert re.search(r"export \(of student\)</th><td[^>]*>~0\.7800</td>", text)
    assert text.count("export (of student): ") == 2  # in both plots of quality vs. cost


def test_exports_that_are_finished_later_are_added_to_the_page_once() -> None:
    pytest.importorskip("matplotlib")
    with_export = replace(EVALUATION, exports={"export (of student)": {"accuracy": 0.78, "bytes": 2e7}})
    page = with_exports(as_html(EVALUATION), with_export)
    assert page == as_html(with_export) == with_exports(page, with_export)
    assert with_exports("<html>edited</html>", with_export) == "<html>edited</html>"


def test_baselines_are_lines_that_do_not_stretch_the_axis_of_costs() -> None:
    pytest.importorskip("matplotlib")
    majority = metrics(0.5, bytes=45.0, latency_ms_b1=0.0005)
    text = as_html(replace(EVALUATION, models={**EVALUATION.models, "majority": majority}, baselines=["majority"]))
    descriptions = re.findall(r"<desc[^>]*>([^<]*)</desc>", text)[:2]
    assert all(description.endswith("; majority: 0.5") for description in descriptions)
    assert "Dashed: baselines without a neural network." in text and ">0.001<" not in text


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 400])
def test_a_browser_renders_the_page(width: int, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip("no headless browser here")
    from PIL import Image

    (tmp_path / "report.html").write_text(as_html(EVALUATION), encoding="utf-8")
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
    assert paper < 0.97 * 200 * 480 and len(colours) > 50  # text and plots, not a blank page or an error page
