"""int8 beside the checkpoint and the stock tools: accuracy on labelled pictures, size and latency, a row for each.

    python benchmarks/int8_table.py SHARED --targets tflite,onnx,coreml,executorch --only enet --json rows.json

SHARED as for parity_table.py. Every labelled checkpoint is converted with no option but --calibration (or
``--min-agreement``, too), and by the target's own int8 tool (stock_tools.py), which calibrates on the same pictures.
Both are held against the checkpoint on the test pictures: shares of pixels of equal class (all, and at boundaries),
mIoU, and the class that lost most. Times (one thread, ``--latency``) are ratios within alternating rounds: ours to our
own fp32 file, stock to ours.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import stock_tools
import torch
from latency_table import RUNTIMES, Subject, measured
from numpy.typing import NDArray

from mobileseg import convert, load_checkpoint
from mobileseg.pictures import find_pictures, iter_labels, iter_pictures, pair_labels
from mobileseg.pipeline import classes_of
from mobileseg.quantization.calibration import choose_pictures
from mobileseg.types import Artifact, Checkpoint, GateLimits, NotRun, Size, TensorSpec
from mobileseg.validation.parity import ParityResult, compare, network_input, record, recorded, reference_of
from mobileseg.validation.runners import open_artifact
from mobileseg.validation.runners.base import Runner

RUNS_HERE = ("tflite", "onnx", "executorch")
Invoke = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True)
class Subjects:
    """One checkpoint and its pictures."""

    name: str
    path: Path
    checkpoint: Checkpoint
    size: Size
    pictures: Path
    count: int
    calibration: int

    def test(self) -> Iterator[NDArray[np.uint8]]:
        return iter_pictures(self._found(), self.size)

    def labels(self) -> Iterator[NDArray[np.uint8]]:
        return iter_labels(pair_labels(self._found(), self.pictures / "test", self.pictures / "test_labels"))

    def _found(self) -> list[Path]:
        return find_pictures(self.pictures / "test")[: self.count]

    def calibrating(self) -> list[torch.Tensor]:
        chosen = choose_pictures(self.pictures / "calibration", self.calibration, 0)
        prepared = (network_input(p[None], self.checkpoint.preprocessing) for p in iter_pictures(chosen, self.size))
        return [torch.from_numpy(picture) for picture in prepared]


def stock_invoke(path: Path) -> Invoke:
    """One run of a file of the stock tools."""
    if path.suffix == ".tflite":
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(model_path=str(path), num_threads=1)
        interpreter.allocate_tensors()
        (fed,), (result, *_) = interpreter.get_input_details(), interpreter.get_output_details()

        def run(picture: NDArray[np.float32]) -> NDArray[np.float32]:
            scale, zero = fed["quantization"]
            if fed["dtype"] != np.float32:
                picture = np.clip(np.round(picture / scale) + zero, -128, 127)
            interpreter.set_tensor(fed["index"], picture.astype(fed["dtype"]))
            interpreter.invoke()
            found = interpreter.get_tensor(result["index"])
            scale, zero = result["quantization"]
            return (
                found if found.dtype == np.float32 else ((found.astype(np.float32) - zero) * scale).astype(np.float32)
            )

        return run
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return lambda picture: np.asarray(session.run(None, {name: picture})[0])
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(path.read_bytes())
    method = program.load_method("forward")

    def execute(picture: NDArray[np.float32]) -> NDArray[np.float32]:
        # The program owns the bytes that the method reads.
        assert program
        return np.asarray(method.execute([torch.from_numpy(picture)])[0].numpy())

    return execute


def stock_runner(path: Path, subject: Subjects) -> Runner:
    """As `compare` takes it: a file of raw input that gives logits."""
    invoke = stock_invoke(path)
    shape = (1, 3, *subject.size)
    result = invoke(np.zeros(shape, np.float32)).shape
    inputs, outputs = (TensorSpec(n, s, "float32", "NCHW") for n, s in (("input", shape), ("logits", result)))
    metadata = {"head": "logits", "raw_input": True}
    return Runner(Artifact(path, "stock", "int8", (inputs,), (outputs,), metadata), "stock", (), invoke)


def accuracy(found: ParityResult) -> dict[str, Any]:
    scores = found.scores
    if isinstance(scores, NotRun):
        raise SystemExit("There are no labels.")
    drops = [
        (100 * (a - b), number)
        for number, (a, b) in enumerate(zip(scores.iou_reference, scores.iou_artifact, strict=True))
        if a is not None and b is not None
    ]
    drop, number = max(drops)
    return {
        "agreement": round(100 * found.agreement.pixels, 2),
        "boundary": found.agreement.boundary.why
        if isinstance(found.agreement.boundary, NotRun)
        else round(100 * found.agreement.boundary, 2),
        "miou_checkpoint": round(100 * scores.miou_reference, 2),
        "miou": round(100 * scores.miou_artifact, 2),
        "largest_class_drop": f"{drop:.1f} (class {number})",
        "class_changes": [round(-d, 1) for d, _ in drops],
    }


def rows_of(subject: Subjects, target: str, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    folder = options.output / subject.name
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, Path] = {}
    void = classes_of(subject.checkpoint, None, demo=False).void
    with tempfile.TemporaryDirectory() as kept:
        record(reference_of(subject.checkpoint), subject.test(), Path(kept))
        reference = recorded(Path(kept))

        def compared(runner: Runner) -> dict[str, Any]:
            preprocessing = subject.checkpoint.preprocessing
            labels = subject.labels()
            return accuracy(compare(reference, runner, subject.test(), labels, void=void, preprocessing=preprocessing))

        common: dict[str, Any] = {"to": target, "size": subject.size, "output": folder, "image_count": 1}
        for precision, more in (("fp32", {}), ("int8", {"calibration": subject.pictures / "calibration"})):
            gates = GateLimits(min_agreement=options.min_agreement) if precision == "int8" else None
            made = convert(
                subject.path, precision=precision, calibration_size=subject.calibration, gates=gates, **common, **more
            )
            (item,) = made.artifacts
            files[precision] = item.artifact.path
        yield {
            "who": "ours",
            **compared(open_artifact(files["int8"])),
            "seconds": round(sum(item.seconds.values())),
            "recipe": item.report["quantization"],
        }
        if "stock" in options.who.split(",") and (target, "int8") in stock_tools.WRITERS:
            path = folder / f"stock{stock_tools.SUFFIXES[target]}"
            with stock_tools.refused(target):
                stock_tools.write(target, "int8", subject.checkpoint.network, subject.calibrating(), path)
                yield {"who": "stock", **compared(stock_runner(path, subject))}
                files["stock"] = path
    yield {"who": "sizes", **sizes(files)}
    if options.latency and target in RUNS_HERE:
        yield {"who": "latency", **latency(files, options)}


def sizes(files: Mapping[str, Path]) -> dict[str, Any]:
    counted = {
        name: sum(p.stat().st_size for p in path.rglob("*")) if path.is_dir() else path.stat().st_size
        for name, path in files.items()
    }
    return {**counted, "int8/fp32": round(counted["int8"] / counted["fp32"], 3)}


def latency(files: Mapping[str, Path], options: argparse.Namespace) -> dict[str, Any]:
    found = [Subject("", name, "", RUNTIMES[path.suffix](path)) for name, path in files.items()]
    table = dict(zip(files, measured(found, options.rounds, options.seconds), strict=True))
    ratios = {"int8/fp32": ("int8", "fp32"), "stock/int8": ("stock", "int8")}
    return {
        **{name: round(statistics.median(row), 2) for name, row in table.items()},
        **{
            words: round(statistics.median(a / b for a, b in zip(table[one], table[other], strict=True)), 3)
            for words, (one, other) in ratios.items()
            if one in table
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--targets", default="tflite,onnx,executorch,coreml")
    parser.add_argument("--only", default="", help="part of the checkpoints' names")
    parser.add_argument("--who", default="ours,stock", help="ours always")
    parser.add_argument("--pictures", type=int, default=5, help="of the test list")
    parser.add_argument("--calibration", type=int, default=16)
    parser.add_argument("--size", help="HxW; else what each was trained at")
    parser.add_argument("--min-agreement", type=float, help="what convert's option of this name is given")
    parser.add_argument("--latency", action="store_true")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each file in each round")
    parser.add_argument("--output", type=Path, default=Path("mobileseg-out"))
    parser.add_argument("--json", type=Path, default=Path("int8_table.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    manifest = json.loads((options.shared / "checkpoints" / "manifest.json").read_text())
    rows = json.loads(options.json.read_text()) if options.json.exists() else []
    chosen = [e for e in manifest if options.only in e["name"] and e["dataset"]]
    for entry, target in itertools.product(chosen, options.targets.split(",")):
        path = options.shared / "checkpoints" / entry["file"]
        size = tuple(int(n) for n in options.size.split("x")) if options.size else (entry["size"][0], entry["size"][1])
        pictures = options.shared / "images" / entry["dataset"]
        loaded = load_checkpoint(path)
        subject = Subjects(entry["name"], path, loaded, size, pictures, options.pictures, options.calibration)
        for row in rows_of(subject, target, options):
            rows.append({"checkpoint": entry["name"], "target": target, "size": "x".join(map(str, size)), **row})
            short = {k: v for k, v in rows[-1].items() if k not in {"recipe", "class_changes"}}
            print(
                "| " + " | ".join(f"{k} {v}" if k not in short else str(v) for k, v in short.items()) + " |", flush=True
            )
            options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
