"""What the Core ML executor does not run: it says so when a file is opened, with the place, and computes nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

coremltools = pytest.importorskip("coremltools", reason="install the extra: pip install 'mobileseg[coreml]'")

from mobileseg.errors import UnavailableError, UsageError  # noqa: E402
from mobileseg.validation.coreml import OPERATORS, load  # noqa: E402

PROGRAM = "Data/com.apple.CoreML/model.mlmodel"
X = np.linspace(-2, 2, 24, dtype=np.float32).reshape(1, 2, 3, 4)


def edited(package: Path, folder: Path, change: Callable[[Any, Any], None]) -> Path:
    """A copy, changed: ``change`` gets the model's message and the body of its function."""
    copy = Path(shutil.copytree(package, folder / "edited.mlpackage"))
    spec = coremltools.proto.Model_pb2.Model.FromString((copy / PROGRAM).read_bytes())
    function = spec.mlProgram.functions["main"]
    change(spec, function.block_specializations[function.opset])
    (copy / PROGRAM).write_bytes(spec.SerializeToString(deterministic=True))
    return copy


def operation(block: Any, kind: str) -> Any:
    return next(o for o in block.operations if o.type == kind)


def refused(path: Path, inputs: dict[str, np.ndarray]) -> str:
    """What it says of the one thing that it cannot run."""
    executor = load(path)
    (fault,) = executor.unsupported
    with pytest.raises(UnavailableError) as error:
        executor.run(inputs)
    assert fault in str(error.value)
    return fault


def test_an_operator_that_is_not_known_is_named_with_its_place(make_package: Callable[..., Path]) -> None:
    def build(mb: Any, x: Any) -> Any:
        return mb.relu(x=mb.random_uniform(shape=[2, 3], seed=1, name="noise"))

    assert refused(make_package([X], build), {"in_0": X}) == "main: op 4 'random_uniform' output 'noise'"


def test_control_flow_is_not_run(make_package: Callable[..., Path]) -> None:
    flag = np.array([1], np.int32)

    def build(mb: Any, flag: Any) -> Any:
        taken = mb.cast(x=mb.squeeze(x=flag, axes=[0]), dtype="bool")
        return mb.cond(pred=taken, _true_fn=lambda: mb.add(x=flag, y=1), _false_fn=lambda: mb.add(x=flag, y=2))

    fault = refused(make_package([flag], build), {"in_0": flag})
    assert "'cond'" in fault
    assert fault.endswith(" with operators inside")


def test_loops_are_not_run(make_package: Callable[..., Path]) -> None:
    def build(mb: Any, x: Any) -> Any:
        return mb.while_loop(
            _cond=lambda x: mb.less(x=mb.reduce_sum(x=x), y=9.0), _body=lambda x: mb.mul(x=x, y=2.0), loop_vars=(x,)
        )

    fault = refused(make_package([X], build), {"in_0": X})
    assert "'while_loop'" in fault


