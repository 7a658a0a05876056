"""ExecuTorch: NCHW float32 picture in, one .pte for one delegate, through ExecuTorch's edge dialect."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from mobileseg.converters.executorch.delegates import DEFAULT_DELEGATE, delegate_named
from mobileseg.converters.target import Target
from mobileseg.errors import MissingExtraError, OptionError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any

    from mobileseg.converters.export import RewrittenProgram
    from mobileseg.converters.target import Lowering


def _lower(rewritten: RewrittenProgram, lowering: Lowering, path: Path) -> None:
    from mobileseg.converters.executorch.lower import lower

    lower(rewritten, lowering, path)


def check(options: Mapping[str, Any], precision: str) -> None:
    """For any precision. Raises `OptionError` for a delegate that is none of `delegates.DELEGATES` or an ``etrecord``
    that is no truth value, `MissingExtraError` for a delegate whose compiler is not installed."""
    delegate = delegate_named(options.get("delegate"))
    if not isinstance(options.get("etrecord"), (bool, type(None))):
        raise OptionError(f"--etrecord is on or off; got {options['etrecord']!r}.")
    for module in delegate.modules:
        if find_spec(module) is None:
            raise MissingExtraError(delegate.extra, module)


def _label(options: Mapping[str, Any]) -> str:
    name = delegate_named(options.get("delegate")).name
    return "" if name == DEFAULT_DELEGATE else name


TARGET = Target(
    name="executorch",
    suffix=".pte",
    extra="executorch",
    modules=("executorch",),
    precisions=("fp32", "fp16", "int8", "dynamic"),
    input_layout="NCHW",
    # Whatever a delegate leaves, an unpooling without a rewrite included, runs on ExecuTorch's own kernels.
    forbidden=frozenset(),
    lower=_lower,
    options=("delegate", "etrecord"),
    check=check,
    label=_label,
    companions=(".etrecord",),
    widens=True,
)
