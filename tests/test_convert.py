"""`mobileseg.convert` as a library: what its result says of files that this machine cannot run, options by target."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mobileseg import convert
from mobileseg.errors import CheckpointError, OptionError
from mobileseg.types import ConvertResult, GateLimits, NotRun

SIZE = (32, 48)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1))


@pytest.fixture(scope="module")
def for_vulkan(tmp_path_factory: pytest.TempPathFactory) -> ConvertResult:
    """A file of a delegate that no desktop has."""
    folder = tmp_path_factory.mktemp("vulkan")
    return convert(model=network(), to="executorch", size=SIZE, options={"delegate": "vulkan"}, output=folder)


def test_a_file_that_cannot_run_here_is_no_pass(for_vulkan: ConvertResult) -> None:
    (made,) = for_vulkan.artifacts
    assert isinstance(made.passed, NotRun)
    assert isinstance(for_vulkan.passed, NotRun)
    assert for_vulkan.exit_code == 0
    assert made.report_path is not None
    report = json.loads(made.report_path.read_text())
    assert "not_run" in report["parity"]
    assert report["parity"]["not_run"]


def test_a_delegate_that_is_not_the_default_stands_in_the_name(for_vulkan: ConvertResult) -> None:
    assert for_vulkan.artifacts[0].artifact.path.name.endswith(".fp32.vulkan.pte")


def test_a_limit_that_was_asked_for_and_not_measured_is_not_met(tmp_path: Path) -> None:
    gates = GateLimits(min_agreement=0.5)
    options = {"delegate": "vulkan"}
    result = convert(model=network(), to="executorch", size=SIZE, options=options, gates=gates, output=tmp_path)
    assert result.passed is False
    assert result.exit_code == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"delegate": "vulkan"}, "--delegate is an option of executorch, which is not among the targets (onnx)"),
        ({"opzet": 18}, "Did you mean 'opset'?"),
        ({"opset": 7}, "opset 7 cannot be written"),
    ],
)
def test_options_that_do_not_fit_the_targets(options: dict[str, object], said: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError) as caught:
        convert(model=network(), to="onnx", size=SIZE, options=options, output=tmp_path)
    assert said in str(caught.value)


@pytest.mark.parametrize("wrong", [{"jobs": 0}, {"output_size": "half"}, {"head": "logit"}])
def test_other_options_that_do_not_fit(wrong: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(OptionError):
        convert(model=network(), to="onnx", size=SIZE, output=tmp_path, **wrong)  # type: ignore[arg-type]


def test_the_etrecord_gets_the_file_s_name(tmp_path: Path) -> None:
    result = convert(model=network(), to="executorch", size=SIZE, options={"etrecord": True}, output=tmp_path)
    path = result.artifacts[0].artifact.path
    assert {p.name for p in tmp_path.iterdir()} == {
        path.name,
        path.with_suffix(".etrecord").name,
        f"{path.name}.report.json",
    }


class Branching(nn.Module):
    """What a trace cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layer(x)
        return logits if logits.sum() > 0 else -logits


def test_a_network_that_cannot_be_traced_is_told_where(tmp_path: Path) -> None:
    line = Branching.forward.__code__.co_firstlineno + 2
    with pytest.raises(CheckpointError, match=rf"\(test_convert.py, line {line}\).*must not branch on values"):
        convert(model=Branching(), to="onnx", size=SIZE, output=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_operator_that_a_target_lacks_is_that_target_s_alone(tmp_path: Path) -> None:
    """The others' files are there; what a converter refuses, or a runtime does not load, is no fault of ours."""

    class Spectrum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.fft.rfft2(x).abs()

    result = convert(model=Spectrum(), to=["tflite", "onnx"], size=SIZE, output=tmp_path, jobs=1)
    assert [made.artifact.target for made in result.artifacts] == ["onnx"]
    (failure,) = result.failures
    assert (failure.target, failure.error, failure.exit_code) == ("tflite", "RewriteError", 2)
    assert failure.message.startswith("litert-torch cannot convert this network: ")
    assert result.exit_code == 2
