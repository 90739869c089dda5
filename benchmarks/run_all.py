"""Measures tinybert beside its peers and fills the tables of docs/performance.md: `make bench`.

    SST2_DATA=path/to/sst2 python benchmarks/run_all.py [--only NAME]... [--force] [--quick] [--output FILE]

One benchmark after another; within one, the programs take turns, each time in a process of its own. Every finished
benchmark is recorded at once. Those that were measured with the same code, versions, data and machine are kept, so
that the same command resumes; `--force` measures them again. `--quick` uses few rows and small models to show that
everything works; its numbers mean nothing and never get into the documentation.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import distilling
import labelling
import latency
import layerwise
import side_by_side
import translating

sys.path.append(str(side_by_side.ROOT / "experiments"))

import performance
import result_files
import tables

QUICK_OUTPUT = Path("runs/bench/quick.json")
BENCHMARKS = {
    script.BENCHMARK.name: script.BENCHMARK for script in (labelling, distilling, layerwise, latency, translating)
}


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0, or 1 if a benchmark failed; the others are measured nevertheless."""
    given = parse(arguments)
    chosen = {name: BENCHMARKS[name] for name in given.only or BENCHMARKS}
    if given.quick:
        chosen = {name: benchmark.quick_version() for name, benchmark in chosen.items()}
    failed = [name for name, benchmark in chosen.items() if not run(benchmark, given.output, force=given.force)]
    results = result_files.read(given.output)
    print("\n".join(line for name in chosen if name in results for line in performance.tables_of(results[name])))
    if given.output == performance.FILE:
        tables.main()
    return 1 if failed else 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", action="append", choices=list(BENCHMARKS), metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--force", action="store_true", help="measure again what is up to date")
    parser.add_argument("--quick", action="store_true", help="few rows, small models, one round; not for the page")
    parser.add_argument("--output", metavar="FILE", help=f"default: {performance.FILE} of experiments/results")
    given = parser.parse_args(arguments)
    if given.output:
        given.output = str(Path(given.output).absolute())
    else:
        given.output = str(QUICK_OUTPUT.absolute()) if given.quick else performance.FILE
    if given.quick and Path(result_files.RESULTS, given.output) == Path(result_files.RESULTS, performance.FILE):
        parser.error("the numbers of --quick are not for the page: choose another --output")
    return given


def run(benchmark: side_by_side.Benchmark, output: str, *, force: bool) -> bool:
    """Measures and records one benchmark, unless its result is up to date; whether there is a result."""
    earlier = result_files.read(output).get(benchmark.name)
    if earlier and not force and side_by_side.is_current(earlier, benchmark):
        side_by_side.tell(f"{benchmark.name}: up to date, measured on {earlier['date']}")
        return True
    try:
        result = side_by_side.measure(benchmark, side_by_side.tell)
    except side_by_side.FailedSide as error:
        side_by_side.tell(f"error: {error}")
        return False
    result_files.record(output, benchmark.name, result)
    return True


if __name__ == "__main__":
    raise SystemExit(main())
