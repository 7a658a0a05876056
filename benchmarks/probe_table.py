"""Which pictures tell how good int8 is on new ones: shares of pixels of equal class, on pictures changed in many ways.

    python benchmarks/probe_table.py SHARED --only enet-camvid

SHARED as for parity_table.py. int8 throughout in TFLite's forms, simulated in torch, channels equalized, ranges from
the calibration pictures; on the test pictures, on calibration pictures, and on these changed.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from mobileseg import load_checkpoint, registry
from mobileseg.converters.export import Deployed, export
from mobileseg.making import rewritten_for
from mobileseg.pictures import find_pictures, iter_pictures
from mobileseg.quantization.calibration import choose_pictures
from mobileseg.quantization.program.judge import Judge
from mobileseg.quantization.program.planned import calibrated, equalize_channels, tensor_of
from mobileseg.types import INT8, Size

Picture = NDArray[np.uint8]


def mirrored(picture: Picture) -> Picture:
    return np.ascontiguousarray(picture[:, ::-1])


def middle(share: float) -> Callable[[Picture], Picture]:
    """What is left of each side, enlarged to the whole, mirrored."""

    def change(picture: Picture) -> Picture:
        height, width = picture.shape[:2]
        above, left = (round(n * (1 - share) / 2) for n in (height, width))
        cut = Image.fromarray(mirrored(picture)[above : height - above, left : width - left])
        return np.asarray(cut.resize((width, height), Image.Resampling.BILINEAR))

    return change


def brighter(factor: float) -> Callable[[Picture], Picture]:
    return lambda picture: np.clip(mirrored(picture) * factor, 0, 255).astype(np.uint8)


CHANGES: dict[str, Callable[[Picture], Picture]] = {
    "as they are": lambda picture: picture,
    "mirrored": mirrored,
    "mirrored, middle 80 %": middle(0.8),
    "mirrored, middle 60 %": middle(0.6),
    "mirrored, half as bright": brighter(0.5),
    "mirrored, 1.5 times as bright": brighter(1.5),
}


def row(path: Path, size: Size, pictures: Path, count: int) -> dict[str, float]:
    checkpoint = load_checkpoint(path)
    program = export(Deployed(checkpoint.network, checkpoint.preprocessing, "logits", "network"), size)
    chosen = choose_pictures(pictures / "calibration", 16, 0)

    def feed() -> itertools.chain[Picture]:
        return itertools.chain(iter_pictures(chosen, size))

    recipe = replace(INT8, ranges="percentile")
    equal = replace(program, program=equalize_channels(program.program, feed, recipe).program)
    module = rewritten_for(registry.target("tflite"), "int8", {}, equal).module
    plan = calibrated(module, feed, recipe).plan
    shape = (1, 3, *size)

    def share(those: list[Picture]) -> float:
        return 100 * Judge(module, [tensor_of(picture, shape) for picture in those]).effect(plan).agreement

    probes = list(itertools.islice(feed(), recipe.probes))
    found = {name: share([change(picture) for picture in probes]) for name, change in CHANGES.items()}
    tested = list(iter_pictures(find_pictures(pictures / "test")[:count], size))
    return {"test": share(tested), **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--only", default="", help="part of the checkpoints' names")
    parser.add_argument("--pictures", type=int, default=12, help="of the test list")
    options = parser.parse_args()
    torch.set_num_threads(1)
    manifest = json.loads((options.shared / "checkpoints" / "manifest.json").read_text())
    for entry in (e for e in manifest if options.only in e["name"] and e["dataset"]):
        path, (height, width) = options.shared / "checkpoints" / entry["file"], entry["size"][:2]
        found = row(path, (height, width), options.shared / "images" / entry["dataset"], options.pictures)
        print(f"| {entry['name']} | " + " | ".join(f"{share:.2f}" for share in found.values()) + " |", flush=True)
    print("| checkpoint | " + " | ".join(("test", *CHANGES)) + " |")


if __name__ == "__main__":
    main()
