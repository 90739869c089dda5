"""The plots of the README and the docs: made from the result files, and readable."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "experiments"))

pytest.importorskip("matplotlib")
import picture  # noqa: E402
import result_files  # noqa: E402

SVG = "{http://www.w3.org/2000/svg}"
SST2 = result_files.read("sst2-minilm.json")["eval"]
TASKS = result_files.read("tasks.json")
every_picture = pytest.mark.parametrize("name", picture.PICTURES)


def test_retention_and_speedup_follow_from_the_scores() -> None:
    for model in ("student", "student2", "student2-plain", "export"):
        retention = SST2[f"{model}.accuracy"] / SST2["teacher.accuracy"]
        assert math.isclose(SST2[f"{model}.retention"], retention, abs_tol=1e-3), model
        for batch in ("b1", "b32"):
            ratio = SST2[f"teacher.latency_ms_{batch}"] / SST2[f"{model}.latency_ms_{batch}"]
            assert math.isclose(SST2[f"{model}.speedup_{batch}"], ratio, rel_tol=0.03), (model, batch)
