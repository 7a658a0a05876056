"""Latency of one network's files beside the stock tools', ONNX Runtime's, torch's and the floor's: medians and ratios.

    python benchmarks/latency_table.py CHECKPOINT --sizes 256x512 --targets tflite,executorch,onnx --json rows.json

"ours" is what `mobileseg convert` writes. "floor" is the same of the network with nearest upsampling in place of
unpooling, ReLU in place of PReLU and no preprocessing: it computes something else, and bounds what rewriting can reach.
"stock" is the target's own tool on the authors' module, with the changes that `variations.loadable` makes for
litert-torch; ONNX by `torch.onnx.export`. "eager" is torch itself. All are loaded into one process, run on one thread
in turn, some runs each a round, and the median of the rounds' medians is kept; ratios are taken round by round.
``--realtime`` (root, Linux) runs the rounds at real-time priority: other processes cannot interrupt them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import stock_tools
import torch
from variations import floor

from mobileseg import convert, load_checkpoint
from mobileseg.mobile_assets.demo import DEMO
from mobileseg.pipeline import demo_checkpoint
from mobileseg.types import Checkpoint, Size

Invoke = Callable[[], Any]


@dataclass(frozen=True)
class Subject:
    """``invoke``: one run on a picture that is already where the runtime reads it."""

    backend: str
    precision: str
    who: str
    invoke: Invoke


# Runtimes, by a file's suffix


def tflite(path: Path) -> Invoke:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    (declared,) = interpreter.get_input_details()
    picture = np.random.default_rng(0).random(declared["shape"])
    interpreter.set_tensor(declared["index"], picture.astype(declared["dtype"]))
    invoke: Invoke = interpreter.invoke
    return invoke


def onnx(path: Path) -> Invoke:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (declared,) = session.get_inputs()
    fed = {declared.name: np.random.default_rng(0).random(declared.shape).astype(np.float32)}
    return lambda: session.run(None, fed)


def executorch(path: Path) -> Invoke:
    from executorch.extension.pybindings import portable_lib
    from executorch.runtime import Runtime

    portable_lib._unsafe_reset_threadpool(1)
    program = Runtime.get().load_program(path.read_bytes())
    method, declared = program.load_method("forward"), program.metadata("forward").input_tensor_meta(0)
    picture = torch.rand(declared.sizes(), generator=torch.Generator().manual_seed(0))

    def invoke() -> Any:
        # The program owns the bytes that the method reads.
        assert program
        # `execute` alone would copy the result, 0.8 ms for 10 MB, which an app reads where it lies.
        return method._method([picture], clone_outputs=False)

    return invoke


RUNTIMES = {".tflite": tflite, ".onnx": onnx, ".pte": executorch}


def subjects(checkpoint: Path | None, loaded: Checkpoint, size: Size, options: argparse.Namespace) -> Iterator[Subject]:
    folder = options.output / f"{size[0]}x{size[1]}"
    folder.mkdir(parents=True, exist_ok=True)
    network, picture = loaded.network, torch.rand(1, 3, *size)
    common: dict[str, Any] = {"to": options.targets.split(","), "size": size, "image_count": 1, "jobs": 1}
    calibration: dict[str, Any] = {"calibration": options.calibration} if checkpoint and options.calibration else {}
    yield Subject("torch", "fp32", "eager", torch.inference_mode()(lambda: network(picture)))
    for precision in options.precisions.split(","):
        given = {**common, **(calibration if precision == "int8" else {}), "precision": precision}
        for who, more in (
            ("ours", {"checkpoint": checkpoint, "variant": options.variant}),
            ("floor", {"model": floor(network, picture), "raw_input": True}),
        ):
            if who not in options.who.split(",") or (who == "floor" and precision == "int8"):
                continue
            made = convert(output=folder / who, **given, **more)
            for failure in made.failures:
                print(failure.target, failure.message)
            for item in made.artifacts:
                path = item.artifact.path
                yield Subject(item.artifact.target, precision, who, RUNTIMES[path.suffix](path))
    for target in common["to"] if "stock" in options.who.split(",") else ():
        path = folder / f"stock{stock_tools.SUFFIXES[target]}"
        with stock_tools.refused(target):
            stock_tools.write(target, "fp32", network, [picture], path)
            yield Subject(target, "fp32", "stock", RUNTIMES[path.suffix](path))


def measured(found: list[Subject], rounds: int, seconds: float) -> list[list[float]]:
    """ms of each subject, round by round: the median of as many runs as fit into ``seconds``, at least three."""
    table: list[list[float]] = [[] for _ in found]
    for _ in range(rounds):
        for row, subject in zip(table, found, strict=True):
            subject.invoke()
            runs, end = list[float](), time.perf_counter() + seconds
            while len(runs) < 3 or time.perf_counter() < end:
                start = time.perf_counter()
                subject.invoke()
                runs.append((time.perf_counter() - start) * 1000)
            row.append(statistics.median(runs))
    return table


@contextmanager
def undisturbed(wanted: bool) -> Iterator[None]:
    """The scheduler's class for work that nothing else may interrupt, while it lasts."""
    if wanted:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))
    try:
        yield
    finally:
        if wanted:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def demo() -> Checkpoint:
    return demo_checkpoint(next(iter(DEMO)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", type=Path, help="default: the demo network")
    parser.add_argument("--variant", help="where the keys cannot tell")
    parser.add_argument("--sizes", default="256x512")
    parser.add_argument("--targets", default="tflite,executorch,onnx")
    parser.add_argument("--precisions", default="fp32")
    parser.add_argument("--who", default="ours,floor,stock", help="ours always")
    parser.add_argument("--calibration", type=Path, help="for int8 of a checkpoint")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each subject in each round")
    parser.add_argument("--realtime", action="store_true", help="rounds at real-time priority")
    parser.add_argument("--output", type=Path, default=Path("mobileseg-out"))
    parser.add_argument("--json", type=Path, default=Path("latency_table.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = json.loads(options.json.read_text()) if options.json.exists() else []
    for text in options.sizes.split(","):
        height, _, width = text.partition("x")
        size = (int(height), int(width))
        loaded = load_checkpoint(options.checkpoint, variant=options.variant) if options.checkpoint else demo()
        found = list(subjects(options.checkpoint, loaded, size, options))
        with undisturbed(options.realtime):
            table = measured(found, options.rounds, options.seconds)
        ours = {(s.backend, s.precision): row for s, row in zip(found, table, strict=True) if s.who == "ours"}
        for subject, row in zip(found, table, strict=True):
            own = ours.get((subject.backend, subject.precision)) or next(iter(ours.values()))
            rows.append(
                {
                    "checkpoint": options.checkpoint.stem if options.checkpoint else "demo",
                    "size": text,
                    "backend": subject.backend,
                    "precision": subject.precision,
                    "who": subject.who,
                    "ms": round(statistics.median(row), 3),
                    "ours_over_it": round(statistics.median(a / b for a, b in zip(own, row, strict=True)), 3),
                    "rounds_ms": [round(ms, 3) for ms in row],
                }
            )
            print("| " + " | ".join(str(v) for k, v in rows[-1].items() if k != "rounds_ms") + " |", flush=True)
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
