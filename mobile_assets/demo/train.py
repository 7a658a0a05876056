"""Trains a demo network on the procedural scenes, on one CPU thread, and writes its weights and its figures.

    python -m mobileseg.mobile_assets.demo.train --network enet --output weights.safetensors --results results.json

One-cycle AdamW on random crops, class-weighted cross-entropy; the batch normalisation's statistics are then taken once
more, over such crops with the final weights, since quantization is judged on them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from mobileseg import registry
from mobileseg.mobile_assets.demo import (
    CLASS_NAMES,
    DEMO,
    EVALUATION_SEEDS,
    PROGRESS_SEEDS,
    SIZE,
    TRAINING_SEEDS,
    DemoNetwork,
    scenes,
)
from mobileseg.types import Preprocessing, Size

NUM_CLASSES = len(CLASS_NAMES)


@dataclass(frozen=True)
class Recipe:
    """One cycle of training. ``crop``: height, width of a batch's pieces; ``seed``: chooses them, and the scenes."""

    steps: int
    peak_rate: float
    batch: int = 4
    crop: Size = (128, 256)
    weight_decay: float = 1e-4
    seed: int = 0
    scenes: int = 1000

    @property
    def scene_seeds(self) -> range:
        """Those of `TRAINING_SEEDS` that this cycle sees; other ones than a cycle of another ``seed``."""
        return TRAINING_SEEDS[self.seed * self.scenes : (self.seed + 1) * self.scenes]


RECIPES = {
    "enet": Recipe(steps=1500, peak_rate=3e-3),
    "espnetv2": Recipe(steps=2200, peak_rate=5e-3),
}


@dataclass(frozen=True)
class Samples:
    """``pictures``: ``(N, H, W, 3) uint8`` RGB; ``labels``: ``(N, H, W) uint8``."""

    pictures: NDArray[np.uint8]
    labels: NDArray[np.uint8]


def samples(seeds: Sequence[int], size: Size = SIZE) -> Samples:
    drawn = scenes(seeds, size)
    return Samples(np.stack([s.picture for s in drawn]), np.stack([s.labels for s in drawn]))


def to_input(pictures: NDArray[np.uint8], preprocessing: Preprocessing) -> Tensor:
    """``(N, 3, H, W) float32`` as the network takes it, of RGB pictures ``(N, H, W, 3) uint8``."""
    gain, offset = (torch.tensor(values, dtype=torch.float32).view(3, 1, 1) for values in preprocessing.affine())
    channels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float()
    ordered = channels if preprocessing.channel_order == "RGB" else channels.flip(1)
    return (ordered * gain + offset).contiguous(memory_format=torch.channels_last)


def class_weights(labels: NDArray[np.uint8]) -> Tensor:
    """``1 / ln(1.2 + share)``, ``(C,)``: ENet's weighting (arXiv:1606.02147) with a larger constant, thus milder."""
    shares = np.bincount(labels.ravel(), minlength=NUM_CLASSES) / labels.size
    return torch.tensor(1 / np.log(1.2 + shares), dtype=torch.float32)


def random_batch(data: Samples, recipe: Recipe, rng: np.random.Generator) -> tuple[NDArray[np.uint8], Tensor]:
    """Crops at random places of random scenes, half of them mirrored: pictures, and labels ``(N, h, w) int64``."""
    height, width = recipe.crop
    cut_pictures, cut_labels = [], []
    for index in rng.integers(len(data.pictures), size=recipe.batch):
        top = int(rng.integers(data.labels.shape[1] - height + 1))
        left = int(rng.integers(data.labels.shape[2] - width + 1))
        step = 1 if rng.random() < 0.5 else -1
        area = (index, slice(top, top + height), slice(left, left + width))
        cut_pictures.append(data.pictures[area][:, ::step])
        cut_labels.append(data.labels[area][:, ::step])
    return np.stack(cut_pictures), torch.from_numpy(np.stack(cut_labels)).long()


def confusion(network: nn.Module, preprocessing: Preprocessing, data: Samples) -> NDArray[np.int64]:
    """``(C, C)`` pixel counts: row the label, column the network's class. Leaves the network in eval mode."""
    network.eval()
    counts = np.zeros(NUM_CLASSES**2, np.int64)
    with torch.inference_mode():
        for picture, labels in zip(data.pictures, data.labels, strict=True):
            classes = network(to_input(picture[None], preprocessing)).argmax(1)[0].numpy()
            counts += np.bincount(labels.ravel() * NUM_CLASSES + classes.ravel(), minlength=NUM_CLASSES**2)
    return counts.reshape(NUM_CLASSES, NUM_CLASSES)


