"""Measure how good the recommended strategies are: the numbers behind the decisions in `strategies.toml`.

selection.py ZOO.py[:NAME,…] [JSON]: ZOO.py holds a dictionary `zoo` of callables that give (module, inputs). For each
model every strategy is run, and one is recommended for each priority. A recommendation is right where its strategy is,
by priority,

- coverage, compatibility: successful, if any is: the export runs in ONNX Runtime and returns PyTorch's outputs;
- speed: at most 1.2 times as slow in trace, export and tag as the fastest that succeeds;
- fidelity: at most 0.01 below the best rate of the round trip.

Prints a line for each model, then how often each decision was taken and right. Exit status 1 if one was wrong.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

SLOWER, BELOW = 1.2, 0.01
ROUNDS = 4
STRATEGIES = ("fx", "htp", "usage")
PRIORITIES = ("coverage", "compatibility", "speed", "fidelity")


def main() -> int:
    """Measure the named models; return the exit status."""
    from mxtools.runtime import scripts

    file, _, listed = sys.argv[1].partition(":")
    names = listed.split(",") if listed else list(scripts.find(f"{file}:zoo"))
    results = {}
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=8) as pool:
        for name, result in pool.imap(measured, [f"{file}:{name}" for name in names]):
            results[name] = result
            print(name.rpartition(":")[2], told(result), flush=True)
    if len(sys.argv) > 2:
        Path(sys.argv[2]).write_text(json.dumps(results, indent=1))
    return summary(list(results.values()))


def measured(spec: str) -> tuple[str, dict[str, Any]]:
    """Run every strategy on a model, and recommend one for every priority."""
    from mxtools.errors import MxError
    from mxtools.pytorch.loading.inputs import load_subject
    from mxtools.pytorch.sources import sources_of
    from mxtools.pytorch.strategy.bench import agreements, bench, fastest
    from mxtools.pytorch.strategy.probe import Probe
    from mxtools.pytorch.strategy.recommendation import select

    subject = load_subject(spec)
    result: dict[str, Any] = {"strategies": {}, "recommended": {}, "agreement": []}
    rows = fastest(bench(subject, STRATEGIES, ROUNDS))
    for row in rows:
        trip = row.metrics.round_trip if row.metrics else None
        quality = row.metrics.tag_quality.direct if row.metrics else None
        result["strategies"][row.strategy] = {
            "error": row.error, "seconds": row.seconds, "round_trip": trip.rate if trip else None, "direct": quality,
        }  # fmt: skip
    result["agreement"] = [[a.first, a.second, a.agreed, a.compared, a.differing[:3]] for a in agreements(rows)]
    with sources_of(lambda: subject) as sources:
        probe = Probe(sources)
        for priority in PRIORITIES:
            try:
                found = select(probe, priority)
                result["recommended"][priority] = [found.strategy, found.reasons[0]]
            except MxError as error:
                result["recommended"][priority] = [None, str(error)]
    return spec, result


def right(result: dict[str, Any], priority: str) -> bool | None:
    """Return whether a recommendation was right; None where no strategy succeeds."""
    done = {name: row for name, row in result["strategies"].items() if row["error"] is None}
    strategy = result["recommended"][priority][0]
    if not done:
        return None
    if strategy not in done:
        return False
    if priority == "speed":
        return bool(done[strategy]["seconds"] <= SLOWER * min(row["seconds"] for row in done.values()))
    if priority == "fidelity":
        return bool(done[strategy]["round_trip"] >= max(row["round_trip"] for row in done.values()) - BELOW)
    return True


def told(result: dict[str, Any]) -> str:
    """Return a model's result in one line."""
    rows = [
        f"{name} {'failed' if row['error'] else '{seconds:.2f} s {round_trip:.3f}'.format(**row)}"
        for name, row in result["strategies"].items()
    ]
    picks = [
        f"{priority} {result['recommended'][priority][0]}{'' if right(result, priority) is not False else ' WRONG'}"
        for priority in PRIORITIES
    ]
    agreed = [f"{a}={b} {same}/{all_}" for a, b, same, all_, _ in result["agreement"][:1]]
    return "; ".join((*rows, *picks, *agreed))


def summary(results: list[dict[str, Any]]) -> int:
    """Print how often each decision was taken and right; return the exit status."""
    taken: Counter[tuple[str, str, str]] = Counter()
    good: Counter[tuple[str, str, str]] = Counter()
    for result in results:
        for priority in PRIORITIES:
            verdict = right(result, priority)
            if verdict is not None:
                decision = (priority, *map(str, result["recommended"][priority]))
                taken[decision] += 1
                good[decision] += verdict
    print("| priority | strategy | because | right |")
    print("|---|---|---|---|")
    for decision, count in taken.items():
        print(f"| {' | '.join(decision)} | {good[decision]}/{count} |")
    for name in STRATEGIES:
        rows = [result["strategies"][name] for result in results if not result["strategies"][name]["error"]]
        seconds = sorted(row["seconds"] for row in rows)
        trips = [row["round_trip"] for row in rows]
        if rows:
            print(
                f"{name}: succeeds on {len(rows)}/{len(results)}, median {seconds[len(seconds) // 2]:.2f} s, "
                f"round trip {sum(trips) / len(trips):.4f} in the mean"
            )
    return int(good != taken)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONHASHSEED", "0")
    sys.exit(main())
