"""The delegates: one module each, whose `DELEGATE` says which operators it takes and why it leaves the others."""

from __future__ import annotations

import importlib
from typing import cast

from mobileseg.converters.executorch.delegates.base import Delegate
from mobileseg.errors import unknown_option

__all__ = ["DEFAULT_DELEGATE", "DELEGATES", "Delegate", "delegate_named"]

DEFAULT_DELEGATE = "xnnpack"

# Name -> module with `DELEGATE: Delegate`.
DELEGATES = {
    "xnnpack": "mobileseg.converters.executorch.delegates.xnnpack",
    "coreml": "mobileseg.converters.executorch.delegates.coreml",
    "vulkan": "mobileseg.converters.executorch.delegates.vulkan",
    "portable": "mobileseg.converters.executorch.delegates.portable",
}


def delegate_named(name: object) -> Delegate:
    """The delegate of that name, the default one for None. Raises `OptionError` for an unknown name."""
    chosen = DEFAULT_DELEGATE if name is None else str(name)
    if chosen not in DELEGATES:
        raise unknown_option("ExecuTorch delegate", chosen, DELEGATES)
    return cast("Delegate", importlib.import_module(DELEGATES[chosen]).DELEGATE)
