"""Networks of others as Core ML packages of every precision, each from one trace.

    python benchmarks/coreml_table.py --model tests/networks/unet.py:build --size 64x96 --precisions fp32,fp16

Each network, given as FILE:FUNCTION, is run on the demo's scenes; beside each error stands how far its own float32
arithmetic is from float64. No layer of an fp16 file is kept in float32, as `convert` does where a gate is missed.
(Checkpoints: `parity_table.py`.) Rows are printed as Markdown and added to the JSON file as they come.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mobileseg import load_checkpoint
from mobileseg.checkpoint import Checkpoint
from mobileseg.converters.export import Deployed, Exported, export, rewrite
from mobileseg.converters.target import Lowering
from mobileseg.making import write
from mobileseg.mobile_assets.demo import EVALUATION_SEEDS, scene
from mobileseg.registry import target
from mobileseg.sources import PictureSource
from mobileseg.types import NotRun, Size
from mobileseg.validation.parity import compare, record, recorded, reference_of, reference_precision
from mobileseg.validation.runners import open_artifact

PRECISIONS = "fp32,fp16,w8,palette8,palette6,palette4"


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
            runner, started = open_artifact(path), time.perf_counter()
            found = compare(reference, runner, pictures)
            seconds = (time.perf_counter() - started) / len(pictures)
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
                "seconds": seconds,
                "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
            }


def lower(exported: Exported, precision: str, size: Size, path: Path) -> None:
    metadata = {
        "head": "logits",
        "target": "coreml",
        "precision": precision,
        "input": {"layout": "NCHW", "size": list(size)},
        "output": {"layout": "NCHW"},
    }
    nothing = PictureSource("no pictures", 0, lambda: iter(()))
    rewritten = rewrite(exported, "coreml", precision)
    write(target("coreml"), rewritten, Lowering(precision, "logits", metadata), nothing, path)


def given(options: argparse.Namespace) -> Iterator[tuple[str, Checkpoint, Size, list[NDArray[np.uint8]]]]:
    height, _, width = options.size.partition("x")
    size = (int(height), int(width))
    for model in options.model:
        pictures = [scene(seed, size).picture for seed in EVALUATION_SEEDS[: options.pictures]]
        yield Path(model).name, load_checkpoint(None, model=model, size=size), size, pictures


def shown(value: Any) -> str:
    if isinstance(value, NotRun):
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", required=True, help="FILE:FUNCTION of a network of others")
    parser.add_argument("--size", default="64x96", help="HxW")
    parser.add_argument("--precisions", default=PRECISIONS)
    parser.add_argument("--pictures", type=int, default=2)
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
