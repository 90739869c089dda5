"""Support tickets for the workflow, as the notebook makes them: `python .github/tickets.py tickets.csv`."""

import json
import sys
from pathlib import Path

cells = json.loads((Path(__file__).parents[1] / "notebooks" / "tinybert.ipynb").read_text(encoding="utf-8"))["cells"]
code = next("".join(cell["source"]) for cell in cells if "problems = {" in "".join(cell["source"]))
exec(code.replace("tickets.csv", sys.argv[1]))
