"""`--to all` against the four single runs: seconds, their ratio, and whether the files are the same to the byte.

    python benchmarks/all_targets.py [CHECKPOINT] [--size HxW] [--precision fp32] [--rounds 1]

Each run is a process of its own, as a user starts it; single runs and the joint one alternate. With no checkpoint the
embedded demo network is converted.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mobileseg.registry import TARGETS


def convert(to: str, output: Path, more: list[str]) -> float:
    """Seconds of one run."""
    command = [sys.executable, "-m", "mobileseg", "convert", *more, "--to", to, "--output", str(output), "--quiet"]
    start = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - start


def contents(folder: Path) -> dict[str, bytes]:
    """Each artifact's bytes by name; the reports, which say when they were made, are left out."""
    files = (p for p in folder.rglob("*") if p.is_file() and not p.name.endswith(".report.json"))
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?")
    parser.add_argument("--size")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    more = [options.checkpoint] if options.checkpoint else []
    more += ["--precision", options.precision, *(["--size", options.size] if options.size else [])]
    ratios = []
    for _ in range(options.rounds):
        folder = Path(tempfile.mkdtemp())
        alone = {name: convert(name, folder / "alone", more) for name in TARGETS}
        together = convert("all", folder / "together", more)
        ratios.append(together / sum(alone.values()))
        told = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in alone.items())
        print(f"{told}; sum {sum(alone.values()):.1f} s; all {together:.1f} s; ratio {ratios[-1]:.2f}", flush=True)
        first, second = contents(folder / "alone"), contents(folder / "together")
        differing = sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))
        print(f"{len(first)} files, {', '.join(differing) or 'none'} different", flush=True)
        shutil.rmtree(folder)
    print(f"median ratio {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
