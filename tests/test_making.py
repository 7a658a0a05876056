"""An fp16 file that misses its gates keeps its first layers in float32; no other file does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from mobileseg.converters.export import Deployed, export
from mobileseg.making import FLOAT32_SHARES, Made, Task, make, silent
from mobileseg.mobile_assets.demo import scene
from mobileseg.registry import target
from mobileseg.sources import PictureSource
from mobileseg.types import Checkpoint, GateLimits, NotRun, Preprocessing
from mobileseg.validation.gates import all_passed, apply_gates
from mobileseg.validation.graphs import read_graph
from mobileseg.validation.parity import ParityResult, reference_of

SIZE = (24, 40)
UNIT = Preprocessing("unit")
Convert = Callable[..., Made]


def pictures() -> Iterator[NDArray[np.uint8]]:
    return (scene(seed, SIZE).picture for seed in (10_000, 10_001))


@pytest.fixture(scope="module")
def make_file(tmp_path_factory: pytest.TempPathFactory) -> Convert:
    """A file of a network with eight layers, for a target, a precision and the SQNR that is asked for."""
    torch.manual_seed(5)
    layers = [nn.Conv2d(3, 16, 3, padding=1), *(nn.Conv2d(16, 16, 3, padding=1) for _ in range(6)), nn.Conv2d(16, 4, 1)]
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight)
    module = nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU()))).eval().requires_grad_(False)
    module.pop(-1)
    network = Checkpoint(module, "eight", "test", 4, {}, UNIT, SIZE, 1, 8, 0, "0" * 64, Path("eight.pth"))
    exported = export(Deployed(module, UNIT, "logits"), SIZE)
    source = PictureSource("two scenes", 2, pictures)

    def made(name: str, precision: str, gates: GateLimits, delegate: str | None = None) -> Made:
        layout = {"layout": target(name).input_layout}
        metadata = {"target": name, "precision": precision, "head": "logits", "input": layout, "output": layout}
        path = tmp_path_factory.mktemp(name) / f"eight{target(name).suffix}"
        options = {"delegate": delegate} if delegate else {}
        task = Task(name, precision, "logits", options, metadata, path, path, source, source, None, UNIT, gates)
        return make(task, exported, reference_of(network), silent)

    return made


def parity(made: Made) -> ParityResult:
    assert not isinstance(made.parity, NotRun)
    return made.parity


def sqnr_db(made: Made) -> float:
    errors = parity(made).errors
    assert not isinstance(errors, NotRun)
    return errors.sqnr_db


def float32_constants(made: Made) -> int:
    return read_graph(made.artifact.path).quantization.get("float32", 0)


@pytest.mark.parametrize("name", ["onnx", "coreml", pytest.param("executorch", marks=pytest.mark.slow)])
def test_as_few_layers_as_the_gates_need(make_file: Convert, name: str) -> None:
    pytest.importorskip(target(name).modules[0], reason=f"install the extra: pip install 'mobileseg[{name}]'")
    plain = make_file(name, "fp16", GateLimits(min_agreement=0.5))
    assert isinstance(plain.quantized, NotRun)

    limits = GateLimits(min_agreement=0.5, min_sqnr_db=sqnr_db(plain) + 2)
    better = make_file(name, "fp16", limits)
    assert all_passed(apply_gates(parity(better), "fp16", limits))
    assert not isinstance(better.quantized, NotRun)
    assert any(f"the first {share:.0%} of the layers float32" in better.quantized.recipe for share in FLOAT32_SHARES)
    assert f"{parity(plain).agreement.pixels:.4%}" in better.quantized.recipe
    assert float32_constants(plain) < float32_constants(better)

    best = make_file(name, "fp16", GateLimits(min_agreement=0.5, min_sqnr_db=200))
    assert not isinstance(best.quantized, NotRun)
    assert f"{FLOAT32_SHARES[-1]:.0%}" in best.quantized.recipe
    assert sqnr_db(best) > sqnr_db(plain) + 2
    assert float32_constants(better) <= float32_constants(best)


@pytest.mark.parametrize(("name", "precision"), [("onnx", "fp32"), ("tflite", "fp16")])
def test_files_that_have_nothing_to_widen_stay_as_they_are(make_file: Convert, name: str, precision: str) -> None:
    pytest.importorskip(target(name).modules[0], reason=f"install the extra: pip install 'mobileseg[{name}]'")
    made = make_file(name, precision, GateLimits(min_agreement=0.5, min_sqnr_db=300))
    assert isinstance(made.quantized, NotRun)


@pytest.mark.slow
def test_core_ml_inside_executorch_keeps_its_first_layers_too(make_file: Convert) -> None:
    for module in ("executorch", "coremltools"):
        pytest.importorskip(module)
    plain = make_file("executorch", "fp16", GateLimits(min_agreement=0.5), "coreml")
    limits = GateLimits(min_agreement=0.5, min_sqnr_db=sqnr_db(plain) + 2)
    better = make_file("executorch", "fp16", limits, "coreml")
    assert not isinstance(better.quantized, NotRun)
    assert all_passed(apply_gates(parity(better), "fp16", limits))
