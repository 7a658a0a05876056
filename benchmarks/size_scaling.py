"""Latency and memory of one network's files over the size of the picture, as a table, JSON and a plot.

    pip install matplotlib
    python benchmarks/size_scaling.py CHECKPOINT --targets tflite,executorch,onnx --plot docs/size_scaling.svg

Latency: one thread, all files loaded into one process and run in turn, the median of the rounds' medians, as
`latency_table` measures. Memory: what the runtime holds after a run, counted in a process of its own
(`mobileseg.validation.memory`); its plan and the kernels' buffers stay between runs, so that this is the peak, too. A
line through the memory's points (least squares of relative errors) says what a picture's pixel takes and what is there
without any; ``off`` is how far the farthest point lies from it.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from latency_table import RUNTIMES, Subject, measured, undisturbed

from mobileseg import convert, inspect
from mobileseg.types import NotRun

SIZES = "128x256,192x384,256x512,384x768,512x1024,768x1536,1024x2048"
MEGA = 1e6


def files(options: argparse.Namespace) -> list[tuple[str, int, Path]]:
    """(target, pixels, file), all written by `mobileseg.convert`."""
    found = []
    for text in options.sizes.split(","):
        height, _, width = text.partition("x")
        made = convert(
            checkpoint=options.checkpoint,
            variant=options.variant,
            to=options.targets.split(","),
            size=(int(height), int(width)),
            precision=options.precision,
            image_count=1,
            jobs=1,
            output=options.output / text,
        )
        for failure in made.failures:
            print(text, failure.target, failure.message, flush=True)
        found += [(a.artifact.target, int(height) * int(width), a.artifact.path) for a in made.artifacts]
    return found


def line(pixels: list[int], held: list[int]) -> tuple[float, float, float]:
    """Bytes without a pixel, bytes of each, and the farthest point's relative distance from the line."""
    x, y = np.array(pixels, float), np.array(held, float)
    terms = np.stack([np.ones_like(x), x], axis=1)
    (base, slope), *_ = np.linalg.lstsq(terms / y[:, None], np.ones_like(y), rcond=None)
    return float(base), float(slope), float(np.abs((base + slope * x) / y - 1).max())


def plotted(rows: list[Mapping[str, Any]], title: str, path: Path) -> None:
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    speed, memory = figure.subplots(1, 2)
    for target in dict.fromkeys(row["target"] for row in rows):
        own = [row for row in rows if row["target"] == target]
        x = [row["megapixels"] for row in own]
        speed.plot(x, [row["ms_per_megapixel"] for row in own], marker="o", label=target)
        memory.plot(x, [row["held_mib"] for row in own], marker="o", label=target)
    for axes, label in ((speed, "ms per megapixel, one thread"), (memory, "MiB held by the runtime")):
        axes.set_xscale("log", base=2)
        axes.set_xlabel("megapixels")
        axes.set_ylabel(label)
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.grid(visible=True, alpha=0.3)
    speed.set_ylim(bottom=0)
    memory.set_yscale("log", base=2)
    memory.yaxis.set_major_formatter(ScalarFormatter())
    memory.yaxis.set_minor_formatter(NullFormatter())
    speed.legend()
    figure.suptitle(title)
    # Without a day, the same figures make the same file.
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", type=Path, help="default: the demo network")
    parser.add_argument("--variant", help="where the keys cannot tell")
    parser.add_argument("--sizes", default=SIZES)
    parser.add_argument("--targets", default="tflite,executorch,onnx")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each file in each round; at least three runs")
    parser.add_argument("--realtime", action="store_true", help="rounds at real-time priority (root, Linux)")
    parser.add_argument("--output", type=Path, default=Path("mobileseg-out"))
    parser.add_argument("--json", type=Path, default=Path("size_scaling.json"))
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    name = options.checkpoint.stem if options.checkpoint else "demo ENet"
    made = files(options)
    held = [inspect(path).held_bytes for _, _, path in made]  # type: ignore[union-attr]
    subjects = [Subject(target, options.precision, "ours", RUNTIMES[path.suffix](path)) for target, _, path in made]
    with undisturbed(options.realtime):
        table = measured(subjects, options.rounds, options.seconds)
    rows = []
    for (target, pixels, path), rounds, memory in zip(made, table, held, strict=True):
        ms = statistics.median(rounds)
        rows.append(
            {
                "checkpoint": name,
                "target": target,
                "size": path.parent.name,
                "megapixels": pixels / MEGA,
                "ms": round(ms, 3),
                "ms_per_megapixel": round(ms / pixels * MEGA, 2),
                "held_mib": None if isinstance(memory, NotRun) else round(memory / 2**20, 2),
            }
        )
    options.json.write_text(json.dumps(rows, indent=1) + "\n")
    for row in rows:
        print("| " + " | ".join(str(v) for k, v in row.items() if k != "checkpoint") + " |")
    for target in dict.fromkeys(row["target"] for row in rows):
        own = [n for n, row in enumerate(rows) if row["target"] == target]
        each = [rows[n]["ms_per_megapixel"] for n in own]
        middle = statistics.median(each)
        told = (
            f"{target}: {min(each) / middle - 1:+.1%} to {max(each) / middle - 1:+.1%} of the median ms per megapixel"
        )
        if not any(isinstance(held[n], NotRun) for n in own):
            base, slope, off = line([made[n][1] for n in own], [held[n] for n in own])
            told += f"; memory {base / 2**20:.1f} MiB + {slope:.0f} bytes a pixel, off {off:.1%}"
        print(told)
    if options.plot:
        plotted([row for row in rows if row["held_mib"] is not None], f"{name}, {options.precision}", options.plot)


if __name__ == "__main__":
    main()
