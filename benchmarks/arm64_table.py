"""ARM64 against x86: every checkpoint of a folder, run in the runtimes' builds for either.

    mobileseg setup qemu-arm64
    python benchmarks/arm64_table.py SHARED --json rows.json

SHARED holds `checkpoints/manifest.json` and `images/<data set>/{calibration,test}`. Each checkpoint is converted at
`--size`, small enough that emulation takes seconds, and run on two pictures. SegNet, of which no checkpoint is there,
gets random weights, with its batch normalization's statistics from the demo's scenes.

Errors are relative to the largest logit. Beside x86 against ARM64 stand, for fp32, what other orders of summation do:
"own", the network in torch's float32 against float64; "built-in", the TFLite file on x86 without XNNPACK against with
it. Rows are printed as Markdown and added to the JSON file as they come.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mobileseg import convert, load_checkpoint
from mobileseg.converters.export import Deployed
from mobileseg.mobile_assets.demo import EVALUATION_SEEDS, scene
from mobileseg.pictures import find_pictures, iter_pictures
from mobileseg.registry import variants
from mobileseg.types import Checkpoint, Placement, Size
from mobileseg.validation.runners import Runner, open_artifact

FILES = (("fp32", ("tflite", "executorch")), ("int8", ("tflite",)))
VARIANTS = {"enet-greenhouse-davidtvs-pre2021": "davidtvs-pre2021"}
"""What the keys cannot tell."""
SEGNET = "segnet-random"

Pictures = Sequence[NDArray[np.uint8]]


def rows_of(
    name: str, path: Path, size: Size, pictures: Pictures, calibration: Path | str, output: Path
) -> Iterator[dict[str, Any]]:
    """One row a file."""
    own = own_rounding(load_checkpoint(path, variant=VARIANTS.get(name)), pictures)
    for precision, targets in FILES:
        result = convert(
            path,
            to=targets,
            precision=precision,
            size=size,
            variant=VARIANTS.get(name),
            calibration=None if precision == "fp32" else calibration,
            calibration_size=8,
            image_count=1,
            jobs=1,
            output=output,
        )
        for failure in result.failures:
            raise SystemExit(f"{name} {failure.target}: {failure.message}\n{failure.traceback}")
        for made in result.artifacts:
            file, target = made.artifact.path, made.artifact.target
            x86, arm64 = open_artifact(file), open_artifact(file, Placement(device="qemu-arm64"))
            here, there = logits(x86.run, pictures), logits(arm64.run, pictures)
            both = precision == "fp32" and target == "tflite"
            built_in = logits(without_xnnpack(x86), pictures) if both else None
            yield {
                "checkpoint": name,
                "size": f"{size[0]}x{size[1]}",
                "target": target,
                "precision": precision,
                "error": relative(here, there),
                "sqnr_db": sqnr(here, there),
                "agreement": float((here.argmax(1) == there.argmax(1)).mean()),
                "own": own if precision == "fp32" else None,
                "built_in": None if built_in is None else relative(here, built_in),
            }


def logits(run: Callable[[Any], NDArray[Any]], pictures: Pictures) -> NDArray[np.float64]:
    return np.concatenate([run(picture[None]) for picture in pictures]).astype(np.float64)


def relative(reference: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    return float(np.abs(reference - other).max() / np.abs(reference).max())


def sqnr(reference: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    noise = float(((reference - other) ** 2).sum())
    return 10 * math.log10(float((reference**2).sum()) / noise) if noise else math.inf


def own_rounding(checkpoint: Checkpoint, pictures: Pictures) -> float:
    """What float32 does to the network itself."""
    single = Deployed(checkpoint.network, checkpoint.preprocessing, "logits").eval()
    double = deepcopy(single).double()
    tensor = torch.from_numpy(np.stack(pictures).transpose(0, 3, 1, 2).copy())
    with torch.inference_mode():
        return relative(double(tensor.double()).numpy(), single(tensor.float()).numpy().astype(np.float64))


def without_xnnpack(runner: Runner) -> Callable[[Any], NDArray[Any]]:
    """Runs the runner's file on the interpreter's built-in kernels."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        model_path=str(runner.artifact.path),
        num_threads=1,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()

    def run(pictures: NDArray[np.uint8]) -> NDArray[Any]:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], runner.encoded(pictures))
        interpreter.invoke()
        found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
        return found.transpose(0, 3, 1, 2) if runner.outputs[0].layout == "NHWC" else found

    return run


def random_segnet(folder: Path, size: Size) -> Path:
    """A checkpoint of SegNet whose weights nobody trained."""
    torch.manual_seed(0)
    network = next(v for v in variants("segnet") if v.name == "semseg").build(num_classes=12)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    scenes = np.stack([scene(seed, size).picture for seed in EVALUATION_SEEDS[:4]]).transpose(0, 3, 1, 2)
    with torch.inference_mode():
        for _ in range(20):
            network.train()(torch.from_numpy(scenes.copy()).float() / 255)
    path = folder / f"{SEGNET}.pth"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), path)
    return path


def shown(value: Any) -> str:
    return "-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--size", default="128x256", help="HxW")
    parser.add_argument("--only", default="", help="part of the checkpoints' names")
    parser.add_argument("--output", type=Path, default=Path("mobileseg-out"))
    parser.add_argument("--json", type=Path, default=Path("arm64_table.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    height, _, width = options.size.partition("x")
    size = (int(height), int(width))
    manifest = json.loads((options.shared / "checkpoints" / "manifest.json").read_text())
    rows = json.loads(options.json.read_text()) if options.json.exists() else []
    for entry in (*manifest, {"name": SEGNET, "file": None, "dataset": None}):
        if options.only not in entry["name"]:
            continue
        folder = options.shared / "images" / (entry["dataset"] or "camvid")
        path = options.shared / "checkpoints" / entry["file"] if entry["file"] else random_segnet(options.output, size)
        pictures = list(iter_pictures(find_pictures(folder / "test")[:2], size))
        for row in rows_of(entry["name"], path, size, pictures, folder / "calibration", options.output):
            rows.append(row)
            print("| " + " | ".join(shown(v) for v in row.values()) + " |", flush=True)
            options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
