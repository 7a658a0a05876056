"""Tiny artifacts that the validation tests run: a 1x1 convolution from RGB to four classes, known in NumPy; a small
network as Core ML packages."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from torch import nn

SIZE = (6, 10)
WEIGHT = np.random.default_rng(0).normal(0, 0.02, (4, 3)).astype(np.float32)
BIAS = np.array([0.5, -0.25, 0.0, 1.0], np.float32)


def expected_logits(pictures: np.ndarray) -> np.ndarray:
    """What the tiny network computes: (N, H, W, 3) uint8 to (N, 4, H, W) float32."""
    return (pictures.astype(np.float32) @ WEIGHT.T + BIAS).transpose(0, 3, 1, 2)


def description(**changes: Any) -> dict[str, Any]:
    """Metadata of the tiny artifact, as the converters write it."""
    base = {
        "tool": "mobileseg",
        "target": "onnx",
        "precision": "fp32",
        "classes": {"dataset": "tiny", "names": ["a", "b", "c", "d"], "palette": [[0, 0, 0]] * 4, "void": 3},
        "head": "logits",
        "raw_input": False,
        "input": {"name": "image", "layout": "NCHW", "dtype": "float32", "size": list(SIZE), "range": [0, 255]},
        "output": {"name": "logits", "layout": "NCHW", "dtype": "float32"},
    }
    return base | changes


@pytest.fixture(scope="session")
def pictures() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (3, *SIZE, 3), np.uint8)


@pytest.fixture
def make_onnx(tmp_path: Path) -> Callable[..., Path]:
    """A factory of .onnx files of the tiny network, with a head, an axis order and metadata of choice."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")

    def make(
        metadata: dict[str, Any] | str | None = None,
        head: str = "logits",
        batch: int | str = 1,
        input_dtype: int = onnx.TensorProto.FLOAT,
        channels_last: bool = False,
        name: str = "tiny.onnx",
    ) -> Path:
        helper, numpy_helper = onnx.helper, onnx.numpy_helper
        weights = [numpy_helper.from_array(WEIGHT[..., None, None], "w"), numpy_helper.from_array(BIAS, "b")]
        nodes, last = [helper.make_node("Cast", ["image"], ["x"], to=onnx.TensorProto.FLOAT)], "x"
        if channels_last:
            nodes.append(helper.make_node("Transpose", [last], ["first"], perm=[0, 3, 1, 2]))
            last = "first"
        nodes.append(helper.make_node("Conv", [last, "w", "b"], ["conv"]))
        last, shape, dtype = "conv", [batch, 4, *SIZE], onnx.TensorProto.FLOAT
        if channels_last:
            nodes.append(helper.make_node("Transpose", [last], ["last"], perm=[0, 2, 3, 1]))
            last, shape = "last", [batch, *SIZE, 4]
        if head == "softmax":
            nodes.append(helper.make_node("Softmax", [last], ["probabilities"], axis=1))
            last = "probabilities"
        if head == "argmax":
            nodes.append(helper.make_node("ArgMax", [last], ["classes"], axis=1, keepdims=0))
            last, shape, dtype = "classes", [batch, *SIZE], onnx.TensorProto.INT64
        size = [batch, *SIZE, 3] if channels_last else [batch, 3, *SIZE]
        graph = helper.make_graph(
            nodes,
            "tiny",
            [helper.make_tensor_value_info("image", input_dtype, size)],
            [helper.make_tensor_value_info(last, dtype, shape)],
            weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        if metadata is not None:
            text = metadata if isinstance(metadata, str) else json.dumps(metadata)
            helper.set_model_props(model, {"mobileseg": text})
        path = tmp_path / name
        onnx.save(model, path)
        return path

    return make


@pytest.fixture
def tiny() -> tuple[Callable[[np.ndarray], np.ndarray], Callable[..., dict[str, Any]]]:
    """The tiny network in NumPy, and the factory of its metadata."""
    return expected_logits, description


MLPACKAGE_SIZE = (16, 24)


@pytest.fixture(scope="session")
def small_network() -> nn.Module:
    """Three convolutions, five classes."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 40, 1), nn.Conv2d(40, 5, 1))
    return nn.Sequential(*layers).eval().requires_grad_(False)


@pytest.fixture(scope="session")
def make_mlpackage(small_network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A factory of packages of the small network, with other metadata, or none. They are not to be changed."""
    pytest.importorskip("coremltools", reason="install the extra: pip install 'mobileseg[coreml]'")
    from mobileseg import registry
    from mobileseg.converters.coreml import TARGET
    from mobileseg.converters.export import Deployed, export, rewrite
    from mobileseg.converters.target import Lowering
    from mobileseg.quantization.coreml import compress_weights

    folder = tmp_path_factory.mktemp("mlpackage")
    made: dict[str, Path] = {}

    def make(precision: str = "fp32", head: Any = "logits", raw: bool = False, **changes: Any) -> Path:
        key = repr((precision, head, raw, changes))
        if key not in made:
            made[key] = folder / f"{len(made)}.mlpackage"
            preprocessing = None if raw else registry.preprocessing("unit")
            exported = export(Deployed(small_network, preprocessing, head), MLPACKAGE_SIZE)
            metadata = {
                "target": "coreml",
                "precision": precision,
                "head": head,
                "raw_input": raw,
                "input": {"layout": "NCHW", "size": list(MLPACKAGE_SIZE)},
                "output": {"layout": "NCHW"},
                **changes,
            }
            base = "fp32" if precision == "fp32" else "fp16"
            TARGET.lower(rewrite(exported, "coreml", precision), Lowering(base, head, metadata), made[key])
            if precision not in ("fp32", "fp16"):
                compress_weights(made[key], precision)
        return made[key]

    return make
