"""The service of docs/integrations.md, with FastAPI's TestClient: `make test-spacy` installs it."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from conftest import run

pytest.importorskip("fastapi")
pytest.importorskip("httpx")
pytestmark = pytest.mark.spacy

PAGE = Path(__file__).parents[1] / "docs" / "integrations.md"
LONG = "a very lovely film " * 6000  # 114,000 characters


@pytest.fixture(scope="module")
def client(finished_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from conftest import make_config
    from fastapi.testclient import TestClient

    folder = tmp_path_factory.mktemp("service") / "export"
    settings = {"model": finished_runs / "teacher", "verify": {"min_agreement": 0.5, "max_metric_drop": 1.0}}
    run("export", make_config("export", finished_runs / "data", folder, **settings))
    (code,) = re.findall(r"```python\n# service.py\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code.replace("runs/mine/export", str(folder)), "service.py", "exec", dont_inherit=True), names)
    return TestClient(names["app"])


def post(client: Any, texts: Any) -> tuple[int, Any]:
    response = client.post("/predict", json={"texts": texts})
    return response.status_code, response.json()


def test_answer_is_one_prediction_per_text_in_order(client: Any) -> None:
    status, predictions = post(client, ["a lovely film .", "dull plot", "a lovely film ."])
    assert status == 200 and [one["text"] for one in predictions] == ["a lovely film .", "dull plot", "a lovely film ."]
    assert [one["prediction"] for one in predictions] == ["good", "bad", "good"]


def test_a_thousand_texts_are_one_request(client: Any) -> None:
    status, predictions = post(client, ["a warm film"] * 1000)
    assert status == 200 and len(predictions) == 1000
    assert post(client, ["a warm film"] * 1001)[0] == 422


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([["a film", "a plot"]], "text 1 is two texts, but the model takes one text"),
        (["a film", ""], "text 2 is empty"),
        (["a film", " \t"], "text 2 is empty"),
        ([], "at least 1 item"),
        ("a film", "valid list"),
        ([1], "valid string"),
        ([["a", "b", "c"]], "at most 2 items"),
    ],
)
def test_request_of_the_wrong_shape_is_an_error_that_says_so(texts: Any, message: str, client: Any) -> None:
    status, answer = post(client, texts)
    assert status == 422 and message in str(answer)


def test_long_text_is_cut_and_answered(client: Any) -> None:
    status, (prediction,) = post(client, [LONG])
    assert status == 200 and prediction["prediction"] in ("good", "bad")


def test_threads_get_the_answers_of_one_thread(client: Any) -> None:
    texts = [[LONG[:300], "dull plot"], ["warm"], ["a lovely film ."] * 40] * 6
    expected = [post(client, one) for one in texts]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda one: post(client, one), texts)) == expected
