"""XNNPACK's payloads (`mobileseg.validation.traces.xnnpack`)."""

from __future__ import annotations

from mobileseg.validation.graphs.costs import Call, Listing, Tensor, constant
from mobileseg.validation.graphs.rules import unknown
from mobileseg.validation.graphs.rules.executorch import XNNPACK
from mobileseg.validation.traces import xnnpack

_CLAMPED = "+Clamp"


def read(payload: bytes) -> Listing:
    """A clamp that XNNPACK applies to an operator's result is part of that operator."""
    network = xnnpack.read(payload)
    given = {key for node in network.nodes for key in node.outputs}
    outer = [key for _, key in sorted((v.external, k) for k, v in network.values.items() if v.external is not None)]
    return Listing(
        calls=tuple(
            Call(
                operator=node.operator,
                name=f"node {number}",
                rule=XNNPACK.get(node.operator.removesuffix(_CLAMPED), unknown),
                inputs=dict(enumerate(node.inputs)),
                outputs=node.outputs,
                delegated=True,
            )
            for number, node in enumerate(network.nodes)
        ),
        tensors={key: _tensor(value) for key, value in network.values.items()},
        inputs=tuple(key for key in outer if key not in given),
        outputs=tuple(key for key in outer if key in given),
    )


def _tensor(value: xnnpack.Value) -> Tensor:
    return constant(value.shape, value.stored) if value.constant else Tensor(value.shape, value.stored)
