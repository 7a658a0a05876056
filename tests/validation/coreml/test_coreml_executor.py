"""The Core ML executor as a whole: what it says of a package, how it rounds, what it refuses; networks of others."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mobileseg.errors import UsageError

coremltools = pytest.importorskip("coremltools", reason="install the extra: pip install 'mobileseg[coreml]'")

from mobileseg import mlpackage  # noqa: E402
from mobileseg.checkpoint import load_checkpoint  # noqa: E402
from mobileseg.converters.coreml import TARGET  # noqa: E402
from mobileseg.converters.export import Deployed, export, rewrite  # noqa: E402
from mobileseg.converters.target import Lowering  # noqa: E402
from mobileseg.mobile_assets.demo import scene  # noqa: E402
from mobileseg.validation.coreml import Feature, load  # noqa: E402
from mobileseg.validation.parity import reference_of  # noqa: E402

PROGRAM = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"
NETWORKS = Path(__file__).parents[2] / "networks"

X = np.linspace(-2, 2, 24, dtype=np.float32).reshape(1, 2, 3, 4)


@pytest.fixture(scope="module")
def package(make_package: Callable[..., Path]) -> Path:
    weight = np.random.default_rng(0).normal(size=(3, 2, 3, 3)).astype(np.float32)
    return make_package([X], lambda mb, x: mb.relu(x=mb.conv(x=x, weight=weight, pad_type="same"), name="y"), "iOS16")


@pytest.fixture
def broken(package: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(package, tmp_path / "x.mlpackage"))


def edit(package: Path, change: Callable[[Any, Any], None]) -> None:
    """``change`` gets the model's message and the body of its function."""
    spec = coremltools.proto.Model_pb2.Model.FromString((package / PROGRAM).read_bytes())
    function = spec.mlProgram.functions["main"]
    change(spec, function.block_specializations[function.opset])
    (package / PROGRAM).write_bytes(spec.SerializeToString(deterministic=True))


def operation(block: Any, kind: str) -> Any:
    return next(o for o in block.operations if o.type == kind)


def test_what_a_package_takes_and_gives(package: Path) -> None:
    executor = load(package)
    assert executor.inputs == (Feature("in_0", (1, 2, 3, 4), "float32"),)
    assert [(f.shape, f.dtype, f.picture) for f in executor.outputs] == [((1, 3, 3, 4), "float32", None)]
    assert executor.unsupported == ()


def halves(mb: Any, x: Any) -> Any:
    half = mb.cast(x=x, dtype="fp16", name="half")
    third = mb.mul(x=half, y=np.float16(1 / 3), name="third")
    return mb.cast(x=mb.mul(x=third, y=np.float16(3), name="back"), dtype="fp32")


def test_float16_is_rounded_after_each_operator(make_package: Callable[..., Path]) -> None:
    path = make_package([X], halves)
    seen: dict[str, np.ndarray] = {}
    (result,) = load(path).run({"in_0": X}, watch=seen.setdefault).values()
    third = X.astype(np.float16) * np.float16(1 / 3)
    np.testing.assert_array_equal(seen["half"], X.astype(np.float16))
    np.testing.assert_array_equal(seen["third"], third)
    np.testing.assert_array_equal(result, (third * np.float16(3)).astype(np.float32))
    assert list(seen)[:3] == ["half", "third", "back"]
    assert seen["third"].dtype == np.float16


def test_float32_arithmetic_rounds_nothing(make_package: Callable[..., Path]) -> None:
    path = make_package([X], halves)
    (result,) = load(path, arithmetic="float32").run({"in_0": X}).values()
    np.testing.assert_allclose(result, X * np.float32(np.float16(1 / 3)) * 3, rtol=1e-6)
    assert not np.array_equal(result, next(iter(load(path).run({"in_0": X}).values())))


def test_float16_overflows_as_float16_does(make_package: Callable[..., Path]) -> None:
    path = make_package([X], lambda mb, x: mb.mul(x=mb.cast(x=x, dtype="fp16"), y=np.float16(60000)))
    (result,) = load(path).run({"in_0": X}).values()
    assert np.isposinf(result).any()
    assert result.dtype == np.float16


def test_inputs_of_float16_and_results_of_every_integer(make_package: Callable[..., Path]) -> None:
    x = X.astype(np.float16)
    (result,) = load(make_package([x], lambda mb, x: mb.abs(x=x))).run({"in_0": x}).values()
    np.testing.assert_array_equal(result, np.abs(x))
    assert result.dtype == np.float16


def test_values_are_freed_after_their_last_use(make_package: Callable[..., Path]) -> None:
    def chain(mb: Any, x: Any) -> Any:
        for _ in range(6):
            x = mb.relu(x=x)
        return x

    executor = load(make_package([X], chain))
    assert [len(done) for _, done in executor._steps] == [1] * 7
    assert executor._steps[0][1] == ("in_0",)


def test_lengths_that_are_known_at_run_time_only(make_package: Callable[..., Path]) -> None:
    """As coremltools writes them of inputs of any size; of ``fill``, not even the number of axes is known."""
    lengths = np.array([2, 1, 3], np.int32)
    path = make_package([lengths], lambda mb, lengths: mb.fill(shape=lengths, value=np.float32(1.5), name="y"))

    def change(spec: Any, block: Any) -> None:
        source = spec.mlProgram.functions["main"].inputs[0].type.tensorType
        source.dimensions[0].unknown.variadic = False
        for made in (operation(block, "fill"), operation(block, "identity")):
            del made.outputs[0].type.tensorType.dimensions[1:]
            made.outputs[0].type.tensorType.dimensions[0].unknown.variadic = True
            made.outputs[0].type.tensorType.rank = 1

    edit(path, change)
    for shape in ((2, 1, 3), (4, 2)):
        (result,) = load(path).run({"in_0": np.array(shape, np.int32)}).values()
        np.testing.assert_array_equal(result, np.full(shape, np.float32(1.5)))
    with pytest.raises(UsageError, match=r"takes 'in_0' of \(None,\); got \(1, 3\)"):
        load(path).run({"in_0": lengths[None]})