def intersection_over_union(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Per class, ``(C,)``, of a confusion matrix; NaN for a class that neither labels nor predictions have."""
    hits = np.diag(counts).astype(np.float64)
    union = counts.sum(0) + counts.sum(1) - hits
    shares: NDArray[np.float64] = np.divide(hits, union, out=np.full(len(hits), math.nan), where=union > 0)
    return shares


def refresh_statistics(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Batch normalisation's means and variances as averages over ``batches``, with the weights as they are."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    network.train()
    with torch.no_grad():
        for batch in batches:
            network(batch)


def save(network: nn.Module, demo: DemoNetwork, path: Path) -> None:
    """The state dict as safetensors, by way of a temporary name."""
    state = {key: tensor.contiguous() for key, tensor in network.state_dict().items()}
    metadata = {"architecture": demo.architecture, "variant": demo.variant, "classes": ",".join(CLASS_NAMES)}
    unfinished = path.with_suffix(".partial")
    save_file(state, unfinished, metadata=metadata)
    unfinished.replace(path)


def build(demo: DemoNetwork) -> tuple[nn.Module, Preprocessing]:
    """The untrained network and what it is fed."""
    variant = registry.variant(demo.architecture, demo.variant)
    network = variant.build(num_classes=NUM_CLASSES)
    return network, registry.preprocessing(variant.preprocessing(NUM_CLASSES))


def train(demo: DemoNetwork, recipe: Recipe, output: Path, start: Path | None) -> tuple[nn.Module, Preprocessing]:
    """Trains from the weights ``start``, or random ones, and saves.

    Prints the loss and the mean IoU on `PROGRESS_SEEDS` every 200 steps.
    """
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    network, preprocessing = build(demo)
    if start is not None:
        network.load_state_dict(load_file(start))
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    for module in network.modules():
        if isinstance(module, nn.Dropout2d):
            module.p = 0.0  # few passes over many scenes: nothing to regularise
    data, progress = samples(recipe.scene_seeds), samples(PROGRESS_SEEDS)
    weights = class_weights(data.labels)
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.peak_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.peak_rate, total_steps=recipe.steps, pct_start=0.1, final_div_factor=100
    )
    started, losses = time.monotonic(), []
    for step in range(1, recipe.steps + 1):
        network.train()
        pictures, labels = random_batch(data, recipe, rng)
        loss = F.cross_entropy(network(to_input(pictures, preprocessing)), labels, weights)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % 200 == 0:
            iou = intersection_over_union(confusion(network, preprocessing, progress))
            minutes = (time.monotonic() - started) / 60
            print(
                f"step {step} loss {np.mean(losses[-200:]):.4f} mIoU {np.nanmean(iou):.4f} "
                f"[{' '.join(f'{x:.3f}' for x in iou)}] {minutes:.1f} min",
                flush=True,
            )
            save(network, demo, output)
    refresh_statistics(network, (to_input(random_batch(data, recipe, rng)[0], preprocessing) for _ in range(100)))
    save(network, demo, output)
    return network, preprocessing


def figures(demo: DemoNetwork, network: nn.Module, preprocessing: Preprocessing, weights: Path) -> dict[str, Any]:
    """What the network is, and its IoU on `EVALUATION_SEEDS`."""
    iou = intersection_over_union(confusion(network, preprocessing, samples(EVALUATION_SEEDS)))
    return {
        "variant": demo.variant,
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "parameters": sum(p.numel() for p in network.parameters()),
        "preprocessing": preprocessing.name,
        "size": list(demo.size),
        "evaluation": {
            "seeds": [EVALUATION_SEEDS.start, EVALUATION_SEEDS.stop],
            "miou": round(float(iou.mean()), 4),
            "iou": {name: round(float(value), 4) for name, value in zip(CLASS_NAMES, iou, strict=True)},
        },
    }


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a demo network on the procedural scenes.")
    parser.add_argument("--network", choices=sorted(DEMO), required=True)
    parser.add_argument("--output", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--results", type=Path, required=True, help="JSON file to enter this network's figures in")
    parser.add_argument("--start", type=Path, help="weights to train further, in one more cycle")
    parser.add_argument("--peak-rate", type=float, help="highest learning rate, instead of the recipe's")
    parser.add_argument("--steps", type=int, help="optimizer steps, instead of the recipe's")
    parser.add_argument(
        "--crop", type=int, nargs=2, metavar=("H", "W"), help="pieces of a batch, instead of the recipe's"
    )
    parser.add_argument("--scenes", type=int, help="how many to draw, instead of the recipe's")
    parser.add_argument("--seed", type=int, help="of the crops and of the choice of scenes")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = parse(arguments)
    torch.set_num_threads(1)
    asked = {name: getattr(chosen, name) for name in ("steps", "peak_rate", "crop", "scenes", "seed")}
    recipe = replace(RECIPES[chosen.network], **{name: value for name, value in asked.items() if value is not None})
    known = json.loads(chosen.results.read_text()) if chosen.results.exists() else {}
    earlier = known.get(chosen.network, {}).get("cycles", []) if chosen.start is not None else []

    demo, started = DEMO[chosen.network], time.monotonic()
    network, preprocessing = train(demo, recipe, chosen.output, chosen.start)
    seeds = [recipe.scene_seeds.start, recipe.scene_seeds.stop]
    cycle = {**asdict(recipe), "scene_seeds": seeds, "minutes": round((time.monotonic() - started) / 60, 1)}
    entry = {**figures(demo, network, preprocessing, chosen.output), "cycles": [*earlier, cycle]}
    print(json.dumps(entry, indent=2))
    chosen.results.write_text(json.dumps({**known, demo.name: entry}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
