"""A rewritten program run in torch: to observe its values, or as int8 would compute it.

Rounding is simulated in float (`torch.fake_quantize_per_tensor_affine`). What a backend's kernels do differently, a
last bit of a product that they round otherwise, is not in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.fx import Interpreter

from mobileseg.quantization.program.plan import GREATEST, LEAST
from mobileseg.quantization.program.values import CONVOLUTIONS, MATRICES, constant, name_of, weight_axis
from mobileseg.quantization.ranges import Statistics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from torch.fx import GraphModule, Node

    from mobileseg.quantization.program.plan import Plan
    from mobileseg.quantization.program.values import Values


LEAST_SHARE = 2.0**-10


def round_weights(weights: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Weights rounded to -127..127 steps of a channel's own scale, and the scales, shaped to broadcast (float32).

    No scale is less than `LEAST_SHARE` of the greatest: biases are 32-bit numbers of the weights' scale times the
    input's, and overflow where a channel's weights are next to nothing. The result, whose scale all channels share,
    has no level for what such weights give.
    """
    others = [a for a in range(weights.ndim) if a != axis]
    scales = weights.abs().amax(others, keepdim=True) / GREATEST
    greatest = float(scales.max())
    scales = scales.clamp(min=greatest * LEAST_SHARE) if greatest > 0 else torch.ones_like(scales)
    return torch.clamp(torch.round(weights / scales), -GREATEST, GREATEST), scales


class Observer(Interpreter):
    """Runs the program in float and hands each node of ``wanted`` and its value to ``see``."""

    def __init__(self, module: GraphModule, wanted: Iterable[Node], see: Callable[[Node, Tensor], None]) -> None:
        super().__init__(module)
        self._wanted, self._see = frozenset(wanted), see

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        if n in self._wanted:
            self._see(n, result)
        return result


class Simulator(Interpreter):
    """Runs the program as int8 under a plan. ``see``: is handed each rounded value."""

    def __init__(self, module: GraphModule, plan: Plan, see: Callable[[Node, Tensor], None] | None = None) -> None:
        super().__init__(module)
        self._plan, self._see = plan, see
        self._weights = _rounded_weights(module, plan)

    def run_node(self, n: Node) -> Any:
        result = self._computed(n)
        scale = self._plan.scales.get(n)
        if scale is None:
            return result
        result = torch.fake_quantize_per_tensor_affine(result, scale.scale, scale.zero_point, LEAST, GREATEST)
        if self._see is not None:
            self._see(n, result)
        return result

    def _computed(self, n: Node) -> Any:
        if n not in self._weights:
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        return cast("Any", n.target)(args[0], self._weights[n], *args[2:], **kwargs)


def _rounded_weights(module: GraphModule, plan: Plan) -> Mapping[Node, Tensor]:
    found = {}
    for node in module.graph.nodes:
        if name_of(node) in CONVOLUTIONS | MATRICES and node not in plan.floats:
            weights = constant(module, node.args[1])
            if weights is not None and is_quantized(plan, node):
                axis = weight_axis(node) if name_of(node) in CONVOLUTIONS else weights.ndim - 1
                numbers, scales = round_weights(weights, axis)
                found[node] = numbers * scales
    return found


def is_quantized(plan: Plan, node: Node) -> bool:
    """Whether a convolution computes in int8: its input and its result are rounded values."""
    source = node.args[0]
    ends = (plan.values.root(cast("Node", source)), plan.values.root(node))
    return all(n in plan.scales or n in plan.values.flags for n in ends)


def observe(
    module: GraphModule, values: Values, pictures: Iterable[Tensor], progress: Callable[[int], None] | None = None
) -> tuple[dict[Node, Statistics], int]:
    """Statistics of each rounded value, and the number of pictures.

    ``pictures``: (1, 3, H, W) float32 in 0..255, taken one at a time; ``progress`` is called with the number done.
    """
    statistics: dict[Node, Statistics] = {}

    def see(node: Node, value: Tensor) -> None:
        width = value.shape[-1] if value.ndim else 1
        statistics.setdefault(node, Statistics()).add(value.detach().reshape(-1).numpy(), width)

    runner = Observer(module, values.rounded, see)
    count = 0
    with torch.no_grad():
        for picture in pictures:
            runner.run(picture)
            count += 1
            if progress is not None:
                progress(count)
    return statistics, count
