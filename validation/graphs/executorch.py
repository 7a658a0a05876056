"""ExecuTorch files, read with the package's own deserializer.

What a delegate holds is in its own format (`mobileseg.validation.graphs.delegates`); a file of ours also says in the
method ``delegation`` (`mobileseg.converters.executorch.record`) which operators and constants of the network those are,
and why the others are left.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mobileseg.errors import MissingExtraError, UnavailableError
from mobileseg.types import NotRun
from mobileseg.validation.graphs.base import Delegation, Graph, Layer, Operation, counted, largest_first
from mobileseg.validation.graphs.costs import Call, Key, Listing, Tensor, constant, counted_costs
from mobileseg.validation.graphs.delegates import read_payload
from mobileseg.validation.graphs.rules import unknown
from mobileseg.validation.graphs.rules.executorch import ATEN
from mobileseg.validation.runners.executorch import BACKENDS, FORWARD
from mobileseg.validation.traces.program import (
    Program,
    is_constant,
    is_delegate,
    is_kernel,
    kernel_name,
    laid_out,
    payload,
    tensors,
)

DELEGATION_METHOD = "delegation"

_CONVOLUTION = "aten.convolution.default"
_CONVOLUTIONS = (
    *(_CONVOLUTION, "aten.convolution", "et_vk.conv_with_clamp.default"),
    *("Conv2d", "DepthwiseConv2d", "ConvTranspose2d", "conv", "conv_transpose"),
)
"""What the delegates and ExecuTorch's own kernels call that."""

_UNTOLD = "the file does not say why"
_STATIC, _UNBOUND = 0, 2
"""ExecuTorch's numbers for a tensor of one shape, and for one of any."""

# ExecuTorch's names of element types -> NumPy's, where they are others.
_DTYPES = {
    "BYTE": "uint8",
    "CHAR": "int8",
    "SHORT": "int16",
    "INT": "int32",
    "LONG": "int64",
    "HALF": "float16",
    "FLOAT": "float32",
    "DOUBLE": "float64",
}


def read(path: Path) -> Graph:
    """``operators``: those that ExecuTorch's own kernels run, and the delegate's calls under its identifier.

    Raises `MissingExtraError` without ExecuTorch.
    """
    file = deserialized(path)
    plan = plan_named(file, FORWARD)
    record = delegation_record(file)
    layers = [Layer(*layer) for layer in record.get("layers", ())]
    listed, notes = listing(file, plan)
    operations, peak = counted_costs(replace(listed, calls=_with_weights(listed.calls, record)))
    held = [*(b.storage for b in file.program.constant_buffer), *(file.named_data.buffers if file.named_data else ())]
    return Graph(
        operators=counted(_operators(plan)),
        weight_bytes=sum(layer.bytes for layer in layers) or sum(len(data) for data in held),
        layers=largest_first(layers),
        quantization=dict(record.get("constants", {})),
        delegation=_delegation(plan, record, operations),
        operations=operations,
        peak=peak,
        # The first number stands for the constants.
        planned_bytes=sum(plan.non_const_buffer_sizes[1:]),
        notes=notes,
    )


def listing(file: Any, plan: Any) -> tuple[Listing, tuple[str, ...]]:
    """The operators of a method, those inside its delegates' calls among them as far as these can be read, and what has
    to be said of them."""
    instructions = [instruction.instr_args for chain in plan.chains for instruction in chain.instructions]
    inner, notes = _inside(file, plan, instructions)
    several = sum(map(is_delegate, instructions)) > 1
    reading = {position: len(found.inputs) for position, found in inner.items()}
    method = laid_out(file, plan, {}, reading)
    calls: list[Call] = []
    tensors: dict[Key, Tensor] = {i: _tensor(v.val) for i, v in enumerate(plan.values) if _is_tensor(v.val)}
    aliases: dict[Key, Key] = {i: root for i, root in method.roots.items() if i not in method.given}
    for position, call in enumerate(instructions):
        if position in inner:
            found = inner[position]
            calls += (_inner(c, position, f"call {position}, " if several else "") for c in found.calls)
            tensors |= {(position, key): tensor for key, tensor in found.tensors.items()}
            aliases |= dict(zip(_keys(position, (*found.inputs, *found.outputs)), call.args, strict=False))
        elif is_kernel(call):
            calls.append(_kernel(method, position))
        elif is_delegate(call):
            reads, writes = method.accesses[position]
            name = plan.delegates[call.delegate_index].id
            calls.append(Call(name, f"instruction {position}", unknown, dict(enumerate(reads)), writes, delegated=True))
    if any(not is_kernel(call) and not is_delegate(call) for call in instructions):
        notes.append("The file has branches: each operator is counted once, whether it is run or not.")
    sizes = {plan.values[index].val.shape_dynamism for index in plan.inputs if _is_tensor(plan.values[index].val)}
    if sizes - {_STATIC}:
        notes.append("The file takes pictures of more than one size: costs are those of the largest.")
    return Listing(tuple(calls), tensors, tuple(plan.inputs), tuple(plan.outputs), aliases), tuple(notes)


