"""What is inside a call of one of ExecuTorch's delegates: one module a delegate, which reads its payload."""

from __future__ import annotations

import importlib

from mobileseg.errors import UnavailableError
from mobileseg.validation.graphs.costs import Listing

# A delegate's identifier -> module with `read(payload: bytes) -> Listing`.
_READERS = {
    "CoreMLBackend": "mobileseg.validation.graphs.delegates.coreml",
    "VulkanBackend": "mobileseg.validation.graphs.delegates.vulkan",
    "XnnpackBackend": "mobileseg.validation.graphs.delegates.xnnpack",
}


def read_payload(identifier: str, payload: bytes) -> Listing:
    """The operators inside a call; first its inputs and then its outputs are the call's arguments, in their order.

    Raises `UnavailableError` for another delegate's and for a form that is not known, `MissingExtraError` where what
    reads it is not installed.
    """
    if identifier not in _READERS:
        raise UnavailableError(f"what {identifier} is handed is in a form of its own")
    found: Listing = importlib.import_module(_READERS[identifier]).read(payload)
    return found
