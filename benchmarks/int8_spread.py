"""What int8 loses of mIoU on few pictures, and how much of that is chance: the same pictures cut in several ways.

    python benchmarks/int8_spread.py SHARED enet-cityscapes-davidtvs mobileseg-out/x.int8.tflite --pictures 5

SHARED as for parity_table.py. A class of a few hundred pixels gains or loses many points by next to nothing, and mIoU
with it. Each row is another cut of the test pictures and their labels, on which checkpoint and file are scored; the
last one is the mean of the rows.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from int8_table import accuracy
from numpy.typing import NDArray
from PIL import Image

from mobileseg import load_checkpoint
from mobileseg.pictures import find_pictures, iter_labels, iter_pictures, pair_labels
from mobileseg.pipeline import classes_of
from mobileseg.types import Checkpoint, Size
from mobileseg.validation.parity import compare, reference_of
from mobileseg.validation.runners import open_artifact
from mobileseg.validation.runners.base import Runner

Plane = NDArray[np.uint8]
Cut = Callable[[Plane], Plane]


def mirrored(plane: Plane) -> Plane:
    return np.ascontiguousarray(plane[:, ::-1])


def part(top: float, left: float, share: float) -> Cut:
    """``share`` of both sides, from these shares of them on, enlarged to the whole: pictures bilinearly, label maps by
    the nearest."""

    def cut(plane: Plane) -> Plane:
        height, width = plane.shape[:2]
        y, x = round(height * top), round(width * left)
        taken = plane[y : y + round(height * share), x : x + round(width * share)]
        way = Image.Resampling.BILINEAR if plane.ndim == 3 else Image.Resampling.NEAREST
        return np.asarray(Image.fromarray(taken).resize((width, height), way))

    return cut


CUTS: dict[str, Cut] = {
    "as they are": lambda plane: plane,
    "mirrored": mirrored,
    "98 %, from the upper left": part(0.0, 0.0, 0.98),
    "98 %, from the lower right": part(0.02, 0.02, 0.98),
    "95 %, the middle": part(0.025, 0.025, 0.95),
    "95 %, the middle, mirrored": lambda plane: mirrored(part(0.025, 0.025, 0.95)(plane)),
    "90 %, from the lower left": part(0.1, 0.0, 0.9),
    "90 %, from the upper right": part(0.0, 0.1, 0.9),
}


@dataclass(frozen=True)
class Subject:
    """A checkpoint, its file, and the test pictures."""

    checkpoint: Checkpoint
    runner: Runner
    size: Size
    pictures: Path
    count: int

    def row(self, cut: Cut) -> dict[str, Any]:
        found = find_pictures(self.pictures / "test")[: self.count]
        labels = iter_labels(pair_labels(found, self.pictures / "test", self.pictures / "test_labels"))
        return accuracy(
            compare(
                reference_of(self.checkpoint),
                self.runner,
                (cut(picture) for picture in iter_pictures(found, self.size)),
                (cut(label) for label in labels),
                void=classes_of(self.checkpoint, None, demo=False).void,
                preprocessing=self.checkpoint.preprocessing,
            )
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path)
    parser.add_argument("name", help="of the checkpoint")
    parser.add_argument("files", type=Path, nargs="+", help="made of it, at the size of its training")
    parser.add_argument("--pictures", type=int, default=12, help="of the test list")
    options = parser.parse_args()
    manifest = json.loads((options.shared / "checkpoints" / "manifest.json").read_text())
    (entry,) = (e for e in manifest if e["name"] == options.name)
    checkpoint = load_checkpoint(options.shared / "checkpoints" / entry["file"])
    pictures, size = options.shared / "images" / entry["dataset"], (entry["size"][0], entry["size"][1])
    for path in options.files:
        subject = Subject(checkpoint, open_artifact(path), size, pictures, options.pictures)
        print(f"\n{path.name}\n\n| pictures | equal pixels | mIoU checkpoint | change | class that lost most |")
        print("|---|---|---|---|---|")
        rows = []
        for words, cut in CUTS.items():
            rows.append(found := subject.row(cut))
            change = found["miou"] - found["miou_checkpoint"]
            print(
                f"| {words} | {found['agreement']:.2f} % | {found['miou_checkpoint']:.2f} | {change:+.2f} | "
                f"{found['largest_class_drop']} |",
                flush=True,
            )
        equal, before, after = (
            statistics.fmean(row[key] for row in rows) for key in ("agreement", "miou_checkpoint", "miou")
        )
        print(f"| mean | {equal:.2f} % | {before:.2f} | {after - before:+.2f} | |", flush=True)


if __name__ == "__main__":
    main()
