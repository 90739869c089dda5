"""`tinybert --help` against a bare typer program of ten commands: processes started in turn, median of their times.

With an export folder also the first answer of it: by `tinybert predict`, and by the lines of Python in its model card.

python benchmarks/startup.py [EXPORT]
"""

import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMAND = """
@app.command("command-{n}")
def command_{n}(name: str, number: int = {n}, flag: bool = False) -> None:
    "Do it."
"""
BARE = "import typer\napp = typer.Typer()\n" + "".join(COMMAND.format(n=n) for n in range(10))
RUNS = 15
TEXT = "Better than it looks."


def seconds(command: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - begin


def of_export(folder: str) -> dict[str, list[str]]:
    lines = re.search(r"```python\n(.*?)```", (Path(folder) / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert lines, "the model card has no lines of Python"
    return {
        "tinybert predict": [sys.executable, "-m", "tinybert_cli", "predict", folder, TEXT],
        "the card's lines": [sys.executable, "-c", lines[1]],
        "python -c pass": [sys.executable, "-c", "pass"],
    }


def main(export: str | None = None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder) / "bare.py"
        bare.write_text(BARE + "app()\n")
        commands = {
            "tinybert --help": [sys.executable, "-m", "tinybert_cli", "--help"],
            "bare typer": [sys.executable, str(bare), "--help"],
            **(of_export(export) if export else {}),
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for turn in range(RUNS + 2):
            for name, command in commands.items():
                taken = seconds(command)
                if turn >= 2:
                    times[name].append(taken)
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, value in medians.items():
        print(f"{name:<20}{value:.3f} s")
    print(f"ratio {medians['tinybert --help'] / medians['bare typer']:.2f}   (to reach: at most 1.5)")


if __name__ == "__main__":
    main(*sys.argv[1:])
