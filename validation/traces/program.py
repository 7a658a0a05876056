"""The operators of an ExecuTorch program, those inside its calls of XNNPACK among them, and copies of the program that
hand out what they give.

Before: picture -> [XNNPACK: conv -> add -> ...] -> logits         what is given inside shares memory, and is lost
After:  picture -> [XNNPACK: conv -> add -> ...] -> logits, conv, add, ...         each in memory of its own
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mobileseg.errors import UnavailableError
from mobileseg.validation.runners.executorch import BACKENDS
from mobileseg.validation.traces import xnnpack

Place = int | tuple[int, int]
"""Where a value is: in the program's table of values; or in a call of XNNPACK (its position), by the key there."""

Accesses = tuple[tuple[int, ...], tuple[int, ...]]
"""The tensors that an instruction reads, and those that it writes."""

_VIEW = "executorch_prim::et_view"
# ExecuTorch's numbers of element types -> bytes; all others have at most as many as the widest.
_BYTES = {0: 1, 1: 1, 2: 2, 3: 4, 4: 8, 5: 2, 6: 4, 7: 8, 11: 1, 15: 2}
_WIDEST = 16
_SCALAR_TYPES = {"uint8": 0, "int8": 1, "int32": 3, "float16": 5, "float32": 6}
# XNNPACK wants places at multiples of 16, and reads up to 16 bytes beyond a tensor's end.
_SPACING = 64


@dataclass(frozen=True)
class Operator:
    """``inside``: whether it is in a call of XNNPACK."""

    kind: str
    name: str
    inputs: tuple[Place, ...]
    outputs: tuple[Place, ...]
    inside: bool


@dataclass(frozen=True)
class Program:
    """A method of a file. ``calls``: its instructions; ``networks``: of those that call XNNPACK, by position.
    ``accesses``: the tensors that each instruction reads, and those that it writes. ``given``: what instructions write;
    ``roots``: whose memory a value shares, where it is another's."""

    file: Any
    plan: Any
    calls: tuple[Any, ...]
    networks: Mapping[int, xnnpack.Network]
    accesses: tuple[Accesses, ...]
    given: frozenset[int]
    roots: Mapping[int, int]

    def named(self, index: int) -> int:
        """A value that no instruction writes is another one in another shape."""
        return index if index in self.given else self.roots.get(index, index)

    def place(self, call: int, key: int) -> Place:
        """Of a value in a call's network: what comes in and goes out is the program's."""
        external = self.networks[call].values[key].external
        return (call, key) if external is None else self.named(self.calls[call].args[external])

    def bytes(self, place: Place) -> int:
        """0 for what cannot be read."""
        if isinstance(place, int):
            return _bytes(self.plan.values[place].val)
        value = self.networks[place[0]].values[place[1]]
        return 0 if value.dtype is None else math.prod(value.shape) * _BYTES[_SCALAR_TYPES[value.dtype]]


def dissect(file: Any, plan: Any) -> Program:
    """``file``: deserialized; ``plan``: its method.

    Raises `UnavailableError` for a delegate that is not XNNPACK, for branches, and as `xnnpack.read` does.
    """
    calls = tuple(instruction.instr_args for chain in plan.chains for instruction in chain.instructions)
    branch = next((call for call in calls if not is_kernel(call) and not is_delegate(call)), None)
    if branch is not None:
        raise UnavailableError(
            f"The file's operators run in an order that its values decide ({type(branch).__name__}), and cannot be "
            "looked into one by one. Convert a network without branches."
        )
    others = sorted({delegate.id for delegate in plan.delegates} - {xnnpack.BACKEND})
    if others:
        names = ", ".join(BACKENDS.get(name, (name, ""))[0] for name in others)
        raise UnavailableError(
            f"The file's operators cannot be looked into: {names} runs them as one and hands out nothing between. "
            "Convert with --delegate xnnpack or --delegate portable."
        )
    networks = {i: xnnpack.read(payload(file, plan, call)) for i, call in enumerate(calls) if is_delegate(call)}
    return laid_out(file, plan, networks, {})


def laid_out(file: Any, plan: Any, networks: Mapping[int, xnnpack.Network], reading: Mapping[int, int]) -> Program:
    """Any method. ``reading``: of a delegate's call that is not among ``networks``, how many arguments it reads, before
    those that it gives; of one that is in neither, these are the tensors that are there before it. An instruction that
    decides which is next reads and gives nothing."""
    calls = tuple(instruction.instr_args for chain in plan.chains for instruction in chain.instructions)
    known = {*plan.inputs, *(index for index, value in enumerate(plan.values) if is_constant(value.val))}
    accesses = []
    for position, call in enumerate(calls):
        if position in networks or not is_delegate(call):
            reads, writes = _accesses(plan, call, networks.get(position))
        else:
            arguments = tensors(plan, call.args)
            count = reading.get(position, sum(index in known for index in arguments))
            reads, writes = arguments[:count], arguments[count:]
        accesses.append((reads, writes))
        known.update(writes)
    given = frozenset(index for _, writes in accesses for index in writes)
    return Program(file, plan, calls, networks, tuple(accesses), given, _roots(plan, calls, accesses, given))


