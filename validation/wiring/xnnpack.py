"""The graph inside a call of XNNPACK."""

from __future__ import annotations

from mobileseg.validation.traces import xnnpack
from mobileseg.validation.wiring.base import Operator, Value, Wiring


def read(payload: bytes) -> tuple[Wiring, tuple[str, ...]]:
    """The operators of a payload and the keys of its inputs, in the order of the call's arguments. A clamp that
    XNNPACK applies to an operator's result is none of its own. Raises `UnavailableError` as `xnnpack.read` does."""
    network = xnnpack.read(payload)
    given = {key for node in network.nodes for key in node.outputs}
    outer = sorted((v.external, key) for key, v in network.values.items() if v.external is not None)
    inputs = [key for _, key in outer if key not in given]
    computed = {*given, *inputs}
    operators = tuple(
        Operator(
            node.operator.removesuffix("+Clamp"),
            f"node {number}",
            tuple(str(key) for key in node.inputs if key in computed),
            tuple(map(str, node.outputs)),
            node.order,
        )
        for number, node in enumerate(network.nodes)
    )
    values = {str(k): Value(v.shape, v.dtype or "", v.scale, v.zero_point) for k, v in network.values.items()}
    return Wiring(operators, values, tuple(str(key) for _, key in outer if key in given)), tuple(map(str, inputs))
