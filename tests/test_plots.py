"""Plots are deterministic, accessible, and safe for any model name."""

from __future__ import annotations

import re
from collections.abc import Callable
from xml.etree import ElementTree

import pytest

from tinybert_cli.reports import html, plots

matplotlib = pytest.importorskip("matplotlib")

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = '</text><script>alert("1")</script> & $x^2$ \x07 _中'
PLOTS: dict[str, Callable[[str], str]] = {
    "tradeoff": lambda name: plots.tradeoff({name: (2.0, 0.8, 0.7, 0.9), "other": (4.0, 0.9)}, name, name),
    "curves": lambda name: plots.curves({name: ([1, 2], [3.0, 2.0]), "other": ([1, 2], [2.0, 2.0])}, name, name),
    "reliability_diagram": lambda name: plots.reliability_diagram({name: ([0.6, 0.9], [False, True])}),
    "confusion_matrix": lambda name: plots.confusion_matrix([[3, 1], [0, 4]], [name, "other"]),
    "bars": lambda name: plots.bars({name: 0.5, "other": (0.7, 0.6, 0.8)}, name, reference=0.6),
}
every_plot = pytest.mark.parametrize("draw", PLOTS.values(), ids=PLOTS)


def description(svg: str) -> str:
    """Text for screen readers."""
    element = ElementTree.fromstring(svg).find(f"{SVG}desc")
    assert element is not None and element.text
    return element.text


def labels(svg: str) -> list[str | None]:
    return [node.text for node in ElementTree.fromstring(svg).iter(f"{SVG}text")]


@every_plot
def test_equal_inputs_give_identical_svg(draw: Callable[[str], str]) -> None:
    first = draw("mine")
    assert draw("mine") == first != draw("yours")
    assert "<metadata" not in first and not re.search(r"20\d\d-\d\d", first)


@every_plot
def test_names_are_escaped(draw: Callable[[str], str]) -> None:
    root = ElementTree.fromstring(draw(HOSTILE))
    assert not [node for node in root.iter() if node.tag.endswith("script")]
    assert any("$x^2$" in (node.text or "") for node in root.iter() if node.tag in (f"{SVG}text", f"{SVG}desc"))


@every_plot
def test_a_plot_is_accessible_and_self_contained(draw: Callable[[str], str]) -> None:
    root = ElementTree.fromstring(draw("mine"))
    ids = [node.get("id") for node in root.iter() if node.get("id")]
    assert root.get("role") == "img" and set((root.get("aria-labelledby") or "").split()) <= set(ids)
    assert len(ids) == len(set(ids))
    links = [value for node in root.iter() for name, value in node.items() if name.endswith("href")]
    assert all(link.startswith("#") and link[1:] in ids for link in links)


@every_plot
def test_labels_are_text_in_the_font_of_the_page(draw: Callable[[str], str]) -> None:
    texts = list(ElementTree.fromstring(draw("mine")).iter(f"{SVG}text"))
    assert texts and all("system-ui" in (node.get("style") or "") for node in texts)
    assert any((node.text or "").strip() == "mine" for node in texts)


@every_plot
def test_colours_are_css_variables_of_the_page(draw: Callable[[str], str]) -> None:
    svg = draw("mine")
    assert not re.findall(r"(?:fill|stroke): #", svg)
    used = set(re.findall(r"var\(--([\w-]+), #", svg))
    light, dark = html.document("", []).split("prefers-color-scheme: dark")
    assert used and all(f"--{name}:" in light and f"--{name}:" in dark for name in used)


def test_plotting_does_not_change_rcparams() -> None:
    before = dict(matplotlib.rcParams)
    PLOTS["tradeoff"]("mine")
    assert dict(matplotlib.rcParams) == before


def test_pareto_front_contains_the_points_not_dominated() -> None:
    points = {
        "small": (1, 0.5),
        "worse": (2, 0.4),
        "medium": (3, 0.7),
        "as good but more expensive": (4, 0.7),
        "large": (5, 0.9),
    }
    assert plots.pareto_front(points) == ["small", "medium", "large"]
    assert plots.pareto_front(points, more_is_better=False) == ["small", "worse"]
    assert description(plots.tradeoff(points, "ms", "accuracy")).startswith(
        "small: 1, 0.5; medium: 3, 0.7; large: 5, 0.9; worse"
    )


def test_every_point_on_the_front_is_labelled() -> None:
    points = {f"model {index}": (10 + index / 100, 0.5 + index / 1000) for index in range(40)}
    assert set(points) <= set(labels(plots.tradeoff(points, "ms", "accuracy")))


