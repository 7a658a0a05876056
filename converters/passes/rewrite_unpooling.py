"""Max-unpooling as arithmetic on windows: no indices, no scatter, no booleans.

Before: x -> max_pool2d_with_indices -> m ----------> ... -> y -> max_unpool2d(y, indices) -> z
                                    `-> indices -----------------^
After:  x -> max_pool2d -> m -> ... -> y
        x, m -> n_k = [x_k < m] for each position k of the window   (0.0 or 1.0)
        y, n -> the residual chain: v_k = r_k - r_k n_k,  r_k+1 = r_k n_k,  r_0 = y   -> z = the v_k put at their
        positions

Position k receives y where x_k is the maximum and no earlier position of its window was: torch's own rule (the first
maximum in row-major order of the window). n_k is exactly 0.0 or 1.0, so each product is exactly r_k or a zero and each
window writes y once.

Where windows overlap (kernel > stride), one output position may be written by several of them. torch's CPU kernel
writes them in row-major order of the windows, so the last one wins: for each output phase (position modulo the stride)
the few windows that reach it are laid over one another in that order, ``acc = acc - acc s + v`` with s = 1.0 where the
window selects the position.

Preconditions: the indices come from a max_pool2d (any kernel, stride, padding, dilation, ceil_mode), possibly through
operators that only select, repeat or concatenate whole images or channels; they are used by max_unpool2d alone; the
unpooled plane has the pooled input's height and width (a flat index means another position in a plane of another
width). Anything else is left, by name.

Exactness: bit-exact for finite x and y, subnormal differences included; a zero that no window writes, or a negative
zero that one does, may carry the other sign. Every backend needs it: Core ML, TFLite and ExecuTorch's delegates have
no unpooling and none runs the scatter fast.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from mobileseg.converters.passes.base import Outcome, Pass, arguments_of, aten, inline, is_call, pair, substitute, value
from mobileseg.converters.passes.blocks import BLOCKS, BlockForm, Phases

if TYPE_CHECKING:
    from torch.fx import GraphModule, Node

    from mobileseg.converters.forms import Forms

# Operators that act on whole images or channels, so that the indices of op(x) are op(the indices of x):
# the operator, and the positions of its arguments that name a dimension.
_PLANE_KEEPING: dict[Any, Callable[[dict[str, Any], int], bool]] = {
    aten.slice.Tensor: lambda a, rank: a["dim"] % rank < rank - 2,
    aten.index_select.default: lambda a, rank: a["dim"] % rank < rank - 2,
    aten.cat.default: lambda a, rank: a["dim"] % rank < rank - 2,
    aten.expand.default: lambda a, rank: all(
        s in (-1, n) for s, n in zip(a["size"][-2:], value(a["self"]).shape[-2:], strict=True)
    ),
    aten.repeat.default: lambda a, rank: len(a["repeats"]) == rank and all(s == 1 for s in a["repeats"][-2:]),
    aten.clone.default: lambda a, rank: True,
    aten.alias.default: lambda a, rank: True,
}


@dataclass(frozen=True)
class Window:
    """A pooling's geometry; ``plane`` is its input's height and width, ``pooled`` its output's."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    plane: tuple[int, int]
    pooled: tuple[int, int]

    @property
    def positions(self) -> list[tuple[int, int]]:
        """Offsets of the window's elements in row-major order, dilation applied."""
        kh, kw = self.kernel
        dh, dw = self.dilation
        return [(i * dh, j * dw) for i in range(kh) for j in range(kw)]

    @property
    def grid(self) -> tuple[int, int]:
        """How many blocks of stride x stride pixels, counted from the padding's corner, the windows reach into."""
        height, width = (
            -(-((n - 1) * s + (k - 1) * d + 1) // s)
            for n, s, k, d in zip(self.pooled, self.stride, self.kernel, self.dilation, strict=True)
        )
        return height, width


def _ceil_mask(difference: Tensor) -> Tensor:
    # min first: the ceiling of a large difference is not 1.
    return torch.ceil(torch.clamp(difference, max=1.0))


def _scaled_mask(difference: Tensor) -> Tensor:
    # The smallest difference is 2^-149, and 2^149 is no float32.
    return torch.clamp(torch.clamp(difference * 2.0**127, max=1.0) * 2.0**22, max=1.0)


MASKS: dict[str, Callable[[Tensor], Tensor]] = {"ceil": _ceil_mask, "sign": torch.sign, "scaled": _scaled_mask}


def not_maximum(
    x: Tensor, pooled: Tensor, window: Window, mask: Callable[[Tensor], Tensor], blocks: BlockForm
) -> list[Tensor]:
    """For each position of the window, 1.0 where x is below its window's maximum and 0.0 where it equals it.

    x (N, C, H, W), pooled (N, C, h, w); the masks are pooled's size, in the memory order of ``blocks``.
    """
    (ph, pw), (sh, sw), (gh, gw) = window.padding, window.stride, window.grid
    phases = blocks.split(blocks.cut(blocks.enter(x), -ph, -pw, gh * sh, gw * sw, -torch.inf), window.stride)
    maximum = blocks.enter(pooled)
    return [mask(maximum - _shifted(phases, position, window, blocks)) for position in window.positions]


def _shifted(phases: Phases, position: tuple[int, int], window: Window, blocks: BlockForm) -> Tensor:
    (row, r), (column, c) = divmod(position[0], window.stride[0]), divmod(position[1], window.stride[1])
    return blocks.cut(phases[r][c], row, column, *window.pooled, fill=0.0)


def _first_maximum(y: Tensor, below: Sequence[Tensor]) -> list[Tensor]:
    """y at each window's first maximum, 0.0 at its other positions.

    Some position equals the maximum, so the last one does where no earlier one did. Padding never does: where it comes
    last, nothing is left for it.
    """
    parts, rest = [], y
    for n in below[:-1]:
        remaining = rest * n
        parts.append(rest - remaining)
        rest = remaining
    return [*parts, rest]


def _choices(below: Sequence[Tensor]) -> list[Tensor]:
    """`_first_maximum` of ones: 1.0 at each window's first maximum, without a plane of ones in the file."""
    parts, rest = [1.0 - below[0]], below[0]
    for n in below[1:-1]:
        remaining = rest * n
        parts.append(rest - remaining)
        rest = remaining
    return [*parts, rest]


def _onto_grid(part: Tensor, position: tuple[int, int], window: Window, blocks: BlockForm) -> Tensor:
    row, column = position[0] // window.stride[0], position[1] // window.stride[1]
    return blocks.cut(part, -row, -column, *window.grid, fill=0.0)


def unpool(y: Tensor, below: Sequence[Tensor], window: Window, blocks: BlockForm) -> Tensor:
    """The unpooled plane (N, C, H, W) of values y (N, C, h, w), given `not_maximum` of every position."""
    (sh, sw), y = window.stride, blocks.enter(y)
    # A window that starts later reaches a block by a smaller offset. torch lets the later one win: it is laid on last.
    late_last = sorted(
        range(len(below)),
        key=lambda k: tuple(-(p // s) for p, s in zip(window.positions[k], window.stride, strict=True)),
    )
    reaching: dict[tuple[int, int], list[int]] = {}
    for k in late_last:
        row, column = window.positions[k]
        reaching.setdefault((row % sh, column % sw), []).append(k)
    values = _first_maximum(y, below)
    overlapping = any(len(ks) > 1 for ks in reaching.values())
    chosen = _choices(below) if overlapping else []

    def placed(parts: Sequence[Tensor], k: int) -> Tensor:
        return _onto_grid(parts[k], window.positions[k], window, blocks)

    def phase(r: int, c: int) -> Tensor:
        first, *later = reaching.get((r, c), [-1])
        if first < 0:
            return torch.zeros_like(_onto_grid(y, (0, 0), window, blocks))
        result = placed(values, first)
        for k in later:
            result = result - result * placed(chosen, k) + placed(values, k)
        return result

    plane = blocks.merge([[phase(r, c) for c in range(sw)] for r in range(sh)])
    return blocks.leave(blocks.cut(plane, *window.padding, *window.plane, fill=0.0))


def _window(pooling: Node) -> Window:
    a = arguments_of(pooling)
    plane = value(cast("Node", pooling.args[0])).shape[-2:]
    pooled = pooling.meta["val"][0].shape[-2:]
    kernel = pair(a["kernel_size"])
    return Window(
        kernel,
        pair(a["stride"]) if a["stride"] else kernel,
        pair(a["padding"]),
        pair(a["dilation"]),
        (plane[0], plane[1]),
        (pooled[0], pooled[1]),
    )


def _poolings_of(indices: Node) -> set[Node] | None:
    """The poolings that a tensor of indices was selected from; None where something else touched it."""
    if (
        is_call(indices, operator.getitem)
        and is_call(indices.args[0], aten.max_pool2d_with_indices.default)
        and indices.args[1] == 1
    ):
        return {cast("Node", indices.args[0])}
    if not is_call(indices, *_PLANE_KEEPING) or not _PLANE_KEEPING[indices.target](
        arguments_of(indices), value(indices).ndim
    ):
        return None
    found: set[Node] = set()
    for source in indices.args[0] if isinstance(indices.args[0], (list, tuple)) else [indices.args[0]]:
        below = _poolings_of(cast("Node", source))
        if below is None:
            return None
        found |= below
    return found


def _mirror(indices: Node, output: int | None) -> Node:
    """What was done to the indices, done to the pooling's input (``output`` None) or to its pooled output (0)
    instead."""
    if is_call(indices, operator.getitem):
        pooling = cast("Node", indices.args[0])
        if output is None:
            return cast("Node", pooling.args[0])
        return next((u for u in pooling.users if u.args[1] == output), None) or _getitem(pooling, output)
    graph = indices.graph
    with graph.inserting_after(indices):
        new = graph.node_copy(indices, lambda n: n)
    sources = indices.args[0]
    mirrored = (
        [_mirror(cast("Node", s), output) for s in sources]
        if isinstance(sources, (list, tuple))
        else _mirror(cast("Node", sources), output)
    )
    new.args = (mirrored, *indices.args[1:])
    if is_call(new, aten.expand.default):
        new.args = (mirrored, [*cast("list[int]", indices.args[1])[:-2], -1, -1])
    with_values = torch.fx.node.map_arg(new.args, lambda n: value(n).to("meta"))
    new.meta["val"] = cast("Callable[..., Tensor]", new.target)(*with_values, **new.kwargs)
    return new


def _getitem(pooling: Node, index: int) -> Node:
    with pooling.graph.inserting_after(pooling):
        node = pooling.graph.call_function(operator.getitem, (pooling, index))
    node.meta["val"] = pooling.meta["val"][index]
    return node


def _refusal(node: Node) -> str | None:
    """Why this max_unpool2d cannot be rewritten."""
    indices = cast("Node", node.args[1])
    poolings = _poolings_of(indices)
    if poolings is None:
        return f"{node.name}: its indices ({indices.name}) do not come unchanged from a max-pooling"
    if value(node).ndim != 4:
        return f"{node.name}: it has no batch dimension"
    windows = {_window(p) for p in poolings}
    if len(windows) > 1:
        names = ", ".join(sorted(p.name for p in poolings))
        return f"{node.name}: its indices come from poolings of different windows ({names})"
    plane, output = windows.pop().plane, pair(node.args[2])
    if plane != output:
        sizes = f"{output[0]}x{output[1]}, its indices count positions in a {plane[0]}x{plane[1]} plane"
        return f"{node.name}: it unpools to {sizes}"
    return None


def _apply(module: GraphModule, forms: Forms) -> Outcome:
    mask, blocks = MASKS[forms.mask], BLOCKS[forms.blocks]
    count, left = 0, []
    masks: dict[Node, list[Node]] = {}
    for node in list(module.graph.nodes):
        if not is_call(node, aten.max_unpool2d.default):
            continue
        refusal = _refusal(node)
        if refusal is not None:
            left.append(refusal)
            continue
        y, indices = node.args[0], node.args[1]
        window = _window(next(iter(_poolings_of(indices) or ())))
        if indices not in masks:
            x, pooled = _mirror(indices, None), _mirror(indices, 0)
            # As early as both are there: three masks of the pooled size live on instead of the whole of x.
            masks[indices] = inline(
                max(x, pooled).next, lambda x, m, w=window: not_maximum(x, m, w, mask, blocks), x, pooled
            )
        (new,) = inline(node, lambda y, *below, w=window: unpool(y, below, w, blocks), y, *masks[indices])
        substitute(node, new)
        count += 1
    module.graph.eliminate_dead_code()
    for pooling in [n for n in module.graph.nodes if is_call(n, aten.max_pool2d_with_indices.default)]:
        used = [u for u in pooling.users if u.args[1] == 1]
        if not used:
            _without_indices(pooling)
        elif not any(is_call(u, aten.max_unpool2d.default) for user in used for u in user.users):
            names = ", ".join(u.name for user in used for u in user.users)
            left.append(f"{pooling.name}: its indices are used by {names}, not by an unpooling")
    return Outcome(count, tuple(left))


def _without_indices(pooling: Node) -> None:
    for user in list(pooling.users):
        (new,) = inline(
            pooling,
            lambda x: aten.max_pool2d.default(x, *pooling.args[1:], **pooling.kwargs),
            cast("Node", pooling.args[0]),
        )
        substitute(user, new)
    pooling.graph.erase_node(pooling)


PASS = Pass(
    name="rewrite_unpooling",
    exact="bit-exact",
    why="no phone runtime unpools by indices; windows and products run everywhere",
    apply=_apply,
)
