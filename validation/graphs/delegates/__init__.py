"""What is inside a call of one of ExecuTorch's delegates: one module a delegate, which reads its payload."""

from __future__ import annotations

import importlib
import struct
import subprocess

from mobileseg.errors import UnavailableError
from mobileseg.validation.graphs.costs import Listing

# A delegate's identifier -> module with `read(payload: bytes) -> Listing`.
_READERS = {
    "CoreMLBackend": "mobileseg.validation.graphs.delegates.coreml",
    "VulkanBackend": "mobileseg.validation.graphs.delegates.vulkan",
    "XnnpackBackend": "mobileseg.validation.graphs.delegates.xnnpack",
}

_FAULTS = (AttributeError, IndexError, KeyError, TypeError, ValueError, struct.error, subprocess.CalledProcessError)
"""What the readers meet in a payload of another version: they check little. (The process is flatc's.)"""


def read_payload(identifier: str, payload: bytes) -> Listing:
    """The operators inside a call; first its inputs and then its outputs are the call's arguments, in their order.

    Raises `UnavailableError` for another delegate's and for a form that is not known, `MissingExtraError` where what
    reads it is not installed.
    """
    if identifier not in _READERS:
        raise UnavailableError("it is in a form of its own")
    reader = importlib.import_module(_READERS[identifier])
    try:
        found: Listing = reader.read(payload)
    except _FAULTS as error:
        raise UnavailableError(f"it is in another form than that of ExecuTorch 1.5 ({error})") from error
    return found
