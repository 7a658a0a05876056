"""A limit behind operators that only move numbers goes in front of them, into the convolutions.

Before: conv2d -> slices, reshapes, permutations, concatenations -> relu -> z
After:  conv2d -> relu -> slices, reshapes, permutations, concatenations -> z

Backends fuse a limit (relu, relu6, hardtanh, clamp) into a convolution that stands right before it, where it costs
nothing; behind a rewriting's moves it would cost a pass over memory.

Preconditions: all numbers that reach the limit come, by moves alone, from convolutions (transposed ones, too), and
nothing else reads what lies between.

Exactness: bit-exact: the limit acts on each number alone. Every backend gains.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, cast

from mobileseg.converters.passes.base import Outcome, Pass, aten, is_call, substitute, written_for
from mobileseg.converters.passes.blocks import DEPTH_TO_SPACE

if TYPE_CHECKING:
    from torch.fx import GraphModule, Node

    from mobileseg.converters.forms import Forms

_LIMITS = (
    aten.relu.default,
    aten.relu6.default,
    aten.hardtanh.default,
    aten.clamp.default,
    aten.clamp_min.default,
    aten.clamp_max.default,
)
_MOVES = (
    operator.getitem,
    aten.cat.default,
    aten.slice.Tensor,
    aten.split_with_sizes.default,
    aten.split.Tensor,
    aten.view.default,
    aten.reshape.default,
    aten.permute.default,
    aten.transpose.int,
    aten.pixel_shuffle.default,
    DEPTH_TO_SPACE,
)
_SOURCES = (aten.conv2d.default, aten.conv2d.padding, aten.conv_transpose2d.input)


def _sources(limit: Node) -> list[Node] | None:
    """The convolutions whose numbers, moved, are all that ``limit`` reads; None where something else is, or where
    nothing lies between."""
    between: set[Node] = set()
    sources: list[Node] = []
    pending = list(limit.all_input_nodes)
    while pending:
        node = pending.pop()
        if node in between or node in sources:
            continue
        if is_call(node, *_MOVES):
            between.add(node)
            pending += node.all_input_nodes
        elif is_call(node, *_SOURCES):
            sources.append(node)
        else:
            return None
    inside = {limit, *between}
    if not between or any(user not in inside for node in (*between, *sources) for user in node.users):
        return None
    return sources


def _apply(module: GraphModule, forms: Forms) -> Outcome:
    count = 0
    for limit in list(module.graph.nodes):
        if not is_call(limit, *_LIMITS):
            continue
        sources = _sources(limit)
        if sources is None:
            continue
        for source in sources:
            with module.graph.inserting_after(source):
                fused = module.graph.call_function(limit.target, (source, *limit.args[1:]), limit.kwargs)
            fused.meta["val"] = source.meta["val"]
            written_for(fused, limit)
            source.replace_all_uses_with(fused)
            fused.args = (source, *limit.args[1:])
        substitute(limit, cast("Node", limit.args[0]))
        count += 1
    return Outcome(count)


PASS = Pass(
    name="hoist_limits",
    exact="bit-exact",
    why="in front of the moves a convolution takes the limit for nothing",
    apply=_apply,
)
