"""Writes docs/reliability.md from the results of `make faults`: python tests/faults/page.py RESULTS.xml PAGE.md."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

from limits import MEMORY, SECONDS

HEAD = """# Reliability

`make faults` damages a small finished cascade in every way that this page lists, runs the command in a process of its
own, and compares its exit code, its message and all files with what they should be. It writes this page. The fast
faults are part of `make test`; both run in CI. The tables are in `tests/faults/`.

A command may allocate {memory} GB and take {seconds} s here. A traceback, or the words "a bug in tinybert", fail a test.
Stopped runs get their signal right before a file changes, at moments that are spread evenly over the run. Results are
identical if weights, labels, predictions and exported models are.

{counts}
"""
EXIT_CODES = {
    0: "done, or nothing to do", 1: "failed while running", 2: "invalid config", 3: "an input is missing or unfit",
    4: "`output_dir` cannot be used", 137: "SIGKILL", 143: "SIGTERM",
}  # fmt: skip


def main(results: str, page: str) -> None:
    rows = sorted(
        json.loads(entry.attrib["value"])
        for entry in ElementTree.parse(results).iter("property")
        if entry.attrib["name"] == "fault"
    )
    codes = Counter(row[3] for row in rows)
    counts = "\n".join([
        f"{len(rows)} faults.", "", "| exit code | meaning | faults |", "|---:|---|---:|",
        *(f"| {code} | {EXIT_CODES[code]} | {number} |" for code, number in sorted(codes.items())),
    ])  # fmt: skip
    lines = [HEAD.format(memory=MEMORY >> 30, seconds=SECONDS, counts=counts).rstrip("\n")]
    for kind in dict.fromkeys(row[0] for row in rows):
        lines += ["", f"## {kind}", "", "| fault | command | exit code | message | files afterwards |"]
        lines += ["|---|---|---:|---|---|"]
        lines += [f"| {' | '.join(map(cell, cells))} |" for row_kind, *cells in rows if row_kind == kind]
    Path(page).write_text("\n".join(lines) + "\n", encoding="utf-8")


def cell(value: str | int) -> str:
    return str(value).replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    main(*sys.argv[1:])