def test_states_are_not_kept(tmp_path: Path) -> None:
    import torch

    class Sum(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("sum", torch.zeros(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.sum.add_(x)
            return self.sum * 2

    from mobileseg import mlpackage

    traced, path = torch.jit.trace(Sum(), torch.zeros(2)), tmp_path / "x.mlpackage"
    held = coremltools.TensorType(shape=(2,), dtype=np.float16)
    with mlpackage.quietly():
        coremltools.convert(
            traced,
            inputs=[coremltools.TensorType(name="x", shape=(2,))],
            states=[coremltools.StateType(wrapped_type=held, name="sum")],
            minimum_deployment_target=coremltools.target.iOS18,
            skip_model_load=True,
        ).save(str(path))
    faults = load(path).unsupported
    assert any("input 'sum' of type stateType" in fault for fault in faults)
    assert any("'read_state'" in fault for fault in faults)


def test_a_parameter_that_is_not_known_is_no_support(make_package: Callable[..., Path], tmp_path: Path) -> None:
    def change(spec: Any, block: Any) -> None:
        relu = operation(block, "relu")
        relu.inputs["modulation"].CopyFrom(relu.inputs["x"])

    path = edited(make_package([X], lambda mb, x: mb.relu(x=x)), tmp_path, change)
    assert refused(path, {"in_0": X}).endswith(": unknown parameters ['modulation']")


def test_a_parameter_that_is_missing_is_no_support(make_package: Callable[..., Path], tmp_path: Path) -> None:
    def change(spec: Any, block: Any) -> None:
        del operation(block, "leaky_relu").inputs["alpha"]

    path = edited(make_package([X], lambda mb, x: mb.leaky_relu(x=x, alpha=0.1)), tmp_path, change)
    assert refused(path, {"in_0": X}).endswith(": no parameter alpha")


def test_an_operator_set_that_is_not_known_is_no_support(make_package: Callable[..., Path], tmp_path: Path) -> None:
    def change(spec: Any, block: Any) -> None:
        function = spec.mlProgram.functions["main"]
        function.block_specializations["CoreML77"].CopyFrom(block)
        function.opset = "CoreML77"

    path = edited(make_package([X], lambda mb, x: mb.relu(x=x)), tmp_path, change)
    assert refused(path, {"in_0": X}) == "main: operator set 'CoreML77'"


@pytest.mark.parametrize(
    ("kind", "parameter"), sorted((kind, name) for kind, found in OPERATORS.items() for name in found.texts)
)
def test_every_text_that_is_not_known_is_refused(kind: str, parameter: str) -> None:
    assert OPERATORS[kind].refused({parameter: ["SOMEHOW"]}) == f"{parameter} 'SOMEHOW'"
    assert all(OPERATORS[kind].refused({parameter: [text]}) is None for text in OPERATORS[kind].texts[parameter])


def test_a_text_that_is_not_known_is_named_with_its_place(make_package: Callable[..., Path], tmp_path: Path) -> None:
    def change(spec: Any, block: Any) -> None:
        name = operation(block, "gelu").inputs["mode"].arguments[0].name
        constant = next(o for o in block.operations if o.outputs[0].name == name)
        constant.attributes["val"].immediateValue.tensor.strings.values[:] = ["CUBIC"]

    path = edited(make_package([X], lambda mb, x: mb.gelu(x=x, name="y")), tmp_path, change)
    fault = refused(path, {"in_0": X})
    assert fault.endswith("'gelu' output 'y': mode 'CUBIC'")


def nearest_corners(mb: Any, x: Any) -> Any:
    how = {"interpolation_mode": "NEAREST_NEIGHBOR", "sampling_mode": "ALIGN_CORNERS"}
    return mb.resize(x=x, shape=[5, 6], resized_dims=np.uint32(2), **how)


@pytest.mark.parametrize(
    ("build", "target", "said"),
    [
        (
            lambda mb, x: mb.upsample_bilinear(x=x, align_corners=True, half_pixel_centers=True),
            "iOS16",
            "both align_corners and half_pixel_centers",
        ),
        (lambda mb, x: mb.resize(x=x, shape=[3, 5, 6], resized_dims=np.uint32(3)), "iOS17", "3 resized axes"),
        (nearest_corners, "iOS17", "NEAREST_NEIGHBOR with ALIGN_CORNERS"),
        (lambda mb, x: mb.local_response_norm(x=x, size=2), "iOS16", "2 channels, an even number"),
    ],
)
def test_ways_of_computing_that_are_not_known(
    build: Any, target: str, said: str, make_package: Callable[..., Path]
) -> None:
    assert refused(make_package([X], build, target), {"in_0": X}).endswith(f": {said}")


def test_equations_that_mil_does_not_have(make_package: Callable[..., Path], tmp_path: Path) -> None:
    x, y = np.ones((2, 3, 4), np.float32), np.ones((4, 3, 5), np.float32)

    def change(spec: Any, block: Any) -> None:
        name = operation(block, "einsum").inputs["equation"].arguments[0].name
        constant = next(o for o in block.operations if o.outputs[0].name == name)
        constant.attributes["val"].immediateValue.tensor.strings.values[:] = ["chw,whr->crh"]

    package = make_package([x, y], lambda mb, x, y: mb.einsum(values=(x, y), equation="chw,whr->chr"))
    load(package).run({"in_0": x, "in_1": y})
    fault = refused(edited(package, tmp_path, change), {"in_0": x, "in_1": y})
    assert fault.endswith(": the equation 'chw,whr->crh'")


def test_numbers_of_64_bits_are_no_support(make_package: Callable[..., Path], tmp_path: Path) -> None:
    def change(spec: Any, block: Any) -> None:
        double = coremltools.proto.MIL_pb2.DataType.FLOAT64
        spec.mlProgram.functions["main"].inputs[0].type.tensorType.dataType = double
        operation(block, "relu").outputs[0].type.tensorType.dataType = double

    path = edited(make_package([X], lambda mb, x: mb.relu(x=x, name="y")), tmp_path, change)
    faults = load(path).unsupported
    assert faults[0] == "main: input 'in_0' of type fp64"
    assert faults[1].endswith("'relu' output 'y' of type fp64")


def test_a_choice_that_is_no_single_value_is_damage(make_package: Callable[..., Path], tmp_path: Path) -> None:
    """It is met when the file is opened, in a sentence."""

    def change(spec: Any, block: Any) -> None:
        name = operation(block, "upsample_bilinear").inputs["align_corners"].arguments[0].name
        constant = next(o for o in block.operations if o.outputs[0].name == name)
        value = constant.attributes["val"]
        value.immediateValue.tensor.bools.values[:] = [True, True]
        value.type.tensorType.rank = 1
        value.type.tensorType.dimensions.add().constant.size = 2

    path = edited(make_package([X], lambda mb, x: mb.upsample_bilinear(x=x)), tmp_path, change)
    with pytest.raises(UsageError, match=r"op \d+ 'upsample_bilinear'.*Convert it again"):
        load(path)
