"""Where a file's milliseconds go: kinds of operators, the costliest operators, what no delegate takes.

python benchmarks/operator_times.py FILE... --runs 30 --json times.json
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from mobileseg.types import NotRun
from mobileseg.validation.timings import time_operators


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--costliest", type=int, default=10)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    for path in options.files:
        timed = time_operators(path, options.runs)
        if isinstance(timed, NotRun):
            print(f"{path}: not run: {timed.why}")
            continue
        print(f"{path}: {timed.runtime}, {timed.threads} thread, {timed.runs} runs")
        print(f"whole {timed.whole_ms:.3f} ms, operators {timed.sum_ms:.3f} ms, {timed.partitions} partitions")
        for kind in timed.kinds:
            print(f"  {kind.operator:45} {kind.count:5} {kind.ms:9.3f} ms {kind.share:6.1%}")
        for operator in timed.costliest(options.costliest):
            print(f"  {operator.ms:9.3f} ms {operator.operator:40} {operator.name}")
        for operator in timed.operators:
            if not operator.delegated:
                print(f"  not delegated: {operator.operator} {operator.name} {operator.ms:.3f} ms")
        rows.append({"path": str(path), **asdict(timed)})
        if options.json:
            options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
