"""Start-up time of `tinybert --help` vs. a minimal typer program of ten commands; prints median times of the processes.

With an export folder, also the time to the first prediction: `tinybert predict`, and the Python code of its model card.

    python benchmarks/startup.py [EXPORT]
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from common import alternate, scratch, seconds

COMMAND = """
@app.command("command-{n}")
def command_{n}(name: str, number: int = {n}, flag: bool = False) -> None:
    "Do it."
"""
TYPER = "import typer\napp = typer.Typer()\n" + "".join(COMMAND.format(n=n) for n in range(10)) + "app()\n"
ROUNDS, WARMUP = 15, 2
TARGET = 1.5
TEXT = "Better than it looks."


def main(export: str | None = None) -> None:
    with scratch() as folder:
        program = folder / "program.py"
        program.write_text(TYPER)
        commands = {
            "tinybert --help": [sys.executable, "-m", "tinybert_cli", "--help"],
            "minimal typer": [sys.executable, str(program), "--help"],
            **(predictions(export) if export else {}),
        }
        times = alternate({name: run_time(command) for name, command in commands.items()}, ROUNDS, warmup=WARMUP)
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, value in medians.items():
        print(f"{name:<20}{value:.3f} s")
    ratio = medians["tinybert --help"] / medians["minimal typer"]
    print(f"ratio {ratio:.2f}   (target: at most {TARGET})")


def predictions(export: str) -> dict[str, list[str]]:
    """Commands that predict one text with an export, and an empty Python process for comparison."""
    code = re.search(r"```python\n(.*?)```", (Path(export) / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert code, "the model card contains no Python code"
    return {
        "tinybert predict": [sys.executable, "-m", "tinybert_cli", "predict", export, TEXT],
        "model card's code": [sys.executable, "-c", code[1]],
        "python -c pass": [sys.executable, "-c", "pass"],
    }


def run_time(command: list[str]) -> Callable[[int], float]:
    return lambda turn: seconds(lambda: subprocess.run(command, check=True, capture_output=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
