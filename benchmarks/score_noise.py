"""How far a checkpoint's own score moves on pictures changed so little that nobody sees it.

    python benchmarks/score_noise.py SHARED --only enet-cityscapes --pictures 12

SHARED as for parity_table.py. The checkpoint in float32 on the test pictures, and on these changed: what int8 changes
of mIoU and of a class is to be read beside that.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mobileseg import load_checkpoint
from mobileseg.pictures import find_pictures, iter_labels, iter_pictures, pair_labels
from mobileseg.pipeline import classes_of
from mobileseg.types import Checkpoint, Size
from mobileseg.validation.metrics import LabelCounts, class_map, resize_bilinear
from mobileseg.validation.parity import reference_of

Picture = NDArray[np.uint8]


def noisy(levels: int, seed: int) -> Callable[[Picture], Picture]:
    """Each number of each pixel changed by up to so many of its 256 levels."""

    def change(picture: Picture) -> Picture:
        noise = np.random.default_rng(seed).integers(-levels, levels + 1, picture.shape)
        return np.clip(picture.astype(np.int64) + noise, 0, 255).astype(np.uint8)

    return change


def brighter(factor: float) -> Callable[[Picture], Picture]:
    return lambda picture: np.clip(np.round(picture * factor), 0, 255).astype(np.uint8)


def jpeg(quality: int) -> Callable[[Picture], Picture]:
    def change(picture: Picture) -> Picture:
        written = io.BytesIO()
        Image.fromarray(picture).save(written, "JPEG", quality=quality)
        return np.asarray(Image.open(written))

    return change


CHANGES: dict[str, Callable[[Picture], Picture]] = {
    "noise of 1 level": noisy(1, 0),
    "another": noisy(1, 1),
    "noise of 2 levels": noisy(2, 0),
    "1 % brighter": brighter(1.01),
    "1 % darker": brighter(0.99),
    "JPEG, quality 95": jpeg(95),
    "JPEG, quality 90": jpeg(90),
}


def scores(
    checkpoint: Checkpoint, size: Size, pictures: Path, count: int, change: Callable[[Picture], Picture]
) -> tuple[float, float, float, float, int]:
    """Pixels of equal class in per cent, mIoU of the checkpoint and its change in points, the largest loss of a class
    in points, and the class."""
    found = find_pictures(pictures / "test")[:count]
    labels = iter_labels(pair_labels(found, pictures / "test", pictures / "test_labels"))
    reference, equal, pixels = reference_of(checkpoint), 0, 0
    counts: LabelCounts | None = None
    for picture, label in zip(iter_pictures(found, size), labels, strict=True):
        plain, changed = reference(picture[None]), reference(change(picture)[None])
        a, b = class_map(plain[0]), class_map(changed[0])
        equal, pixels = equal + int((a == b).sum()), pixels + a.size
        counts = counts or LabelCounts(plain.shape[1], classes_of(checkpoint, None, demo=False).void)
        at = (label.shape[0], label.shape[1])
        maps = [class_map(resize_bilinear(logits[0], at)) for logits in (plain, changed)]
        counts.add(label, *maps)
    if counts is None:
        raise SystemExit("There are no pictures.")
    result = counts.result()
    losses = [
        (100 * (x - y), number)
        for number, (x, y) in enumerate(zip(result.iou_reference, result.iou_artifact, strict=True))
        if x is not None and y is not None
    ]
    loss, number = max(losses)
    move = 100 * (result.miou_artifact - result.miou_reference)
    return 100 * equal / pixels, 100 * result.miou_reference, move, loss, number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--only", default="", help="part of the checkpoints' names")
    parser.add_argument("--pictures", type=int, default=12, help="of the test list")
    options = parser.parse_args()
    manifest = json.loads((options.shared / "checkpoints" / "manifest.json").read_text())
    print("| checkpoint | pictures | equal pixels | mIoU | change | class that lost most |\n|---|---|---|---|---|---|")
    for entry in manifest:
        if options.only not in entry["name"] or not entry["dataset"]:
            continue
        checkpoint = load_checkpoint(options.shared / "checkpoints" / entry["file"])
        pictures, size = options.shared / "images" / entry["dataset"], (entry["size"][0], entry["size"][1])
        for words, change in CHANGES.items():
            equal, miou, move, loss, number = scores(checkpoint, size, pictures, options.pictures, change)
            print(
                f"| {entry['name']} | {words} | {equal:.2f} % | {miou:.2f} | {move:+.2f} | {loss:.1f} ({number}) |",
                flush=True,
            )


if __name__ == "__main__":
    main()
