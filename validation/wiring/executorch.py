"""ExecuTorch files: the instructions of the program, a delegate's call as the operators inside it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mobileseg.errors import UsageError
from mobileseg.validation.graphs.executorch import deserialized, plan_named
from mobileseg.validation.runners.executorch import FORWARD
from mobileseg.validation.wiring import coreml, vulkan, xnnpack
from mobileseg.validation.wiring.base import Operator, Value, Wiring

_TRANSPOSE = "aten.permute_copy"
_PACKAGE = "*/model.mlpackage"


def read(path: Path) -> Wiring:
    """Keys are the indices of the program's values, behind the call's number those of a delegate's own. A reshaping
    that moves nothing is no instruction of the program. Raises `MissingExtraError` without ExecuTorch, and as the
    delegate's reader does."""
    file = deserialized(path)
    plan = plan_named(file, FORWARD)
    held = {i: v.val for i, v in enumerate(plan.values) if hasattr(v.val, "scalar_type")}
    found: list[Operator] = []
    values = {str(i): Value(tuple(t.sizes), t.scalar_type.name.lower()) for i, t in held.items()}
    constants = {str(i) for i, t in held.items() if t.data_buffer_idx > 0 or _is_named_data(t)}
    calls = [instruction.instr_args for chain in plan.chains for instruction in chain.instructions]
    for number, call in enumerate(calls):
        if hasattr(call, "op_index"):
            found.append(_kernel(plan, number, call, constants))
        elif hasattr(call, "delegate_index"):
            inner, inputs = _delegated(file, plan, call, path)
            names = dict(zip((*inputs, *inner.outputs), map(str, call.args), strict=True))
            found += _renamed(inner, number, names, constants)
            values |= {f"{number}.{key}": value for key, value in inner.values.items()}
    return Wiring(tuple(found), values, tuple(map(str, plan.outputs)))


def _is_named_data(tensor: Any) -> bool:
    extra = tensor.extra_tensor_info
    return extra is not None and bool(extra.fully_qualified_name)


def _kernel(plan: Any, number: int, call: Any, constants: set[str]) -> Operator:
    # The last argument is what the kernel returns; before it stands where it is to write that.
    kind = plan.operators[call.op_index].name.replace("::", ".")
    outputs = tuple(_tensors(plan, call.args[-1:]))
    inputs = tuple(key for key in _tensors(plan, call.args[:-1]) if key not in constants and key not in outputs)
    order: tuple[int, ...] = ()
    if kind == _TRANSPOSE:
        axes = [plan.values[i].val.int_val for i in plan.values[call.args[1]].val.items]
        order = tuple(axis % len(axes) for axis in axes)
    return Operator(kind, f"instruction {number}", inputs, outputs, order)


def _tensors(plan: Any, indices: Sequence[int]) -> Iterator[str]:
    for index in indices:
        value = plan.values[index].val
        if hasattr(value, "scalar_type"):
            yield str(index)
        elif type(value).__name__ in ("TensorList", "OptionalTensorList"):
            yield from (str(i) for i in value.items if i >= 0)


def _delegated(file: Any, plan: Any, call: Any, path: Path) -> tuple[Wiring, tuple[str, ...]]:
    """The operators inside a call, and the keys of its inputs there, in the order of the arguments."""
    delegate = plan.delegates[call.delegate_index]
    if delegate.id not in _PAYLOADS:
        known = ", ".join(_PAYLOADS)
        raise UsageError(f"'{path}' calls the delegate {delegate.id}, into which nothing here looks; known: {known}.")
    return _PAYLOADS[delegate.id](bytes(file.program.backend_delegate_data[delegate.processed.index].data))


def _renamed(inner: Wiring, number: int, names: Mapping[str, str], constants: set[str]) -> Iterator[Operator]:
    """Of the call's arguments some are the program's constants."""
    for operator in inner.operators:
        inputs, outputs = (
            [names.get(key, f"{number}.{key}") for key in keys] for keys in (operator.inputs, operator.outputs)
        )
        yield replace(operator, inputs=tuple(key for key in inputs if key not in constants), outputs=tuple(outputs))


def _core_ml(payload: bytes) -> tuple[Wiring, tuple[str, ...]]:
    from executorch.backends.apple.coreml import executorchcoreml

    with tempfile.TemporaryDirectory() as folder:
        executorchcoreml.unflatten_directory_contents(payload, folder)
        (package,) = Path(folder).glob(_PACKAGE)
        wiring = coreml.read(package)
    given = {key for operator in wiring.operators for key in operator.outputs}
    return wiring, tuple(key for key in wiring.values if key not in given)


# A delegate's identifier -> what reads its payload: the operators, and the keys of the inputs.
_PAYLOADS: Mapping[str, Callable[[bytes], tuple[Wiring, tuple[str, ...]]]] = {
    "CoreMLBackend": _core_ml,
    "VulkanBackend": vulkan.read,
    "XnnpackBackend": xnnpack.read,
}
