"""Weights of Core ML packages: the file's format, and compressed constants as coremltools itself decompresses them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobileseg.errors import UsageError

coremltools = pytest.importorskip("coremltools", reason="install the extra: pip install 'mobileseg[coreml]'")

from mobileseg import mlpackage  # noqa: E402
from mobileseg.validation.coreml import load  # noqa: E402
from mobileseg.validation.coreml.blobs import PACKED, WHOLE, open_blobs, unpack  # noqa: E402

WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"


def written(path: Path, values: np.ndarray, kind: str) -> int:
    """By coremltools' own writer, to the offset of the record."""
    from coremltools.libmilstoragepython import _BlobStorageWriter

    name = {"fp32": "float"}.get(kind, kind)
    data = values.view(np.uint16) if kind == "fp16" else values
    return int(getattr(_BlobStorageWriter(str(path)), f"write_{name}_data")(data))


@pytest.mark.parametrize("kind", sorted({*WHOLE, *PACKED}))
@settings(settings.get_profile("operators"), max_examples=4)
@given(count=st.integers(1, 70), seed=st.integers(0, 99))
def test_every_kind_of_element_is_read_as_coremltools_writes_it(
    kind: str, count: int, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rng = np.random.default_rng(seed)
    if kind in PACKED:
        low, high = (-8, 8) if kind == "int4" else (0, 1 << PACKED[kind])
        values = rng.integers(low, high, count).astype(np.int8 if kind == "int4" else np.uint8)
    else:
        values = rng.normal(0, 50, count).astype(WHOLE[kind])
    path = tmp_path_factory.mktemp("blob") / "weight.bin"
    offset = written(path, values, kind)
    read = open_blobs(path).read(offset, kind, (count,))
    np.testing.assert_array_equal(read, values)


@settings(settings.get_profile("operators"), max_examples=100)
@given(bits=st.integers(1, 8), numbers=st.lists(st.integers(0, 255), max_size=40))
def test_unpacking_undoes_packing(bits: int, numbers: list[int]) -> None:
    values = [n % (1 << bits) for n in numbers]
    stream = sum(n << (bits * k) for k, n in enumerate(values))
    data = np.frombuffer(stream.to_bytes(-(-bits * len(values) // 8), "little"), np.uint8)
    assert unpack(data, bits, len(values)).tolist() == values


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    path = tmp_path / "weight.bin"
    with pytest.raises(UsageError, match="cannot be read"):
        open_blobs(path)
    with pytest.raises(UsageError, match=r"'.*weight\\x00bin' cannot be read"):
        open_blobs(tmp_path / "weight\0bin")
    path.write_bytes(bytes(10))
    with pytest.raises(UsageError, match="their header alone is 64"):
        open_blobs(path)
    path.write_bytes(bytes(64))
    with pytest.raises(UsageError, match="version 0, expected 2"):
        open_blobs(path)


def test_records_that_are_damaged(tmp_path: Path) -> None:
    path = tmp_path / "weight.bin"
    offset = written(path, np.arange(30, dtype=np.float32), "fp32")
    file = open_blobs(path)
    with pytest.raises(UsageError, match="lies outside"):
        file.read(10_000, "fp32", (30,))
    with pytest.raises(UsageError, match="there is no record"):
        file.read(offset + 64, "fp32", (30,))
    with pytest.raises(UsageError, match="of kind fp32, the program says fp16"):
        file.read(offset, "fp16", (30,))
    with pytest.raises(UsageError, match="the program expects 31 elements"):
        file.read(offset, "fp32", (31,))
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(UsageError, match="of a file of"):
        open_blobs(path).read(offset, "fp32", (30,))


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One program of two convolutions and a matrix product, for iOS 16 in float16 and for iOS 18."""
    from coremltools.converters.mil.mil import Builder, types

    rng = np.random.default_rng(0)
    first, second, last = (rng.normal(size=s).astype(np.float32) for s in ((32, 16, 3, 3), (64, 32, 1, 1), (32, 64)))
    folder, made = tmp_path_factory.mktemp("dense"), {}
    for system, precision in (("iOS16", "FLOAT16"), ("iOS18", "FLOAT32")):

        @Builder.program(
            input_specs=[Builder.TensorSpec((1, 16, 6, 6), types.fp32)], opset_version=coremltools.target[system]
        )
        def program(x: Any) -> Any:
            x = Builder.relu(x=Builder.conv(x=x, weight=first, pad_type="same"))
            x = Builder.reduce_mean(x=Builder.conv(x=x, weight=second), axes=[2, 3])
            return Builder.linear(x=x, weight=last, name="result")

        with mlpackage.quietly():
            model = coremltools.convert(
                program,
                minimum_deployment_target=coremltools.target[system],
                compute_precision=coremltools.precision[precision],
                skip_model_load=True,
            )
        made[system] = folder / f"{system}.mlpackage"
        model.save(str(made[system]))
    return made


def options(kind: str, **how: Any) -> Any:
    from coremltools.optimize import coreml as optimize

    form = getattr(optimize, f"Op{kind}Config")(weight_threshold=0, **how)
    return optimize.OptimizationConfig(global_config=form)


COMPRESSIONS = {
    "int8 a channel": ("iOS16", [("linear_quantize", "LinearQuantizer", {"dtype": "int8"})]),
    "uint8, zero point": ("iOS16", [("linear_quantize", "LinearQuantizer", {"dtype": "uint8", "mode": "linear"})]),
    **{
        f"palette of {bits} bits": (
            "iOS16",
            [("palettize", "Palettizer", {"nbits": bits, "mode": "uniform"})],
        )
        for bits in (1, 2, 4, 6, 8)
    },
    "sparse": ("iOS16", [("prune", "MagnitudePruner", {"target_sparsity": 0.6})]),
    "int4 a block": (
        "iOS18",
        [("linear_quantize", "LinearQuantizer", {"dtype": "int4", "granularity": "per_block", "block_size": 8})],
    ),
    "uint4 a channel": ("iOS18", [("linear_quantize", "LinearQuantizer", {"dtype": "uint4", "mode": "linear"})]),
    "int8 a tensor": (
        "iOS18",
        [("linear_quantize", "LinearQuantizer", {"dtype": "int8", "granularity": "per_tensor"})],
    ),
    "palette of 3 bits a group": (
        "iOS18",
        [
            (
                "palettize",
                "Palettizer",
                {"nbits": 3, "mode": "uniform", "granularity": "per_grouped_channel", "group_size": 16},
            )
        ],
    ),
    "palette of vectors": ("iOS18", [("palettize", "Palettizer", {"nbits": 4, "mode": "kmeans", "cluster_dim": 4})]),
    "sparse palette": (
        "iOS18",
        [
            ("prune", "MagnitudePruner", {"target_sparsity": 0.5}),
            ("palettize", "Palettizer", {"nbits": 4, "mode": "uniform"}),
        ],
    ),
    "sparse int8": (
        "iOS18",
        [
            ("prune", "MagnitudePruner", {"target_sparsity": 0.5}),
            ("linear_quantize", "LinearQuantizer", {"dtype": "int8"}),
        ],
    ),
    "palette of int8": (
        "iOS18",
        [
            ("palettize", "Palettizer", {"nbits": 4, "mode": "uniform"}),
            ("linear_quantize", "LinearQuantizer", {"dtype": "int8", "granularity": "per_tensor"}),
        ],
    ),
}


@pytest.mark.parametrize("name", sorted(COMPRESSIONS))
@pytest.mark.filterwarnings("ignore")
def test_compressed_weights_are_what_coremltools_decompresses(
    name: str, dense: dict[str, Path], tmp_path: Path
) -> None:
    from coremltools.optimize import coreml as optimize

    system, steps = COMPRESSIONS[name]
    with mlpackage.quietly():
        model = coremltools.models.MLModel(str(dense[system]), skip_model_load=True)
        for position, (function, kind, how) in enumerate(steps):
            joint = {"joint_compression": True} if position else {}
            model = getattr(optimize, f"{function}_weights")(model, options(kind, **how), **joint)
        model.save(str(tmp_path / "small.mlpackage"))
        optimize.decompress_weights(model).save(str(tmp_path / "plain.mlpackage"))
    small, plain = load(tmp_path / "small.mlpackage"), load(tmp_path / "plain.mlpackage")
    assert small.unsupported == ()
    kinds = {o.kind for o in small.program.operations if o.kind.startswith("constexpr_")}
    assert kinds
    ours, theirs = (weights_read(executor) for executor in (small, plain))
    assert len(ours) == len(theirs) == 3
    for our, their in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(our, their)


def weights_read(executor: Any) -> list[np.ndarray]:
    """Of the convolutions and the matrix product, in order."""
    users = [o for o in executor.program.operations if o.kind in ("conv", "linear")]
    return [executor.constants[o.arguments["weight"][0].name].numpy() for o in users]


def test_compressed_constants_that_do_not_fit_are_refused(make_package: Any, tmp_path: Path) -> None:
    x = np.zeros((2, 16), np.float32)
    data = np.arange(32, dtype=np.int8).reshape(2, 16)
    path = make_package(
        [x],
        lambda mb, x: mb.add(x=x, y=mb.constexpr_blockwise_shift_scale(data=data, scale=np.ones((2, 4), np.float32))),
        "iOS18",
    )
    load(path)
    spec = coremltools.proto.Model_pb2.Model.FromString((path / "Data/com.apple.CoreML/model.mlmodel").read_bytes())
    block = spec.mlProgram.functions["main"].block_specializations["CoreML8"]
    operation = next(o for o in block.operations if o.type.startswith("constexpr_"))
    scale = operation.inputs["scale"].arguments[0].value
    scale.type.tensorType.dimensions[1].constant.size = 3
    del scale.immediateValue.tensor.floats.values[6:]
    broken = Path(shutil.copytree(path, tmp_path / "broken.mlpackage"))
    (broken / "Data/com.apple.CoreML/model.mlmodel").write_bytes(spec.SerializeToString())
    with pytest.raises(UsageError, match=r"op \d+ 'constexpr_blockwise_shift_scale'.*16 elements do not divide"):
        load(broken)
