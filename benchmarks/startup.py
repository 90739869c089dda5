"""`tinybert --help` against a bare typer program of ten commands: processes started in turn, median of their times."""

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


def seconds(command: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - begin


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder) / "bare.py"
        bare.write_text(BARE + "app()\n")
        commands = {
            "tinybert --help": [sys.executable, "-m", "tinybert_cli", "--help"],
            "bare typer": [sys.executable, str(bare), "--help"],
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
    main()
