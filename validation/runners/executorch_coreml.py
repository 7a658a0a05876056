"""ExecuTorch files for Core ML where that is not: the package inside them, by the reference executor.

The delegate's payload is a folder, flattened, with the ``.mlpackage`` in it (`executorch.backends.apple.coreml`).
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mobileseg.errors import MissingExtraError, UsageError
from mobileseg.types import Placement
from mobileseg.validation.runners.base import Opened
from mobileseg.validation.runners.coreml import by_reference

if TYPE_CHECKING:
    from numpy.typing import NDArray

BACKEND = "CoreMLBackend"
NOTE = "It is the Core ML package inside the ExecuTorch file that was run, without ExecuTorch."

_PACKAGE = "*/model.mlpackage"


def open_package(path: Path, content: bytes, method: str, dtype: str, placement: Placement) -> Opened | None:
    """What runs a method that is one call of Core ML's delegate; None for any other, and without coremltools.

    ``dtype``: of the method's result, to which ExecuTorch converts the package's. Raises `UsageError` where the package
    is damaged.
    """
    payload = _payload(content, method)
    if payload is None:
        return None
    from mobileseg.validation.coreml import load

    with unpacked(payload) as package:
        if package is None:
            raise UsageError(
                f"'{path}' does not load as an ExecuTorch file: it holds no Core ML package. Convert it again."
            )
        try:
            opened = by_reference(load(package), placement)
        except MissingExtraError:
            return None

    def invoke(tensor: NDArray[Any]) -> NDArray[Any]:
        return opened.invoke(tensor).astype(np.dtype(dtype))

    return replace(opened, invoke=invoke, notes=(NOTE, *opened.notes))


@contextlib.contextmanager
def unpacked(payload: bytes) -> Iterator[Path | None]:
    """The package in a payload, as a folder that is there inside the ``with``; None where there is none."""
    from executorch.backends.apple.coreml import executorchcoreml

    with tempfile.TemporaryDirectory() as folder:
        # What it says of bytes that are no folder.
        with contextlib.suppress(RuntimeError):
            executorchcoreml.unflatten_directory_contents(payload, folder)
        packages = list(Path(folder).glob(_PACKAGE))
        yield packages[0] if len(packages) == 1 else None


def _payload(content: bytes, method: str) -> bytes | None:
    from executorch.exir._serialize._program import deserialize_pte_binary
    from executorch.exir.schema import DataLocation, DelegateCall

    program = deserialize_pte_binary(content).program
    plan = next(plan for plan in program.execution_plan if plan.name == method)
    steps = [step.instr_args for chain in plan.chains for step in chain.instructions]
    if len(steps) != 1 or not isinstance(steps[0], DelegateCall) or steps[0].args != [*plan.inputs, *plan.outputs]:
        return None
    delegate = plan.delegates[steps[0].delegate_index]
    if delegate.id != BACKEND or delegate.processed.location != DataLocation.INLINE:
        return None
    return bytes(program.backend_delegate_data[delegate.processed.index].data)
