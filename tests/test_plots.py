"""The same numbers give the same picture, which everybody can read, and no name can break."""

from __future__ import annotations

import re
from collections.abc import Callable
from xml.etree import ElementTree

import pytest

from tinybert_cli.reports import html, plots

matplotlib = pytest.importorskip("matplotlib")

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = '</text><script>alert("1")</script> & $x^2$ \x07 _中'
DRAW: dict[str, Callable[[str], str]] = {
    "tradeoff": lambda name: plots.tradeoff({name: (2.0, 0.8, 0.7, 0.9), "other": (4.0, 0.9)}, name, name),
    "curves": lambda name: plots.curves({name: ([1, 2], [3.0, 2.0]), "other": ([1, 2], [2.0, 2.0])}, name, name),
    "reliability": lambda name: plots.reliability({name: ([0.6, 0.9], [False, True])}),
    "confusion": lambda name: plots.confusion([[3, 1], [0, 4]], [name, "other"]),
    "bars": lambda name: plots.bars({name: 0.5, "other": (0.7, 0.6, 0.8)}, name, reference=0.6),
}
every_plot = pytest.mark.parametrize("draw", DRAW.values(), ids=DRAW)


def words(svg: str) -> str:
    """The description of the picture."""
    said = ElementTree.fromstring(svg).find(f"{SVG}desc")
    assert said is not None and said.text
    return said.text


@every_plot
def test_the_same_numbers_give_the_same_text(draw: Callable[[str], str]) -> None:
    first = draw("mine")
    assert draw("mine") == first != draw("yours")
    assert "<metadata" not in first and not re.search(r"20\d\d-\d\d", first)


@every_plot
def test_a_hostile_name_stays_a_name(draw: Callable[[str], str]) -> None:
    root = ElementTree.fromstring(draw(HOSTILE))
    assert not [node for node in root.iter() if node.tag.endswith("script")]
    assert any("$x^2$" in (node.text or "") for node in root.iter() if node.tag in (f"{SVG}text", f"{SVG}desc"))


@every_plot
def test_a_picture_says_what_it_shows_and_fetches_nothing(draw: Callable[[str], str]) -> None:
    root = ElementTree.fromstring(draw("mine"))
    ids = [node.get("id") for node in root.iter() if node.get("id")]
    assert root.get("role") == "img" and set((root.get("aria-labelledby") or "").split()) <= set(ids)
    assert len(ids) == len(set(ids))
    links = [value for node in root.iter() for name, value in node.items() if name.endswith("href")]
    assert all(link.startswith("#") and link[1:] in ids for link in links)


@every_plot
def test_names_are_text_in_the_font_of_the_page(draw: Callable[[str], str]) -> None:
    texts = list(ElementTree.fromstring(draw("mine")).iter(f"{SVG}text"))
    assert texts and all("system-ui" in (node.get("style") or "") for node in texts)
    assert any((node.text or "").strip() == "mine" for node in texts)


@every_plot
def test_every_colour_is_one_that_the_page_sets(draw: Callable[[str], str]) -> None:
    svg = draw("mine")
    assert not re.findall(r"(?:fill|stroke): #", svg)
    used = set(re.findall(r"var\(--([\w-]+), #", svg))
    light, dark = html.document("", []).split("prefers-color-scheme: dark")
    assert used and all(f"--{name}:" in light and f"--{name}:" in dark for name in used)


def test_drawing_leaves_the_settings_of_others_alone() -> None:
    before = dict(matplotlib.rcParams)
    DRAW["tradeoff"]("mine")
    assert dict(matplotlib.rcParams) == before


def test_the_front_is_what_no_other_model_beats() -> None:
    points = {
        "small": (1, 0.5),
        "worse": (2, 0.4),
        "medium": (3, 0.7),
        "as good but dearer": (4, 0.7),
        "large": (5, 0.9),
    }
    assert plots.front(points) == ["small", "medium", "large"]
    assert plots.front(points, more_is_better=False) == ["small", "worse"]
    assert words(plots.tradeoff(points, "ms", "accuracy")).startswith(
        "small: 1, 0.5; medium: 3, 0.7; large: 5, 0.9; worse"
    )


def test_every_model_on_the_front_has_its_name_however_crowded() -> None:
    points = {f"model {index}": (10 + index / 100, 0.5 + index / 1000) for index in range(40)}
    texts = [node.text for node in ElementTree.fromstring(plots.tradeoff(points, "ms", "accuracy")).iter(f"{SVG}text")]
    assert set(points) <= set(texts)


def test_costs_far_apart_are_shown_in_powers() -> None:
    def labels(dearest: float) -> list[str | None]:
        svg = plots.tradeoff({"a": (1.0, 0.5), "b": (dearest, 0.9)}, "MB", "accuracy")
        return [node.text for node in ElementTree.fromstring(svg).iter(f"{SVG}text")]

    assert {"1", "10", "100"} <= set(labels(200.0)) and {"0.0", "10.0"} <= set(labels(20.0))


def test_reliability_is_counted_in_bins_of_equal_width() -> None:
    sure = [0.52, 0.58, 0.91, 0.97, 1.0, 0.99]
    svg = plots.reliability({"mine": (sure, [True, False, True, True, True, False])}, bins=10)
    assert words(svg) == "mine: 0.55 sure, 0.50 right, 0.97 sure, 0.75 right"


def test_a_confusion_matrix_says_count_and_share_of_its_row() -> None:
    svg = plots.confusion([[30, 10], [0, 0]], ["bad", "good"])
    texts = [node.text for node in ElementTree.fromstring(svg).iter(f"{SVG}text")]
    assert {"30", "75%", "10", "25%"} <= set(texts) and words(
        svg
    ) == "gold bad: bad 30, good 10; gold good: bad 0, good 0"
    with pytest.raises(ValueError, match="zip"):
        plots.confusion([[1, 2, 3], [1, 2, 3]], ["bad", "good"])


def test_a_matrix_of_many_classes_stays_small() -> None:
    classes = 60
    matrix = [[9 if gold == said else 0 for said in range(classes)] for gold in range(classes)]
    assert len(plots.confusion(matrix, [f"class {index}" for index in range(classes)])) < 150_000


def test_a_legend_of_long_names_stays_inside_the_picture() -> None:
    names = [f"a rather long name of model {number}" for number in range(4)]
    svg = plots.reliability({name: ([0.6, 0.9], [False, True]) for name in names})
    root = ElementTree.fromstring(svg)
    width = float((root.get("viewBox") or "").split()[2])
    begins = [float(node.get("x") or 0) for node in root.iter(f"{SVG}text") if node.text in names]
    assert len(begins) == 4 and max(begins) + 4 * len(names[0]) < width  # 4: less than a letter is wide
