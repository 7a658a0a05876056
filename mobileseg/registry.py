"""What exists: architectures, targets, precisions, devices. One line here per new file; nothing heavy is imported until
it is used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mobileseg.errors import unknown_option
from mobileseg.types import Preprocessing, Recipe

if TYPE_CHECKING:
    from mobileseg.types import Variant

# Architecture name -> module with `VARIANTS: tuple[Variant, ...]`. Third parties add theirs by the entry point group
# of the same name.
ARCHITECTURES = {
    "enet": "mobileseg.architectures.enet",
    "erfnet": "mobileseg.architectures.erfnet",
    "espnet": "mobileseg.architectures.espnet",
    "espnetv2": "mobileseg.architectures.espnetv2",
    "segnet": "mobileseg.architectures.segnet",
}
ENTRY_POINTS = "mobileseg.architectures"

# Target name -> module with `TARGET: mobileseg.converters.target.Target`.
TARGETS = {
    "tflite": "mobileseg.converters.tflite",
    "onnx": "mobileseg.converters.onnx",
    "coreml": "mobileseg.converters.coreml",
    "executorch": "mobileseg.converters.executorch",
}

HOST = "host"
"""The device that is this machine's CPU."""

# Name of any other device -> its module (`mobileseg.validation.devices` says what that has).
DEVICES = {"qemu-arm64": "mobileseg.validation.devices.qemu_arm64"}

# (target, precision) -> how a file of that precision is made from one that the target lowers.
QUANTIZERS = {
    ("tflite", "int8"): Recipe("fp32", True, "mobileseg.quantization.tflite:quantize_file"),
    ("tflite", "w8a16"): Recipe("fp32", False, "mobileseg.quantization.tflite:quantize_observed", observed=True),
    ("onnx", "int8"): Recipe("int8", True, None),
    ("executorch", "int8"): Recipe("fp32", True, None),
    ("executorch", "dynamic"): Recipe(
        "dynamic",
        False,
        None,
        words="weights of convolutions int8, symmetric, a scale per output channel; what they read rounded to 8 bits "
        "as the file runs; depthwise and transposed ones and weights of fewer than 1024 numbers float32",
    ),
    ("coreml", "int8"): Recipe("int8", True, None, "mobileseg.quantization.coreml.values:values_for_core_ml"),
    **{
        ("coreml", precision): Recipe("fp16", False, "mobileseg.quantization.coreml:compress_weights")
        for precision in ("w8", "palette4", "palette6", "palette8")
    },
    ("coreml", "w4"): Recipe("w4", False, "mobileseg.quantization.coreml:compress_weights"),
    **{
        (name, precision): Recipe("fp32", False, f"mobileseg.quantization.{name}:compress_weights")
        for name in ("tflite", "onnx")
        for precision in ("w8", "dynamic")
    },
}

PRECISIONS = {
    "fp32": "weights and activations in 32-bit floating point",
    "fp16": "weights in 16-bit floating point; activations in 16 bit where the runtime computes so",
    "int8": "weights and activations in 8-bit integers, ranges from calibration pictures",
    "w8a16": "weights in 8-bit, activations in 16-bit integers, ranges from calibration pictures",
    "w8": "weights in 8-bit integers; activations in floating point (Core ML: 16-bit)",
    "dynamic": "weights in 8-bit integers; what convolutions read is rounded to 8 bits as the file runs",
    "w4": "weights in 4-bit integers, a scale for each block; activations in 16-bit floating point",
    "palette4": "weights as 4-bit indices into palettes; activations in 16-bit floating point",
    "palette6": "weights as 6-bit indices into palettes; activations in 16-bit floating point",
    "palette8": "weights as 8-bit indices into palettes; activations in 16-bit floating point",
}

PREPROCESSINGS = {
    p.name: p
    for p in (
        Preprocessing("unit"),
        Preprocessing("imagenet", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        Preprocessing(
            "espnet-cityscapes",
            channel_order="BGR",
            scale=1.0,
            mean=(72.3923111, 82.90893555, 73.15840149),
            std=(45.3192215, 46.15289307, 44.91483307),
            post_scale=255.0,
        ),
        Preprocessing(
            "espnet-camvid",
            channel_order="BGR",
            scale=1.0,
            mean=(110.33102643, 108.40886315, 105.03319369),
            std=(72.12571015, 72.69074534, 69.90434816),
            post_scale=255.0,
        ),
    )
}


def architecture_modules() -> dict[str, str]:
    """Our architectures and those that installed packages announce, by name."""
    from importlib import metadata  # a fifth of what `mobileseg --help` takes

    found = dict(ARCHITECTURES)
    for entry in metadata.entry_points(group=ENTRY_POINTS):
        found.setdefault(entry.name, entry.value)
    return found


def variants(architecture: str | None = None) -> tuple[Variant, ...]:
    """All variants, or those of one architecture. Raises `OptionError` for an unknown name."""
    modules = architecture_modules()
    if architecture is not None and architecture not in modules:
        raise unknown_option("architecture", architecture, modules)
    chosen = modules if architecture is None else {architecture: modules[architecture]}
    return tuple(v for path in chosen.values() for v in importlib.import_module(path).VARIANTS)


def variant(architecture: str, name: str) -> Variant:
    """One variant by name. Raises `OptionError` for an unknown name."""
    known = {v.name: v for v in variants(architecture)}
    if name not in known:
        raise unknown_option(f"variant of {architecture}", name, known)
    return known[name]


def target(name: str) -> Any:
    """The `Target` of that name. Raises `OptionError` for an unknown name."""
    if name not in TARGETS:
        raise unknown_option("target", name, [*TARGETS, "all"])
    return importlib.import_module(TARGETS[name]).TARGET


def device(name: str) -> Any:
    """The module of a device that is not `HOST`. Raises `OptionError` for an unknown name."""
    if name not in DEVICES:
        raise unknown_option("device", name, [HOST, *DEVICES])
    return importlib.import_module(DEVICES[name])


def function(name: str) -> Any:
    """The function that a recipe calls ``"module:function"``.

    `Recipe.function`: ``(path, precision, planned, options) -> Quantized``, which rewrites the file in place. ``path``:
    the file of the recipe's base precision; ``planned``: its program's int8 plan
    (`mobileseg.quantization.program.Planned`), if the recipe makes one, or what gives the calibration pictures, if it
    observes them; ``options``: the target's. `Recipe.values`: ``Values -> Values``.
    """
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def preprocessing(name: str) -> Preprocessing:
    """A preprocessing by name. Raises `OptionError` for an unknown name."""
    if name not in PREPROCESSINGS:
        raise unknown_option("preprocessing", name, PREPROCESSINGS)
    return PREPROCESSINGS[name]
