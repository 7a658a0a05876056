"""What `mobileseg --help` takes: medians in ms.

    python benchmarks/start_time.py --runs 20

A Python that does nothing runs in turn with it, for what the machine itself takes.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "mobileseg --help": [sys.executable, "-m", "mobileseg", "--help"],
    "python -c pass": [sys.executable, "-c", "pass"],
}


def milliseconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return (time.perf_counter() - start) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    options = parser.parse_args()
    rounds = [{name: milliseconds(command) for name, command in COMMANDS.items()} for _ in range(options.runs)]
    for name in COMMANDS:
        print(f"{name}: {statistics.median(taken[name] for taken in rounds):.0f} ms")


if __name__ == "__main__":
    main()
