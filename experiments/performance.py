"""The tables of docs/performance.md, from what `benchmarks/run_all.py` measured."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

FILE = "performance.json"
NAMES = ("labelling", "distilling", "layerwise", "latency", "translating")
QUIET = 10  # percent of the cores that other programs may use

Result = Mapping[str, Any]  # as `side_by_side.measure` returns it


# -- tables --------------------------------------------------------------------------------------------------


def speeds(result: Result) -> Iterator[str]:
    """One line per program and case: speed, its ratio to the first program, share of the peak, memory."""
    cases = list(dict.fromkeys(case for side in result["sides"] for case in _cases(side)))
    equal = any("equal" in run for side in result["sides"] for case in _cases(side) for run in _runs(side, case))
    yield row(
        "program", "rows/s (range)", "ratio (range)", "CPU ms per row", "precision", "share of peak", "peak memory",
        *(["equal outputs"] if equal else []),
    )  # fmt: skip
    yield "|---|---:|---:|---:|---|---:|---:|" + ("---:|" if equal else "")
    for case in cases:
        if case:
            yield row(f"*{case}*", *[""] * (7 if equal else 6))
        first = next(side for side in result["sides"] if case in _cases(side))
        for side in result["sides"]:
            if case in _cases(side):
                yield row(*_cells(result, side, case, first), *([_equal(side, case)] if equal else []))
    for side in result["sides"]:
        if "missing" in side:
            yield row(side["name"], f"not measured: {side['missing']}", *[""] * (6 if equal else 5))


def bars(result: Result) -> Iterator[str]:
    """One line per ratio that should be reached."""
    sides = {side["name"]: side for side in result["sides"]}
    yield row("program", "beside", "times as fast (range)", "should be", "", "peak memory of both")
    yield "|---|---|---:|---:|---|---:|"
    for bar in result["bars"]:
        side, peer = sides[bar["side"]], sides[bar["peer"]]
        wanted = f"{bar['ratio']:g}"
        if "missing" in side or "missing" in peer:
            yield row(bar["side"], bar["peer"], "not measured", wanted, "", "")
            continue
        ratio = _ratios(side, peer, "")
        memory = f"{_memory(side) / _memory(peer):.2f}x"
        reached = "reached" if statistics.median(ratio) >= bar["ratio"] else "missed"
        yield row(bar["side"], bar["peer"], _spread(ratio), wanted, reached, memory)


def drift(result: Result) -> Iterator[str]:
    """What the labels lose by precision."""
    yield row("labels in", "rows", "equal labels", "mean difference of a logit", "mean size of a logit")
    yield "|---|---:|---:|---:|---:|"
    for precision, numbers in result["prepared"]["drift"].items():
        yield row(
            precision, f"{numbers['rows']:,}", f"{numbers['agreement']:.1%}", f"{numbers['mean_difference']:.4f}",
            f"{numbers['mean_logit']:.2f}",
        )  # fmt: skip


def states(result: Result) -> Iterator[str]:
    """How large stored layer states are."""
    prepared = result["prepared"]
    yield row("stored states of", "bytes", "bytes per row")
    yield "|---|---:|---:|"
    size, rows = prepared["states_bytes"], prepared["states_rows"]
    yield row(f"{rows:,} rows", f"{size / 1e6:.0f} MB", f"{size / rows / 1e3:.0f} kB")


def conditions(results: Mapping[str, Result], names: Sequence[str] = NAMES) -> Iterator[str]:
    """Where and when each benchmark was measured."""
    yield row("benchmark", "date", "data", "threads", "rounds", "minutes", "other load", "machine", "versions")
    yield "|---|---|---|---:|---:|---:|---:|---|---|"
    for name in names:
        if name not in results:
            yield row(name, "not measured yet", *[""] * 7)
            continue
        yield row(name, *_conditions(name, results[name]))


def peaks(results: Mapping[str, Result]) -> Iterator[str]:
    """The speed of a large matrix product, of which `speeds` shows the shares."""
    yield row("benchmark", "threads", "float32", "bf16", "int8")
    yield "|---|---:|---:|---:|---:|"
    for name in NAMES:
        if name in results:
            result = results[name]
            values = [_spread([peak[key] / 1e9 for peak in result["peaks"]]) for key in ("float32", "bf16", "int8")]
            yield row(name, str(result["threads"]), *values)
        else:
            yield row(name, *[""] * 4)


def tables_of(result: Result) -> Iterator[str]:
    """All tables of one benchmark, for a terminal."""
    yield from speeds(result)
    for wanted, draw in ((result["bars"], bars), *((key in result["prepared"], draw) for key, draw in NOTES.items())):
        if wanted:
            yield ""
            yield from draw(result)
    yield ""
    yield from conditions({result["name"]: result}, [result["name"]])
    yield ""


# -- cells ---------------------------------------------------------------------------------------------------


def row(*cells: str) -> str:
    """A line of a Markdown table."""
    return "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|"


def _cells(result: Result, side: Result, case: str, first: Result) -> list[str]:
    runs = _runs(side, case)
    cpu = statistics.median(1000 * run["cpu_seconds"] / run["rows"] for run in runs)
    return [
        f"**{side['name']}**" if side["own"] else side["name"],
        _spread([_speed(run) for run in runs]),
        "" if side is first else _spread(_ratios(side, first, case)),
        _digits(cpu),
        runs[0]["precision"],
        _share_of_peak(result, runs),
        f"{_memory(side) / 1e6:,.0f} MB",
    ]


def _share_of_peak(result: Result, runs: Sequence[Result]) -> str:
    if "flops" not in runs[0]:
        return ""
    shares = [
        run["flops"] * _speed(run) / peak[run["precision"]] for run, peak in zip(runs, result["peaks"], strict=True)
    ]
    return f"{statistics.median(shares):.0%}"


def _conditions(name: str, result: Result) -> list[str]:
    machine, versions = result["machine"], result["versions"]
    data = "the sentences of configs/made-up" if name == "translating" else result["data"]
    instructions = ", ".join(machine["instructions"])
    load = max(result["busy"])
    packages = ", ".join(f"{package} {version}" for package, version in versions.items())
    return [
        result["date"], data, str(result["threads"]), str(result["number_of_rounds"]),
        f"{result['minutes']:.1f}",
        f"{load:.0f} %" + ("" if load <= QUIET else ": void"),
        f"{machine['processor']} ({instructions}), {machine['cores']} cores, {machine['memory_gb']} GB", packages,
    ]  # fmt: skip


def _equal(side: Result, case: str) -> str:
    return f"{statistics.median(run['equal'] for run in _runs(side, case)):.1%}"


def _cases(side: Result) -> list[str]:
    return [] if "missing" in side else list(side["rounds"][0]["cases"])


def _runs(side: Result, case: str) -> list[Result]:
    return [one["cases"][case] for one in side["rounds"]]


def _speed(run: Result) -> float:
    return float(run["rows"] / run["seconds"])


def _ratios(side: Result, peer: Result, case: str) -> list[float]:
    """By round, because both ran next to each other in it."""
    return [_speed(a) / _speed(b) for a, b in zip(_runs(side, case), _runs(peer, case), strict=True)]


def _memory(side: Result) -> float:
    return float(max(one["peak_bytes"] for one in side["rounds"]))


def _spread(values: Sequence[float]) -> str:
    return f"{_digits(statistics.median(values))} ({_digits(min(values))}-{_digits(max(values))})"


def _digits(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.{2 if value < 10 else 1 if value < 100 else 0}f}"


# -- the page ------------------------------------------------------------------------------------------------

NOTES: dict[str, Callable[[Result], Iterator[str]]] = {"drift": drift, "states_bytes": states}


def _of(name: str, draw: Callable[[Result], Iterator[str]], results: Mapping[str, Result]) -> Iterator[str]:
    if name in results:
        yield from draw(results[name])
    else:
        yield "Not measured yet."


# Name of a table → its lines, from the content of FILE.
TABLES: dict[str, Callable[[Mapping[str, Result]], Iterator[str]]] = {
    **{f"performance-{name}": partial(_of, name, speeds) for name in NAMES},
    **{f"performance-{name}-bars": partial(_of, name, bars) for name in NAMES if name != "translating"},
    "performance-drift": partial(_of, "labelling", drift),
    "performance-states": partial(_of, "layerwise", states),
    "performance-peaks": peaks,
    "performance-conditions": conditions,
}
