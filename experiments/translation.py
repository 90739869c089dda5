"""Trains and scores the recipe multi30k with several seeds, and students with other losses and labels.

    python experiments/translation.py path/to/multi30k [--runs FOLDER] [--seeds SEED,...] [PART]...

`path/to/multi30k` contains train, validation and test_2016_flickr with the columns en and de. The parts, in order:

- `teacher`: the teacher and its label dataset, by the recipe. All seeds share them.
- `student`, `student2`, `student-plain`, `student2-plain`: by the recipe, one of each seed. The plain models have the
  same shapes and learn from nothing on the references.
- `scores`: `eval` of all of them on the test rows, which choose nothing, with 4 beams and with 1.
- `exports`: those of student2, verified and timed; nothing else should run.
- `ablation`: students with the same start, and a third of the recipe's updates each, that differ in labels and losses,
  scored on the validation rows, where the recipe is chosen, and on the test rows. The name of one trains it alone.

Finished stages are skipped. Models that are not in `--runs` keep the scores that were recorded before. What was
measured goes to experiments/results/multi30k.json, and from there into the tables of docs/results.md
(`experiments/tables.py`).
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import recipe_stages
import result_files
from recipe_stages import cpu_minutes, read_metrics

RECIPE = Path(__file__).parents[1] / "configs" / "multi30k"
RESULTS = "multi30k.json"
TEST = "test_2016_flickr"
FIRST_SEED = 42  # of the recipe
DISTILLED = {"student": "student-plain", "student2": "student2-plain"}  # → the same shape without distillation
MODELS = (*DISTILLED, *DISTILLED.values())
PARTS = ("teacher", *MODELS, "scores", "exports", "ablation")
EXPORTS = {  # folder → its name in the table, and the settings over those of the recipe
    "export-float32": ("CTranslate2, float32", ("format=ctranslate2", "quantize=none")),
    "export": ("CTranslate2, int8", ("format=ctranslate2", "quantize=int8")),
    "export-onnx": ("ONNX Runtime, float32, greedy only", ("format=onnx", "quantize=none")),
}
RESAMPLES = 1000
ABLATION_UPDATES = 1200  # the recipe's student makes about 3,600
HARD = "{hard_labels: {weight: 1.0, label_smoothing: 0.1}}"
WORDS = "{hard_labels: {weight: 1.0, label_smoothing: 0.1}, soft_labels: 1.0}"
STATES = (
    "{hard_labels: {weight: 1.0, label_smoothing: 0.1}, soft_labels: 1.0, "
    "hidden_states: {weight: 1.0, encoder: 1.0, decoder: 1.0}}"
)


@dataclass(frozen=True)
class Arm:
    """What a student of the ablation learns from."""

    learns: str
    targets: str
    losses: str
    labels: str = "teacher-labels"
    settings: tuple[str, ...] = ()


ARMS = {
    "gold": Arm("references", "gold", HARD),
    "by-score": Arm("the teacher's most probable translation", "teacher", HARD, labels="labels-by-score"),
    "by-chrf": Arm("of 4 translations the nearest to the reference", "teacher", HARD),
    "n-best": Arm("all 4 translations", "n_best", HARD),
    "words": Arm("the nearest translation, and its distributions (top 8)", "teacher", WORDS),
    "both-words": Arm("the same, and references, as in the recipe", "both", WORDS),
    "states": Arm("the same, and hidden states", "both", STATES, settings=("teacher",)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("parts", nargs="*", default=list(PARTS), metavar="PART")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--seeds", default="42,43,44")
    arguments = parser.parse_intermixed_args()
    if unknown := [part for part in arguments.parts if part not in PARTS and part not in ARMS]:
        parser.error(f"unknown part {', '.join(unknown)}; known: {', '.join((*PARTS, *ARMS))}")
    runs = Runs(arguments.data, arguments.runs)
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    for part in arguments.parts:
        if part == "teacher":
            runs.teacher()
        elif part in MODELS:
            for seed in seeds:
                runs.train(part, seed)
        elif part == "scores":
            for seed in seeds:
                recorded = result_files.read(RESULTS).get(f"seed {seed}", {})
                result_files.record(RESULTS, f"seed {seed}", merged(recorded, runs.scores(seed)))
        elif part == "exports":
            result_files.record(RESULTS, "exports", runs.exports())
        elif part == "ablation":
            result_files.record(RESULTS, "ablation", runs.ablation())
        else:
            runs.arm(part)


@dataclass(frozen=True)
class Runs:
    """The stages; each method runs some, unless they are finished."""

    data: Path
    root: Path

    def folder(self, name: str, seed: int = FIRST_SEED) -> Path:
        """Where the recipe writes; other seeds have folders of their own."""
        folder = self.root / "multi30k"
        return (folder if seed == FIRST_SEED else folder / f"seed-{seed}") / name

    def stage(self, command: str, config: str, folder: Path, *settings: str) -> Path:
        """Runs a command with a file of the recipe, unless its folder is finished."""
        variables = {"RUNS": str(self.root), "MULTI30K_DATA": str(self.data), "MULTI30K_TEST": TEST}
        return recipe_stages.run(command, RECIPE / config, folder, list(settings), variables)

    def teacher(self) -> None:
        self.stage("finetune", "1-teacher.yaml", self.folder("teacher"))
        self.stage("gen-soft-labels", "2-teacher-labels.yaml", self.folder("teacher-labels"))

    def train(self, model: str, seed: int) -> None:
        folder, of_seed = self.folder(model, seed), f"seed={seed}"
        if model == "student":
            self.stage("distill", "3-student.yaml", folder, of_seed)
        elif model == "student2":
            student, labels = self.folder("student", seed), self.folder("student-labels", seed)
            self.stage("gen-soft-labels", "4-student-labels.yaml", labels, f"teacher={student}")
            self.stage("distill", "5-student2.yaml", folder, of_seed, f"student.from={student}",
                       f"label_dataset={labels}")  # fmt: skip
        else:
            self.stage("finetune", "6-student-plain.yaml" if model == "student-plain" else "7-student2-plain.yaml",
                       folder, of_seed)  # fmt: skip

    def arm(self, name: str) -> Path:
        """A student of the ablation."""
        arm = ARMS[name]
        labels = self.folder(arm.labels)
        if arm.labels != "teacher-labels":
            self.stage("gen-soft-labels", "2-teacher-labels.yaml", labels, "search.keep=1", "search.select=score",
                       "top_k=0")  # fmt: skip
        more = [f"teacher={self.folder('teacher')}"] if "teacher" in arm.settings else []
        return self.stage("distill", "3-student.yaml", self.folder(f"ablation-{name}"), f"label_dataset={labels}",
                          f"targets={arm.targets}", f"losses={arm.losses}",
                          f"training.max_steps={ABLATION_UPDATES}", *more)  # fmt: skip

    def scores(self, seed: int) -> dict[str, Any]:
        """The finished models of a seed on the test rows, and the distilled ones minus the plain ones."""
        folders = {"teacher": self.folder("teacher"), **{name: self.folder(name, seed) for name in MODELS}}
        models = {name: folder for name, folder in folders.items() if recipe_stages.is_finished(folder)}
        ending = "" if models == folders else f"-of-{'-'.join(models)}"
        evaluated = self.evaluate(f"eval{ending}", seed, "test", 4, models)
        greedy = self.evaluate(f"eval-greedy{ending}", seed, "test", 1, models)
        return {
            "models": {name: measured(evaluated, name) | {"greedy bleu": greedy[f"{name}.bleu"]} for name in models},
            "minutes": {name: cpu_minutes(folder) for name, folder in models.items()},
            "distilled minus plain": {
                name: self.difference(self.folder(f"eval{ending}", seed), name, plain)
                for name, plain in DISTILLED.items() if {name, plain} <= models.keys()
            },
            **signatures(self.folder(f"eval{ending}", seed)),
        }  # fmt: skip

    def exports(self) -> dict[str, dict[str, float]]:
        """What `export` says about the exports of student2."""
        student2 = f"model={self.folder('student2')}"
        return {
            name: read_metrics(self.stage("export", "9-export.yaml", self.folder(name), student2, *settings))
            for name, (_, settings) in EXPORTS.items()
        }

    def ablation(self) -> dict[str, Any]:
        models = {name: self.arm(name) for name in ARMS}
        validation = self.evaluate("ablation-validation", FIRST_SEED, "validation", 4, models)
        test = self.evaluate("ablation-test", FIRST_SEED, "test", 4, models)
        greedy = self.evaluate("ablation-greedy", FIRST_SEED, "test", 1, models)
        return {
            name: {
                "learns": ARMS[name].learns, "validation": measured(validation, name), "test": measured(test, name),
                "greedy": measured(greedy, name),
                "minutes": cpu_minutes(folder),
                **({} if name == "gold" else {
                    "minus gold": self.difference(self.folder("ablation-test"), name, "gold")
                }),
            }
            for name, folder in models.items()
        }  # fmt: skip

    def evaluate(self, name: str, seed: int, split: str, beams: int, models: Mapping[str, Path]) -> dict[str, Any]:
        """Scores models side by side, without latencies; the first one is the reference."""
        listed = ", ".join(f"{model}: {folder}" for model, folder in models.items())
        reference = next(iter(models))
        folder = self.stage(
            "eval", "8-eval.yaml", self.folder(name, seed), f"models={{{listed}}}", f"reference={reference}",
            f"split={split}", f"search.beams={beams}", "latency=null",
        )  # fmt: skip
        return read_metrics(folder)

    def difference(self, evaluation: Path, model: str, other: str) -> dict[str, float]:
        """BLEU of a model minus that of another one on the same rows, its 95 % interval and p-value."""
        import pyarrow.parquet

        from tinybert_cli.metrics.base import score
        from tinybert_cli.metrics.bootstrap import resampled
        from tinybert_cli.metrics.comparison import bootstrap_p
        from tinybert_cli.metrics.intervals import difference_interval
        from tinybert_cli.types import Predictions

        table = pyarrow.parquet.read_table(evaluation / "predictions.parquet")
        values = []
        for name in (model, other):
            predictions = Predictions(table[f"{name}_prediction"].to_pylist())
            counts = self.metric.statistics(predictions)
            drawn = resampled(self.metric, predictions, counts, resamples=RESAMPLES, seed=FIRST_SEED)["bleu"]
            values.append((score(self.metric, predictions, counts)["bleu"], counts, drawn))
        (own, counts, draws), (reference, other_counts, other_draws) = values
        differences = draws - other_draws
        interval = difference_interval(self.metric, counts, other_counts, "bleu", differences)
        assert interval is not None
        low, high = interval
        return {"bleu": own - reference, "low": low, "high": high, "p": bootstrap_p(differences, own - reference)}

    @cached_property
    def metric(self) -> Any:
        """BLEU and chrF2++ on the test rows."""
        from tinybert_cli import data
        from tinybert_cli.config import Data
        from tinybert_cli.tasks.translation import Translation

        settings = Data(dataset_name=str(self.data), test_split_name=TEST, text_column_names="en",
                        label_column_name="de")  # fmt: skip
        return Translation().generation_metric(data.read(settings, "test"), settings)


def measured(evaluated: Mapping[str, Any], model: str) -> dict[str, float]:
    """What `eval` says about a model."""
    names = ("bleu", "bleu_low", "bleu_high", "chrf", "retention", "agreement", "same", "length_ratio", "bytes",
             "parameters")  # fmt: skip
    return {name: evaluated[f"{model}.{name}"] for name in names if f"{model}.{name}" in evaluated}


def merged(recorded: Mapping[str, Any], measured: Mapping[str, Any]) -> dict[str, Any]:
    """Both, by model; what was measured now replaces what was recorded."""
    by_model = ("models", "minutes", "distilled minus plain")
    return {**measured, **{key: {**recorded.get(key, {}), **measured[key]} for key in by_model}}


def signatures(evaluation: Path) -> dict[str, Any]:
    manifest = json.loads((evaluation / "manifest.json").read_text(encoding="utf-8"))
    return {"signatures": manifest["signatures"]}


# -- tables of docs/results.md -------------------------------------------------------------------------------

TITLES = {
    "teacher": "teacher, 4 + 4 layers",
    "student": "student, 4 + 1 layers",
    "student-plain": "the same shape on references",
    "student2": "student2, 2 + 1 layers",
    "student2-plain": "the same shape on references",
}


def table(results: Mapping[str, Any]) -> Iterator[str]:
    """BLEU of every seed, means of the other numbers, and the differences to the plain models."""
    seeds = [content for key, content in sorted(results.items()) if key.startswith("seed ")]
    yield (
        "| model | BLEU, mean | each seed | 1 beam | chrF2++ | retention, mean; worst | minus plain, mean; each seed "
        "| MB | CPU minutes |"
    )
    yield "|---|---:|---|---:|---:|---:|---:|---:|---:|"
    for name, title in TITLES.items():
        own = [content["models"][name] for content in seeds if name in content["models"]]
        if not own:
            continue
        if name == "teacher":
            own = own[:1]
            each = f"95 %: {own[0]['bleu_low']:.1f} to {own[0]['bleu_high']:.1f}"
        else:
            each = ", ".join(f"{one['bleu']:.1f}" for one in own)
        retention = [one["retention"] for one in own if "retention" in one]
        models = [content["models"] for content in seeds]
        plain = [one[name]["bleu"] - one[DISTILLED[name]]["bleu"] for one in models
                 if name in DISTILLED and {name, DISTILLED[name]} <= one.keys()]  # fmt: skip
        cells = [
            title, f"{mean(own, 'bleu'):.1f}", each, f"{mean(own, 'greedy bleu'):.1f}", f"{mean(own, 'chrf'):.1f}",
            f"{statistics.mean(retention):.1%}; {min(retention):.1%}" if retention else "",
            f"{statistics.mean(plain):+.1f}; {', '.join(f'{one:+.1f}' for one in plain)}" if plain else "",
            f"{mean(own, 'bytes') / 1e6:.1f}",
            f"{statistics.mean(content['minutes'][name] for content in seeds if name in content['minutes']):.0f}",
        ]  # fmt: skip
        yield "| " + " | ".join(cells) + " |"


def ablation_table(results: Mapping[str, Any]) -> Iterator[str]:
    """Every student of the ablation."""
    yield "| the student learns | BLEU, validation | BLEU, test | minus references (95 %) | 1 beam, test | minutes |"
    yield "|---|---:|---:|---:|---:|---:|"
    for arm in results["ablation"].values():
        minus = arm.get("minus gold")
        difference = f"{minus['bleu']:+.1f} ({minus['low']:+.1f} to {minus['high']:+.1f})" if minus else ""
        cells = [arm["learns"], f"{arm['validation']['bleu']:.1f}", f"{arm['test']['bleu']:.1f}", difference,
                 f"{arm['greedy']['bleu']:.1f}", f"{arm['minutes']:.0f}"]  # fmt: skip
        yield "| " + " | ".join(cells) + " |"


def exports_table(results: Mapping[str, Any]) -> Iterator[str]:
    """Every export of student2."""
    yield "| export | equal texts, greedy; beams | as good, beams | BLEU | MB | batches of 1 | batches of 32 |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for name, own in results["exports"].items():
        same = [f"{own[key]:.1%}" for key in ("same_beam1", "same_beam4") if key in own]
        cells = [
            EXPORTS[name][0], "; ".join(same), f"{own['as_good_beam4']:.1%}" if "as_good_beam4" in own else "",
            f"{own['metric_difference']:+.2f}", f"{own['bytes'] / 1e6:.1f}", f"{own['speedup_b1']:.1f}x",
            f"{own['speedup_b32']:.1f}x",
        ]  # fmt: skip
        yield "| " + " | ".join(cells) + " |"


def mean(measured: Sequence[Mapping[str, float]], name: str) -> float:
    return statistics.mean(one[name] for one in measured)


if __name__ == "__main__":
    main()