def operators(program: Program) -> Iterator[Operator]:
    """In the order of execution, without those that work on constants alone: what they give is constant, too.

    ``inputs``: without the constants. ``outputs``: those that can be read in the end. One that cannot, because only
    XNNPACK can read it or because a later operator writes over it, is left out, and what it was made of stands for it;
    an operator with no other is left out.
    """
    found = list(all_operators(program))
    sources: dict[Place, tuple[Place, ...]] = {place: (place,) for place in program.plan.inputs}
    last = {place: number for number, operator in enumerate(found) for place in operator.outputs}
    for number, operator in enumerate(found):
        inputs = tuple(dict.fromkeys(source for place in operator.inputs for source in sources.get(place, ())))
        if not inputs:
            continue
        outputs = tuple(place for place in operator.outputs if program.bytes(place) and last[place] == number)
        sources.update({place: (place,) if place in outputs else inputs for place in operator.outputs})
        if outputs:
            yield replace(operator, inputs=inputs, outputs=outputs)


def all_operators(program: Program) -> Iterator[Operator]:
    """In the order of execution. ``inputs``: with the constants inside a call of XNNPACK; ``outputs``: all."""
    several = len(program.networks) > 1
    for position, call in enumerate(program.calls):
        if position not in program.networks:
            reads, writes = program.accesses[position]
            yield Operator(
                kind=kernel_name(program.plan, call).replace("::", "."),
                name=f"instruction {position}",
                inputs=tuple(map(program.named, reads)),
                outputs=writes,
                inside=False,
            )
            continue
        for number, node in enumerate(program.networks[position].nodes):
            name = f"node {number}" if node.handle is None else f"node {number}, debug handle {node.handle}"
            yield Operator(
                kind=node.operator,
                name=f"call {position}, {name}" if several else name,
                inputs=tuple(program.place(position, key) for key in node.inputs),
                outputs=tuple(program.place(position, key) for key in node.outputs),
                inside=True,
            )


def quantization(program: Program) -> dict[Place, tuple[float, int]]:
    """Scale and zero point of each value that XNNPACK has as quantized."""
    return {
        program.place(call, key): (value.scale, value.zero_point)
        for call, network in program.networks.items()
        for key, value in network.values.items()
        if value.scale is not None and value.zero_point is not None
    }


