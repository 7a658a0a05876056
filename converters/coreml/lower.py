"""From a rewritten program to a Core ML package."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from mobileseg import mlpackage
from mobileseg.converters.coreml import check, deployment_target
from mobileseg.converters.coreml.half import chooser
from mobileseg.converters.coreml.integer import fit_weights, has_int8, remove_idle_pairs
from mobileseg.converters.coreml.sharing import share_constants
from mobileseg.converters.passes.base import arguments_of, aten, is_call, substitute, value
from mobileseg.errors import MobilesegError, cannot_convert
from mobileseg.types import OUTPUT_NAMES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.fx import GraphModule, Node

    from mobileseg.converters.export import RewrittenProgram
    from mobileseg.converters.target import Lowering
    from mobileseg.types import Head

INPUT_NAME = "picture"
METADATA_NAME = "mobileseg"

PREVIEW = "com.apple.coreml.model.preview"
"""Prefix of the keys that Xcode's model preview reads: `Xcode Model Preview Types` in coremltools' guide."""

INEXACT_PASSES = frozenset({"common::fuse_elementwise_to_batchnorm"})
"""Left out of coremltools' pipeline: it turns x * gain + offset into a batch_norm with variance 1 and the default
epsilon 1e-5, which scales by 0.999995 and so changes every picture."""

_POOLINGS = (aten.max_pool2d.default, aten.avg_pool2d.default)
_BOUNDS = (aten.hardtanh.default, aten.clamp.default)

_HEADS: Mapping[Head, str] = {
    "logits": "Logits {shape}, float32: one map a class, before softmax",
    "softmax": "Probabilities {shape}, float32, 0 to 1: one map a class, their sum is 1",
    "argmax": "Classes {shape}, int32: the number of each pixel's class",
}


def lower(rewritten: RewrittenProgram, lowering: Lowering, path: Path) -> None:
    """Write the package at ``path``; ``lowering.precision`` is ``"fp32"``, ``"fp16"``, ``"w4"``, which is float16 for
    systems that take such weights, or ``"int8"`` for a program with an int8 plan in it (`quantization.program.insert`);
    what computes between its roundings is then float16.

    In: ``picture``, an RGB image of H x W; a float32 multi-array (N, 3, H, W) where the file takes the network's own
    input, or more than one picture, which an image cannot be. Out, by the head: ``logits`` or ``probabilities``
    (N, C, H', W') float32, or ``classes`` (N, H', W') int32.

    Options: ``deployment_target``, ``author``, ``license``. Raises `OptionError` for values that they cannot have,
    `RewriteError` for an operator that coremltools cannot convert, `MissingExtraError` without coremltools.
    """
    check(lowering.options, lowering.precision)
    coremltools = mlpackage.import_coremltools()
    (picture,) = rewritten.example_inputs
    output = OUTPUT_NAMES[lowering.head]
    is_image = picture.shape[0] == 1 and not lowering.metadata.get("raw_input", False)
    with mlpackage.quietly():
        try:
            model = coremltools.convert(
                replace(rewritten, module=as_coremltools_reads_it(rewritten.module)).program,
                convert_to="mlprogram",
                minimum_deployment_target=coremltools.target[deployment_target(lowering.options, lowering.precision)],
                compute_precision=_precision(coremltools, lowering),
                pass_pipeline=_pipeline(coremltools),
                inputs=[_input_type(coremltools, tuple(picture.shape), is_image)],
                outputs=[_output_type(coremltools, output, lowering.head)],
                skip_model_load=True,
            )
        except (NotImplementedError, ValueError) as error:
            raise cannot_convert("coremltools", error) from error
    spec = model.get_spec()
    if lowering.precision == "int8":
        share_constants(spec)
    _describe(spec.description, lowering, is_image)
    mlpackage.write(spec, Path(model.weights_dir), path)


def _precision(coremltools: Any, lowering: Lowering) -> Any:
    if lowering.precision == "fp32":
        return coremltools.precision.FLOAT32
    if lowering.precision in ("fp16", "int8", "w4"):
        return coremltools.transform.FP16ComputePrecision(op_selector=chooser(lowering.float32_share))
    raise MobilesegError(f"Core ML has no base precision '{lowering.precision}'.")


def _pipeline(coremltools: Any) -> Any:
    pipeline = coremltools.PassPipeline.DEFAULT
    pipeline.remove_passes(INEXACT_PASSES)
    return pipeline


def _input_type(coremltools: Any, shape: tuple[int, ...], is_image: bool) -> Any:
    if is_image:
        return coremltools.ImageType(name=INPUT_NAME, shape=shape, color_layout=coremltools.colorlayout.RGB)
    return coremltools.TensorType(name=INPUT_NAME, shape=shape, dtype=float)


def _output_type(coremltools: Any, name: str, head: Head) -> Any:
    return coremltools.TensorType(name=name, dtype=int if head == "argmax" else float)


def as_coremltools_reads_it(module: GraphModule) -> GraphModule:
    """A copy in which the class map is int32, since Core ML has no multi-array of bytes, and in which coremltools'
    frontend finds what it expects: a pooling's stride (it does not know that left out it is the kernel), bounds that
    are floats (ReLU6 has integers), no alias."""
    changed = copy.deepcopy(module)
    if has_int8(changed):
        fit_weights(changed)
        remove_idle_pairs(changed)
    (result,) = cast("tuple[Node]", changed.graph.output_node().args[0])
    if is_call(result, aten._to_copy.default) and result.kwargs.get("dtype") == torch.uint8:
        result.update_kwarg("dtype", torch.int32)
    for node in list(changed.graph.nodes):
        if is_call(node, *_POOLINGS) and not arguments_of(node)["stride"]:
            node.args = (*node.args[:2], node.args[1], *node.args[3:])
        elif is_call(node, *_BOUNDS) and value(node).is_floating_point():
            node.args = tuple(float(bound) if isinstance(bound, int) else bound for bound in node.args)
        elif is_call(node, aten.alias.default):
            substitute(node, node.args[0])
    changed.recompile()
    return changed


def _describe(description: Any, lowering: Lowering, is_image: bool) -> None:
    """What Xcode shows of the file and what an app reads from it."""
    metadata, options = lowering.metadata, lowering.options
    (source,), (result,) = description.input, description.output
    source.shortDescription = _describe_input(source.type, is_image, raw=bool(metadata.get("raw_input", False)))
    shape = " x ".join(map(str, result.type.multiArrayType.shape))
    result.shortDescription = (
        f"{_HEADS[lowering.head].format(shape=shape)}. Names and colours of the classes: metadata '{METADATA_NAME}'."
    )
    about = description.metadata
    about.shortDescription = _summary(metadata)
    about.versionString = str(metadata.get("version", ""))
    about.author = options.get("author") or ""
    about.license = options.get("license") or ""
    about.userDefined[METADATA_NAME] = json.dumps(metadata, sort_keys=True)
    if "checkpoint_sha256" in metadata:
        about.userDefined["checkpoint_sha256"] = metadata["checkpoint_sha256"]
    if is_image and "names" in _classes(metadata):
        about.userDefined[f"{PREVIEW}.type"] = "imageSegmenter"
        about.userDefined[f"{PREVIEW}.params"] = json.dumps(_preview(_classes(metadata)), sort_keys=True)


def _describe_input(kind: Any, is_image: bool, *, raw: bool) -> str:
    if is_image:
        size = f"{kind.imageType.height} x {kind.imageType.width}"
        return f"RGB picture, height x width {size}; the checkpoint's preprocessing is inside the model."
    shape = " x ".join(map(str, kind.multiArrayType.shape))
    what = "The network's own input, already preprocessed" if raw else "RGB pictures, 0 to 255"
    return f"{what}: {shape} (batch, channels, height, width), float32."


def _summary(metadata: Mapping[str, Any]) -> str:
    known = (metadata.get("architecture"), metadata.get("variant"))
    name = " ".join(str(word) for word in known if word)
    return f"Semantic segmentation{f' by {name}' if name else ''}, converted by mobileseg."


def _classes(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    classes = metadata.get("classes")
    return classes if isinstance(classes, dict) else {}


def _preview(classes: Mapping[str, Any]) -> dict[str, list[str]]:
    colours = ["#{:02X}{:02X}{:02X}".format(*colour) for colour in classes["palette"]]
    return {"labels": list(classes["names"]), "colors": colours}
