"""A rewritten program run in torch: to observe its values, or as int8 would compute it.

Rounding is simulated in float. What a backend's kernels do differently, a last bit of a product that they round
otherwise, is not in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.fx import Interpreter
from torch.fx.node import map_arg

from mobileseg.quantization.params import GREATEST, LEAST
from mobileseg.quantization.program.values import CONVOLUTIONS, MATRICES, constant, name_of, weight_axis
from mobileseg.quantization.ranges import Statistics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from torch.fx import GraphModule, Node

    from mobileseg.quantization.params import Params
    from mobileseg.quantization.program.plan import Plan
    from mobileseg.quantization.program.values import Values


LEAST_SHARE = 2.0**-10
"""Of the greatest of a convolution's weight scales: the least that another channel may have."""


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
    """Runs the program as int8 under a plan. ``see``: is handed each value that is rounded behind its operator.
    ``weights``: what is computed with, in place of the float weights; where None, `rounded_weights` of the plan."""

    def __init__(
        self,
        module: GraphModule,
        plan: Plan,
        see: Callable[[Node, Tensor], None] | None = None,
        weights: Mapping[Node, Tensor] | None = None,
    ) -> None:
        super().__init__(module)
        self._plan, self._see = plan, see
        self._weights = rounded_weights(module, plan) if weights is None else weights
        self._read_rounded = plan.read_rounded()

    def run_node(self, n: Node) -> Any:
        result = self._computed(n)
        scale = self._plan.scale_behind(n)
        if scale is None:
            return result
        result = rounded(result, scale)
        if self._see is not None:
            self._see(n, result)
        return result

    def _computed(self, n: Node) -> Any:
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        if n in self._weights:
            args = (args[0], self._weights[n], *args[2:])
        return getattr(self, n.op)(n.target, args, kwargs)

    def map_nodes_to_values(self, args: Any, n: Node) -> Any:
        """`Interpreter`'s; what a float operator computed is rounded for an int8 one."""
        scales = self._read_rounded.get(n, {})

        def load(argument: Node) -> Any:
            value = self.env[argument]
            return rounded(value, scales[argument]) if argument in scales else value

        return map_arg(args, load)


def rounded(value: Tensor, scale: Params) -> Tensor:
    """The numbers that 8 bits hold of a value.

    Bit for bit what `torch.fake_quantize_per_tensor_affine` gives, in operators that are vectorized, which that is not:
    five to eight times as fast on one thread (torch 2.13, x86).
    """
    inverse = 1.0 / torch.tensor(scale.scale, dtype=torch.float32)
    steps = torch.mul(value, inverse).round_()
    return steps.clamp_(LEAST - scale.zero_point, GREATEST - scale.zero_point).mul_(scale.scale)


def classes(result: Tensor) -> Tensor:
    """(N, H, W) of a result: its greatest logits', or the class map that it is."""
    return result.argmax(1) if result.is_floating_point() else result


def first_result(result: Any) -> Tensor:
    """What a program returns, which may be in a tuple."""
    found: Tensor = result if isinstance(result, Tensor) else result[0]
    return found


def rounded_weights(module: GraphModule, plan: Plan) -> Mapping[Node, Tensor]:
    """Of each operator with constant weights that computes in int8: those, rounded."""
    found = {}
    for node in module.graph.nodes:
        if name_of(node) in CONVOLUTIONS | MATRICES and plan.is_int8(node):
            weights = constant(module, node.args[1])
            if weights is not None:
                axis = weight_axis(node) if name_of(node) in CONVOLUTIONS else weights.ndim - 1
                numbers, scales = round_weights(weights, axis)
                found[node] = numbers * scales
    return found


def observe(
    module: GraphModule,
    values: Values,
    pictures: Iterable[Tensor],
    progress: Callable[[int], None] | None = None,
    look: Callable[[Node, Tensor], None] | None = None,
) -> tuple[dict[Node, Statistics], int]:
    """Statistics of each rounded value, and the number of pictures.

    ``pictures``: (1, 3, H, W) float32 in 0..255, taken one at a time; ``progress`` is called with the number done,
    ``look`` with each rounded value of each picture before it is counted.
    """
    statistics: dict[Node, Statistics] = {}

    def see(node: Node, value: Tensor) -> None:
        if look is not None:
            look(node, value)
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
