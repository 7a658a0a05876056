"""Core ML packages through the reference executor: every checkpoint of a folder, and networks of others.

    python benchmarks/coreml_table.py SHARED --json rows.json
    python benchmarks/coreml_table.py --model tests/networks/unet.py:build --size 64x96 --precisions fp32,fp16

SHARED holds `checkpoints/manifest.json` (file, size, data set of each) and `images/<data set>/test`. Each checkpoint is
converted at its own training size; a network of others, given as FILE:FUNCTION, is run on the demo's scenes. Beside
each error stands how far the checkpoint's own float32 arithmetic is from float64. Rows are printed as Markdown and
added to the JSON file as they come.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mobileseg import load_checkpoint
from mobileseg.checkpoint import Checkpoint
from mobileseg.converters.export import Deployed, Exported, export, rewrite
from mobileseg.converters.target import Lowering
from mobileseg.mobile_assets.demo import EVALUATION_SEEDS, scene
from mobileseg.pictures import find_pictures, iter_pictures
from mobileseg.registry import QUANTIZERS, quantizer, target
from mobileseg.types import NotRun, Size
from mobileseg.validation.coreml import load
from mobileseg.validation.parity import compare, record, recorded, reference_of, reference_precision
from mobileseg.validation.runners import open_artifact

PRECISIONS = "fp32,fp16,w8,palette8,palette6,palette4"
VARIANTS = {"enet-greenhouse-davidtvs-pre2021": "davidtvs-pre2021"}
"""What the keys cannot tell."""


def rows_of(
    name: str, checkpoint: Checkpoint, size: Size, pictures: list[NDArray[np.uint8]], options: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """One row a precision; the network is traced once."""
    exported = export(Deployed(checkpoint.network, checkpoint.preprocessing, "logits"), size)
    own = reference_precision(checkpoint, pictures)
    with tempfile.TemporaryDirectory() as folder:
        reference = recorded(Path(folder))
        record(reference_of(checkpoint), pictures, Path(folder))
        for precision in options.precisions.split(","):
            path = Path(folder) / f"{name}.{precision}.mlpackage"
            lower(exported, precision, size, path)
            executor = load(path, arithmetic=options.arithmetic)
            (source,), seconds = executor.inputs, list[float]()

            def invoke(tensor: NDArray[Any]) -> NDArray[Any]:
                started = time.perf_counter()
                (result,) = executor.run({source.name: tensor}).values()  # noqa: B023 used before the next turn
                seconds.append(time.perf_counter() - started)  # noqa: B023
                return result

            runner = replace(open_artifact(path), invoke=invoke, cannot_run="")
            found = compare(reference, runner, pictures)
            if isinstance(found.errors, NotRun):
                raise SystemExit(f"{name} {precision}: {found.errors.why}")
            yield {
                "network": name,
                "size": f"{size[0]}x{size[1]}",
                "precision": precision,
                "max_abs_err": found.errors.max_abs_err,
                "sqnr_db": found.errors.sqnr_db,
                "own_sqnr_db": own,
                "agreement": found.agreement.pixels,
                "images": found.images,
                "seconds": sorted(seconds)[len(seconds) // 2],
                "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
            }


def lower(exported: Exported, precision: str, size: Size, path: Path) -> None:
    recipe = QUANTIZERS.get(("coreml", precision))
    metadata = {
        "head": "logits",
        "target": "coreml",
        "precision": precision,
        "input": {"layout": "NCHW", "size": list(size)},
        "output": {"layout": "NCHW"},
    }
    base = recipe.base if recipe else precision
    target("coreml").lower(rewrite(exported, "coreml", precision), Lowering(base, "logits", metadata), path)
    if recipe:
        quantizer(recipe)(path, precision, ())


def given(options: argparse.Namespace) -> Iterator[tuple[str, Checkpoint, Size, list[NDArray[np.uint8]]]]:
    height, _, width = options.size.partition("x")
    size = (int(height), int(width))
    for model in options.model:
        pictures = [scene(seed, size).picture for seed in EVALUATION_SEEDS[: options.pictures]]
        yield Path(model).name, load_checkpoint(None, model=model, size=size), size, pictures
    if options.shared is None:
        return
    for entry in json.loads((options.shared / "checkpoints" / "manifest.json").read_text()):
        if options.only in entry["name"]:
            path = options.shared / "checkpoints" / entry["file"]
            folder = options.shared / "images" / (entry["dataset"] or "camvid") / "test"
            size = (entry["size"][0], entry["size"][1])
            pictures = list(iter_pictures(find_pictures(folder)[: options.pictures], size))
            yield entry["name"], load_checkpoint(path, variant=VARIANTS.get(entry["name"])), size, pictures


def shown(value: Any) -> str:
    if isinstance(value, NotRun):
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path, nargs="?")
    parser.add_argument("--model", action="append", default=[], help="FILE:FUNCTION of a network of others")
    parser.add_argument("--size", default="64x96", help="HxW of the networks of others")
    parser.add_argument("--precisions", default=PRECISIONS)
    parser.add_argument("--arithmetic", default="file", choices=("file", "float32"))
    parser.add_argument("--pictures", type=int, default=2)
    parser.add_argument("--only", default="", help="part of the checkpoints' names")
    parser.add_argument("--json", type=Path, default=Path("coreml_table.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = json.loads(options.json.read_text()) if options.json.exists() else []
    for name, checkpoint, size, pictures in given(options):
        for row in rows_of(name, checkpoint, size, pictures, options):
            rows.append(row)
            print("| " + " | ".join(shown(v) for v in row.values()) + " |", flush=True)
            options.json.write_text(json.dumps(rows, indent=1, default=shown) + "\n")


if __name__ == "__main__":
    main()