def test_wrong_inputs(package: Path) -> None:
    executor = load(package)
    with pytest.raises(UsageError, match="takes in_0; got x"):
        executor.run({"x": X})
    with pytest.raises(UsageError, match=r"takes 'in_0' of \(1, 2, 3, 4\); got \(1, 2, 3\)"):
        executor.run({"in_0": X[..., 0]})


def missing_value(spec: Any, block: Any) -> None:
    operation(block, "conv").inputs["x"].arguments[0].name = "nobody"


def wrong_offset(spec: Any, block: Any) -> None:
    weight = next(o for o in block.operations if o.attributes["val"].HasField("blobFileValue"))
    weight.attributes["val"].blobFileValue.offset = 1 << 40


def wrong_shape(spec: Any, block: Any) -> None:
    operation(block, "relu").outputs[0].type.tensorType.dimensions[3].constant.size = 9


def wrong_rank(spec: Any, block: Any) -> None:
    operation(block, "relu").outputs[0].type.tensorType.rank = 2


def wrong_count(spec: Any, block: Any) -> None:
    constant = next(o for o in block.operations if o.attributes["val"].immediateValue.tensor.ints.values)
    constant.attributes["val"].immediateValue.tensor.ints.values.append(1)


def no_output(spec: Any, block: Any) -> None:
    block.outputs[0] = "nobody"


def no_body(spec: Any, block: Any) -> None:
    spec.mlProgram.functions["main"].opset = "CoreML99"


def no_function(spec: Any, block: Any) -> None:
    spec.description.defaultFunctionName = "other"


def zero_stride(spec: Any, block: Any) -> None:
    strides = operation(block, "conv").inputs["strides"].arguments[0].name
    constant = next(o for o in block.operations if o.outputs[0].name == strides)
    constant.attributes["val"].immediateValue.tensor.ints.values[:] = [0, 0]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (missing_value, "reads 'nobody', which nothing before it gives"),
        (wrong_offset, "record at offset 1099511627776 lies outside"),
        (wrong_shape, r"op \d+ 'relu' output 'y': 'y' is \(1, 3, 3, 4\), declared \(1, 3, 3, 9\)"),
        (wrong_rank, "rank 2 and 4 dimensions"),
        (wrong_count, "elements of int32 holds others"),
        (no_output, "nothing gives its output 'nobody'"),
        (no_body, "no body for its operator set 'CoreML99'"),
        (no_function, "holds the functions main; expected 'other'"),
        (zero_stride, r"cannot be run: main: op \d+ 'conv'"),
    ],
)
def test_damaged_programs_are_refused_with_a_sentence(
    damage: Callable[[Any, Any], None], said: str, broken: Path
) -> None:
    edit(broken, damage)
    with pytest.raises(UsageError, match=said):
        load(broken).run({"in_0": X})


def test_damaged_packages_are_refused(broken: Path) -> None:
    weights = broken / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-60])
    with pytest.raises(UsageError, match="not those it was written with"):
        load(broken)
    edit(broken, lambda spec, block: spec.description.metadata.userDefined.pop(mlpackage.WEIGHTS_DIGEST))
    with pytest.raises(UsageError, match=r"weights '.*weight.bin' are damaged"):
        load(broken)
    weights.unlink()
    with pytest.raises(UsageError, match="cannot be read"):
        load(broken)
    (broken / PROGRAM).write_bytes((broken / PROGRAM).read_bytes()[:99])
    with pytest.raises(UsageError, match="does not load"):
        load(broken)


def test_a_network_that_is_no_program(tmp_path: Path, broken: Path) -> None:
    spec = coremltools.proto.Model_pb2.Model(specificationVersion=4)
    spec.neuralNetwork.SetInParent()
    (broken / PROGRAM).write_bytes(spec.SerializeToString())
    with pytest.raises(UsageError, match="of kind 'neuralNetwork'; expected an mlProgram"):
        load(broken)


@pytest.mark.parametrize(
    "name", ["oddities.py:mobile", "oddities.py:shuffled", "oddities.py:attention", "deeplab.py:build"]
)
@pytest.mark.filterwarnings("ignore")
def test_networks_of_others_give_what_torch_gives(name: str, tmp_path: Path) -> None:
    size = (64, 96)
    checkpoint = load_checkpoint(None, model=f"{NETWORKS}/{name}", size=size)
    path = tmp_path / "x.mlpackage"
    program = rewrite(export(Deployed(checkpoint.network, checkpoint.preprocessing, "logits"), size), "coreml", "fp32")
    TARGET.lower(program, Lowering("fp32", "logits", {}), path)
    picture = scene(0, size).picture
    (logits,) = load(path).run({"picture": picture.transpose(2, 0, 1)[None]}).values()
    wanted = reference_of(checkpoint)(picture[None])
    noise = np.square(wanted.astype(np.float64) - logits).sum()
    assert 10 * np.log10(np.square(wanted.astype(np.float64)).sum() / noise) > 90


def test_a_run_leaves_torch_as_it_was(package: Path) -> None:
    load(package).run({"in_0": X})
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
