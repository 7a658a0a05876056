"""Core ML: an image in, a multi-array out, as an mlprogram package through coremltools."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mobileseg.converters.target import Target
from mobileseg.errors import OptionError, unknown_option

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any

    from mobileseg.converters.export import RewrittenProgram
    from mobileseg.converters.target import Lowering

DEPLOYMENT_TARGETS = ("iOS16", "iOS17", "iOS18", "iOS26", "macOS13", "macOS14", "macOS15", "macOS26")
"""The oldest system that the file is for, in coremltools' words. Before iOS 16 there are no compressed weights."""

DEFAULT_DEPLOYMENT_TARGET = "iOS16"

OLDEST = {
    "int8": ("iOS17", ("iOS16", "macOS13"), "int8 activations"),
    "w4": ("iOS18", ("iOS16", "iOS17", "macOS13", "macOS14"), "weights of 4 bits with a scale for each block"),
}
"""By precision: the oldest system that has what it needs, and for which its files are if nothing else is asked for;
the systems before it; and what it needs."""


def deployment_target(options: Mapping[str, Any], precision: str) -> str:
    """The oldest system that the file is for: the one asked for, or the oldest with the precision."""
    return options.get("deployment_target") or OLDEST.get(precision, (DEFAULT_DEPLOYMENT_TARGET,))[0]


def _lower(rewritten: RewrittenProgram, lowering: Lowering, path: Path) -> None:
    from mobileseg.converters.coreml.lower import lower

    lower(rewritten, lowering, path)


def check(options: Mapping[str, Any], precision: str) -> None:
    """Raises `OptionError` for a deployment target that is none of `DEPLOYMENT_TARGETS` or too old for the precision,
    an author or a license that is no text."""
    system = options.get("deployment_target")
    if system is not None and system not in DEPLOYMENT_TARGETS:
        raise unknown_option("Core ML deployment target", str(system), DEPLOYMENT_TARGETS)
    oldest, before, needed = OLDEST.get(precision, ("", (), ""))
    if system in before:
        raise OptionError(
            f"Core ML has {needed} from {oldest} on; got --deployment-target {system}. Leave it out, name {oldest} or "
            "a newer system, or choose --precision w8, whose weights are int8 and activations float16."
        )
    for name in ("author", "license"):
        if not isinstance(options.get(name, ""), (str, type(None))):
            raise OptionError(f"--{name} takes a text; got {options[name]!r}.")


TARGET = Target(
    name="coreml",
    suffix=".mlpackage",
    extra="coreml",
    modules=("coremltools",),
    precisions=("fp32", "fp16", "int8", "w8", "w4", "palette4", "palette6", "palette8"),
    input_layout="NCHW",
    forbidden=frozenset({"max_unpool2d", "max_pool2d_with_indices"}),
    lower=_lower,
    options=("deployment_target", "author", "license"),
    check=check,
    widens=True,
)
