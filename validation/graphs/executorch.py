"""ExecuTorch files, read with the package's own deserializer.

What a delegate holds is in its own format; a file of ours says in the method ``delegation``
(`mobileseg.converters.executorch.record`) which operators and constants those are, and why the others are left.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mobileseg.errors import MissingExtraError
from mobileseg.types import NotRun
from mobileseg.validation.graphs.base import Delegation, Graph, Layer, counted, largest_first
from mobileseg.validation.runners.executorch import BACKENDS, FORWARD

DELEGATION_METHOD = "delegation"


def read(path: Path) -> Graph:
    """``operators``: those that ExecuTorch's own kernels run, and the delegate's calls under its identifier.

    Raises `MissingExtraError` without ExecuTorch.
    """
    file = deserialized(path)
    plan = plan_named(file, FORWARD)
    record = delegation_record(file)
    layers = [Layer(*layer) for layer in record.get("layers", ())]
    held = [*(b.storage for b in file.program.constant_buffer), *(file.named_data.buffers if file.named_data else ())]
    return Graph(
        operators=counted(_operators(plan)),
        weight_bytes=sum(layer.bytes for layer in layers) or sum(len(data) for data in held),
        layers=largest_first(layers),
        quantization=dict(record.get("constants", {})),
        delegation=_delegation(plan, record),
        # The first number stands for the constants.
        planned_bytes=sum(plan.non_const_buffer_sizes[1:]),
    )


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


def _delegation(plan: Any, record: Mapping[str, Any]) -> Delegation | NotRun:
    identifiers = list(dict.fromkeys(delegate.id for delegate in plan.delegates))
    if not identifiers:
        return NotRun("the file calls no delegate: ExecuTorch's portable kernels run every operator")
    # What the delegate runs is not what ExecuTorch handed it: it adds transpositions, and fuses.
    calls = record.get("runs") or record.get("calls", ())
    taken = [name for call in calls for name, count in call.items() for _ in range(count)]
    return Delegation(
        name=", ".join(BACKENDS.get(identifier, (identifier, ""))[0] for identifier in identifiers),
        operators=counted(taken),
        partitions=sum(name in identifiers for name in _operators(plan)),
        left=dict(record.get("left", {})),
    )
