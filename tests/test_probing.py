"""An int8 file that does not compute what was simulated is found out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mobileseg.probing import differs, probed
from mobileseg.types import INT8, NotRun, Quantized


@pytest.mark.parametrize(
    ("simulated", "found", "told"),
    [
        (0.982, 0.951, True),  # ERFNet in ONNX Runtime, which rounded weights that were kept in float
        (0.980, 0.900, True),  # ESPNetV2 in ExecuTorch, of which a bias overflowed
        (0.984, 0.983, False),
        (0.999, 0.996, False),  # three times as many, and next to none
        (0.980, 0.974, False),
        (0.950, 0.990, False),
    ],
)
def test_what_is_too_far_from_the_simulation(simulated: float, found: float, told: bool) -> None:
    assert differs(simulated, found) is told


@dataclass(frozen=True)
class Pictures:
    def pictures(self) -> Any:
        return iter(np.random.default_rng(0).integers(0, 256, (6, 4, 6, 3)).astype(np.uint8))


@dataclass(frozen=True)
class Asked:
    path = Path("x")
    calibration: Any = Pictures()
    recipe = replace(INT8, probes=4)


def runner(wrong: float, head: str) -> Any:
    """Of a file that gives the picture's red, modulo 3, as its class, and another one for a share of the pixels."""

    class Runner:
        def __init__(self) -> None:
            self.head = head

        def run(self, pictures: NDArray[np.uint8]) -> NDArray[Any]:
            found = exact(pictures[0]).repeat(len(pictures), axis=0)
            found[:, :, : round(found.shape[2] * wrong)] = 3
            return found if head == "argmax" else np.moveaxis(np.eye(4, dtype=np.float32)[found], -1, 1)

    return Runner()


def exact(picture: NDArray[np.uint8]) -> NDArray[np.int64]:
    return picture[None, :, :, 0].astype(np.int64) % 3


@dataclass(frozen=True)
class Rewritten:
    module: Any = None


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, findings: Any) -> Any:
    from mobileseg.quantization import program
    from mobileseg.validation import runners

    def made(wrong: float, head: str = "logits", batch: int = 1) -> Any:
        monkeypatch.setattr(program, "exact_classes", lambda module, picture: exact(picture).repeat(batch, axis=0))
        monkeypatch.setattr(runners, "open_artifact", lambda path: runner(wrong, head))
        done: Any = probed(Quantized("static int8", (), findings), Rewritten(), Asked())  # type: ignore[arg-type]
        return done.int8

    return made


@pytest.fixture
def findings() -> Any:
    from mobileseg.types import Int8Findings

    return Int8Findings(
        recipe=INT8,
        ranges="mse",
        ranges_tried={},
        probes=4,
        novelty=1.0,
        sought=0.98,
        int8=0.97,
        agreement=0.98,
        miou_drop=NotRun("no labels"),
        held=True,
        evaluations=3,
        units=10,
        kept=(),
        cost_share=0.0,
        float_operators=0,
        file_agreement=NotRun("not yet"),
        equalization=NotRun("no"),
        warnings=("another",),
    )


@pytest.mark.parametrize("head", ["logits", "softmax", "argmax"])
@pytest.mark.parametrize("batch", [1, 2])
def test_a_file_that_is_as_simulated_is_not_warned_of(ask: Any, head: str, batch: int) -> None:
    found = ask(0.0, head, batch)
    assert (found.file_agreement, found.warnings) == (1.0, ("another",))


@pytest.mark.parametrize("head", ["logits", "argmax"])
def test_a_file_that_is_not_is_warned_of_first(ask: Any, head: str) -> None:
    found = ask(0.5, head)
    assert found.file_agreement == 0.5
    warning, other = found.warnings
    assert other == "another"
    assert warning.startswith("The file keeps 50.00 % of the mirrored calibration pictures' pixels, and should 98.00 %")
    assert "--bisect" in warning


def test_what_has_no_plan_is_left_alone() -> None:
    nothing = NotRun("fp32 is not quantized")
    assert probed(nothing, Rewritten(), Asked()) is nothing  # type: ignore[arg-type]
    words = Quantized("weights int8")
    assert probed(words, Rewritten(), Asked()) is words  # type: ignore[arg-type]
