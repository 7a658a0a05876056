"""Where a file's milliseconds go, as its runtime measures it: kinds of operators, the costliest operators, the pieces
that a delegate runs, and what it leaves, with the reasons.

    python benchmarks/operator_times.py FILE... --runs 30 --json times.json

One thread. Runs of each file without any measurement inside and runs with it take turns; the times are medians of those
in which no other process had the processor.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from mobileseg.texts import BUSY
from mobileseg.types import NotRun
from mobileseg.validation.timings import OperatorTime, Timed, kinds, time_operators


def report(path: Path, timed: Timed, costliest: int) -> Iterator[str]:
    """Markdown."""
    yield f"\n## {path.name}\n"
    yield f"{timed.runtime}, {timed.threads} thread, medians of {timed.runs} runs."
    yield f"The whole {timed.whole_ms:.3f} ms; its {len(timed.operators)} operators {timed.sum_ms:.3f} ms.\n"
    if timed.waited > BUSY:
        yield f"**The machine was busy: {timed.waited:.0%} of that time is other processes'.**\n"
    yield "| operator | count | ms | share |\n|---|---|---|---|"
    for kind in timed.kinds:
        yield f"| {kind.operator} | {kind.count} | {kind.ms:.3f} | {kind.share:.1%} |"
    yield "\n| the costliest | ms | name | run by |\n|---|---|---|---|"
    for operator in timed.costliest(costliest):
        by = ", ".join(operator.kernels) or ("a delegate" if operator.delegated else "the runtime")
        yield f"| {operator.operator} | {operator.ms:.3f} | {operator.name} | {by} |"
    if timed.partitions:
        left = [operator for operator in timed.operators if not operator.delegated and operator.calls]
        taken = sum(operator.delegated for operator in timed.operators)
        pieces = "piece" if timed.partitions == 1 else "pieces"
        yield f"\nA delegate runs {taken} operators in {timed.partitions} {pieces} and leaves {len(left)}."
        yield from reasons(left)


def reasons(left: list[OperatorTime]) -> Iterator[str]:
    """What a delegate leaves, by kind and reason."""
    groups = defaultdict(list)
    for operator in left:
        groups[operator.operator, operator.why or "not known"].append(operator)
    if groups:
        yield "\n| left | count | ms | why |\n|---|---|---|---|"
    for (operator, why), members in groups.items():
        yield f"| {operator} | {len(members)} | {kinds(members)[0].ms:.3f} | {why} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--costliest", type=int, default=10)
    parser.add_argument("--json", type=Path, help="keep all operators' times there")
    options = parser.parse_args()
    rows = []
    for path in options.files:
        timed = time_operators(path, options.runs)
        if isinstance(timed, NotRun):
            print(f"\n## {path.name}\n\nNot run: {timed.why}.", flush=True)
            rows.append({"path": str(path), "not_run": timed.why})
        else:
            print(*report(path, timed, options.costliest), sep="\n", flush=True)
            rows.append({"path": str(path), **asdict(timed), "sum_ms": timed.sum_ms})
        if options.json:
            options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
