"""What each target's own tools make of a network, in float and in int8, with as few changes as let the file load: what
a stranger gets without mobileseg. For latency_table.py and int8_table.py.

All take the authors' module and its preprocessed input, (N, 3, H, W) float32, and write a file of that input.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from variations import loadable

SUFFIXES = {"tflite": ".tflite", "onnx": ".onnx", "executorch": ".pte"}

REFUSALS = (NotImplementedError, RuntimeError, TypeError, ValueError, AttributeError)
"""What the stock tools raise for networks that they cannot take, and the runtimes for what they wrote."""


def write(target: str, precision: str, network: nn.Module, pictures: Sequence[Tensor], path: Path) -> None:
    """``pictures``: preprocessed; the first gives the shape, and all calibrate int8."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        WRITERS[target, precision](network, pictures, path)


def _tflite(network: nn.Module, pictures: Sequence[Tensor], path: Path) -> None:
    import litert_torch

    changed = loadable(network, pictures[0])
    for module in changed.modules():
        # An exported graph refuses eval().
        module.training = False
    litert_torch.convert(changed, (pictures[0],)).export(str(path))


def _tflite_int8(network: nn.Module, pictures: Sequence[Tensor], path: Path) -> None:
    from ai_edge_quantizer import quantizer, recipe

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "float.tflite"
        _tflite(network, pictures, source)
        tool = quantizer.Quantizer(str(source), recipe.static_wi8_ai8())
        name = _signature_input(source)
        data = {"serving_default": [{name: picture.numpy()} for picture in pictures]}
        found = tool.calibrate(data, num_threads=1)
        path.write_bytes(_with_flat_biases(bytes(tool.quantize(found).quantized_model)))


def _with_flat_biases(content: bytes) -> bytes:
    """Its biases of transposed convolutions are (1, 1, 1, C) with a scale for each of the first axis' numbers, which
    does not load."""
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    for tensor in model.subgraphs[0].tensors:
        quantized = tensor.quantization
        scales = [] if quantized is None or quantized.scale is None else quantized.scale
        if len(scales) > 1 and len(scales) != tensor.shape[quantized.quantizedDimension]:
            tensor.shape, quantized.quantizedDimension = [len(scales)], 0
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _signature_input(path: Path) -> str:
    from ai_edge_litert.interpreter import Interpreter

    (signature,) = Interpreter(model_path=str(path)).get_signature_list().values()
    (name,) = signature["inputs"]
    return str(name)


def _onnx(network: nn.Module, pictures: Sequence[Tensor], path: Path) -> None:
    torch.onnx.export(network, (pictures[0],), path, dynamo=True, external_data=False, verbose=False)


def _onnx_int8(network: nn.Module, pictures: Sequence[Tensor], path: Path) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # untyped
        def __init__(self, name: str) -> None:
            self._left: Iterator[Any] = iter([{name: picture.numpy()} for picture in pictures])

        def get_next(self) -> Any:
            return next(self._left, None)

    import onnx

    with tempfile.TemporaryDirectory() as folder:
        source, prepared = Path(folder) / "float.onnx", Path(folder) / "prepared.onnx"
        _onnx(network, pictures, source)
        quant_pre_process(source, prepared)
        name = onnx.load(prepared).graph.input[0].name
        quantize_static(prepared, path, Reader(name), per_channel=True, weight_type=QuantType.QInt8)


def _executorch(network: nn.Module, pictures: Sequence[Tensor], path: Path) -> None:
    _lower(torch.export.export(network, (pictures[0],)), path)


def _executorch_int8(network: nn.Module, pictures: Sequence[Tensor], path: Path) -> None:
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    recipe = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    prepared = prepare_pt2e(torch.export.export(network, (pictures[0],)).module(), recipe)
    for picture in pictures:
        prepared(picture)
    _lower(torch.export.export(convert_pt2e(prepared), (pictures[0],)), path)


def _lower(program: torch.export.ExportedProgram, path: Path) -> None:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    path.write_bytes(to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch().buffer)


WRITERS: dict[tuple[str, str], Callable[[nn.Module, Sequence[Tensor], Path], None]] = {
    ("tflite", "fp32"): _tflite,
    ("tflite", "int8"): _tflite_int8,
    ("onnx", "fp32"): _onnx,
    ("onnx", "int8"): _onnx_int8,
    ("executorch", "fp32"): _executorch,
    ("executorch", "int8"): _executorch_int8,
}


@contextmanager
def refused(what: str) -> Iterator[None]:
    """Prints what a stock tool raises, and goes on."""
    try:
        yield
    except REFUSALS as error:
        print(f"stock {what}: {type(error).__name__}: {str(error)[:200]}", flush=True)
