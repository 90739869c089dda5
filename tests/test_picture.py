"""The plots of the README and the docs show the numbers of the result files."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "experiments"))

pytest.importorskip("matplotlib")
import picture  # noqa: E402


@pytest.mark.parametrize("name", picture.PICTURES)
def test_description_of_a_plot_has_the_numbers_of_its_result_file(name: str) -> None:
    drawn, stored = (
        re.findall("<desc.*?</desc>", svg, re.DOTALL)
        for svg in (picture.picture(name), (picture.IMAGES / name).read_text())
    )
    assert len(drawn) == 1 and drawn == stored, "run: python experiments/picture.py"