def handing_out(program: Program, places: Sequence[Place]) -> bytes:
    """A .pte file of the one method, whose outputs are those that it has and then the values at ``places``."""
    from executorch.exir._serialize._program import serialize_pte_binary
    from executorch.exir.schema import AllocationDetails, EValue

    plan, end = program.plan, 0
    sizes, values, outputs = list(plan.non_const_buffer_sizes or [0]), list(plan.values), list(plan.outputs)
    inside: dict[int, dict[int, int]] = {position: {} for position in program.networks}
    for place in places:
        where = AllocationDetails(memory_id=len(sizes), memory_offset_low=end % 2**32, memory_offset_high=end >> 32)
        if isinstance(place, int):
            outputs.append(place)
            for index in _sharing(program, place):
                values[index] = EValue(val=replace(values[index].val, allocation_info=where))
        else:
            position, key = place
            outputs.append(len(values))
            inside[position][key] = len(values)
            values.append(EValue(val=_tensor(program.networks[position].values[key], where)))
        end += (program.bytes(place) // _SPACING + 2) * _SPACING
    changed = replace(
        program.file.program,
        execution_plan=[replace(plan, values=values, outputs=outputs, non_const_buffer_sizes=[*sizes, end])],
        backend_delegate_data=[],
    )
    _let_calls_hand_out(program, changed, inside)
    file = replace(program.file, program=changed)
    return bytes(serialize_pte_binary(file, extract_delegate_segments=True))


def _let_calls_hand_out(program: Program, changed: Any, inside: Mapping[int, Mapping[int, int]]) -> None:
    """Each call of XNNPACK gets a payload of its own that hands out some of its values, by key, and their places in the
    program's table as further arguments."""
    from executorch.exir import schema

    (plan,) = changed.execution_plan
    plan.delegates, calls = [], list(program.calls)
    for position, handed in inside.items():
        old, number = program.calls[position], len(plan.delegates)
        data = xnnpack.handing_out(payload(program.file, program.plan, old), list(handed))
        changed.backend_delegate_data.append(schema.BackendDelegateInlineData(data=data))
        reference = schema.BackendDelegateDataReference(location=schema.DataLocation.INLINE, index=number)
        plan.delegates.append(replace(program.plan.delegates[old.delegate_index], processed=reference))
        calls[position] = schema.DelegateCall(delegate_index=number, args=[*old.args, *handed.values()])
    following = iter(calls)
    plan.chains = [
        replace(chain, instructions=[schema.Instruction(instr_args=next(following)) for _ in chain.instructions])
        for chain in plan.chains
    ]


def _tensor(value: xnnpack.Value, where: Any) -> Any:
    from executorch.exir import schema
    from executorch.exir.scalar_type import ScalarType

    return schema.Tensor(
        scalar_type=ScalarType(_SCALAR_TYPES[str(value.dtype)]),
        storage_offset=0,
        sizes=list(value.shape),
        dim_order=list(range(len(value.shape))),
        requires_grad=False,
        layout=0,
        data_buffer_idx=0,
        allocation_info=where,
        # XNNPACK works dimensions out anew, and may come to others of the same product.
        shape_dynamism=schema.TensorShapeDynamism.DYNAMIC_BOUND,
    )


def is_kernel(call: Any) -> bool:
    """Whether an instruction runs one of ExecuTorch's own kernels."""
    return hasattr(call, "op_index")


def is_delegate(call: Any) -> bool:
    """Whether an instruction calls a delegate."""
    return hasattr(call, "delegate_index")


def kernel_name(plan: Any, call: Any) -> str:
    """``aten::add``; without the overload."""
    return str(plan.operators[call.op_index].name)


def payload(file: Any, plan: Any, call: Any) -> bytes:
    """What a delegate is handed, in its own format."""
    reference = plan.delegates[call.delegate_index].processed
    return bytes(file.program.backend_delegate_data[reference.index].data)


def is_constant(value: Any) -> bool:
    """Whether a value of the program's table is a tensor whose numbers are in the file."""
    named = getattr(value, "extra_tensor_info", None)
    return getattr(value, "data_buffer_idx", 0) > 0 or (named is not None and bool(named.fully_qualified_name))


def _accesses(plan: Any, call: Any, network: xnnpack.Network | None) -> Accesses:
    if network is None and not is_kernel(call):
        return (), ()
    if network is None:
        # A kernel's last argument is what it returns, one tensor or a list. Before it stands where it is to write that,
        # but for one that writes over what it reads.
        reads, writes = tensors(plan, call.args[:-1]), tensors(plan, call.args[-1:])
        over = kernel_name(plan, call).endswith("_")
        return tuple(index for index in reads if over or index not in writes), writes
    written = {key for node in network.nodes for key in node.outputs}
    external = {key: call.args[value.external] for key, value in network.values.items() if value.external is not None}
    return (
        tuple(index for key, index in external.items() if key not in written),
        tuple(index for key, index in external.items() if key in written),
    )


def tensors(plan: Any, indices: Sequence[int]) -> tuple[int, ...]:
    """The tensors among values of the program's table, those in lists among them."""
    found: list[int] = []
    for index in indices:
        value = plan.values[index].val
        if hasattr(value, "scalar_type"):
            found.append(index)
        elif type(value).__name__ in ("TensorList", "OptionalTensorList"):
            found.extend(item for item in value.items if item >= 0)
    return tuple(found)


def _roots(
    plan: Any,
    calls: Sequence[Any],
    accesses: Sequence[Accesses],
    given: frozenset[int],
) -> dict[int, int]:
    """ExecuTorch leaves out a reshaping whose memory is planned: its result lies where its input lies, and nothing
    writes it. It stands for what was written there last."""
    roots: dict[int, int] = {}
    written: dict[tuple[int, int], int] = {}

    def note(indices: Sequence[int]) -> None:
        for index in indices:
            where = plan.values[index].val.allocation_info
            if where is not None:
                written[where.memory_id, where.memory_offset] = roots.get(index, index)

    def find(indices: Sequence[int]) -> None:
        for index in indices:
            tensor = plan.values[index].val
            where = tensor.allocation_info
            if index not in given and index not in plan.inputs and where is not None and tensor.data_buffer_idx == 0:
                root = written.get((where.memory_id, where.memory_offset), index)
                if root != index:
                    roots.setdefault(index, root)

    note(tensors(plan, plan.inputs))
    for call, (reads, writes) in zip(calls, accesses, strict=True):
        find(reads)
        if is_kernel(call) and kernel_name(plan, call) == _VIEW:
            roots[writes[0]] = roots.get(reads[0], reads[0])
        note(writes)
    find(tensors(plan, plan.outputs))
    return roots


def _sharing(program: Program, index: int) -> list[int]:
    """All values in the memory of one, itself among them, as far as the program plans where they lie."""
    root = program.roots.get(index, index)
    sharing = [i for i, other in program.roots.items() if other == root]
    return [i for i in {index, root, *sharing} if program.plan.values[i].val.allocation_info is not None]


def _bytes(tensor: Any) -> int:
    size: int = math.prod(tensor.sizes) * _BYTES.get(int(tensor.scalar_type), _WIDEST)
    return size
