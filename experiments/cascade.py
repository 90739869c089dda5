"""Trains student2 on the student's labels, on the teacher's, on both and on gold labels; writes scores with intervals.

    python experiments/cascade.py path/to/datasets [--runs FOLDER] [--seeds SEED,...] [--arms ARM,...] [DATASET]...
    python experiments/cascade.py path/to/datasets --cost 20 [DATASET]...

`path/to/datasets` contains a folder per dataset, with train.jsonl.gz and a validation or test file. English teachers
start from the packaged MiniLM-L6, Chinese teachers from random weights (6 layers of 256, a character vocabulary of the
training text). The student has 3 of these layers, student2 has 2. Selection rows are a part of the training file that
no model learns from: they choose the learning rate of student2, if `--rates` lists several. The reported rows are those
of the other file, which choose nothing. All models of a dataset have the same number of epochs, and the last checkpoint
counts. Finished stages are skipped. After every model, what was measured goes to experiments/results/cascade.json, and
from there into the tables of docs/results.md and docs/recipes.md (`experiments/tables.py`). Recorded seeds
whose models are not in the folder of `--runs`, such as those of another machine, stay.

`--cost N` makes N steps of each kind of training, and prints the CPU time that the whole run of one seed would take; it
records nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import result_files
from cascade_runs import ARMS, Runs, in_own_process
from cascade_scores import Scores, with_other_seeds
from cascade_sets import EXPERIMENTS, write_split
from cascade_tables import cost_table, table

from tinybert_cli.stage_processes import StageServer

RESULTS = "cascade.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("datasets", type=Path)
    parser.add_argument("names", nargs="*", default=list(EXPERIMENTS), metavar="DATASET")
    parser.add_argument("--runs", type=Path, default=Path("runs/cascade"))
    parser.add_argument("--seeds", default="42,43,44")
    parser.add_argument("--arms", default=",".join(ARMS), help="default: all")
    parser.add_argument("--rates", help="learning rates of student2 to choose from; default: that of the student")
    parser.add_argument("--cost", type=int, metavar="N", help="print the costs, measured on N steps of each training")
    arguments = parser.parse_intermixed_args()
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    arms = arguments.arms.split(",")
    if unknown := [name for name in arguments.names if name not in EXPERIMENTS]:
        parser.error(f"unknown dataset {', '.join(unknown)}; known: {', '.join(EXPERIMENTS)}")
    if unknown := [arm for arm in arms if arm not in ARMS]:
        parser.error(f"unknown arm {', '.join(unknown)}; known: {', '.join(ARMS)}")
    for name in arguments.names:
        experiment, folder = EXPERIMENTS[name], arguments.runs / name
        rates = [float(rate) for rate in arguments.rates.split(",")] if arguments.rates else [experiment.rate]
        data = write_split(experiment, arguments.datasets, folder / "data")
        if arguments.cost:
            trial = arguments.runs / f"cost-{arguments.cost}" / name
            runs = Runs(name, data, trial, seeds[0], rates, in_own_process, arguments.cost)
            print("\n".join(cost_table(runs, arms)), flush=True)
            continue
        scores = Scores(name, data, folder)
        with StageServer(sys.stderr) as server:
            for seed in seeds:
                runs = Runs(name, data, folder / f"seed-{seed}", seed, rates, server.run)
                for model in ("teacher", "student", *arms):
                    runs.train(model)
                    scores.add(seed, model, runs.candidates(model))
                    known = result_files.read(RESULTS).get(name, {})
                    result_files.record(RESULTS, name, with_other_seeds(scores.result(), known))
        print("\n".join(table({name: scores.result()})), flush=True)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
