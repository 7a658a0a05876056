"""Logits, softmax and argmax, as the network has them and resized to the picture, in every target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mobileseg import convert
from mobileseg.converters.export import Deployed, export
from mobileseg.making import Task, make, silent
from mobileseg.mobile_assets.demo import scene
from mobileseg.registry import TARGETS, target
from mobileseg.sources import PictureSource
from mobileseg.types import OUTPUT_NAMES, Checkpoint, GateLimits, Head, NotRun, OutputSize, Preprocessing
from mobileseg.validation.gates import all_passed, apply_gates
from mobileseg.validation.parity import reference_of
from mobileseg.validation.runners import open_artifact

SIZE = (36, 52)
PREPROCESSING = Preprocessing("bgr", channel_order="BGR", mean=(0.2, 0.3, 0.4), std=(0.3, 0.2, 0.25))
CASES: list[Any] = [
    pytest.param("logits", "network", marks=pytest.mark.slow),  # as all other tests convert
    ("logits", "input"),
    ("softmax", "input"),
    ("argmax", "network"),
    ("argmax", "input"),
]


class Quarter(nn.Module):
    """Logits at a quarter of the picture's height and width."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.second = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.last = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = 4 * self.last(torch.relu(self.second(torch.relu(self.first(x)))))
        return logits


@pytest.fixture(scope="module")
def network() -> Checkpoint:
    torch.manual_seed(3)
    module = Quarter().eval().requires_grad_(False)
    return Checkpoint(module, "quarter", "test", 5, {}, PREPROCESSING, SIZE, 4, 4, 0, "0" * 64, Path("quarter.pth"))


def pictures() -> Any:
    return (scene(seed, SIZE).picture for seed in (10_000, 10_001))


def shape_of(head: Head, size: OutputSize, layout: str) -> tuple[int, ...]:
    height, width = SIZE if size == "input" else (SIZE[0] // 4, SIZE[1] // 4)
    if head == "argmax":
        return 1, height, width
    return (1, height, width, 5) if layout == "NHWC" else (1, 5, height, width)


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize(("head", "size"), CASES)
def test_what_the_file_returns_is_the_reference_s(
    network: Checkpoint, name: str, head: Head, size: OutputSize, tmp_path: Path
) -> None:
    exported = export(Deployed(network.network, network.preprocessing, head, size), SIZE)
    source = PictureSource("two scenes", 2, pictures)
    layout = target(name).input_layout
    metadata = {
        "target": name,
        "precision": "fp32",
        "head": head,
        "raw_input": False,
        "classes": {"names": list("abcde"), "palette": [[i, i, i] for i in range(5)], "void": None, "dataset": "test"},
        "input": {"name": "picture", "layout": layout, "dtype": "float32", "size": list(SIZE), "range": [0, 255]},
        "output": {"name": OUTPUT_NAMES[head], "layout": "NHW" if head == "argmax" else layout},
    }
    path = tmp_path / f"quarter{target(name).suffix}"
    task = Task(name, "fp32", head, {}, metadata, path, path, source, source, None, PREPROCESSING, GateLimits())
    made = make(task, exported, reference_of(network, size), silent)
    runner = open_artifact(path)
    assert runner.head == head
    assert runner.outputs[0].shape == shape_of(head, size, layout)
    assert not isinstance(made.parity, NotRun)
    assert made.parity.images == 2
    assert made.parity.head == head
    assert all_passed(apply_gates(made.parity, "fp32"))


def test_a_class_map_that_is_silently_wrong_does_not_pass(network: Checkpoint) -> None:
    """The defect of some phones' argmax: plausible classes, wrong on a part of the pixels."""
    from dataclasses import replace

    import numpy as np

    from mobileseg.types import Artifact, TensorSpec
    from mobileseg.validation.parity import compare
    from mobileseg.validation.runners import Runner

    reference = reference_of(network)

    def wrong_in_one_row(tensor: Any) -> Any:
        classes = reference(tensor.astype(np.uint8)).argmax(axis=1)
        classes[:, 0] = (classes[:, 0] + 1) % 5
        return classes.astype(np.int32)

    spec = TensorSpec("picture", (1, *SIZE, 3), "float32", "NHWC", (0.0, 255.0))
    output = TensorSpec("classes", (1, 9, 13), "int32", "NHW")
    runner = Runner(
        Artifact(Path("phone.tflite"), "tflite", "fp32", (spec,), (output,), {"head": "argmax"}),
        "a phone",
        (),
        wrong_in_one_row,
    )
    result = compare(reference, runner, pictures())
    assert result.agreement.pixels == pytest.approx(8 / 9)
    assert not all_passed(apply_gates(result, "fp16"))
    right = replace(runner, invoke=lambda t: reference(t.astype(np.uint8)).argmax(axis=1))
    assert all_passed(apply_gates(compare(reference, right, pictures()), "fp32"))


def test_resized_outputs_of_a_whole_conversion(network: Checkpoint, tmp_path: Path) -> None:
    result = convert(
        model=Quarter(), to="onnx", size=SIZE, head="argmax", output_size="input", output=tmp_path, image_count=2
    )
    (made,) = result.artifacts
    assert made.artifact.outputs[0].shape == (1, *SIZE)
    assert made.artifact.metadata["output_size"] == "input"
    assert result.passed is True
