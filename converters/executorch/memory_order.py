"""One memory order for all tensors between operators, the one in which shapes are written.

torch follows strides: what comes out of a permutation is a view in another order, and so is all that is computed from
it. ExecuTorch's operators copy. Their tensors would keep torch's orders by name alone, and kernels refuse inputs of
unlike ones; delegates leave the conversions between them. Computed anew from a contiguous picture by operators that
copy, every tensor is contiguous, and the conversions convert nothing.
"""

from __future__ import annotations

from typing import Any


def contiguous_everywhere() -> Any:
    """ExecuTorch's pass that traces an edge program anew so."""
    from executorch.exir.pass_base import ExportPass

    class ContiguousEverywhere(ExportPass):
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
            if kwargs.get("dim_order"):
                kwargs = {**kwargs, "dim_order": list(range(len(kwargs["dim_order"])))}
            return super().call_operator(op, args, kwargs, meta)

    return ContiguousEverywhere()
