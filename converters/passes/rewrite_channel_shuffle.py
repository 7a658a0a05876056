"""Channel shuffle as one small transposition in the target's memory order.

Before: x (N, g k, H, W) -> view (N, g, k, H, W) -> transpose(1, 2) -> [contiguous] -> view (N, k g, H, W)
        x -> channel_shuffle(g)
After:  channels_last   x seen as (N H W, g, k) -> transpose(1, 2) -> (N, H, W, k g): 3-D and without a layout change
around it
        channels_first  x seen as (N, g, k, H W) -> transpose(1, 2) -> (N, k g, H, W): 4-D
        rank_5          x seen as (N, g, k, H, W) -> transpose(1, 2) -> (N, k g, H, W), as torch's own operator is
                        defined

Preconditions: torch's own operator, or just these nodes, each used by the next one alone, batch and plane untouched by
the views.

Exactness: bit-exact, numbers are moved. TFLite needs the first form (a 5-D transposition and two layout changes
otherwise), other delegates the rank below 5. Core ML takes the third: coremltools makes one interleaving
concatenation of a concatenation and a shuffle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from torch import Tensor

from mobileseg.converters.passes.base import Outcome, Pass, aten, is_call, replace, value

if TYPE_CHECKING:
    from torch.fx import GraphModule, Node

    from mobileseg.converters.forms import Forms

_VIEWS = (aten.view.default, aten._unsafe_view.default, aten.reshape.default)


def _channels_last(x: Tensor, groups: int) -> Tensor:
    n, c, h, w = x.shape
    mixed = x.permute(0, 2, 3, 1).reshape(n * h * w, groups, c // groups).transpose(1, 2)
    return mixed.reshape(n, h, w, c).permute(0, 3, 1, 2)


def _channels_first(x: Tensor, groups: int) -> Tensor:
    n, c, h, w = x.shape
    return x.reshape(n, groups, c // groups, h * w).transpose(1, 2).reshape(n, c, h, w)


def _rank_5(x: Tensor, groups: int) -> Tensor:
    n, c, h, w = x.shape
    return x.reshape(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


FORMS = {"channels_last": _channels_last, "channels_first": _channels_first, "rank_5": _rank_5}


def shuffle_ending_at(last: Node) -> tuple[Node, int] | None:
    """The input and the number of groups of the shuffle whose last node this is."""
    if is_call(last, aten.channel_shuffle.default, aten.native_channel_shuffle.default) and value(last).ndim == 4:
        return cast("Node", last.args[0]), cast("int", last.args[1])
    if not is_call(last, *_VIEWS):
        return None
    swap = cast("Node", last.args[0])
    while is_call(swap, aten.clone.default, aten.contiguous.default) and len(swap.users) == 1:
        swap = cast("Node", swap.args[0])
    swapped = is_call(swap, aten.transpose.int) and {d % 5 for d in cast("list[int]", swap.args[1:])} == {1, 2}
    permuted = is_call(swap, aten.permute.default) and [d % 5 for d in cast("list[int]", swap.args[1])] == [
        0,
        2,
        1,
        3,
        4,
    ]
    if not (swapped or permuted) or len(swap.users) != 1:
        return None
    first = cast("Node", swap.args[0])
    if not is_call(first, *_VIEWS) or len(first.users) != 1:
        return None
    x = cast("Node", first.args[0])
    if value(x).ndim != 4 or value(first).ndim != 5 or value(last).shape != value(x).shape:
        return None
    n, c, h, w = value(x).shape
    groups = value(first).shape[1]
    if tuple(value(first).shape) != (n, groups, c // groups, h, w):
        return None
    return x, groups


def _apply(module: GraphModule, forms: Forms) -> Outcome:
    count = 0
    for node in list(module.graph.nodes):
        found = shuffle_ending_at(node)
        if found is None:
            continue
        x, groups = found
        replace(node, lambda x, g=groups: FORMS[forms.channel_shuffle](x, g), x)
        count += 1
    module.graph.eliminate_dead_code()
    return Outcome(count)


PASS = Pass(
    name="rewrite_channel_shuffle",
    exact="bit-exact",
    why="a 5-D transposition runs on no fast kernel and pulls layout changes around it",
    apply=_apply,
)
