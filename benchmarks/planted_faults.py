"""Faults planted in files of the demo ENet: which gates catch each, and where `validate --bisect` finds it.

    python benchmarks/planted_faults.py --targets tflite,onnx --json rows.json

Faults in the network or its preprocessing, one file each (a zero point off by one is a fault of a quantized file:
tests/validation/bisect/test_zero_points.py). Each file is held against the sound network on two demo scenes.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mobileseg import convert, validate
from mobileseg.mobile_assets.demo import DEMO
from mobileseg.pipeline import demo_checkpoint
from mobileseg.texts import fault_text
from mobileseg.types import Preprocessing

SIZE = (128, 128)
PREPROCESSING = Preprocessing("unit")
Planted = tuple[nn.Module, Preprocessing]


class Kept(nn.Module):
    """A pooling that keeps what it is given for an `EqualityUnpool`."""

    def __init__(self, pooling: nn.Module) -> None:
        super().__init__()
        self.pooling, self.given = pooling, dict[str, Tensor]()

    def forward(self, x: Tensor) -> Any:
        self.given["x"] = x
        return self.pooling(x)


class EqualityUnpool(nn.Module):
    """The usual replacement: wrong where a window has two equal maxima."""

    def __init__(self, pooling: Kept) -> None:
        super().__init__()
        self.given = pooling.given

    def forward(self, x: Tensor, indices: Tensor, output_size: Any = None) -> Tensor:
        pooled = self.given["x"]
        largest = functional.interpolate(functional.max_pool2d(pooled, 2), scale_factor=2.0)
        return functional.interpolate(x, scale_factor=2.0) * (pooled == largest).to(x.dtype)


class After(nn.Module):
    """A network with something behind it."""

    def __init__(self, network: nn.Module, last: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self.last = network, last

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.network(x))


def steeper(layer: str) -> Callable[[nn.Module], None]:
    def change(network: nn.Module) -> None:
        network.get_submodule(layer).get_parameter("weight").data.add_(0.05)

    return change


def equality(network: nn.Module) -> None:
    source = network.get_submodule("downsample1_0")
    kept = Kept(source.get_submodule("main_max1"))
    source.main_max1 = kept
    network.get_submodule("upsample5_0").main_unpool1 = EqualityUnpool(kept)


def changed(change: Callable[[nn.Module], None]) -> Callable[[nn.Module], Planted]:
    def plant(network: nn.Module) -> Planted:
        other = copy.deepcopy(network)
        change(other)
        return other, PREPROCESSING

    return plant


def behind(last: Callable[[Tensor], Tensor]) -> Callable[[nn.Module], Planted]:
    return lambda network: (After(network, last).eval(), PREPROCESSING)


FAULTS: dict[str, Callable[[nn.Module], Planted]] = {
    "swapped channel order": lambda network: (network, replace(PREPROCESSING, channel_order="BGR")),
    "wrong PReLU slope (+0.05)": changed(steeper("dilated2_2.ext_conv2.2")),
    "the same where hardly a value is negative": changed(steeper("downsample2_0.out_activation")),
    "equality mask": changed(equality),
    "shift by one pixel": behind(lambda y: torch.cat([y[..., :1], y[..., :-1]], dim=3)),
    "scale left out": lambda network: (network, replace(PREPROCESSING, scale=1.0)),
    "transposed output": behind(lambda y: y.transpose(2, 3)),
    "permuted classes": behind(lambda y: torch.cat([y[:, 1:2], y[:, :1], y[:, 2:]], dim=1)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", default="tflite,onnx,coreml,executorch")
    parser.add_argument("--only", default="", help="part of a fault's name")
    parser.add_argument("--output", type=Path, default=Path("mobileseg-out"))
    parser.add_argument("--json", type=Path, default=Path("planted_faults.json"))
    options = parser.parse_args()
    sound = demo_checkpoint(next(iter(DEMO))).network
    rows = json.loads(options.json.read_text()) if options.json.exists() else []
    for target in options.targets.split(","):
        for name, plant in FAULTS.items():
            if options.only not in name:
                continue
            network, preprocessing = plant(sound)
            (made,) = convert(
                model=network,
                to=target,
                size=SIZE,
                preprocessing=preprocessing,
                image_count=1,
                output=options.output,
            ).artifacts
            report = validate(
                made.artifact.path, model=sound, preprocessing=PREPROCESSING, image_count=2, bisect=True
            ).report
            rows.append(
                {
                    "target": target,
                    "fault": name,
                    "agreement": report["parity"]["pixel_agreement"],
                    "sqnr_db": report["parity"]["sqnr_db"],
                    "gates": {gate["name"]: gate["passed"] for gate in report["parity"]["gates"]},
                    "located": [fault_text(fault) for fault in report["operators"]["faults"]],
                }
            )
            print("| " + " | ".join(str(value) for value in rows[-1].values()) + " |", flush=True)
            options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