def test_a_wide_range_of_costs_gets_a_logarithmic_axis() -> None:
    def ticks(highest: float) -> set[str | None]:
        return set(labels(plots.tradeoff({"a": (1.0, 0.5), "b": (highest, 0.9)}, "MB", "accuracy")))

    assert {"1", "10", "100"} <= ticks(200.0) and {"0", "10"} <= ticks(20.0)


def test_an_axis_of_many_decades_has_few_ticks() -> None:
    svg = plots.tradeoff({"a": (0.0005, 0.5), "b": (200.0, 0.9)}, "MB", "accuracy")
    costs = [number for number in numbers(svg) if number < 0.5 or number >= 1]
    assert 3 <= len(costs) <= 9


def test_levels_that_are_close_together_share_a_text() -> None:
    points = {"small": (1.0, 0.8), "large": (9.0, 0.9)}
    levels = {"majority": 0.54, "tfidf": 0.55, "other": 0.7}
    svg = plots.tradeoff(points, "ms", "accuracy", levels=levels)
    assert {"majority, tfidf", "other"} <= set(labels(svg))
    assert description(svg).endswith("; majority: 0.54; tfidf: 0.55; other: 0.7")


def numbers(svg: str) -> list[float]:
    return [float(text.replace(",", "")) for text in labels(svg) if text and re.fullmatch(r"[\d.,]+", text)]


@pytest.mark.parametrize("last", [7, 110, 93_000])
def test_steps_are_few_whole_numbers_from_zero(last: int) -> None:
    svg = plots.curves({"mine": ([1, last], [0.63, 0.57])}, "step", "accuracy")
    steps = [number for number in numbers(svg) if number.is_integer()]
    assert steps[0] == 0 and 3 <= len(steps) <= 7 and steps[-1] >= 0.6 * last


def test_losses_begin_at_zero_and_scores_do_not() -> None:
    series = {"mine": ([1, 2], [0.63, 0.57])}
    assert 0.0 in numbers(plots.curves(series, "", "loss", from_zero=True))[3:]
    assert min(numbers(plots.curves(series, "", "accuracy"))[3:]) >= 0.5


def test_dashed_lines_have_the_colour_of_their_model() -> None:
    series = {"a": ([1, 2], [3.0, 2.0]), "b": ([1, 2], [2.0, 2.0])}
    svg = plots.curves(series, "step", "loss", dashed={"b": ([1, 2], [2.5, 2.2])})
    assert description(svg).endswith("b, validation: 2.5 to 2.2")
    dashed = [node.get("style") or "" for node in ElementTree.fromstring(svg).iter(f"{SVG}path")]
    assert any("stroke-dasharray" in style and "--plot-2" in style for style in dashed)
    assert not any("stroke-dasharray" in style and "--plot-1" in style for style in dashed)
    assert {"training", "validation"} <= set(labels(svg))


def test_slices_of_all_models_have_the_same_axis() -> None:
    assert numbers(plots.bars({"low": 0.1}, "accuracy"))[:6] == numbers(plots.bars({"high": 0.9}, "accuracy"))[:6]


def test_reliability_diagram_uses_bins_of_equal_width() -> None:
    confidences = [0.52, 0.58, 0.91, 0.97, 1.0, 0.99]
    svg = plots.reliability_diagram({"mine": (confidences, [True, False, True, True, True, False])}, bins=10)
    assert description(svg) == "mine: confidence 0.55 accuracy 0.50, confidence 0.97 accuracy 0.75"


def test_confusion_matrix_shows_count_and_share_of_the_row() -> None:
    svg = plots.confusion_matrix([[30, 10], [0, 0]], ["bad", "good"])
    assert {"30", "75%", "10", "25%"} <= set(labels(svg))
    assert description(svg) == "gold bad: bad 30, good 10; gold good: bad 0, good 0"
    with pytest.raises(ValueError, match="zip"):
        plots.confusion_matrix([[1, 2, 3], [1, 2, 3]], ["bad", "good"])


def test_confusion_matrix_of_many_classes_is_a_small_file() -> None:
    classes = 60
    counts = [[9 if gold == predicted else 0 for predicted in range(classes)] for gold in range(classes)]
    assert len(plots.confusion_matrix(counts, [f"class {index}" for index in range(classes)])) < 150_000


def test_a_legend_of_long_names_fits_the_plot() -> None:
    names = [f"a rather long name of model {number}" for number in range(4)]
    svg = plots.reliability_diagram({name: ([0.6, 0.9], [False, True]) for name in names})
    root = ElementTree.fromstring(svg)
    width = float((root.get("viewBox") or "").split()[2])
    begins = [float(node.get("x") or 0) for node in root.iter(f"{SVG}text") if node.text in names]
    assert len(begins) == 4 and max(begins) + 4 * len(names[0]) < width  # a letter is wider than 4
