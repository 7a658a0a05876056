"""ExecuTorch files: ExecuTorch's own runtime runs copies of the program that hand out what every operator gives.

The runtime is given the same operators and constants; only, XNNPACK does not fuse across a value that is looked at.
What the copies come to is held against what the untouched file comes to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mobileseg.errors import MobilesegError
from mobileseg.types import Placement, TensorSpec
from mobileseg.validation.graphs.executorch import delegation_record, deserialized, plan_named, weight_names
from mobileseg.validation.runners.executorch import FORWARD, captured_stderr, open_runner
from mobileseg.validation.traces.base import Kept, Step, Trace
from mobileseg.validation.traces.program import Operator, Place, Program, dissect, handing_out, operators, quantization

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BYTES_AT_ONCE = 64 << 20


def trace(path: Path, tensor: NDArray[Any], folder: Path) -> Trace:
    """Run a .pte file in parts of 64 MiB of values each, and keep the values in ``folder``.

    Values inside a call of XNNPACK are in XNNPACK's dimensions, often NHWC. Steps and their inputs are those of
    `program.operators`. A convolution bears the name of its weights, where the file says it.

    Raises `UnavailableError` for a delegate that is not XNNPACK, and for what `program.dissect` cannot take apart;
    `UsageError`, `MissingExtraError` as `runners.executorch.open_runner` does.
    """
    runner = open_runner(path, Placement())
    file = deserialized(path)
    program = dissect(file, plan_named(file, FORWARD))
    found, parameters = list(operators(program)), quantization(program)
    outputs = [program.named(index) for index in program.plan.outputs]
    inner = [place for operator in found for place in operator.outputs if place not in outputs]
    kept, specs, differences = Kept(folder), {}, []

    def keep(place: Place, array: NDArray[Any]) -> None:
        key, (scale, zero_point) = _key(place), parameters.get(place, (None, None))
        kept.write(key, array)
        specs[key] = TensorSpec(key, array.shape, str(array.dtype), "", scale=scale, zero_point=zero_point)

    own = runner.invoke(tensor)
    keep(program.plan.inputs[0], tensor)
    for places in _parts(program, inner):
        results = _run(handing_out(program, places), tensor)
        differences.append(_difference(own, results[0]))
        for place, array in zip([*outputs, *places], results, strict=True):
            keep(place, array)
    return Trace(
        runtime=runner.runtime + _in_words(max(differences)),
        inputs=tuple(map(_key, program.plan.inputs)),
        outputs=tuple(map(_key, outputs)),
        steps=tuple(_steps(found, delegation_record(file))),
        specs=specs,
        kept=kept,
    )


def _key(place: Place) -> str:
    return str(place) if isinstance(place, int) else "{}.{}".format(*place)


def _steps(found: Sequence[Operator], record: Mapping[str, Any]) -> Iterator[Step]:
    weights = weight_names([(operator.kind, operator.inside) for operator in found], record)
    for index, operator in enumerate(found):
        name = f"{weights[index]} ({operator.name})" if index in weights else operator.name
        yield Step(index, operator.kind, name, tuple(map(_key, operator.inputs)), tuple(map(_key, operator.outputs)))


def _parts(program: Program, places: Sequence[Place]) -> Iterator[list[Place]]:
    """Of at most `_BYTES_AT_ONCE`, or of one value; at least one part, if of nothing."""
    part: list[Place] = []
    held = 0
    for place in places:
        size = program.bytes(place)
        if part and held + size > _BYTES_AT_ONCE:
            yield part
            part, held = [], 0
        part.append(place)
        held += size
    yield part


def _run(content: bytes, tensor: NDArray[Any]) -> list[NDArray[Any]]:
    import torch
    from executorch.runtime import Runtime

    with captured_stderr() as said:
        try:
            program = Runtime.get().load_program(content)
            results = program.load_method(FORWARD).execute([torch.from_numpy(tensor)])
        except RuntimeError as error:
            raise MobilesegError(
                f"ExecuTorch runs the file, and not the copy of it that hands out what is inside: {said() or error}. "
                "This is a fault of mobileseg; please report it."
            ) from error
    return [np.asarray(result.numpy()) for result in results]


def _difference(own: NDArray[Any], copy: NDArray[Any]) -> float:
    """The largest; infinite where one alone is no number."""
    ours, copied = own.astype(np.float64), copy.astype(np.float64)
    same = (ours == copied) | (np.isnan(ours) & np.isnan(copied))
    gaps = np.abs(np.subtract(ours, copied, where=~same, out=np.zeros_like(ours)))
    return float(np.nan_to_num(gaps, nan=np.inf, posinf=np.inf).max(initial=0.0))


def _in_words(difference: float) -> str:
    if difference == 0:
        return "; looked into, it gives the same result"
    return f"; looked into, it gives a result that differs by up to {difference:.3g}"