def _inside(file: Any, plan: Any, instructions: Sequence[Any]) -> tuple[dict[int, Listing], list[str]]:
    """What can be read of the delegates' calls, by position; and why the others cannot be."""
    found, notes = {}, dict[str, None]()
    for position, call in enumerate(instructions):
        if is_delegate(call):
            delegate = plan.delegates[call.delegate_index]
            try:
                found[position] = read_payload(delegate.id, payload(file, plan, call))
            except (UnavailableError, MissingExtraError) as error:
                notes[f"What {delegate.id} is handed is not counted: {error}."] = None
    return found, list(notes)


def _inner(call: Call, position: int, place: str) -> Call:
    """An operator inside a delegate's call, which is the instruction at ``position``."""
    return replace(
        call,
        name=f"{place}{call.name}",
        inputs=dict(zip(call.inputs, _keys(position, call.inputs.values()), strict=True)),
        outputs=tuple(_keys(position, call.outputs)),
    )


def _keys(position: int, keys: Iterable[Key]) -> Iterator[Key]:
    return ((position, key) for key in keys)


def _kernel(method: Program, position: int) -> Call:
    plan, call = method.plan, method.calls[position]
    reads, writes = method.accesses[position]
    operator = kernel_name(plan, call).replace("::", ".")
    places = ((place, tensor) for place, index in enumerate(call.args) for tensor in enumerate(tensors(plan, [index])))
    return Call(
        operator=operator,
        name=f"instruction {position}",
        rule=ATEN.get(operator, unknown),
        inputs={
            place if number == 0 else f"{place} {number}": index for place, (number, index) in places if index in reads
        },
        outputs=writes,
        delegated=False,
        options={place: plan.values[index].val.bool_val for place, index in _flags(plan, call)},
        portable=True,
    )


def weight_names(operators: Sequence[tuple[str, bool | None]], record: Mapping[str, Any]) -> dict[int, str]:
    """The network's name of each convolution's weights, by the operator's number, where the file's own record has as
    many convolutions: those of the delegate's calls come first there, and each in the order of execution.

    ``operators``: what each is, and whether it is inside a delegate's call.
    """
    named = [name for name, kind, *_ in record.get("layers", ()) if kind == _CONVOLUTION]
    numbers = [n for n, (kind, _) in enumerate(operators) if kind.removesuffix("+Clamp") in _CONVOLUTIONS]
    numbers.sort(key=lambda n: not operators[n][1])
    return dict(zip(numbers, named, strict=True)) if len(numbers) == len(named) else {}


def _with_weights(calls: Sequence[Call], record: Mapping[str, Any]) -> tuple[Call, ...]:
    """Convolutions bear the names of their weights."""
    names = weight_names([(call.operator, call.delegated) for call in calls], record)
    return tuple(
        replace(call, name=f"{names[number]} ({call.name})") if number in names else call
        for number, call in enumerate(calls)
    )


def _flags(plan: Any, call: Any) -> Iterator[tuple[int, int]]:
    return ((place, index) for place, index in enumerate(call.args) if hasattr(plan.values[index].val, "bool_val"))


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "scalar_type")


def _tensor(tensor: Any) -> Tensor:
    name = tensor.scalar_type.name
    dtype = _DTYPES.get(name, name.lower())
    if is_constant(tensor):
        return constant(tensor.sizes, dtype)
    return Tensor(None if tensor.shape_dynamism == _UNBOUND else tuple(tensor.sizes), dtype)


def deserialized(path: Path) -> Any:
    try:
        from executorch.exir._serialize._program import deserialize_pte_binary
    except ModuleNotFoundError as error:
        raise MissingExtraError("executorch", error.name or "executorch") from error
    return deserialize_pte_binary(path.read_bytes())


def plan_named(file: Any, method: str) -> Any:
    return next((plan for plan in file.program.execution_plan if plan.name == method), None)


def delegation_record(file: Any) -> Mapping[str, Any]:
    plan = plan_named(file, DELEGATION_METHOD)
    if plan is None:
        return {}
    found: Mapping[str, Any] = json.loads(plan.values[plan.outputs[0]].val.string_val)
    return found


def _operators(plan: Any) -> list[str]:
    names = []
    for call in (instruction.instr_args for chain in plan.chains for instruction in chain.instructions):
        if hasattr(call, "op_index"):
            operator = plan.operators[call.op_index]
            names.append(operator.name.replace("::", "."))
        elif hasattr(call, "delegate_index"):
            names.append(plan.delegates[call.delegate_index].id)
    return names


def _delegation(plan: Any, record: Mapping[str, Any], operations: Sequence[Operation]) -> Delegation | NotRun:
    """What the delegate runs; where its payload cannot be read, what the file's own record says that it stands for."""
    identifiers = list(dict.fromkeys(delegate.id for delegate in plan.delegates))
    if not identifiers:
        return NotRun("the file calls no delegate: ExecuTorch's portable kernels run every operator")
    taken = [name for call in record.get("calls", ()) for name, count in call.items() for _ in range(count)]
    inside = [o.operator for o in operations if o.delegated and o.operator not in identifiers]
    left = dict.fromkeys(o.operator for o in operations if not o.delegated)
    return Delegation(
        name=", ".join(BACKENDS.get(identifier, (identifier, ""))[0] for identifier in identifiers),
        operators=counted(inside or taken),
        partitions=sum(name in identifiers for name in _operators(plan)),
        left=dict(record["left"]) if "left" in record else dict.fromkeys(left, _UNTOLD),
    )
