"""Builds the wheel, installs it beside the dependencies of this environment, and uses it in an empty folder.

    python tests/wheel/check.py

Nothing of the repository is on the path of the commands, so that a file that the wheel lacks is an error.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[2]
TICKETS = "message,queue\n" + "".join(
    f"{what} in office {chr(97 + number % 26)}{chr(97 + number // 26)},{queue}\n"
    for number in range(40)
    for what, queue in (("The invoice is wrong", "billing"), ("The password is refused", "login"))
)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="tinybert-wheel-") as temporary:
        folder = Path(temporary)
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        run([*pip, "wheel", "--no-deps", "--wheel-dir", str(folder / "dist"), str(ROOT)], ROOT)
        (wheel,) = (folder / "dist").glob("tinybert-*.whl")
        venv.create(folder / "venv", symlinks=True)
        site = next((folder / "venv").glob("**/site-packages"))
        run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], folder)
        (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")  # after the wheel on the path
        python = next(path for path in (folder / "venv").glob("*/python*") if path.stem == "python")
        empty = folder / "empty"
        empty.mkdir()
        (empty / "tickets.csv").write_text(TICKETS)
        for words, expected in COMMANDS:
            output = run([str(python), "-m", "tinybert_cli", *words], empty)
            assert expected in output, f"{' '.join(words)}: no {expected!r} in\n{output}"
        code = "import tinybert, tinybert_cli; print(tinybert.__file__, tinybert_cli.__file__, tinybert.__version__)"
        output = run([str(python), "-c", code], empty)
        assert str(ROOT) not in output and output.count("site-packages") == 2, output
        for package in ("tinybert", "tinybert_cli"):
            assert (site / package / "py.typed").is_file(), f"{package} has no py.typed, so that its types are not used"
        print(f"1 passed, 0 failed: {wheel.name} works in an empty folder")  # noqa: T201


COMMANDS = [  # words → a part of the output
    (["--version"], "tinybert "),
    (["init", "--list"], "tinybert-sst2"),
    (["init", "copied", "--recipe", "tinybert-sst2"], "next: "),
    (["init", "demo", "--recipe", "demo"], "next: "),
    (["run", "demo", "-n"], "student2-plain"),
    (["init", "mine", "--data", "tickets.csv"], "next: tinybert run mine/recipe.yaml"),
    (["run", "mine/recipe.yaml", "-n"], "teacher-labels"),
    (["schema", "distill"], "losses"),
]


def run(words: list[str], folder: Path) -> str:
    """The output of a command that must succeed."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        words, cwd=folder, env={**environment, "HF_HUB_OFFLINE": "1"}, text=True, encoding="utf-8",
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, timeout=600,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} ended with exit code {done.returncode}:\n{done.stdout}")
    return done.stdout


if __name__ == "__main__":
    main()
