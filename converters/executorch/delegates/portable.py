"""No delegate: ExecuTorch's own kernels, which run on any processor, and slowly."""

from __future__ import annotations

from mobileseg.converters.executorch.delegates.base import Delegate

DELEGATE = Delegate(name="portable", partitioners=list, otherwise="")
