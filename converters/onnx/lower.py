"""From a rewritten program to the bytes of an .onnx file.

The bytes depend on the program, the options and the metadata alone: what the exporter and the simplifier note beside
the graph (stack traces with paths of the machine, their settings) is taken off, and protobuf's maps are written in
order.
"""

from __future__ import annotations

import functools
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mobileseg.converters.onnx import compact, float_weights, half
from mobileseg.errors import MissingExtraError, MobilesegError, OptionError, cannot_convert
from mobileseg.types import OUTPUT_NAMES

if TYPE_CHECKING:
    from pathlib import Path

    from mobileseg.converters.export import RewrittenProgram
    from mobileseg.converters.target import Lowering

INPUT_NAME = "picture"
METADATA_NAME = "mobileseg"

OPSETS = range(18, 24)
"""Operator set versions that the exporter writes. Its conversion to earlier ones (13, 16, 17 were tried) fails."""

DEFAULT_OPSET = 18
"""The exporter's own, and known to every ONNX Runtime since 1.14 (2023)."""

_TALKATIVE = ("torch.onnx", "onnxscript", "onnx_ir")


def lower(rewritten: RewrittenProgram, lowering: Lowering, path: Path) -> None:
    """Write the float32 or float16 .onnx at ``path``. Option ``opset``: one of `OPSETS`.

    In: ``picture`` (N, 3, H, W) float32. Out, by the head: ``logits`` or ``probabilities`` (N, C, H', W') float32, or
    ``classes`` (N, H', W') int32.

    Raises `OptionError` for another opset, `MissingExtraError` where onnx, onnxscript or onnxsim is not installed, and
    `RewriteError` for a network that torch.onnx cannot convert.
    """
    opset = opset_of(lowering.options)
    try:
        import onnx
        import onnxscript  # noqa: F401  torch.onnx imports it only when it exports
        import onnxsim
    except ImportError as error:
        raise MissingExtraError("onnx", error.name or "onnx") from error
    with _quiet():
        model = _export(rewritten, OUTPUT_NAMES[lowering.head], opset)
        model, _ = onnxsim.simplify(model)
    written = {o.version for o in model.opset_import if o.domain == ""}
    if written != {opset}:
        raise OptionError(
            f"This network cannot be written with ONNX opset {opset}: the exporter wrote {max(written)}. "
            f"Say --opset {max(written)}."
        )
    if lowering.precision == "fp16":
        model = half.to_half(model, lowering.float32_share)
    if lowering.precision == "int8":
        compact.halve_constants(model)
        float_weights.keep_weights_float(model)
    _finish(model, opset, lowering.metadata)
    compact.shorten(model)
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    compact.without_types_of_conversions(model)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def opset_of(options: Mapping[str, Any]) -> int:
    """The option ``opset``, or the default. Raises `OptionError` for one outside `OPSETS`."""
    opset = options.get("opset")
    if opset is None:
        return DEFAULT_OPSET
    if not isinstance(opset, int) or opset not in OPSETS:
        raise OptionError(
            f"ONNX opset {opset} cannot be written. Expected a whole number from {OPSETS[0]} to {OPSETS[-1]}; "
            f"without --opset it is {DEFAULT_OPSET}."
        )
    return opset


def _export(rewritten: RewrittenProgram, output: str, opset: int) -> Any:
    import torch

    _list_operators_once()
    try:
        exported = torch.onnx.export(
            rewritten.program,
            dynamo=True,
            opset_version=opset,
            input_names=[INPUT_NAME],
            output_names=[output],
            external_data=False,
            verbose=False,
        )
    except torch.onnx.errors.OnnxExporterError as error:
        # Its own message tells the stages of the export and where to ask.
        raise cannot_convert("torch.onnx", error.__cause__ or error) from error
    if exported is None:
        raise MobilesegError("torch.onnx.export returned no program.")
    return exported.model_proto


def _list_operators_once() -> None:
    """Else the exporter reads the sources of its five hundred operators anew for each file, a third of a second."""
    from torch.onnx._internal import _lazy_import

    apis: Any = vars(_lazy_import)["onnxscript_apis"]
    if not hasattr(apis.get_torchlib_ops, "cache_info"):
        apis.get_torchlib_ops = functools.cache(apis.get_torchlib_ops)


def _finish(model: Any, opset: int, metadata: Mapping[str, Any]) -> None:
    """Take the tools' notes off, put ours on. The IR version is the opset's oldest, which old runtimes read, too."""
    from onnx import helper

    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
    graph.ClearField("value_info")
    graph.name = METADATA_NAME
    model.producer_name = METADATA_NAME
    model.ClearField("producer_version")
    model.ClearField("domain")
    model.ClearField("model_version")
    model.ir_version = helper.find_min_ir_version_for([helper.make_opsetid("", opset)])
    helper.set_model_props(model, {METADATA_NAME: json.dumps(metadata, sort_keys=True)})


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's and the simplifier's warnings and log lines concern their own development."""
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
