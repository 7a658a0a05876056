"""Core ML's payloads: a package inside the ExecuTorch file."""

from __future__ import annotations

from mobileseg import mlpackage
from mobileseg.errors import UnavailableError, UsageError
from mobileseg.validation.coreml.program import read_program
from mobileseg.validation.graphs.coreml import listing
from mobileseg.validation.graphs.costs import Listing
from mobileseg.validation.runners.executorch_coreml import unpacked


def read(payload: bytes) -> Listing:
    """Raises `UnavailableError` where there is no package that can be read, `MissingExtraError` without coremltools."""
    with unpacked(payload) as package:
        if package is None:
            raise UnavailableError("it holds no package")
        try:
            spec, weights = mlpackage.read_spec(package)
            return listing(read_program(spec, weights, package), delegated=True)
        except UsageError as error:
            raise UnavailableError(f"its package cannot be read ({error})") from error
